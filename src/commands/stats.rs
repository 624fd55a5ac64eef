//! `memtrace stats`.

use std::process::ExitCode;

use crate::analysis::{Counted, OfStacks, Stats};
use crate::cli::StatsArgs;
use crate::commands::load;
use crate::commands::output::Output;
use crate::commands::read::{Captures, NO_STATISTICS, Part};
use crate::model::{Event, Model, StackId};
use crate::report::stats::{self, StatsOptions};
use crate::terminal;

pub fn run(args: &StatsArgs) -> anyhow::Result<ExitCode> {
    let captures = Captures::open(&args.captures, &args.native)?;
    captures.need_all_events(NO_STATISTICS)?;
    let out = Output::create(args.output.as_deref(), args.force)?;
    let rule = load::mmap_rule(args.all_mappings);
    let counted = match args.temporary.threshold() {
        Some(threshold) => Counted::Temporary(threshold),
        None if args.leaks => Counted::Leaks,
        None => Counted::Everything,
    };
    let begin = |_: &_| Counting { stats: Stats::new(rule, counted), last_turn: 0 };
    let (model, parts) = captures.read(begin, Counting::take, |counting, _| counting)?;
    let mut totals = Stats::new(rule, counted);
    for Part { answer, handles } in &parts {
        totals.absorb(&answer.stats, handles);
    }
    let last_turns: Vec<u64> = parts.iter().map(|part| part.answer.last_turn).collect();
    load::warn(&model);
    load::warn_of_missed_frees(totals.n_missed_frees());
    let options = StatsOptions {
        num_largest: usize::try_from(args.num_largest).unwrap_or(usize::MAX),
        width: if args.output.is_none() { terminal::size().map(|(columns, _)| columns) } else { None },
    };
    let document = stats::document(&model, &totals, &last_turns, &options);
    out.finish(|out| if args.json { stats::json(&document, out) } else { stats::text(&document, out) })?;
    Ok(ExitCode::SUCCESS)
}

/// What is followed while one capture is read.
struct Counting {
    stats: Stats,
    last_turn: u64,
}

impl Counting {
    fn take(&mut self, model: &Model, events: &[Event]) {
        self.last_turn = events.last().map_or(self.last_turn, |event| event.turn);
        self.stats.take_all(model, events);
    }
}

impl OfStacks for Counting {
    fn stacks(&self) -> impl Iterator<Item = StackId> {
        self.stats.stacks()
    }
}
