//! `memtrace stats`.

use std::process::ExitCode;

use crate::analysis::{MmapRule, Stats};
use crate::capture::Capture;
use crate::cli::StatsArgs;
use crate::commands::load;
use crate::commands::output::Output;
use crate::report::stats::{self, StatsOptions};

pub fn run(args: &StatsArgs) -> anyhow::Result<ExitCode> {
    let capture = Capture::open(&args.capture)?;
    let out = Output::create(args.output.as_deref(), args.force)?;
    let mut fold = Stats::new(if args.all_mappings { MmapRule::All } else { MmapRule::Memory });
    let mut last_turn = 0;
    let model = capture.read(|model, event| {
        last_turn = event.turn;
        fold.take(model, event);
    })?;
    load::warn(&model.facts);
    load::warn_of_missed_frees(fold.n_missed_frees());
    let options = StatsOptions { num_largest: usize::try_from(args.num_largest).unwrap_or(usize::MAX) };
    let document = stats::document(&model, &fold, last_turn, &options);
    out.finish(|out| if args.json { stats::json(&document, out) } else { stats::text(&document, out) })?;
    Ok(ExitCode::SUCCESS)
}
