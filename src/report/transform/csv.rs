//! A table with memray's columns, and behind them the process: one row for each allocator, thread and stack. The frames
//! of a stack stand from the leaf, `function;file;line` with bars between them.

use std::io::{Result, Write};

use hashbrown::HashMap;
use memtrace_format::AllocatorKind;

use crate::analysis::BySite;
use crate::model::{Model, StackId, ThreadKey};

const HEADER: &str = "allocator,num_allocations,size,tid,thread_name,stack_trace,pid";

pub fn write(model: &Model, by_site: &BySite, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{HEADER}")?;
    for rows in by_site.rows.chunk_by(|one, other| one.site.stack == other.site.stack) {
        let stack = stack_text(model, rows[0].site.stack);
        // Classes of sizes are no column.
        let mut sums: HashMap<(u16, ThreadKey, AllocatorKind), (u64, u64)> = HashMap::new();
        for row in rows {
            let sum = sums.entry((row.site.process, row.site.thread, row.site.kind)).or_default();
            sum.0 = sum.0.saturating_add(row.bytes);
            sum.1 += row.count;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|&(key, _)| key);
        for ((process, thread, kind), (bytes, count)) in sums {
            let process = &model.processes()[process as usize];
            let thread = process.threads.get(thread);
            let allocator = kind.name().to_ascii_uppercase();
            let name = field(thread.name.map_or("", |name| model.text(name)));
            writeln!(out, "{allocator},{count},{bytes},{},{name},{stack},{}", thread.os_tid, process.facts.pid)?;
        }
    }
    Ok(())
}

/// As a field of the table.
fn stack_text(model: &Model, stack: StackId) -> String {
    let frames = model.frames_from_leaf(stack).map(|frame| {
        let (function, file) = (model.text(frame.function), model.text(frame.file));
        format!("{function};{file};{}", frame.line)
    });
    field(&frames.collect::<Vec<_>>().join("|"))
}

/// In quotes when it has to be.
fn field(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_with_a_separator_is_quoted() {
        assert_eq!(field("main;/srv/app.py;3"), "main;/srv/app.py;3");
        assert_eq!(field("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(field(""), "");
    }
}
