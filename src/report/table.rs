//! Where memory was allocated, a row for each place and allocator and, on request, thread: as text and as JSON.

use std::io::{Result, Write};

use serde::Serialize;

use super::printable::printable;
use crate::analysis::BySite;
use crate::analysis::places::PlaceRow;
use crate::model::{Model, ThreadKey};
use crate::units;

pub struct TableOptions {
    pub max_rows: usize,
}

/// The numbers come first: they stay in sight however long the location is.
pub fn text(
    model: &Model,
    answer: &BySite,
    rows: &[PlaceRow],
    options: &TableOptions,
    out: &mut dyn Write,
) -> Result<()> {
    let n_shown = rows.len().min(options.max_rows);
    let has_threads = rows.iter().any(|row| row.place.thread.is_some());
    let header = ["Size", "Size %", "Count", "Allocator", "Thread"].map(str::to_string);
    let mut lines = vec![(header, "Location".to_string())];
    for row in &rows[..n_shown] {
        let thread = row.place.thread.map(|(process, key)| thread_name(model, process, key));
        let location = match row.place.frame {
            Some(id) => printable(&model.location(model.frame(id))).into_owned(),
            None => NO_STACK.to_string(),
        };
        let cells = [
            units::bytes(row.bytes),
            units::share(row.bytes, answer.bytes),
            units::count(row.count),
            row.place.kind.name().to_string(),
            thread.unwrap_or_default(),
        ];
        lines.push((cells, location));
    }
    let width = |column: usize| lines.iter().map(|(cells, _)| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    for ([size, share, count, allocator, thread], location) in &lines {
        let [size_width, share_width, count_width, allocator_width, thread_width] = widths;
        write!(
            out,
            "{size:>size_width$}  {share:>share_width$}  {count:>count_width$}  {allocator:<allocator_width$}  "
        )?;
        if has_threads {
            write!(out, "{thread:<thread_width$}  ")?;
        }
        writeln!(out, "{location}")?;
    }
    if n_shown < rows.len() {
        writeln!(out, "({} further rows)", units::count((rows.len() - n_shown) as u64))?;
    }
    Ok(())
}

const NO_STACK: &str = "<no stack>";

/// `worker (4712)`; of several processes also which: `4711: worker (4712)`.
pub fn thread_name(model: &Model, process: u16, key: ThreadKey) -> String {
    let of = &model.processes()[usize::from(process)];
    let thread = of.threads.get(key);
    let name = match thread.name {
        Some(name) => printable(model.text(name)).into_owned(),
        None => format!("thread {}", key.number),
    };
    let name = if thread.os_tid == 0 { name } else { format!("{name} ({})", thread.os_tid) };
    if model.processes().len() == 1 { name } else { format!("{}: {name}", of.facts.pid) }
}

#[derive(Serialize)]
struct Document<'a> {
    total_bytes: u64,
    total_allocations: u64,
    total_rows: usize,
    rows: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<Thread<'a>>,
    allocator: &'static str,
    function: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    bytes: u64,
    allocations: u64,
}

#[derive(Serialize)]
struct Thread<'a> {
    pid: u32,
    number: u32,
    os_tid: u32,
    name: Option<&'a str>,
}

/// The same as one JSON document.
pub fn json(
    model: &Model,
    answer: &BySite,
    rows: &[PlaceRow],
    options: &TableOptions,
    out: &mut dyn Write,
) -> Result<()> {
    let thread = |(process, key): (u16, ThreadKey)| {
        let process = &model.processes()[usize::from(process)];
        let thread = process.threads.get(key);
        let name = thread.name.map(|name| model.text(name));
        Thread { pid: process.facts.pid, number: key.number, os_tid: thread.os_tid, name }
    };
    let shown = rows.iter().take(options.max_rows).map(|row| {
        let frame = row.place.frame.map(|id| model.frame(id));
        Row {
            thread: row.place.thread.map(thread),
            allocator: row.place.kind.name(),
            function: frame.map(|frame| model.text(frame.function)),
            file: frame.map(|frame| model.text(frame.file)),
            line: frame.map(|frame| frame.line),
            bytes: row.bytes,
            allocations: row.count,
        }
    });
    let document = Document {
        total_bytes: answer.bytes,
        total_allocations: answer.count,
        total_rows: rows.len(),
        rows: shown.collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}
