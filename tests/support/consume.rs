//! What any command does with a capture, without printing: for tests that feed it with nonsense.

// Each user compiles its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::io::{Sink, sink};
use std::path::Path;

use memtrace::analysis::{
    Counted, Detail, Diff, DiffOptions, Heap, Intervals, MmapRule, Snapshot, Stats, Temporary, Tree, places, summary,
};
use memtrace::capture::Capture;
use memtrace::commands::load::warnings;
use memtrace::model::{Event, Facts, Model};
use memtrace::report::diff::DiffReport;
use memtrace::report::page::{Page, PageOptions, Part};
use memtrace::report::parse::{JsonLines, ParseOptions, Text};
use memtrace::report::svg::{self, SvgOptions, Unit};
use memtrace::report::transform::heaptrack::Heaptrack;
use memtrace::report::transform::pprof::InUse;
use memtrace::report::transform::speedscope::{Profile, SpeedscopeOptions};
use memtrace::report::transform::{csv, folded, gprof2dot, pprof, speedscope};
use memtrace::report::{stats, summary as summary_report, table, tree as tree_report};

/// What came out, for tests that compare.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumed {
    pub n_events: u64,
    pub n_damaged: usize,
    pub peak_bytes: u64,
    pub end_bytes: u64,
}

/// Opens, reads, folds and prints; a capture that is refused gives the sentence.
pub fn consume(path: &Path) -> Result<Consumed, String> {
    let (model, folds) = read(path, &mut |_, _| {})?;
    print(&model, &folds);
    Ok(folds.consumed(&model))
}

/// The same with every other report, which takes ten times as long.
pub fn consume_with_all_reports(path: &Path) -> Result<Consumed, String> {
    let mut more = More {
        by_site: Heap::new(MmapRule::All, Detail::Full),
        intervals: Intervals::new(MmapRule::Memory, 0),
        temporary: Temporary::new(1, MmapRule::All, Detail::Full),
        totals: [Counted::Leaks, Counted::Temporary(1)].map(|counted| Stats::new(MmapRule::All, counted)),
        heaptrack: Heaptrack::new(&Facts::default(), MmapRule::Memory, sink()).unwrap(),
    };
    let (model, folds) = read(path, &mut |model, event| more.take(model, event))?;
    print(&model, &folds);
    write(&model, &folds, more);
    Ok(folds.consumed(&model))
}

struct Folds {
    n_events: u64,
    last_turn: u64,
    heap: Heap,
    temporary: Temporary,
    totals: Stats,
}

struct More {
    by_site: Heap,
    intervals: Intervals,
    temporary: Temporary,
    totals: [Stats; 2],
    heaptrack: Heaptrack<Sink>,
}

impl Folds {
    fn consumed(&self, model: &Model) -> Consumed {
        Consumed {
            n_events: self.n_events,
            n_damaged: model.process().facts.damage.len(),
            peak_bytes: self.heap.peak_bytes(),
            end_bytes: self.heap.bytes(),
        }
    }

    fn snapshots(&self) -> [Snapshot; 3] {
        [self.heap.at_peak(), self.heap.at_end(), self.temporary.finish()]
    }
}

impl More {
    fn take(&mut self, model: &Model, event: &Event) {
        self.by_site.take(model, event);
        self.intervals.take(model, event);
        self.temporary.take(model, event);
        self.totals.iter_mut().for_each(|totals| totals.take(model, event));
        self.heaptrack.take(model, event).unwrap();
    }
}

fn read(path: &Path, take: &mut dyn FnMut(&Model, &Event)) -> Result<(Model, Folds), String> {
    let sentence = |error| format!("{error:#}");
    let capture = Capture::open(path).map_err(sentence)?;
    let mut folds = Folds {
        n_events: 0,
        last_turn: 0,
        heap: Heap::new(MmapRule::Memory, Detail::Stack),
        temporary: Temporary::new(1, MmapRule::All, Detail::Stack),
        totals: Stats::new(MmapRule::All, Counted::Everything),
    };
    let mut text = Text::new(sink(), ParseOptions::default());
    let mut lines = JsonLines::new(sink(), ParseOptions { min_size: 0, stacks_once: true });
    text.begin(capture.facts()).unwrap();
    lines.begin(capture.facts()).unwrap();
    let read = capture.read(|model, event| {
        folds.n_events += 1;
        folds.last_turn = event.turn;
        folds.heap.take(model, event);
        folds.temporary.take(model, event);
        folds.totals.take(model, event);
        text.take(model, event).unwrap();
        lines.take(model, event).unwrap();
        take(model, event);
    });
    let model = read.map_err(sentence)?;
    text.end(&model.process().facts).unwrap();
    lines.end(&model.process().facts).unwrap();
    Ok((model, folds))
}

fn print(model: &Model, folds: &Folds) {
    let out = &mut sink();
    warnings(model);
    for snapshot in &folds.snapshots() {
        let tree = Tree::new(model, snapshot);
        tree_report::text(model, snapshot, &tree, 0, out).unwrap();
        let functions = summary::by_function(model, &tree);
        let options = summary_report::SummaryOptions { sort_column: 1, max_rows: 20, width: Some(80) };
        summary_report::text(model, snapshot, &functions, &options, out).unwrap();
    }
    print_stats(model, &folds.totals, folds.last_turn);
}

fn print_stats(model: &Model, totals: &Stats, last_turn: u64) {
    let options = stats::StatsOptions { num_largest: 5, width: Some(80) };
    let document = stats::document(model, totals, &[last_turn], &options);
    stats::text(&document, &mut sink()).unwrap();
    stats::json(&document, &mut sink()).unwrap();
}

fn write(model: &Model, folds: &Folds, more: More) {
    let out = &mut sink();
    let snapshots = folds.snapshots();
    for snapshot in &snapshots {
        folded::write(model, snapshot, out).unwrap();
        gprof2dot::write(model, snapshot, out).unwrap();
        let profiles = [Profile { name: "peak", snapshot }];
        speedscope::write(model, &profiles, &SpeedscopeOptions { active: 0 }, out).unwrap();
    }
    let [peak, end, _] = &snapshots;
    let diff = Diff::new((model, peak), (model, end), &DiffOptions { by_line: true, is_normalised: true });
    let report = DiffReport { diff: &diff, shown: "peak", is_normalised: true, max_rows: 10 };
    report.text(out).unwrap();
    let picture = SvgOptions { title: "", unit: Unit::Bytes, is_inverted: true, least_share: 0.0 };
    svg::write_diff(&diff.model, &diff.stacks(), &picture, out).unwrap();
    let More { by_site, intervals, temporary, totals, .. } = more;
    totals.iter().for_each(|totals| print_stats(model, totals, folds.last_turn));
    for (all, part) in [(by_site.ever_by_site(), by_site.peak_by_site()), (temporary.by_site(), by_site.end_by_site())]
    {
        pprof::write(model, &all, Some((InUse::AtPeak, &part)), out).unwrap();
        csv::write(model, &part, out).unwrap();
        svg::write(model, &svg::by_thread(model, &part), &picture, out).unwrap();
        let rows = places::by_place(model, &part, true);
        table::text(model, &part, &rows, &table::TableOptions { max_rows: 20 }, out).unwrap();
    }
    let part = Part { temporal: intervals.finish(model), n_events: folds.n_events, notices: warnings(model) };
    Page::new(model, vec![part], &PageOptions::default());
}
