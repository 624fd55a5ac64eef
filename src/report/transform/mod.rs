//! Captures in the formats of other tools, one file per format. Called by `memtrace transform`.
//!
//! What those tools show is what our own reports show: allocations without a stack stand under a frame of their own, so
//! that every sum is the same.

pub mod csv;
pub mod folded;
pub mod gprof2dot;
pub mod heaptrack;
pub mod pprof;
pub mod speedscope;

use serde::{Serialize, Serializer};

use crate::model::{Frame, FrameId, Model, StackId};

/// The frame of what was allocated without a stack.
pub const NO_STACK: &str = "<no stack>";

/// The frames of a stack from the root to the leaf.
fn from_root(model: &Model, stack: StackId) -> Vec<FrameId> {
    let mut frames: Vec<FrameId> = model.stack_from_leaf(stack).collect();
    frames.reverse();
    frames
}

/// `function (file:line)`, as one frame.
pub fn frame_text(model: &Model, frame: Frame) -> String {
    let (function, file) = (model.text(frame.function), model.text(frame.file));
    one_frame(&format!("{function} ({})", frame.place(file)))
}

/// The text on one line and without the semicolon, which separates frames.
pub fn one_frame(text: &str) -> String {
    one_line(text).replace(';', ":")
}

/// The text with spaces for line breaks and whatever else is no character to print.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// A sequence that is made while it is written: the stacks of a capture can be more than fit in memory as lists.
struct Sequence<F>(F);

impl<I, F> Serialize for Sequence<F>
where
    I: IntoIterator<Item: Serialize>,
    F: Fn() -> I,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_line_without_semicolons() {
        let mut model = Model::default();
        let mut check = |function: &str, file: &str, line: u32, expected: &str| {
            let id = model.intern_frame(function, file, line);
            assert_eq!(frame_text(&model, model.frame(id)), expected);
        };
        check("load", "/srv/app.py", 30, "load (/srv/app.py:30)");
        check("load", "<string>", 0, "load (<string>)");
        check("a;b\nc", "\t;.py", 1, "a:b c ( :.py:1)");
    }
}
