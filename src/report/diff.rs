//! What changed between two captures, as text and as JSON: the totals, the functions by what they allocate themselves,
//! and the stacks, those that changed most first.

use std::io::{Result, Write};

use serde::Serialize;

use super::printable::printable;
use crate::analysis::Diff;
use crate::analysis::diff::{Change, FunctionChange};
use crate::model::{Frame, Model, StackId, StringId};
use crate::units;

pub struct DiffReport<'a> {
    pub diff: &'a Diff,
    /// What is compared: `peak`, `leaks`, `churn`.
    pub shown: &'static str,
    pub is_normalised: bool,
    /// How many functions, and how many stacks.
    pub max_rows: usize,
}

impl DiffReport<'_> {
    pub fn text(&self, out: &mut dyn Write) -> Result<()> {
        let (diff, total) = (self.diff, self.diff.total());
        writeln!(out, "{}: {}", self.shown, change_text(total))?;
        let counts = [total.base_count, total.new_count].map(units::count);
        writeln!(out, "allocations: {} -> {} ({})", counts[0], counts[1], signed(total.count(), units::count))?;
        if self.is_normalised {
            writeln!(out, "the base is shown times {:.3}, so that both have the same total", diff.scale())?;
        }
        let (functions, stacks) = (self.functions(), self.stacks());
        if functions.is_empty() && stacks.is_empty() {
            return writeln!(out, "\nNothing changed.");
        }
        writeln!(out, "\nBy function, alone (own) and with what it called (total):")?;
        writeln!(out, "{:>12} {:>12} {:>12} {:>12}  location", "own", "was", "is", "total")?;
        for function in functions.iter().take(self.max_rows) {
            let (name, file) = names(&diff.model, function.name);
            let (name, file) = (printable(name), printable(file));
            let [own, total] = [function.own, function.total].map(|change| signed(change.bytes(), units::bytes));
            let [base, new] = [function.own.base_bytes, function.own.new_bytes].map(units::bytes);
            writeln!(out, "{own:>12} {base:>12} {new:>12} {total:>12}  {name} at {file}")?;
        }
        self.write_rest(functions.len(), "function", out)?;
        writeln!(out, "\nBy stack:")?;
        for &(stack, change) in stacks.iter().take(self.max_rows) {
            let [base, new] = [change.base_bytes, change.new_bytes].map(units::bytes);
            let n = change.count();
            let plural = if n.unsigned_abs() == 1 { "" } else { "s" };
            write!(out, "{:>12} {base:>12} {new:>12}", signed(change.bytes(), units::bytes))?;
            writeln!(out, "  {} allocation{plural}", signed(n, units::count))?;
            for frame in diff.model.frames_from_leaf(stack) {
                writeln!(out, "{:16}{}", "", frame_text(&diff.model, frame))?;
            }
            if stack == StackId::EMPTY {
                writeln!(out, "{:16}<no stack>", "")?;
            }
        }
        self.write_rest(stacks.len(), "stack", out)
    }

    pub fn json(&self, out: &mut dyn Write) -> Result<()> {
        let (diff, total) = (self.diff, self.diff.total());
        let functions = self.functions();
        let functions = functions.iter().take(self.max_rows).map(|function| {
            let (name, file) = names(&diff.model, function.name);
            FunctionRow { function: name, file, own: function.own.into(), total: function.total.into() }
        });
        let stacks = self.stacks();
        let stacks = stacks.iter().take(self.max_rows).map(|&(stack, change)| {
            let frames = diff.model.frames_from_leaf(stack).map(|frame| FrameRow {
                function: diff.model.text(frame.function),
                file: diff.model.text(frame.file),
                line: (frame.line > 0).then_some(frame.line),
            });
            StackRow { change: change.into(), frames: frames.collect() }
        });
        let document = Document {
            compared: self.shown,
            scale_of_base: diff.scale(),
            total: total.into(),
            functions: functions.collect(),
            stacks: stacks.collect(),
        };
        serde_json::to_writer_pretty(&mut *out, &document)?;
        writeln!(out)
    }

    /// Those that changed, the largest change of their own first.
    fn functions(&self) -> Vec<FunctionChange> {
        let mut functions = self.diff.functions();
        functions.retain(|function| !function.own.is_nothing());
        functions.sort_by_key(|function| (function.own.rank(), names(&self.diff.model, function.name)));
        functions
    }

    /// Those that changed, the largest change first.
    fn stacks(&self) -> Vec<(StackId, Change)> {
        let mut stacks = self.diff.stacks();
        stacks.retain(|(_, change)| !change.is_nothing());
        stacks.sort_by_key(|&(stack, change)| (change.rank(), stack));
        stacks
    }

    fn write_rest(&self, len: usize, what: &str, out: &mut dyn Write) -> Result<()> {
        match len.saturating_sub(self.max_rows) {
            0 => Ok(()),
            1 => writeln!(out, "(1 further {what} changed)"),
            rest => writeln!(out, "({rest} further {what}s changed)"),
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    compared: &'static str,
    scale_of_base: f64,
    total: ChangeRow,
    functions: Vec<FunctionRow<'a>>,
    stacks: Vec<StackRow<'a>>,
}

#[derive(Serialize)]
struct ChangeRow {
    base_bytes: u64,
    new_bytes: u64,
    bytes: i64,
    base_allocations: u64,
    new_allocations: u64,
    allocations: i64,
}

#[derive(Serialize)]
struct FunctionRow<'a> {
    function: &'a str,
    file: &'a str,
    own: ChangeRow,
    total: ChangeRow,
}

