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
    /// As `parse --json` prints it: what is native says so.
    pub fn of_json(frame: &serde_json::Value) -> (Frame, bool) {
        let text = |at: usize| frame[at].as_str().unwrap_or_default();
        let place = format!("{} ({}:{})", text(0), text(1), frame[2]);
        (Frame::parse(&place), frame[3] == "native")
    }

    pub fn is_python(&self) -> bool {
        self.file.ends_with(".py") && self.line != 0 || is_generated(&self.file)
    }

    /// `function (file:line)`, `function (file)` or `function`.
    pub fn parse(text: &str) -> Frame {
        let (name, place) =
            text.rsplit_once(" (").map_or((text, ""), |(name, place)| (name, place.trim_end_matches(')')));
        let (file, line) = place.rsplit_once(':').unwrap_or((place, ""));
        let name = name.rsplit("::").next().unwrap_or(name);
        let is_python = file.ends_with(".py") || is_generated(file);
        let function = if is_python { name.rsplit('.').next().unwrap_or(name) } else { name };
        Frame { function: function.into(), file: file.into(), line: line.parse().unwrap_or(0) }
    }
}

/// Whether it is what Python calls a file of code that is in none.
fn is_generated(file: &str) -> bool {
    file.starts_with("<frozen") || file == "<string>"
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
    all_stacks_of(scratch, capture, &[]).into_iter().filter(|(bytes, _)| *bytes >= 1_000_000).collect()
}

/// All stacks of a capture, read with these options.
pub fn all_stacks_of(scratch: &Scratch, capture: &Path, options: &[&str]) -> Vec<(u64, Vec<Frame>)> {
    let folded = scratch.join("stacks.folded");
    let mut transform = support::memtrace();
    support::run(transform.args(["transform", "folded", "-fo"]).arg(&folded).arg(capture).args(options));
    let text = std::fs::read_to_string(folded).unwrap();
    let stack = |line: &str| {
        let (frames, bytes) = line.rsplit_once(' ')?;
        Some((bytes.parse().ok()?, frames.split(';').map(Frame::parse).collect()))
    };
    text.lines().filter_map(stack).collect()
}
