//! What a page holds: the call tree with cells that can be filtered, and when the memory in each was there. One format
//! for every page; the command only says which view is opened first. The other description of it are the types of
//! `assets/decode.js`.
//!
//! ```text
//! u32 length of the JSON · JSON: facts, strings, what stands where · columns of numbers        (deflated, as base64)
//! ```
//!
//! A page must stay small enough for a browser whatever the capture holds. So the smallest stacks fold into "other"
//! nodes, and buckets of time are merged in pairs, until it fits. Every sum stays right, and the page says both.

use std::collections::HashMap;
use std::time::Duration;

use memtrace_format::AllocatorKind;
use serde::Serialize;

use self::cells::{Cells, OTHER_THREADS};
use self::choose::{Shares, Sums};
use self::columns::Columns;
use self::facts::{Facts, Reading};
use self::fit::{Fit, Fitting};
use self::tables::{Tables, shortened};
use super::html::base64;
use super::sources::{Confidential, Sources};
use crate::analysis::Temporal;
use crate::analysis::sites::SIZE_BOUNDS;
use crate::model::{self, MarkKind, Model, Process, ThreadKey};

mod cells;
mod choose;
mod columns;
mod envelope;
pub mod facts;
mod fit;
mod levels;
mod nodes;
pub mod tables;
#[cfg(test)]
mod tests;

/// What one process of the report came to, with the handles of the report's model.
pub struct Part {
    pub temporal: Temporal,
    pub n_events: u64,
    /// What a reader of the report should know, a sentence each.
    pub notices: Vec<String>,
}

pub struct PageOptions {
    pub open: Open,
    /// The page is about temporary allocations, with this threshold.
    pub temporary_threshold: Option<u64>,
    /// Some of what is shown has no history: only the peak and the leaks are known.
    pub is_aggregated: bool,
    pub confidential: Confidential,
    /// The text of code that is in no file, by the names that frames have.
    pub typed_sources: HashMap<String, String>,
    /// At most so many points on the time line.
    pub max_buckets: usize,
    /// What has less than this share of everything is folded in any case.
    pub least_share: f64,
    /// How long the encoded data may become.
    pub budget_bytes: usize,
}

impl Default for PageOptions {
    fn default() -> PageOptions {
        PageOptions {
            open: Open::default(),
            temporary_threshold: None,
            is_aggregated: false,
            confidential: Confidential::Default,
            typed_sources: HashMap::new(),
            max_buckets: usize::MAX,
            least_share: 0.0,
            // Of 5 MB, what the page itself leaves.
            budget_bytes: 4_400_000,
        }
    }
}

/// The view that is opened first.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Open {
    pub tab: Tab,
    pub inverted: bool,
    pub split_threads: bool,
    pub temporal: bool,
    /// The range that is brushed, in nanoseconds since the first process began.
    pub range: Option<(u64, u64)>,
    pub table: bool,
    /// What differs between two recordings is shown.
    pub compares: Option<Compares>,
}

/// How a page compares its first processes with the others.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Compares {
    /// How many processes are the base.
    pub n_base: usize,
    /// Stacks are the same when their lines are; else functions and files are enough.
    pub by_line: bool,
    /// Shares of the two totals are compared, and not amounts.
    #[serde(rename = "normalised")]
    pub is_normalised: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tab {
    #[default]
    Peak,
    Leaks,
    Churn,
    Temporary,
}

/// The page's data, encoded.
pub struct Page {
    pub tab: Tab,
    /// The command of the first process.
    pub command: String,
    deflated: Vec<u8>,
}

#[derive(Serialize)]
struct Header<'a> {
    open: Open,
    tabs: &'a [Tab],
    temporary_threshold: Option<u64>,
    is_aggregated: bool,
    processes: Vec<ProcessHeader>,
    strings: &'a [String],
    allocators: Vec<&'static str>,
    size_classes: &'a [u64],
    n_buckets: usize,
    start_nanos: u64,
    bucket_nanos: u64,
    folded: Option<Folded>,
    limits: Limits,
    columns: &'a [columns::Entry],
}

