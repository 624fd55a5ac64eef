//! Python and native stacks joined: the Python frames stand where the interpreter ran them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::recorded::{Frame, Stacks, all_stacks_of, stacks};
use super::support::{self, Scratch};

/// What Python functions call is C, and what that calls is Python again. The interpreter's own way from one to the other
/// is not shown.
#[test]
fn python_frames_stand_where_the_interpreter_ran_them() {
    for python in support::pythons() {
        let name = &python.minor;
        let scratch = Scratch::new(&format!("native-stacks-{name}"));
        let script = support::fixture("native_stacks/merged.py");
        let found = stacks(&scratch, &[&python.path, &script]);
        check_merged(name, has_symbols(&python.path), &found);
        check_python_only(name, &scratch);
    }
}

/// Without native frames there is what stays when they are taken out of the merged stacks, for every byte.
fn check_python_only(name: &str, scratch: &Scratch) {
    let sums = |options: &[&str], keeps_native: bool| {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (bytes, stack) in all_stacks_of(scratch, &scratch.join("capture.bin"), options) {
            let shown = stack.iter().filter(|frame| keeps_native || frame.is_python());
            let shown: Vec<String> = shown.map(|it| format!("{} {} {}", it.function, it.file, it.line)).collect();
            *sums.entry(shown.join(";")).or_default() += bytes;
        }
        sums
    };
    let mut read = sums(&["--no-native"], true);
    let outside = read.remove("<no stack>  0").unwrap_or(0);
    read.insert(String::new(), outside);
    let mut taken_out = sums(&[], false);
    taken_out.entry(String::new()).or_default();
    assert_eq!(read, taken_out, "{name}");
}

/// What prints or hands on every event has the same stacks, and says what of them is native.
#[test]
fn parse_and_heaptrack_have_the_stacks_of_reports() {
    let pythons = support::pythons();
    let Some(python) = pythons.iter().find(|python| has_symbols(&python.path)) else { return };
    let scratch = Scratch::new("native-stacks-parse");
    let found = stacks(&scratch, &[&python.path, &support::fixture("native_stacks/merged.py")]);
    let (bytes, expected) = found.range(2_002_000..).next().unwrap();
    let capture = scratch.join("capture.bin");

    let events = support::events_from(&capture, 2_000_000);
    let event = events.iter().find(|event| event["event"] == "alloc" && event["size"] == *bytes).unwrap();
    let mut stack: Vec<(Frame, bool)> = event["stack"].as_array().unwrap().iter().map(Frame::of_json).collect();
    stack.reverse();
    assert!(stack.iter().map(|(frame, _)| &frame.function).eq(expected.iter().map(|frame| &frame.function)), "{event}");
    assert!(stack.iter().all(|(frame, is_native)| frame.is_python() != *is_native), "{event}");

    let log = scratch.join("log.txt");
    support::run(support::memtrace().args(["transform", "heaptrack", "-fo"]).arg(&log).arg(&capture));
    let log = std::fs::read_to_string(log).unwrap();
    let numbers = |line: &str| -> Vec<usize> {
        line.split(' ').skip(1).map(|number| usize::from_str_radix(number, 16).unwrap()).collect()
    };
    let strings: Vec<&str> =
        log.lines().filter_map(|line| line.strip_prefix("s ")?.split_once(' ')).map(|it| it.1).collect();
    let mut modules = log.lines().filter(|line| line.starts_with("i ")).filter_map(|line| match numbers(line)[..] {
        [_, module, function, ..] if strings[function - 1] == "list_sort" => Some(strings[module - 1]),
        _ => None,
    });
    let module = modules.next().expect("list_sort is there");
    assert!(module.contains("python3"), "{module}");
}

/// Whether the file with the interpreter's code names functions that it does not export.
fn has_symbols(python: &Path) -> bool {
    const FILES: &str = "for line in open('/proc/self/maps'): print(line.split()[-1])";
    let output = Command::new(python).args(["-c", FILES]).output().unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    let file = |start: &str| files.lines().find(|file| file.rsplit('/').next().is_some_and(|it| it.starts_with(start)));
    let file = file("libpython3").or_else(|| file("python3")).expect("the interpreter is mapped");
    // A stripped file gives a complaint and no symbols.
    !Command::new("nm").arg(file).output().expect("binutils are here").stdout.is_empty()
}

/// What a stack of `merged.py` is like.
struct Merged {
    size: u64,
    python: &'static [&'static str],
    /// Between the outer two of Python is this one of C.
    c_between: Option<(&'static str, &'static str, &'static str)>,
}

