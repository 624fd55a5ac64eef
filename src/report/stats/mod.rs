//! Totals, histogram and the largest allocators: as text, and as JSON with memray's keys, shapes and meaning.

mod histogram;
pub mod modules;

use std::cmp::Reverse;
use std::io::{Result, Write};

use hashbrown::HashMap;
use memtrace_format::AllocatorKind;
use serde::Serialize;
use serde::ser::SerializeMap;

use self::histogram::Bin;
use self::modules::Modules;
use super::cut::named;
use super::origin;
use super::printable::printable;
use crate::analysis::{Counted, Stats};
use crate::model::{FrameId, Model, Process, facts};
use crate::units;

pub struct StatsOptions {
    /// Length of the lists.
    pub num_largest: usize,
    /// Columns of the screen: no location is longer, and files are named by what tells them apart.
    pub width: Option<usize>,
}

/// What both outputs show.
#[derive(Serialize)]
pub struct Document {
    total_num_allocations: u64,
    total_bytes_allocated: u64,
    allocation_size_histogram: Vec<Bin>,
    #[serde(serialize_with = "as_map")]
    allocator_type_distribution: Vec<(String, u64)>,
    top_allocations_by_size: Vec<BySize>,
    top_allocations_by_count: Vec<ByCount>,
    top_modules_by_allocation_size: Vec<Module>,
    top_modules_by_allocation_count: Vec<Module>,
    metadata: Metadata,
    marks: Vec<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<Objects>,
    #[serde(skip)]
    extremes: Option<(u64, u64)>,
    #[serde(skip)]
    num_largest: usize,
    #[serde(skip)]
    width: Option<usize>,
    #[serde(skip)]
    counted: Counted,
}

/// Where their lifetimes were recorded.
#[derive(Serialize)]
struct Objects {
    num_made: u64,
    /// Of those.
    num_alive: u64,
}

/// A moment that somebody gave a name.
#[derive(Serialize)]
struct Mark {
    name: String,
    /// Since its capture began.
    seconds: f64,
    /// Where there are several processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

#[derive(Serialize)]
struct BySize {
    location: Location,
    size: u64,
}

#[derive(Serialize)]
struct ByCount {
    location: Location,
    count: u64,
}

/// Where something was allocated, as a whole and in the two parts that a screen has room for.
#[derive(Serialize)]
#[serde(transparent)]
struct Location {
    whole: String,
    #[serde(skip)]
    function: String,
    #[serde(skip)]
    place: String,
}

/// A top-level module, and what it allocated.
#[derive(Clone, Serialize)]
pub struct Module {
    pub module: String,
    pub num_allocations: u64,
    pub total_bytes: u64,
}

#[derive(Serialize)]
struct Metadata {
    start_time: String,
    end_time: String,
    /// Allocations and frees.
    total_allocations: u64,
    total_frames: u64,
    peak_memory: u64,
    command_line: String,
    pid: u32,
    main_thread_id: u32,
    python_allocator: String,
    has_native_traces: bool,
    trace_python_allocators: bool,
    file_format: u32,
}

/// Puts names to the numbers. `last_turns`, one for each process, are the ends of captures that have none of their own.
pub fn document(model: &Model, stats: &Stats, last_turns: &[u64], options: &StatsOptions) -> Document {
    let mut by_location: HashMap<Option<FrameId>, (u64, u64)> = HashMap::new();
    let mut modules = Modules::new(model.processes());
    for (stack, bytes, count) in stats.totals.stacks() {
        let sum = by_location.entry(model.leaf(stack)).or_default();
        *sum = (sum.0.saturating_add(bytes), sum.1 + count);
        modules.add(model, stack, bytes, count);
    }
    let name = |location: Option<FrameId>| Location::new(model, location);
    let mut locations: Vec<_> = by_location.into_iter().collect();
    let n_shown = options.num_largest;
    locations.sort_by_key(|&(location, (bytes, _))| (Reverse(bytes), location));
    let by_size = locations.iter().take(n_shown);
    let by_size = by_size.map(|&(location, (size, _))| BySize { location: name(location), size }).collect();
    locations.sort_by_key(|&(location, (_, count))| (Reverse(count), location));
    let by_count = locations.iter().take(n_shown);
    let by_count = by_count.map(|&(location, (_, count))| ByCount { location: name(location), count }).collect();

    let mut modules = modules.finish();
    modules.sort_by(|a, b| (b.total_bytes, &a.module).cmp(&(a.total_bytes, &b.module)));
    let modules_by_size = modules.iter().take(n_shown).cloned().collect();
    modules.sort_by(|a, b| (b.num_allocations, &a.module).cmp(&(a.num_allocations, &b.module)));
    let modules_by_count = modules.iter().take(n_shown).cloned().collect();

    let kinds =
        AllocatorKind::ALL.iter().map(|&kind| (kind.name().to_uppercase(), stats.totals.by_kind[kind as usize]));
    let mut kinds: Vec<(String, u64)> = kinds.filter(|&(_, count)| count > 0).collect();
    kinds.sort_by_key(|&(_, count)| Reverse(count));
    Document {
        total_num_allocations: stats.totals.n_allocations,
        total_bytes_allocated: stats.totals.bytes,
        allocation_size_histogram: histogram::bins(&stats.totals.sizes),
        allocator_type_distribution: kinds,
        top_allocations_by_size: by_size,
        top_allocations_by_count: by_count,
        top_modules_by_allocation_size: modules_by_size,
        top_modules_by_allocation_count: modules_by_count,
        metadata: metadata(model, stats, last_turns),
        marks: marks(model),
        objects: (stats.objects.n_made > 0)
            .then_some(Objects { num_made: stats.objects.n_made, num_alive: stats.objects.n_living }),
        extremes: stats.totals.sizes.extremes(),
        num_largest: n_shown,
        width: options.width,
        counted: stats.counted,
    }
}

impl Location {
    fn new(model: &Model, frame: Option<FrameId>) -> Location {
        let Some(frame) = frame.map(|id| model.frame(id)) else {
            let unknown = "<stack trace unavailable>".to_string();
            return Location { whole: unknown.clone(), function: unknown, place: String::new() };
        };
        let file = origin::short(model.text(frame.file), &model.process().facts.cwd);
        Location {
            whole: model.location(frame),
            function: model.text(frame.function).to_string(),
            place: frame.place(file),
        }
    }

