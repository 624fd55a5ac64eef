//! Functions as a table.

use std::cmp::Reverse;
use std::io::{Result, Write};

use serde::Serialize;

use super::cut::named;
use super::origin;
use super::printable::printable;
use crate::analysis::Snapshot;
use crate::analysis::summary::Function;
use crate::model::Model;
use crate::units;

pub struct SummaryOptions {
    /// From 1: total bytes, their share, own bytes, their share, allocations.
    pub sort_column: u8,
    pub max_rows: usize,
    /// Columns of the screen: no line is longer, and files are named by what tells them apart.
    pub width: Option<usize>,
}

const HEADERS: [&str; 5] = ["Total", "Total %", "Own", "Own %", "Count"];

/// The table; the column that it is sorted by stands in angle brackets.
pub fn text(
    model: &Model,
    snapshot: &Snapshot,
    functions: &[Function],
    options: &SummaryOptions,
    out: &mut dyn Write,
) -> Result<()> {
    let shown = sorted(functions, options);
    let mut header = HEADERS.map(str::to_string);
    let column = options.sort_column.clamp(1, 5) as usize - 1;
    header[column] = format!("<{}>", header[column]);
    let mut rows = vec![header];
    rows.extend(shown.iter().map(|function| {
        [
            units::bytes(function.total_bytes),
            units::share(function.total_bytes, snapshot.bytes),
            units::bytes(function.own_bytes),
            units::share(function.own_bytes, snapshot.bytes),
            units::count(function.count),
        ]
    }));
    let widths: [usize; 5] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let left = options.width.map(|width| width.saturating_sub(widths.iter().map(|width| width + 2).sum()));
    let locations = shown.iter().map(|function| location(model, function, left));
    // Numbers first: they stay in sight however long the location is.
    for (numbers, location) in rows.iter().zip(std::iter::once("Location".to_string()).chain(locations)) {
        for (number, width) in numbers.iter().zip(&widths) {
            write!(out, "{number:>width$}  ")?;
        }
        writeln!(out, "{location}")?;
    }
    if shown.len() < functions.len() {
        writeln!(out, "({} further functions)", units::count((functions.len() - shown.len()) as u64))?;
    }
    Ok(())
}

fn location(model: &Model, function: &Function, width: Option<usize>) -> String {
    let (name, file) = names(model, function);
    match width {
        None => printable(&format!("{name} at {file}")).into_owned(),
        Some(width) => {
            let file = origin::short(file, &model.process().facts.cwd);
            named(&printable(name), " at ", &printable(file), width)
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    function: &'a str,
    file: &'a str,
    total_bytes: u64,
    own_bytes: u64,
    allocations: u64,
}

#[derive(Serialize)]
struct Document<'a> {
    total_bytes: u64,
    total_allocations: u64,
    functions: Vec<Row<'a>>,
}

/// The same as one JSON document.
pub fn json(
    model: &Model,
    snapshot: &Snapshot,
    functions: &[Function],
    options: &SummaryOptions,
    out: &mut dyn Write,
) -> Result<()> {
    let rows = sorted(functions, options).into_iter().map(|function| {
        let (name, file) = names(model, function);
        let Function { total_bytes, own_bytes, count, .. } = *function;
        Row { function: name, file, total_bytes, own_bytes, allocations: count }
    });
    let document =
        Document { total_bytes: snapshot.bytes, total_allocations: snapshot.count, functions: rows.collect() };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn sorted<'a>(functions: &'a [Function], options: &SummaryOptions) -> Vec<&'a Function> {
    let mut sorted: Vec<&Function> = functions.iter().collect();
    sorted.sort_by_key(|function| match options.sort_column {
        1 | 2 => Reverse(function.total_bytes),
        3 | 4 => Reverse(function.own_bytes),
        _ => Reverse(function.count),
    });
    sorted.truncate(options.max_rows);
    sorted
}

fn names<'a>(model: &'a Model, function: &Function) -> (&'a str, &'a str) {
    match function.name {
        Some((name, file)) => (model.text(name), model.text(file)),
        None => ("<no stack>", "<unknown>"),
    }
}
