//! `memtrace table`: a row for each place that allocated.

use std::process::ExitCode;

use anyhow::Result;

use crate::analysis::{BySite, Detail, places};
use crate::cli::TableArgs;
use crate::commands::load::{self, Read};
use crate::commands::output::Output;
use crate::commands::read::Captures;
use crate::report::table::{self, TableOptions};

pub fn run(args: &TableArgs) -> Result<ExitCode> {
    let captures = Captures::open(&args.captures)?;
    let out = Output::create(args.output.as_deref(), args.force)?;
    let question = args.selection.question();
    let Read { model, parts, .. } =
        load::read(&captures, &args.selection, Detail::Full, |folds| folds.by_site(question))?;
    let answer = BySite::of_processes(parts.iter().map(|part| (part.answer.clone(), &part.handles)));
    let rows = places::by_place(&model, &answer, args.split_threads);
    let options = TableOptions { max_rows: args.max_rows.unwrap_or(usize::MAX) };
    out.finish(|out| match args.json {
        true => table::json(&model, &answer, &rows, &options, out),
        false => table::text(&model, &answer, &rows, &options, out),
    })?;
    Ok(ExitCode::SUCCESS)
}