#[derive(Serialize)]
struct ProcessHeader {
    facts: Facts,
    threads: Vec<Thread>,
    marks: Vec<Mark>,
}

/// A moment that somebody gave a name, or where the recording was paused or resumed.
#[derive(Serialize)]
struct Mark {
    /// Since the first process began.
    nanos: u64,
    name: String,
    is_named: bool,
}

#[derive(Serialize)]
struct Thread {
    number: u32,
    os_tid: u32,
    name: String,
}

/// What stands as "other".
#[derive(Serialize)]
struct Folded {
    nodes: usize,
    /// Of all that was ever allocated.
    bytes: u64,
    /// Every node of at least this share of the peak, the leaks or all allocations, in bytes or in number, is there.
    share: f64,
}

#[derive(Serialize)]
struct Limits {
    max_nodes: usize,
    budget_bytes: usize,
    threshold: f64,
    bucket_nanos: u64,
}

impl Page {
    /// Of the processes of a model, in their order.
    pub fn new(model: &Model, mut parts: Vec<Part>, options: &PageOptions) -> Page {
        align(&mut parts, options.max_buckets);
        let shares = Shares::new(model, own_sums(model, &parts));
        let mut sources = sources(model, options.confidential).with_typed(&options.typed_sources);
        let mut fitting = Fitting::new(model, &parts, &shares, options.least_share);
        // How well data deflates is known only afterwards, so the room is tried out.
        let mut room = options.budget_bytes as f64 * 0.7;
        let mut best: Option<Vec<u8>> = None;
        let mut n_tries = 0;
        let deflated = loop {
            n_tries += 1;
            let fit = fitting.fit(room, sources);
            let deflated = envelope::deflated(&encode(model, &parts, &shares, options, &fit));
            let taken = envelope::base64_len(deflated.len()) as f64 / options.budget_bytes as f64;
            let is_last = n_tries >= MAX_TRIES;
            if taken <= 1.0 {
                if is_last || !fit.is_cut || taken > WELL_FILLED {
                    break deflated;
                }
                best = best.filter(|best| best.len() > deflated.len()).or(Some(deflated));
            } else if is_last && best.is_some() || n_tries >= 16 {
                break best.unwrap_or(deflated);
            }
            sources = fit.tables.sources;
            room *= (0.9 / taken).clamp(0.1, 4.0);
        };
        Page { tab: options.open.tab, command: model.process().facts.command_line.join(" "), deflated }
    }

    /// The data as it stands in the page.
    pub fn base64(&self) -> String {
        base64(&self.deflated)
    }
}

/// More would hide each other on the time line.
const MAX_MARKS: usize = 500;

/// A page that is cut should be filled at least so far…
const WELL_FILLED: f64 = 0.7;
/// …if that is found with so many tries.
const MAX_TRIES: usize = 4;

/// Cuts the time of all parts into the same buckets, and not more than so many.
fn align(parts: &mut [Part], max_buckets: usize) {
    let timelines = || parts.iter().map(|part| &part.temporal);
    let mut bucket_nanos = timelines().map(|it| it.bucket_nanos).max().unwrap_or(0);
    let end_nanos = timelines().map(|it| it.bucket_nanos.saturating_mul(it.buckets.len() as u64)).max().unwrap_or(0);
    while bucket_nanos > 0 && end_nanos.div_ceil(bucket_nanos) > max_buckets.max(1) as u64 {
        bucket_nanos *= 2;
    }
    for temporal in parts.iter_mut().map(|part| &mut part.temporal) {
        while temporal.bucket_nanos < bucket_nanos {
            temporal.halve();
        }
    }
    let n_buckets = parts.iter().map(|part| part.temporal.buckets.len()).max().unwrap_or(0);
    parts.iter_mut().for_each(|part| part.temporal.extend(n_buckets));
}

