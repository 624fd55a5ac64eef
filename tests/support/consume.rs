//! Everything that any command does with a capture, without printing: for tests that feed it with nonsense.

// Each user compiles its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::io::sink;
use std::ops::ControlFlow;
use std::path::Path;

use memtrace::analysis::{Counted, Detail, Heap, MmapRule, Stats, Temporary, Tree, summary};
use memtrace::capture::Capture;
use memtrace::commands::load::warnings;
use memtrace::model::Model;
use memtrace::report::parse::{JsonLines, ParseOptions, Text};
use memtrace::report::{stats, summary as summary_report, tree as tree_report};

/// What came out, for tests that compare.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumed {
    pub n_events: u64,
    pub n_damaged: usize,
    pub peak_bytes: u64,
    pub end_bytes: u64,
}

/// Opens, reads, folds and reports; a capture that is refused gives the sentence.
pub fn consume(path: &Path) -> Result<Consumed, String> {
    let sentence = |error| format!("{error:#}");
    let capture = Capture::open(path).map_err(sentence)?;
    let mut heap = Heap::new(MmapRule::Memory, Detail::Stack);
    let mut temporary = Temporary::new(1, MmapRule::All, Detail::Stack);
    let mut totals = Stats::new(MmapRule::All, Counted::Everything);
    let mut text = Text::new(sink(), ParseOptions::default());
    let mut lines = JsonLines::new(sink(), ParseOptions { min_size: 0, stacks_once: true });
    text.begin(capture.facts()).unwrap();
    lines.begin(capture.facts()).unwrap();
    let (mut n_events, mut last_turn) = (0, 0);
    let read = capture.read_while(
        |_| {},
        |model: &Model, event| {
            n_events += 1;
            last_turn = event.turn;
            heap.take(model, event);
            temporary.take(model, event);
            totals.take(model, event);
            text.take(model, event).unwrap();
            lines.take(model, event).unwrap();
            ControlFlow::Continue(())
        },
    );
    let model = read.map_err(sentence)?;
    text.end(&model.process().facts).unwrap();
    lines.end(&model.process().facts).unwrap();
    warnings(&model);
    for snapshot in [heap.at_peak(), heap.at_end(), temporary.finish()] {
        let tree = Tree::new(&model, &snapshot);
        tree_report::text(&model, &snapshot, &tree, 0, &mut sink()).unwrap();
        let functions = summary::by_function(&model, &tree);
        let options = summary_report::SummaryOptions { sort_column: 1, max_rows: 20, width: Some(80) };
        summary_report::text(&model, &snapshot, &functions, &options, &mut sink()).unwrap();
    }
    let document =
        stats::document(&model, &totals, &[last_turn], &stats::StatsOptions { num_largest: 5, width: Some(80) });
    stats::text(&document, &mut sink()).unwrap();
    stats::json(&document, &mut sink()).unwrap();
    Ok(Consumed {
        n_events,
        n_damaged: model.process().facts.damage.len(),
        peak_bytes: heap.peak_bytes(),
        end_bytes: heap.bytes(),
    })
}