#[derive(Serialize)]
struct StackRow<'a> {
    #[serde(flatten)]
    change: ChangeRow,
    /// From the leaf.
    frames: Vec<FrameRow<'a>>,
}

#[derive(Serialize)]
struct FrameRow<'a> {
    function: &'a str,
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

impl From<Change> for ChangeRow {
    fn from(change: Change) -> ChangeRow {
        ChangeRow {
            base_bytes: change.base_bytes,
            new_bytes: change.new_bytes,
            bytes: change.bytes(),
            base_allocations: change.base_count,
            new_allocations: change.new_count,
            allocations: change.count(),
        }
    }
}

/// `1.000MB -> 2.500MB (+1.500MB, +150.00%)`
fn change_text(change: Change) -> String {
    let [base, new] = [change.base_bytes, change.new_bytes].map(units::bytes);
    let share = match change.base_bytes {
        0 => String::new(),
        base => format!(", {:+.2}%", change.bytes() as f64 / base as f64 * 100.0),
    };
    format!("{base} -> {new} ({}{share})", signed(change.bytes(), units::bytes))
}

/// With a sign before it, also when it is more.
fn signed(number: i64, text: fn(u64) -> String) -> String {
    let sign = match number {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", text(number.unsigned_abs()))
}

fn names(model: &Model, name: Option<(StringId, StringId)>) -> (&str, &str) {
    name.map_or(("<no stack>", "<unknown>"), |(name, file)| (model.text(name), model.text(file)))
}

fn frame_text(model: &Model, frame: Frame) -> String {
    let (function, file) = (printable(model.text(frame.function)), printable(model.text(frame.file)));
    match frame.line {
        0 => format!("{function} at {file}"),
        line => format!("{function}:{file}:{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_have_signs() {
        let change = |base_bytes, new_bytes| change_text(Change { base_bytes, new_bytes, ..Change::default() });
        assert_eq!(change(1_000_000, 2_500_000), "1.000MB -> 2.500MB (+1.500MB, +150.00%)");
        assert_eq!(change(2_000, 500), "2.000kB -> 500.000B (-1.500kB, -75.00%)");
        assert_eq!(change(0, 5), "0.000B -> 5.000B (+5.000B)");
        assert_eq!(change(5, 5), "5.000B -> 5.000B (0.000B, +0.00%)");
    }
}
