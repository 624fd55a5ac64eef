//! CPython's own tests under memtrace: every stack compared with the interpreter's account of it
//! (`MEMTRACE_SELF_CHECK`), and every test with the outcome that it has without us.
//!
//! Modules that an interpreter does not have are named and skipped. What a test does by itself varies now and then
//! (timing, the machine), and so does what the check does in the program: a difference has to show a second time, without
//! the check.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

use memtrace_format::header::{FileHeader, HEADER_LEN, stop_reason};
use serde::Deserialize;
use zerocopy::FromBytes;

use crate::{
    program::{fixture, on_every_python},
    support::{self, Python, Scratch},
};

/// Found to hang on our machines without us: the interpreter's minor and the module.
const HANGING: [(&str, &str); 2] = [("3.11", "test_interpreters"), ("3.11", "test__xxsubinterpreters")];

/// Whose allocators hold a lock while they allocate, so that the check's own objects would wait for themselves: only
/// their outcomes are compared.
const UNCHECKED: [&str; 1] = ["test_tracemalloc"];

/// Where a C function calls itself until the stack is full, which 3.14 measures: in 8 MB there are 80 000 native frames
/// to compare at each of two million events. In 1 MB the same happens with 10 000.
const FILLING_THE_STACK: [(&str, &str); 2] = [("3.14", "test_functools"), ("3.15", "test_functools")];

/// Whose tests end in a few seconds.
const SHORT: [&str; 6] = [
    "test_generators",
    "test_coroutines",
    "test_asyncgen",
    "test_yield_from",
    "test_sys_setprofile",
    "test_exceptions",
];

/// A fresh walk of native frames beside each stack takes a while.
const SHORT_WITH_NATIVE_STACKS: [&str; 2] = ["test_generators", "test_exceptions"];

const LONG: [&str; 58] = [
    "test_generators",
    "test_coroutines",
    "test_asyncgen",
    "test_yield_from",
    "test_genexps",
    "test_listcomps",
    "test_exceptions",
    "test_except_star",
    "test_exception_group",
    "test_raise",
    "test_traceback",
    "test_with",
    "test_contextlib",
    "test_context",
    "test_sys_settrace",
    "test_sys_setprofile",
    "test_monitoring",
    "test_frame",
    "test_code",
    "test_compile",
    "test_scope",
    "test_decorators",
    "test_property",
    "test_descr",
    "test_class",
    "test_super",
    "test_metaclass",
    "test_unpack",
    "test_gc",
    "test_weakref",
    "test_threading",
    "test_thread",
    "test_queue",
    "test_signal",
    "test_fork1",
    "test_subprocess",
    "test_atexit",
    "test_sys",
    "test_import",
    "test_inspect",
    "test_tracemalloc",
    "test_faulthandler",
    "test_json",
    "test_pickle",
    "test_re",
    "test_dict",
    "test_list",
    "test_set",
    "test_deque",
    "test_functools",
    "test_itertools",
    "test_io",
    "test_zlib",
    "test_hashlib",
    "test_interpreters",
    "test__xxsubinterpreters",
    "test_capi",
    "test_asyncio.test_tasks",
];

#[test]
fn a_few_of_cpythons_tests_end_as_without_us_and_every_stack_is_right() {
    check(&SHORT, &[]);
}

#[test]
fn a_few_of_cpythons_tests_end_as_without_us_and_every_native_stack_is_right() {
    check(&SHORT_WITH_NATIVE_STACKS, &["--native"]);
}

#[test]
#[ignore = "long tier"]
fn cpythons_tests_end_as_without_us_and_every_stack_is_right() {
    check(&LONG, &[]);
}

#[test]
#[ignore = "long tier"]
fn cpythons_tests_end_as_without_us_and_every_native_stack_is_right() {
    check(&LONG, &["--native"]);
}

/// Records with `options`, one module at a time, so that a crash costs one.
fn check(modules: &[&str], options: &[&str]) {
    let scratch = Scratch::new("cpython");
    on_every_python(|python| {
        let mut problems = Vec::new();
        for module in modules {
            match check_module(python, module, options, &scratch) {
                Ok(report) => eprintln!("CPython {} {module}: {report}", python.minor),
                Err(problem) => problems.push(format!("{module}: {problem}")),
            }
        }
        problems
    });
}

/// What became of a module's tests, by their names.
#[derive(Default, Deserialize)]
struct Outcomes {
    outcomes: BTreeMap<String, String>,
    /// Tracebacks of those that failed.
    details: BTreeMap<String, String>,
}

