//! `memtrace stats`.

use std::process::ExitCode;

use crate::analysis::{Counted, Stats};
use crate::cli::StatsArgs;
use crate::commands::load;
use crate::commands::output::Output;
use crate::commands::read::{Captures, Part};
use crate::model::{Event, Model};
use crate::report::stats::{self, StatsOptions};
use crate::terminal;

pub fn run(args: &StatsArgs) -> anyhow::Result<ExitCode> {
    let captures = Captures::open(&args.captures, &args.symbols)?;
    let out = Output::create(args.output.as_deref(), args.force)?;
    let rule = load::mmap_rule(args.all_mappings);
    let counted = match args.temporary.threshold() {
        Some(threshold) => Counted::Temporary(threshold),
        None if args.leaks => Counted::Leaks,
        None => Counted::Everything,
    };
    let take = |(stats, last_turn): &mut (Stats, u64), model: &Model, events: &[Event]| {
        *last_turn = events.last().map_or(*last_turn, |event| event.turn);
        stats.take_all(model, events);
    };
    let (model, parts) = captures.read(|_| (Stats::new(rule, counted), 0), take, |fold, _| fold)?;
    let mut totals = Stats::new(rule, counted);
    for Part { answer: (stats, _), handles } in &parts {
        totals.absorb(stats, handles);
    }
    let last_turns: Vec<u64> = parts.iter().map(|part| part.answer.1).collect();
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
