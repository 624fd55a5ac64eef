//! Python and native stacks joined: the Python frames stand where the interpreter ran them.

use super::recorded::{Stacks, stacks};
use super::support::{self, Scratch};

/// What Python functions call is C, and what that calls is Python again.
#[test]
fn python_frames_stand_where_the_interpreter_ran_them() {
    for python in support::pythons() {
        let name = &python.minor;
        let scratch = Scratch::new(&format!("native-stacks-{name}"));
        let script = support::fixture("native_stacks/merged.py");
        let found = stacks(&scratch, &[&python.path, &script]);
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
    merged(2_008_000, &["<module>", "main", "calls_twice", "put"], None),
    merged(2_009_000, &["<module>", "main", "calls_twice", "put"], None),
    merged(2_010_000, &["<module>", "main", "calls_twice", "put"], Some(("calls_twice", "put"))),
    merged(2_011_000, &["<module>", "main", "calls_twice", "put"], Some(("calls_twice", "put"))),
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
        assert!(stack.last().is_some_and(|frame| !frame.is_python()), "{name}: {size}: {stack:?}");
        let loops = stack.iter().filter(|frame| frame.function == "_PyEval_EvalFrameDefault");
        assert_eq!(loops.count(), 0, "{name}: {size}: {stack:?}");
        stack
    };
    for &Merged { size, python, c_between } in MERGED {
        let stack = stack_of(size);
        let frames: Vec<&str> = stack.iter().filter(|it| it.is_python()).map(|it| &*it.function).collect();
        assert_eq!(frames, python, "{name}: {size}");
        if let Some((outer, inner)) = c_between {
            let at = |function: &str| stack.iter().rposition(|it| it.is_python() && it.function == function).unwrap();
            let between = &stack[at(outer) + 1..at(inner)];
            assert!(between.iter().any(|frame| !frame.is_python()), "{name}: {size}: {stack:?}");
        }
    }
    let deep = stack_of(2_007_000);
    let places: Vec<usize> =
        (0..deep.len()).filter(|&at| deep[at].is_python() && deep[at].function == "deep").collect();
    assert_eq!(places.len(), DEPTH + 1, "{name}: {deep:?}");
    assert!(places.windows(2).all(|pair| pair[1] > pair[0] + 1), "{name}: {deep:?}");
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
