//! Real programs beside `memray --native`: the same merged stacks, frame by frame and line by line, hold the same bytes at
//! the peak.
//!
//! The two record one after the other, because in one process the hooks of each would be on the stacks of the other. Only
//! what `main` of the program and what it calls allocate is compared: memray starts later and imports more. Threads are
//! switched off where libraries have some, for what they hold at the peak is another thing in each run.
//!
//! What differs, and is left out:
//! - `<unknown>` of memray's is an offset of ours: it looks no stripped functions up either, but we say where they are.
//! - The interpreter's call machinery, which only memray shows; its profile function has a share in it.
//! - Names of Python functions are qualified in ours, and those of C++ have no parameters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use memtrace::model::plumbing::Role;

use super::recorded::Frame;
use super::support::{self, Scratch};

/// Stacks with less of the bytes at the peak are not compared.
const NOTABLE_PERCENT: u64 = 1;

#[test]
fn pandas_has_the_stacks_that_memray_sees() {
    compare("pandas_frames.py", "20000", &with_pandas(), 10);
}

#[test]
#[ignore = "long tier"]
fn a_million_rows_in_pandas_have_the_stacks_that_memray_sees() {
    compare("pandas_frames.py", "1000000", &with_pandas(), 10);
}

#[test]
#[ignore = "long tier"]
fn scikit_learn_has_the_stacks_that_memray_sees() {
    compare("sklearn_models.py", "20000", &support::models(), 5);
}

/// One of a version manager, which keeps its symbols: a stripped one has only the names that libraries need.
fn with_pandas() -> PathBuf {
    const MINORS: [&str; 3] = ["3.13", "3.12", "3.11"];
    let is_fit = |minor: &&str| {
        support::pythons().iter().find(|python| python.minor == *minor && support::has_all_packages(python))
    };
    support::environment(MINORS.iter().find_map(is_fit).expect("one of 3.11 to 3.13 has all packages"))
}

fn compare(program: &str, argument: &str, interpreter: &Path, n_expected: usize) {
    let scratch = Scratch::new("native-stacks-memray");
    let script = support::fixture("programs").join(program);
    let (ours, theirs) = (scratch.join("memtrace.bin"), scratch.join("memray.bin"));
    // What is imported late is compiled by this run and not by one of the others.
    support::run(alone(interpreter).arg(&script).arg(argument));
    let mut memtrace = support::memtrace();
    memtrace.args(["run", "-qf", "--native", "--no-python-allocators", "-o"]).arg(&ours).arg("--").arg(interpreter);
    support::run(with_one_thread(&mut memtrace).arg(&script).arg(argument));
    let mut memray = alone(interpreter);
    memray.args(["-m", "memray", "run", "-q", "-f", "--native", "-o"]).arg(&theirs);
    support::run(memray.arg(&script).arg(argument));

    let folded = scratch.join("stacks.folded");
    support::run(support::memtrace().args(["transform", "folded", "-fo"]).arg(&folded).arg(&ours));
    let ours = Peak::parse(&std::fs::read_to_string(folded).unwrap(), &script);
    let mut reader = Command::new(interpreter);
    reader.arg(support::root().join("tests/memray_native.py")).arg(&theirs).arg(&script).arg("main");
    let theirs = Peak::parse(&String::from_utf8(support::run(&mut reader).stdout).unwrap(), &script);

    let mut differences = Vec::new();
    for (stack, bytes) in &theirs.stacks {
        let our_bytes = ours.stacks.get(stack).copied().unwrap_or(0);
        if bytes * 100 >= theirs.bytes * NOTABLE_PERCENT && our_bytes != *bytes {
            differences.push(format!("{our_bytes} instead of {bytes} bytes at {stack}"));
        }
    }
    for (stack, bytes) in &ours.stacks {
        if bytes * 100 >= ours.bytes * NOTABLE_PERCENT && !theirs.stacks.contains_key(stack) {
            differences.push(format!("{bytes} bytes that memray does not have at {stack}"));
        }
    }
    assert!(differences.is_empty(), "{program} {argument}:\n{}", differences.join("\n"));
    let is_notable = |bytes: &&u64| **bytes * 100 >= theirs.bytes * NOTABLE_PERCENT;
    let n_notable = theirs.stacks.values().filter(is_notable).count();
    assert!(n_notable >= n_expected, "{n_notable} stacks hold {NOTABLE_PERCENT} % or more of {}", theirs.bytes);
}

fn alone(interpreter: &Path) -> Command {
    let mut command = Command::new(interpreter);
    with_one_thread(&mut command);
    command
}

fn with_one_thread(command: &mut Command) -> &mut Command {
    command.env("OMP_NUM_THREADS", "1").env("OPENBLAS_NUM_THREADS", "1")
}

/// What is held at the peak, by stacks as text that both tools agree on.
struct Peak {
    stacks: BTreeMap<String, u64>,
    bytes: u64,
}

impl Peak {
    /// Folded stacks; what is outside `main` of the script is left out.
    fn parse(text: &str, script: &Path) -> Peak {
        let mut peak = Peak { stacks: BTreeMap::new(), bytes: 0 };
        for line in text.lines() {
            let (stack, bytes) = line.rsplit_once(' ').expect("bytes come last");
            let frames: Vec<Frame> = stack.split(';').map(Frame::parse).collect();
            let is_main = |frame: &Frame| frame.function == "main" && Path::new(&frame.file) == script;
            let Some(main) = frames.iter().position(is_main) else { continue };
            let bytes: u64 = bytes.parse().expect("bytes are a number");
            let frames = frames[main..].iter().filter(|frame| !is_plumbing(frame));
            *peak.stacks.entry(frames.map(shown).collect::<Vec<_>>().join(" ")).or_default() += bytes;
            peak.bytes += bytes;
        }
        peak
    }
}

/// Whether it has the name of a function that reports leave out.
fn is_plumbing(frame: &Frame) -> bool {
    !frame.is_python() && Role::of(&frame.function, 0) != Role::Shown
}

fn shown(frame: &Frame) -> String {
    let is_unknown = frame.function == "<unknown>" || frame.function.contains("+0x");
    let function = frame.function.split('(').next().unwrap_or_default();
    if is_unknown { "?".into() } else { format!("{function}:{}", frame.line) }
}
