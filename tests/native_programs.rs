//! Programs without Python: recorded with native stacks by themselves, and shown with functions, files and lines in every
//! report.

mod support;
#[path = "support/webpage.rs"]
mod webpage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Scratch, memtrace, run, stats};
use webpage::Webpage;

/// A program that leaks ten blocks.
struct Leaks {
    scratch: Scratch,
    program: PathBuf,
    source: PathBuf,
}

impl Leaks {
    fn build(source: &str, compiler: &str, flags: &[&str]) -> Leaks {
        let scratch = Scratch::new("native-programs");
        let program = scratch.join("leaks");
        let source = support::fixture("native_programs").join(source);
        run(Command::new(compiler).args(flags).arg("-o").arg(&program).arg(&source));
        Leaks { scratch, program, source }
    }

    fn record(&self, options: &[&str]) -> PathBuf {
        let capture = self.scratch.join("capture.bin");
        run(memtrace().args(["run", "-qf"]).args(options).arg("-o").arg(&capture).arg(&self.program));
        capture
    }

    /// `leaks.c:12` for the line with this comment.
    fn place(&self, comment: &str) -> String {
        let code = fs::read_to_string(&self.source).unwrap();
        let line = 1 + code.lines().position(|line| line.ends_with(&format!("// {comment}"))).expect("it is there");
        format!("{}:{line}", self.source.file_name().unwrap().to_string_lossy())
    }

    /// Every report of the leaks names these functions, and these lines where it shows lines; the table has the last one,
    /// which called the allocator.
    fn check(&self, functions: &[&str], comments: &[&str]) {
        let capture = self.record(&[]);
        let (graph, page) = (self.scratch.join("leaks.svg"), self.scratch.join("leaks.html"));
        run(memtrace().args(["flamegraph", "--leaks", "--format", "svg", "-fo"]).arg(&graph).arg(&capture));
        run(memtrace().args(["flamegraph", "--leaks", "-fo"]).arg(&page).arg(&capture));
        let graph = fs::read_to_string(graph).unwrap().replace("&lt;", "<").replace("&gt;", ">");
        let page = Webpage::new(&fs::read_to_string(page).unwrap()).header["strings"].to_string();
        let (table, tree, summary) = (report("table", &capture), report("tree", &capture), report("summary", &capture));
        for function in functions {
            for (name, report) in [("graph", &graph), ("page", &page), ("tree", &tree), ("summary", &summary)] {
                assert!(report.contains(function), "{function} in {name}:\n{report}");
            }
        }
        let places: Vec<String> = comments.iter().map(|comment| self.place(comment)).collect();
        for place in &places {
            for (name, report) in [("graph", &graph), ("tree", &tree)] {
                assert!(report.contains(place), "{place} in {name}:\n{report}");
            }
        }
        assert!(page.contains(self.source.to_str().unwrap()), "the source in the page");
        assert!(summary.contains(self.source.to_str().unwrap()), "{summary}");
        assert!(table.contains(functions.last().unwrap()), "{table}");
    }
}

fn report(command: &str, capture: &Path) -> String {
    let mut report = memtrace();
    report.args([command, "--leaks"]);
    report.args(if command == "summary" { ["-r", "1000"].as_slice() } else { &["--text"] });
    String::from_utf8(run(report.arg(capture)).stdout).unwrap()
}

#[test]
fn leaks_of_c_have_functions_and_lines() {
    Leaks::build("leaks.c", "cc", &["-g", "-O2"])
        .check(&["main", "remember", "filled"], &["inlined", "called", "leaked"]);
    Leaks::build("leaks.c", "cc", &["-g", "-O0"])
        .check(&["main", "remember", "filled"], &["inlined", "called", "leaked"]);
}

#[test]
fn leaks_of_cpp_have_functions_and_lines() {
    Leaks::build("leaks.cpp", "c++", &["-g", "-O2"])
        .check(&["main", "shop::Shelf<", "operator new"], &["inlined", "leaked"]);
}

#[test]
fn leaks_of_rust_have_functions_and_lines() {
    let flags = ["-g", "-C", "opt-level=2", "--crate-name", "leaks"];
    Leaks::build("leaks.rs", "rustc", &flags)
        .check(&["leaks::main", "Keeper>::keep", "leaks::filled", "alloc::alloc::alloc"], &["called", "leaked"]);
}

#[test]
fn native_stacks_can_be_left_out() {
    let leaks = Leaks::build("leaks.c", "cc", &["-g"]);
    assert_eq!(stats(&leaks.record(&[]))["metadata"]["has_native_traces"], true);
    let capture = leaks.record(&["--no-native"]);
    assert_eq!(stats(&capture)["metadata"]["has_native_traces"], false);
    let table = report("table", &capture);
    assert!(!table.contains("leaks.c") && table.contains("1.000MB"), "{table}");
}

/// What starts an interpreter may be a program without one, which then has native stacks, and the interpreter none.
#[test]
fn python_has_native_stacks_only_when_they_are_asked_for() {
    let python = support::pythons().last().unwrap().path.to_str().unwrap();
    let scratch = Scratch::new("native-programs");
    let capture = scratch.join("capture.bin");
    // The interpreter's own code may all be hidden; that between it and a library is not.
    let script = "import ctypes; ctypes.CDLL(None).malloc(ctypes.c_size_t(123456789))";
    let shell = format!("exec {python} -c '{script}'");
    let check = |options: &[&str], program: &[&str], is_native: bool| {
        run(memtrace().args(["run", "-qf"]).args(options).arg("-o").arg(&capture).arg("--").args(program));
        let folded = scratch.join("folded");
        run(memtrace().args(["transform", "folded", "-fo"]).arg(&folded).arg(&capture));
        let stacks = fs::read_to_string(&folded).unwrap();
        let bytes = |stack: &str| stack.rsplit(' ').next().and_then(|bytes| bytes.parse::<u64>().ok());
        let stack = stacks.lines().max_by_key(|stack| bytes(stack)).unwrap();
        assert!(stack.contains("<module>"), "{stack}");
        assert_eq!(stack.contains("ffi"), is_native, "{program:?} {options:?}: {stack}");
    };
    for program in [&[python, "-c", script][..], &["env", python, "-c", script], &["sh", "-c", &shell]] {
        check(&[], program, false);
    }
    check(&["--native"], &[python, "-c", script], true);
}

#[test]
fn stacks_that_begin_in_code_made_at_run_time_are_told_of_once() {
    let scratch = Scratch::new("native-programs");
    let (program, capture) = (scratch.join("jit"), scratch.join("capture.bin"));
    let source = support::fixture("native_programs/jit.c");
    run(Command::new("cc").args(["-g", "-O1", "-o"]).arg(&program).arg(source));
    run(memtrace().env("MEMTRACE_SELF_CHECK", "1").args(["run", "-qo"]).arg(&capture).arg(&program));
    let output = run(memtrace().args(["tree", "--text", "--leaks"]).arg(&capture));
    let report = String::from_utf8(output.stdout).unwrap();
    let expected = "memtrace: the native stacks of 50.00% of the allocations begin in code that does not say how it was called (made \
                    at run time, or built without unwind information): its callers are not shown\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{report}");
    assert!(report.lines().any(|line| line.contains("keep:") && line.contains("5 allocations")), "{report}");
}
