//! What the commands that write a page have in common: read the captures into what the page holds, and write it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::analysis::intervals::Overhead;
use crate::analysis::{Detail, Intervals, MmapRule, OfStacks, Temporary};
use crate::cli::{ConfidentialFiles, PageArgs, RangeArgs};
use crate::commands::load::{self, Question};
use crate::commands::output::Output;
use crate::commands::read::{Captures, NO_HISTORY};
use crate::model::{Event, Facts, Model, StackId};
use crate::report::html;
use crate::report::page::{Open, Page, PageOptions, Part, Tab};
use crate::report::sources::Confidential;

/// Writes the page of a command, to be opened at the view that it names.
pub fn write(command: &str, args: &PageArgs, range: &RangeArgs, open: Open) -> Result<ExitCode> {
    // A wrong capture is the error to report, before anything about the output.
    let captures = Captures::open(&args.captures, &args.native)?;
    captures.can_answer(args.selection.question(), args.selection.mmap_rule())?;
    if open.temporal {
        captures.need_all_events(NO_HISTORY)?;
    }
    let range = captures.range(range)?.map(|range| (range.start, range.end));
    let path = args.output.clone().unwrap_or_else(|| captures.output_name(command, ".html"));
    let output = Output::create(Some(&path), args.force)?;
    let (tab, temporary_threshold) = match args.selection.question() {
        Question::Peak => (Tab::Peak, None),
        Question::Leaks => (Tab::Leaks, None),
        Question::Temporary(threshold) => (Tab::Temporary, Some(threshold)),
    };
    let typed_sources = args.typed_sources.as_deref().map(read_sources).transpose()?.unwrap_or_default();
    let options = PageOptions {
        typed_sources,
        open: Open { tab, range, split_threads: args.split_threads, ..open },
        temporary_threshold,
        is_aggregated: captures.are_aggregated(),
        confidential: match args.confidential_files {
            ConfidentialFiles::All => Confidential::All,
            ConfidentialFiles::None => Confidential::None,
            ConfidentialFiles::Default => Confidential::Default,
        },
        max_buckets: args.max_memory_records.map_or(usize::MAX, |n_points| n_points as usize),
        least_share: args.min_share / 100.0,
        ..PageOptions::default()
    };
    let (model, parts) = read(&captures, args.selection.mmap_rule(), temporary_threshold)?;
    let page = Page::new(&model, parts, &options);
    output.finish(|out| html::write(&page, out))?;
    eprintln!("memtrace: wrote {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn read_sources(path: &Path) -> Result<HashMap<String, String>> {
    let named = || format!("cannot read {}", path.display());
    let text = fs::read(path).with_context(named)?;
    serde_json::from_slice(&text).with_context(named)
}

/// Reads the captures into what a page of them holds, and prints their warnings. With a threshold it is about temporary
/// allocations.
pub fn read(captures: &Captures, rule: MmapRule, temporary_threshold: Option<u64>) -> Result<(Model, Vec<Part>)> {
    let begun = captures.start_unix_nanos();
    let begin = |facts: &Facts| Folds::new(rule, temporary_threshold, facts.start_unix_nanos.saturating_sub(begun));
    let (model, read) = captures.read(begin, Folds::take, Folds::finish)?;
    load::warn(&model);
    load::warn_of_missed_frees(read.iter().map(|part| part.answer.n_missed_frees).sum());
    let parts = read.into_iter().zip(0..).map(|(part, process)| {
        let Answer { part: Part { temporal, n_events, notices }, .. } = part.answer;
        Part { temporal: temporal.moved(&part.handles, process), n_events, notices }
    });
    let parts = parts.collect();
    Ok((model, parts))
}

/// What is followed while one capture is read.
struct Folds {
    intervals: Intervals,
    temporary: Option<Temporary>,
    n_events: u64,
}

/// What one capture came to.
struct Answer {
    part: Part,
    n_missed_frees: u64,
}

impl OfStacks for Answer {
    fn stacks(&self) -> impl Iterator<Item = StackId> {
        self.part.temporal.stacks()
    }
}

impl Folds {
    fn new(rule: MmapRule, temporary_threshold: Option<u64>, offset_nanos: u64) -> Folds {
        let temporary = temporary_threshold.map(|threshold| Temporary::new(threshold, rule, Detail::Full));
        Folds { intervals: Intervals::new(rule, offset_nanos), temporary, n_events: 0 }
    }

    fn take(&mut self, model: &Model, events: &[Event]) {
        self.n_events += events.iter().filter(|event| event.action.is_of_memory()).count() as u64;
        self.intervals.take_all(model, events);
        if let Some(temporary) = &mut self.temporary {
            temporary.take_all(model, events);
        }
    }

    fn finish(self, model: &Model) -> Answer {
        let n_missed_frees = self.intervals.n_missed_frees();
        let temporal = self.intervals.finish(model);
        let mut temporal = match &self.temporary {
            Some(temporary) => temporal.with_table(&temporary.by_site()),
            None => temporal,
        };
        let facts = &model.process().facts;
        let notices = load::warnings_of_one(facts);
        if facts.aggregated.is_some() {
            // Between the peak and the end nobody knows how large the blocks were.
            temporal.buckets.iter_mut().for_each(|bucket| bucket.at_end = Overhead::default());
        }
        let n_events = facts.aggregated.map_or(self.n_events, |aggregated| aggregated.n_events);
        Answer { part: Part { temporal, n_events, notices }, n_missed_frees }
    }
}
