//! Native stacks of programs whose stacks are known, alone and joined with the Python ones. Every one of them is also
//! compared with a fresh walk while it is recorded.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use support::Scratch;

/// A frame of a stack.
#[derive(Debug)]
struct Frame {
    function: String,
    is_python: bool,
}

type Stacks = BTreeMap<u64, Vec<Frame>>;

/// Records a program and gives the stack that holds each size of a million bytes or more, root first.
fn stacks(scratch: &Scratch, program: &[&str]) -> Stacks {
    let (capture, folded) = (scratch.join("capture.bin"), scratch.join("stacks.folded"));
    let mut run = support::memtrace();
    run.env("MEMTRACE_SELF_CHECK", "1").args(["run", "-qf", "--native", "-o"]).arg(&capture).arg("--").args(program);
    support::run(&mut run);
    support::run(support::memtrace().args(["transform", "folded", "-fo"]).arg(&folded).arg(&capture));
    let text = std::fs::read_to_string(folded).unwrap();
    let stack = |line: &str| {
        let (frames, bytes) = line.rsplit_once(' ')?;
        let frame = |frame: &str| {
            let (name, file) = frame.split_once(" (").unwrap_or((frame, ""));
            let function = name.rsplit('.').next().unwrap_or(name).to_owned();
            Frame { function, is_python: file.contains(".py:") || file.starts_with("<frozen") }
        };
        Some((bytes.parse().ok()?, frames.split(';').map(frame).collect()))
    };
    text.lines().filter_map(stack).filter(|(bytes, _)| *bytes >= 1_000_000).collect()
}

fn compile(scratch: &Scratch, flags: &[&str]) -> String {
    let program = scratch.join("shapes");
    let source = support::fixture("native_stacks/shapes.c");
    support::run(Command::new("cc").args(["-g", "-pthread"]).args(flags).arg("-o").arg(&program).arg(source));
    program.display().to_string()
}

/// Whether these functions stand on the stack in this order, each right behind the last.
fn ends_with(stack: &[Frame], functions: &[&str]) -> bool {
    let end = stack.len().saturating_sub(functions.len());
    stack[end..].iter().map(|frame| &*frame.function).eq(functions.iter().copied())
}

fn check_shapes(name: &str, flags: &[&str]) {
    let scratch = Scratch::new(&format!("native-stacks-{name}"));
    let found = stacks(&scratch, &[&compile(&scratch, flags)]);
    let check = |size: u64, functions: &[&str]| {
        let stack = found.get(&size).unwrap_or_else(|| panic!("{name}: {size} is missing: {found:?}"));
        assert!(ends_with(stack, functions), "{name}: {size}: {stack:?}");
    };
    check(1_000_001, &["main", "plain", "keep"]);
    check(1_000_002, &["main", "around_inlined", "inlined", "keep"]);
    check(1_000_003, &["main", "aligned", "keep"]);
    check(1_000_004, &["main", "growing", "keep"]);
    check(1_000_009, &["in_a_thread", "keep"]);
    check(1_000_010, &["coroutine", "keep"]);
    let deep = &found[&1_000_005];
    assert_eq!(deep.iter().filter(|frame| frame.function == "deep").count(), 2001, "{name}: {} frames", deep.len());
    assert!(deep.iter().any(|frame| frame.function == "main"), "{name}: the whole stack");
    for (size, outer, inner) in [
        (1_000_006, "through_libc", "compare"),
        (1_000_007, "interrupted", "handle"),
        (1_000_008, "interrupted_on_another_stack", "handle_elsewhere"),
    ] {
        check(size, &[inner, "keep"]);
        let at = |function: &str| found[&size].iter().position(|frame| frame.function == function);
        let (main, outer, inner) = (at("main"), at(outer), at(inner));
        assert!(main.is_some() && main < outer && outer < inner, "{name}: {size}: {:?}", found[&size]);
    }
}

#[test]
fn stacks_of_c_are_those_that_were_written() {
    check_shapes("O0", &["-O0"]);
    check_shapes("O2", &["-O2"]);
    check_shapes("frame-pointers", &["-O2", "-fno-omit-frame-pointer"]);
    check_shapes("no-pie", &["-O1", "-no-pie"]);
}

/// What Python functions call is C, and what that calls is Python again.
#[test]
fn python_frames_stand_where_the_interpreter_ran_them() {
    for python in support::pythons() {
        let name = &python.minor;
        let scratch = Scratch::new(&format!("native-stacks-{name}"));
        let script = support::fixture("native_stacks/merged.py");
        let found = stacks(&scratch, &[path(&python.path), path(&script)]);
        check_merged(name, &found);
    }
}

/// What a stack of `merged.py` is like.
struct Merged {
    size: u64,
    python: &'static [&'static str],
    /// Between these two is C as well.
    c_between: Option<(&'static str, &'static str)>,
}

const MERGED: &[Merged] = &[
    merged(2_001_000, &["<module>", "main", "keep"], None),
    merged(2_002_000, &["<module>", "main", "by_key", "<lambda>", "keep"], Some(("by_key", "<lambda>"))),
    merged(2_003_000, &["<module>", "main", "in_generator", "keep"], Some(("main", "in_generator"))),
    merged(2_004_000, &["<module>", "main", "__init__", "keep"], None),
    merged(2_005_000, &["<module>", "main", "keep"], Some(("main", "keep"))),
    merged(2_006_000, &["<module>", "main", "sub", "<lambda>", "keep"], Some(("main", "<lambda>"))),
];

const fn merged(size: u64, python: &'static [&'static str], c_between: Option<(&'static str, &'static str)>) -> Merged {
    Merged { size, python, c_between }
}

const DEPTH: usize = 100;

fn check_merged(name: &str, found: &Stacks) {
    let sizes: Vec<u64> = found.keys().copied().collect();
    let stack_of = |size: u64| {
        // A bytearray takes a few bytes more.
        let found = found.range(size..size + 1000).next();
        let (_, stack) = found.unwrap_or_else(|| panic!("{name}: {size} is missing among {sizes:?}"));
        assert!(stack.last().is_some_and(|frame| !frame.is_python), "{name}: {size}: {stack:?}");
        let loops = stack.iter().filter(|frame| frame.function == "_PyEval_EvalFrameDefault");
        assert_eq!(loops.count(), 0, "{name}: {size}: {stack:?}");
        stack
    };
    for &Merged { size, python, c_between } in MERGED {
        let stack = stack_of(size);
        let frames: Vec<&str> = stack.iter().filter(|it| it.is_python).map(|it| &*it.function).collect();
        assert_eq!(frames, python, "{name}: {size}");
        if let Some((outer, inner)) = c_between {
            let at = |function: &str| stack.iter().rposition(|it| it.is_python && it.function == function).unwrap();
            let between = &stack[at(outer) + 1..at(inner)];
            assert!(between.iter().any(|frame| !frame.is_python), "{name}: {size}: {stack:?}");
        }
    }
    let deep = stack_of(2_007_000);
    let places: Vec<usize> = (0..deep.len()).filter(|&at| deep[at].is_python && deep[at].function == "deep").collect();
    assert_eq!(places.len(), DEPTH + 1, "{name}: {deep:?}");
    assert!(places.windows(2).all(|pair| pair[1] > pair[0] + 1), "{name}: {deep:?}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
