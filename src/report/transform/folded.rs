//! Folded stacks: a line for each stack, its frames from the root with semicolons between them, and its bytes. What
//! inferno, flamegraph.pl and most flame graph viewers read.

use std::io::{Result, Write};

use super::{NO_STACK, frame_text};
use crate::analysis::Snapshot;
use crate::model::{Model, StackId};

pub fn write(model: &Model, snapshot: &Snapshot, out: &mut dyn Write) -> Result<()> {
    for row in &snapshot.rows {
        writeln!(out, "{} {}", stack_text(model, row.stack), row.bytes)?;
    }
    Ok(())
}

/// The frames of a stack, from the root.
pub fn stack_text(model: &Model, stack: StackId) -> String {
    if stack == StackId::EMPTY {
        return NO_STACK.to_string();
    }
    let frames = super::from_root(model, stack).into_iter();
    let frames: Vec<String> = frames.map(|id| frame_text(model, model.frame(id))).collect();
    frames.join(";")
}