/// By stack, what it has itself at the peak of each process, in the end, and ever.
fn own_sums(model: &Model, parts: &[Part]) -> Vec<Sums> {
    let mut sums = vec![Sums::default(); model.n_stacks()];
    for Part { temporal, .. } in parts {
        let peak = 2 * temporal.highest(temporal.whole()).unwrap_or(0);
        for rows in temporal.rows.chunk_by(|a, b| a.site == b.site) {
            let mut of_site = [0i64; 6];
            for row in rows {
                let is_at_peak = row.born as usize <= peak && row.is_alive_after(peak);
                for (index, counts) in [is_at_peak, row.died == 0, true].into_iter().enumerate() {
                    if counts {
                        of_site[2 * index] = of_site[2 * index].saturating_add(row.amount.bytes);
                        of_site[2 * index + 1] += row.amount.count;
                    }
                }
            }
            let stack = temporal.sites[rows[0].site as usize].stack;
            for (sum, part) in sums[stack.index()].iter_mut().zip(of_site) {
                *sum = sum.saturating_add(part.max(0) as u64);
            }
        }
    }
    sums
}

/// Relative paths are those of the first process; a file must be as it was when the first of them ended.
fn sources(model: &Model, confidential: Confidential) -> Sources {
    let until = |process: &Process| process.facts.end.map_or(process.facts.start_unix_nanos, |end| end.unix_nanos);
    let recorded_until = model.processes().iter().map(until).min().unwrap_or(0);
    Sources::new(confidential, &model.process().facts.cwd, Duration::from_nanos(recorded_until))
}

/// The bytes that are deflated.
fn encode(model: &Model, parts: &[Part], shares: &Shares, options: &PageOptions, fit: &Fit<'_>) -> Vec<u8> {
    let columns = columns(fit);
    let n_changed = fit.tables.sources.n_changed;
    let processes = model.processes().iter().zip(parts).zip(&fit.threads.of_process);
    let processes = processes.map(|((process, part), threads)| {
        let peak_bytes = part.temporal.highest(part.temporal.whole()).map(|at| part.temporal.buckets[at].peak_bytes);
        let reading =
            Reading { n_events: part.n_events, peak_bytes: peak_bytes.unwrap_or(0), notices: part.notices.clone() };
        let facts = Facts { changed_files: n_changed, ..Facts::new(process, reading) };
        let threads = threads.iter().map(|&key| thread(model, process, key)).collect();
        ProcessHeader { facts, threads, marks: marks(model, process) }
    });
    let chosen = &fit.chosen;
    let folded = (chosen.n_folded > 0).then(|| Folded {
        nodes: chosen.n_folded,
        bytes: shares.folded_bytes(model, chosen),
        share: chosen.share,
    });
    let header = Header {
        open: options.open,
        tabs: match options.temporary_threshold {
            Some(_) => &[Tab::Temporary],
            None if options.is_aggregated => &[Tab::Peak, Tab::Leaks],
            None => &[Tab::Peak, Tab::Leaks, Tab::Churn],
        },
        temporary_threshold: options.temporary_threshold,
        is_aggregated: options.is_aggregated,
        processes: processes.collect(),
        strings: &fit.tables.strings.texts,
        allocators: std::iter::once("").chain(AllocatorKind::ALL.map(AllocatorKind::name)).collect(),
        size_classes: &SIZE_BOUNDS,
        n_buckets: fit.n_buckets(),
        start_nanos: 0,
        bucket_nanos: fit.timelines.first().map_or(0, |it| it.bucket_nanos),
        folded,
        limits: Limits {
            max_nodes: chosen.n_kept,
            budget_bytes: options.budget_bytes,
            threshold: options.least_share,
            bucket_nanos: fit.timelines.first().map_or(0, |it| it.bucket_nanos),
        },
        columns: &columns.entries,
    };
    let json = serde_json::to_vec(&header).expect("plain structs always encode");
    let mut bytes = (json.len() as u32).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes.extend(columns.bytes);
    bytes
}