    fn shown(&self, width: Option<usize>) -> String {
        match width {
            None => printable(&self.whole).into_owned(),
            Some(width) => named(&printable(&self.function), ":", &printable(&self.place), width),
        }
    }
}

/// Of several processes it is the first one's, but for the times and the sums.
fn metadata(model: &Model, stats: &Stats, last_turns: &[u64]) -> Metadata {
    let facts = &model.process().facts;
    let python = facts.python();
    let allocator = python.map_or("", |python| &python.allocator);
    let start = model.processes().iter().map(|process| process.facts.start_unix_nanos).min();
    let ends = model.processes().iter().zip(last_turns).map(|(process, &last_turn)| match process.facts.end {
        Some(end) => end.unix_nanos,
        None => process.clock.unix_nanos(last_turn),
    });
    Metadata {
        start_time: units::iso_date(start.unwrap_or(0)),
        end_time: units::iso_date(ends.max().unwrap_or(0)),
        total_allocations: stats.n_events,
        total_frames: model.n_frames() as u64,
        peak_memory: stats.peak_bytes,
        command_line: facts.command_line.join(" "),
        pid: facts.pid,
        main_thread_id: 1,
        python_allocator: facts.python_allocator(),
        has_native_traces: model.processes().iter().any(|process| process.facts.has_native_stacks),
        trace_python_allocators: !allocator.is_empty(),
        file_format: 0,
    }
}

fn marks(model: &Model) -> Vec<Mark> {
    let has_several = model.processes().len() > 1;
    let of_process = |process: &Process| {
        let pid = has_several.then_some(process.facts.pid);
        let mark = |mark: &facts::Mark| Mark { name: mark.name.clone(), seconds: mark.nanos as f64 / 1e9, pid };
        process.facts.named_marks().map(mark).collect::<Vec<_>>()
    };
    model.processes().iter().flat_map(of_process).collect()
}

fn as_map<S: serde::Serializer>(pairs: &[(String, u64)], out: S) -> std::result::Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

pub fn json(document: &Document, out: &mut dyn Write) -> Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)
}

pub fn text(document: &Document, out: &mut dyn Write) -> Result<()> {
    let (allocations, memory) = match document.counted {
        Counted::Everything => ("Total allocations", "Total memory allocated"),
        Counted::Leaks => ("Allocations never given back", "Memory never given back"),
        Counted::Temporary(_) => ("Temporary allocations", "Memory allocated temporarily"),
    };
    writeln!(out, "{allocations}:\n    {}\n", document.total_num_allocations)?;
    writeln!(out, "{memory}:\n    {}\n", units::bytes(document.total_bytes_allocated))?;
    writeln!(out, "Peak memory usage:\n    {}\n", units::bytes(document.metadata.peak_memory))?;
    if let Some(Objects { num_made, num_alive }) = &document.objects {
        writeln!(out, "Objects made:\n    {num_made}, and {num_alive} of them alive at the end\n")?;
    }
    if !document.marks.is_empty() {
        writeln!(out, "Marks:")?;
        for Mark { name, seconds, pid } in &document.marks {
            let of = pid.map_or(String::new(), |pid| format!(" (process {pid})"));
            writeln!(out, "    {seconds:.3} s: {}{of}", printable(name))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "Histogram of allocation size:")?;
    match document.extremes {
        None => writeln!(out, "    (no allocations)")?,
        Some((smallest, largest)) => {
            writeln!(out, "    min: {}", units::bytes(smallest))?;
            histogram::draw(&document.allocation_size_histogram, out)?;
            writeln!(out, "    max: {}", units::bytes(largest))?;
        }
    }
    writeln!(out, "\nAllocator type distribution:")?;
    for (kind, count) in &document.allocator_type_distribution {
        writeln!(out, "    {kind}: {count}")?;
    }
    let n = document.num_largest;
    writeln!(out, "\nTop {n} largest allocating locations (by size):")?;
    for BySize { location, size } in &document.top_allocations_by_size {
        write_location(document, location, &units::bytes(*size), out)?;
    }
    writeln!(out, "\nTop {n} largest allocating locations (by number of allocations):")?;
    for ByCount { location, count } in &document.top_allocations_by_count {
        write_location(document, location, &count.to_string(), out)?;
    }
    for (order, modules) in [
        ("by size", &document.top_modules_by_allocation_size),
        ("by number of allocations", &document.top_modules_by_allocation_count),
    ] {
        writeln!(out, "\nTop {n} allocating modules ({order}):")?;
        for Module { module, num_allocations, total_bytes } in modules {
            let (module, total) = (printable(module), units::bytes(*total_bytes));
            writeln!(out, "    - {module}: {total} total | {num_allocations} allocations")?;
        }
    }
    Ok(())
}

fn write_location(document: &Document, location: &Location, amount: &str, out: &mut dyn Write) -> Result<()> {
    let width = document.width.map(|width| width.saturating_sub("    -  -> ".len() + amount.len()));
    writeln!(out, "    - {} -> {amount}", location.shown(width))
}