const MERGED: &[Merged] = &[
    merged(2_001_000, &["<module>", "main", "keep"], None),
    merged(2_002_000, &["<module>", "main", "by_key", "<lambda>", "keep"], Some(("by_key", "list_sort", "<lambda>"))),
    merged(
        2_003_000,
        &["<module>", "main", "in_generator", "keep"],
        Some(("main", "list___init___impl", "in_generator")),
    ),
    merged(2_004_000, &["<module>", "main", "__init__", "keep"], None),
    merged(2_005_000, &["<module>", "main", "keep"], Some(("main", "partial_vectorcall", "keep"))),
    merged(2_006_000, &["<module>", "main", "sub", "<lambda>", "keep"], Some(("sub", "pattern_subx", "<lambda>"))),
    merged(2_008_000, &["<module>", "main", "calls_twice", "put"], None),
    merged(2_009_000, &["<module>", "main", "calls_twice", "put"], None),
    merged(2_010_000, &["<module>", "main", "calls_twice", "put"], Some(("calls_twice", "partial_vectorcall", "put"))),
    merged(2_011_000, &["<module>", "main", "calls_twice", "put"], Some(("calls_twice", "partial_vectorcall", "put"))),
];

const fn merged(
    size: u64,
    python: &'static [&'static str],
    c_between: Option<(&'static str, &'static str, &'static str)>,
) -> Merged {
    Merged { size, python, c_between }
}

/// The functions of C that say what the Python code asked for, in any of the versions.
const TOLD: &[&str] = &[
    "PyByteArray_Resize",
    "_list_extend",
    "_sre_SRE_Pattern_sub",
    "_sre_SRE_Pattern_sub_impl",
    "builtin_sorted",
    "bytearray___init__",
    "bytearray___init___impl",
    "bytearray_init",
    "list___init___impl",
    "list_extend",
    "list_extend_iter_lock_held",
    "list_sort",
    "list_sort_impl",
    "list_vectorcall",
    "map_next",
    "partial_vectorcall",
    "pattern_subx",
];

const DEPTH: usize = 100;

fn check_merged(name: &str, has_symbols: bool, found: &Stacks) {
    let sizes: Vec<u64> = found.keys().copied().collect();
    let stack_of = |size: u64| {
        // A bytearray takes a few bytes more.
        let found = found.range(size..size + 1000).next();
        let (_, stack) = found.unwrap_or_else(|| panic!("{name}: {size} is missing among {sizes:?}"));
        let told = stack.iter().all(|frame| frame.is_python() || TOLD.contains(&&*frame.function));
        assert!(told, "{name}: {size}: {stack:?}");
        assert_eq!(stack[0].function, "<module>", "{name}: {size}: {stack:?}");
        if has_symbols {
            let leaf = stack.last().map(|frame| &*frame.function);
            assert_eq!(leaf, Some("PyByteArray_Resize"), "{name}: {size}: {stack:?}");
        }
        stack
    };
    for &Merged { size, python, c_between } in MERGED {
        let stack = stack_of(size);
        let frames: Vec<&str> = stack.iter().filter(|it| it.is_python()).map(|it| &*it.function).collect();
        assert_eq!(frames, python, "{name}: {size}");
        if let Some((outer, c, inner)) = c_between.filter(|_| has_symbols) {
            let at = |function: &str| stack.iter().rposition(|it| it.is_python() && it.function == function).unwrap();
            let between = &stack[at(outer) + 1..at(inner)];
            assert!(between.iter().any(|frame| frame.function == c && !frame.is_python()), "{name}: {size}: {stack:?}");
        }
    }
    let deep = stack_of(2_007_000);
    let places: Vec<usize> =
        (0..deep.len()).filter(|&at| deep[at].is_python() && deep[at].function == "deep").collect();
    assert_eq!(places.len(), DEPTH + 1, "{name}: {deep:?}");
    let is_c_between = |pair: &[usize]| deep[pair[0]..pair[1]].iter().any(|frame| frame.function == "map_next");
    assert!(!has_symbols || places.windows(2).all(is_c_between), "{name}: {deep:?}");
}

/// The self-check is the judge.
#[test]
fn greenlets_have_their_own_frames_on_the_stack_that_they_share() {
    for python in support::pythons() {
        if !["greenlet", "gevent"].iter().all(|package| support::has_package(python, package)) {
            eprintln!("skipped: CPython {} has no greenlets here", python.minor);
            continue;
        }
        let scratch = Scratch::new(&format!("native-stacks-greenlets-{}", python.minor));
        let script = support::fixture("native_stacks/greenlets.py");
        stacks(&scratch, &[support::environment(python), script]);
    }
}