fn columns(fit: &Fit<'_>) -> Columns {
    let mut columns = Columns::default();
    let Tables { files, frames, .. } = &fit.tables;
    columns.plain("files.path", files.path.iter().map(|&path| path as u64));
    columns.plain("files.kind", files.kind.iter().map(|&kind| kind.into()));
    columns.plain("files.role", files.role.iter().map(|&role| role.into()));
    columns.plain("frames.function", frames.function.iter().map(|&function| function as u64));
    columns.plain("frames.file", frames.file.iter().map(|&file| file as u64));
    columns.delta("frames.line", frames.line.iter().map(|&line| line.into()));
    columns.plain("frames.source", frames.source.iter().map(|&source| source as u64));
    columns.plain("nodes.depth", fit.nodes.depth.iter().map(|&depth| depth.into()));
    columns.plain("nodes.frame", fit.nodes.frame.iter().map(|&frame| frame.into()));
    let Cells { cells, rows } = &fit.cells;
    columns.delta("cells.node", cells.iter().map(|cell| cell.node.into()));
    columns.plain("cells.thread", cells.iter().map(|cell| cell.thread.into()));
    columns.plain("cells.allocator", cells.iter().map(|cell| cell.allocator.into()));
    columns.plain("cells.size_class", cells.iter().map(|cell| cell.size_class.into()));
    columns.delta("intervals.cell", rows.iter().map(|row| row.cell() as u64));
    columns.plain("intervals.born", rows.iter().map(|row| row.born().into()));
    columns.plain("intervals.died", rows.iter().map(|row| row.died().into()));
    columns.signed("intervals.bytes", rows.iter().map(|row| row.amount.bytes));
    columns.signed("intervals.count", rows.iter().map(|row| row.amount.count));
    let buckets = || fit.timelines.iter().flat_map(|timeline| &timeline.buckets);
    columns.plain("buckets.peak_bytes", buckets().map(|bucket| bucket.peak_bytes));
    columns.plain("buckets.peak_nanos", buckets().map(|bucket| bucket.peak_nanos));
    columns.plain("buckets.end_bytes", buckets().map(|bucket| bucket.end_bytes));
    columns.plain("buckets.rss", buckets().map(|bucket| bucket.rss_bytes));
    columns.plain("buckets.slack", buckets().map(|bucket| bucket.at_end.slack_bytes));
    columns.plain("buckets.arenas", buckets().map(|bucket| bucket.at_end.arena_bytes));
    columns.plain("buckets.files", buckets().map(|bucket| bucket.at_end.file_bytes));
    columns.plain("buckets.reserved", buckets().map(|bucket| bucket.at_end.reserved_bytes));
    columns
}

fn marks(model: &Model, process: &Process) -> Vec<Mark> {
    let begun = model.processes().iter().map(|process| process.facts.start_unix_nanos).min().unwrap_or(0);
    let offset = process.facts.start_unix_nanos.saturating_sub(begun);
    let mark = |mark: &model::facts::Mark| Mark {
        nanos: offset.saturating_add(mark.nanos),
        name: match mark.kind {
            MarkKind::Named => shortened(&mark.name),
            MarkKind::Paused => "paused".to_owned(),
            MarkKind::Resumed => "resumed".to_owned(),
        },
        is_named: mark.kind == MarkKind::Named,
    };
    process.facts.marks.iter().take(MAX_MARKS).map(mark).collect()
}

fn thread(model: &Model, process: &Process, key: ThreadKey) -> Thread {
    if key == OTHER_THREADS {
        return Thread { number: 0, os_tid: 0, name: "other threads".to_owned() };
    }
    let thread = process.threads.get(key);
    let name = thread.name.map_or(String::new(), |name| shortened(model.text(name)));
    Thread { number: key.number, os_tid: thread.os_tid, name }
}
