//! The stacks that are recorded beside those that gdb finds in the same program, from outside and in its own way.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::build::{Debug, build};
use super::recorded::{Frame, stacks};
use super::support::{self, Scratch};

#[test]
fn gdb_finds_the_same_stacks_of_c() {
    compare("shapes.c", "-O0", 10);
    compare("shapes.c", "-O2", 10);
    compare("jumps.c", "-O2", 4);
}

#[test]
fn gdb_finds_the_same_stacks_of_cpp() {
    compare("cpp_calls.cpp", "-O0", 9);
    compare("cpp_calls.cpp", "-O2", 9);
}

/// Stops at the function `keep` of a fixture, which is about to allocate, and compares all that is below it.
fn compare(name: &str, flags: &str, n_expected: usize) {
    if Command::new("gdb").arg("--version").output().is_err() {
        eprintln!("skipped: gdb is not here (tests/run installs it)");
        return;
    }
    let scratch = Scratch::new("native-stacks-gdb");
    let program = build(&scratch, name, flags, Debug::Inside);
    let (ours, theirs) = (stacks(&scratch, &[&program]), gdb(&scratch, &program));
    let mut n_compared = 0;
    for (size, theirs) in &theirs {
        let Some(ours) = ours.get(size) else { continue };
        let keep = ours.iter().rposition(|frame| frame.function == "keep");
        let ours: Vec<&Frame> = ours[..keep.unwrap()].iter().filter(|frame| frame.line != 0).collect();
        assert!(is_same(&ours, theirs, name), "{name} {flags}: {size}\n ours {ours:#?}\n gdb's {theirs:#?}");
        n_compared += 1;
    }
    assert!(n_compared >= n_expected, "{name} {flags}: {n_compared} stacks, and gdb has {:?}", theirs.keys());
}

/// gdb also shows functions that have no frame any more, because their last call was a jump. Here that is in libraries.
fn is_same(ours: &[&Frame], theirs: &[Frame], source: &str) -> bool {
    let mut theirs = theirs.iter().peekable();
    let is_found = |ours: &&Frame| {
        while theirs.next_if(|theirs| !agree(ours, theirs) && !theirs.file.ends_with(source)).is_some() {}
        theirs.next().is_some_and(|theirs| agree(ours, theirs))
    };
    ours.iter().all(is_found) && theirs.next().is_none()
}

/// gdb has the name of a function's alias now and then.
fn agree(ours: &Frame, theirs: &Frame) -> bool {
    let name = |frame: &Frame| frame.file.rsplit('/').next().unwrap_or_default().to_owned();
    name(ours) == name(theirs) && ours.line == theirs.line
}

/// By the size that `keep` is called with: the frames above it whose lines are known, root first. (gdb reads
/// on behind the start of a coroutine, and shows a signal handler's return as a frame without a name.)
fn gdb(scratch: &Scratch, program: &Path) -> BTreeMap<u64, Vec<Frame>> {
    const SCRIPT: &str = "set pagination off\nset confirm off\nset width 0\nset backtrace past-main on\nset print frame-arguments none\n\
        set debuginfod enabled off\nhandle SIGUSR1 SIGUSR2 nostop noprint pass\n\
        break keep\ncommands\nsilent\nprintf \"size %lu\\n\", size\nbacktrace\ncontinue\nend\nrun\n";
    let script = scratch.join("script.gdb");
    std::fs::write(&script, SCRIPT).unwrap();
    let output = support::run(Command::new("gdb").args(["-batch", "-nx", "-x"]).arg(&script).arg(program));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found: BTreeMap<u64, Vec<Frame>> = BTreeMap::new();
    let mut size = 0;
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("size ") {
            size = number.parse().unwrap();
            found.insert(size, Vec::new());
        } else if let Some(frame) = frame(line).filter(|frame| frame.line != 0) {
            found.entry(size).or_default().insert(0, frame);
        }
    }
    // The innermost is `keep`.
    found.values_mut().for_each(|stack| drop(stack.pop()));
    found
}

/// `#1  0x000055... in plain () at .../shapes.c:22`, `#2 main () at ...`, `#5  0x... in ?? () from /lib/...`,
/// `#3  <signal handler called>`.
fn frame(line: &str) -> Option<Frame> {
    let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
    number.parse::<u32>().ok()?;
    let rest = rest.trim_start();
    let rest = rest.split_once(" in ").filter(|(address, _)| address.starts_with("0x")).map_or(rest, |(_, rest)| rest);
    let (name, place) = rest.rsplit_once(" at ").unwrap_or((rest, ""));
    let name = name.split_once(" (").map_or(name, |(name, _)| name);
    Some(Frame::parse(&format!("{name} ({place})")))
}
