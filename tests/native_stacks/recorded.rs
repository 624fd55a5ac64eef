//! Stacks as a report shows them, of a program that is recorded under the self-check.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use super::support::{self, Scratch};

/// A frame of a stack.
#[derive(Debug)]
pub struct Frame {
    /// Without the names around it.
    pub function: String,
    pub file: String,
    pub line: u32,
}

impl Frame {
    pub fn is_python(&self) -> bool {
        self.file.ends_with(".py") && self.line != 0 || self.file.starts_with("<frozen")
    }

    /// `function (file:line)`, `function (file)` or `function`.
    pub fn parse(text: &str) -> Frame {
        let (name, place) =
            text.rsplit_once(" (").map_or((text, ""), |(name, place)| (name, place.trim_end_matches(')')));
        let (file, line) = place.rsplit_once(':').unwrap_or((place, ""));
        let name = name.rsplit("::").next().unwrap_or(name);
        let is_python = file.ends_with(".py") || file.starts_with("<frozen");
        let function = if is_python { name.rsplit('.').next().unwrap_or(name) } else { name };
        Frame { function: function.into(), file: file.into(), line: line.parse().unwrap_or(0) }
    }
}

/// By the bytes that are held: root first.
pub type Stacks = BTreeMap<u64, Vec<Frame>>;

/// Records a program, with a fresh walk beside every stack, and gives the stacks that hold a million bytes or more at the
/// peak.
pub fn stacks<A: AsRef<OsStr>>(scratch: &Scratch, program: &[A]) -> Stacks {
    let capture = scratch.join("capture.bin");
    let mut run = support::memtrace();
    run.env("MEMTRACE_SELF_CHECK", "1").args(["run", "-qf", "--native", "-o"]).arg(&capture).arg("--").args(program);
    support::run(&mut run);
    stacks_of(scratch, &capture)
}

/// The same of a capture that is there.
pub fn stacks_of(scratch: &Scratch, capture: &Path) -> Stacks {
    let folded = scratch.join("stacks.folded");
    support::run(support::memtrace().args(["transform", "folded", "-fo"]).arg(&folded).arg(capture));
    let text = std::fs::read_to_string(folded).unwrap();
    let stack = |line: &str| {
        let (frames, bytes) = line.rsplit_once(' ')?;
        Some((bytes.parse().ok()?, frames.split(';').map(Frame::parse).collect()))
    };
    text.lines().filter_map(stack).filter(|(bytes, _)| *bytes >= 1_000_000).collect()
}
