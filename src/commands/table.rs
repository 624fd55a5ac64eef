//! `memtrace table`: a row for each place that allocated, as a page to sort and search in, as text or as JSON.

use std::process::ExitCode;

use anyhow::Result;

use crate::analysis::places;
use crate::cli::{RangeArgs, TableArgs};
use crate::commands::load;
use crate::commands::output::Output;
use crate::commands::pages;
use crate::commands::read::Captures;
use crate::report::page::Open;
use crate::report::table::{self, TableOptions};

pub fn run(args: &TableArgs) -> Result<ExitCode> {
    if !args.text && !args.json {
        return pages::write("table", &args.page, &RangeArgs::default(), Open { table: true, ..Open::default() });
    }
    let captures = Captures::open(&args.page.captures, &args.page.native)?;
    let out = Output::create(args.page.output.as_deref(), args.page.force)?;
    let selection = &args.page.selection;
    let (model, [answer]) =
        load::by_site(&captures, selection.mmap_rule(), selection.question(), |folds| [folds.asked_by_site()])?;
    let rows = places::by_place(&model, &answer, args.page.split_threads);
    let options = TableOptions { max_rows: args.max_rows.unwrap_or(usize::MAX) };
    out.finish(|out| match args.json {
        true => table::json(&model, &answer, &rows, &options, out),
        false => table::text(&model, &answer, &rows, &options, out),
    })?;
    Ok(ExitCode::SUCCESS)
}
