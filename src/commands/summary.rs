//! `memtrace summary`.

use std::process::ExitCode;

use crate::analysis::{Tree, summary};
use crate::cli::SummaryArgs;
use crate::commands::load;
use crate::commands::output::Output;
use crate::commands::read::Captures;
use crate::report::summary::{self as report, SummaryOptions};
use crate::terminal;

pub fn run(args: &SummaryArgs) -> anyhow::Result<ExitCode> {
    let loaded = load::load(&Captures::open(&args.captures, &args.native)?, &args.selection)?;
    let tree = Tree::new(&loaded.model, &loaded.snapshot);
    let functions = summary::by_function(&loaded.model, &tree);
    let max_rows = args.max_rows.unwrap_or(if args.json { usize::MAX } else { rows_on_screen() });
    let width = terminal::size().map(|(columns, _)| columns);
    let options = SummaryOptions { sort_column: args.sort_column, max_rows, width };
    Output::create(None, false)?.finish(|out| match args.json {
        true => report::json(&loaded.model, &loaded.snapshot, &functions, &options, out),
        false => report::text(&loaded.model, &loaded.snapshot, &functions, &options, out),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Rows that fit above the next prompt.
fn rows_on_screen() -> usize {
    const USUAL_LINES: usize = 24;
    let lines = std::env::var("LINES").ok().and_then(|lines| lines.parse().ok());
    let lines = lines.or(terminal::size().map(|(_, rows)| rows)).unwrap_or(USUAL_LINES);
    lines.saturating_sub(5).max(10)
}