fn check_module(python: &Python, module: &str, options: &[&str], scratch: &Scratch) -> Result<String, String> {
    if !has_module(python, module) {
        return Ok("not in this interpreter".into());
    }
    if HANGING.contains(&(&python.minor, module)) {
        return Ok("hangs without us, too".into());
    }
    let plain = run_plain(python, module, scratch)?;
    let run_traced = |is_checked| run_traced(python, module, options, is_checked, scratch);
    let (traced, n_checked) = run_traced(!UNCHECKED.contains(&module))?;
    let mut differing = differing(&plain, &traced);
    let mut text = format!("{} tests, {n_checked} stacks", traced.outcomes.len());
    if !differing.is_empty() {
        text += &format!("; other outcomes at first: {}", differing.join(", "));
        let plain_again = run_plain(python, module, scratch)?;
        // Without the check, which makes frame objects in the program and calls its allocators.
        let (traced_again, _) = run_traced(false)?;
        let is_steady = |name: &String| {
            let is_same = |one: &Outcomes, other: &Outcomes| one.outcomes.get(name) == other.outcomes.get(name);
            is_same(&plain, &plain_again) && !is_same(&plain, &traced_again)
        };
        differing.retain(is_steady);
        if let Some(first) = differing.first() {
            let details = traced_again.details.get(first).cloned().unwrap_or_default();
            let outcome = |outcomes: &Outcomes| outcomes.outcomes.get(first).cloned().unwrap_or("not run".into());
            let (plain, traced) = (outcome(&plain_again), outcome(&traced_again));
            let all = differing.join(", ");
            return Err(format!("other outcomes: {all}\n{first}: {plain} without us, {traced} under us\n{details}"));
        }
    }
    Ok(text)
}

fn differing(plain: &Outcomes, traced: &Outcomes) -> Vec<String> {
    let names = plain.outcomes.keys().chain(traced.outcomes.keys());
    let mut names: Vec<String> =
        names.filter(|name| plain.outcomes.get(*name) != traced.outcomes.get(*name)).cloned().collect();
    names.sort();
    names.dedup();
    names
}

fn has_module(python: &Python, module: &str) -> bool {
    let script = format!("import importlib.util as u; raise SystemExit(u.find_spec('test.{module}') is None)");
    let status = Command::new(&python.path).args(["-c", &script]).status().expect("the interpreter starts");
    status.success()
}

fn run_plain(python: &Python, module: &str, scratch: &Scratch) -> Result<Outcomes, String> {
    let outcomes = scratch.join("plain.json");
    let mut command = started(&python.path, python, module);
    command.arg(fixture("cpython_tests.py")).arg(&outcomes).arg(module);
    run(&mut command, &outcomes).map_err(|problem| format!("without us: {problem}"))
}

/// The command line of a program that is about to run this module's tests.
fn started(program: &Path, python: &Python, module: &str) -> Command {
    if !FILLING_THE_STACK.contains(&(&python.minor, module)) {
        return Command::new(program);
    }
    let mut command = Command::new("prlimit");
    command.arg("--stack=1048576").arg(program);
    command
}

/// The outcomes, and how many stacks were compared.
fn run_traced(
    python: &Python,
    module: &str,
    options: &[&str],
    is_checked: bool,
    scratch: &Scratch,
) -> Result<(Outcomes, u64), String> {
    let (outcomes, capture) = (scratch.join("traced.json"), scratch.join("capture.bin"));
    let mut command = started(support::memtrace_path(), python, module);
    command.args(["run", "--quiet", "--force"]).args(options).arg("--output").arg(&capture).arg("--").arg(&python.path);
    command.arg(fixture("cpython_tests.py")).arg(&outcomes).arg(module);
    if is_checked {
        command.env("MEMTRACE_SELF_CHECK", "1");
    }
    let result = run(&mut command, &outcomes)?;
    let mut start = [0; HEADER_LEN];
    let read = File::open(&capture).and_then(|mut file| file.read_exact(&mut start));
    read.map_err(|error| format!("cannot read the capture: {error}"))?;
    let (header, _) = FileHeader::read_from_prefix(&start).expect("the header is shorter than what was read");
    if header.stop_reason != stop_reason::NONE || header.lost_events != 0 {
        let FileHeader { stop_reason, stop_errno, lost_events, .. } = header;
        return Err(format!("stopped for reason {stop_reason} ({stop_errno}), {lost_events} events lost"));
    }
    if is_checked && header.n_self_checked == 0 {
        return Err("not one stack was compared".into());
    }
    fs::remove_file(&capture).expect("the capture is ours");
    Ok((result, header.n_self_checked))
}

fn run(command: &mut Command, outcomes: &Path) -> Result<Outcomes, String> {
    let _ = fs::remove_file(outcomes);
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    if !output.status.success() {
        let text = support::text(&output);
        let end: String = text.chars().skip(text.chars().count().saturating_sub(4000)).collect();
        return Err(format!("ended with {}\n{end}", output.status));
    }
    let text = fs::read_to_string(outcomes).map_err(|error| format!("no outcomes: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))
}
