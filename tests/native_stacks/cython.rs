//! What Cython compiled stands between the Python frames, with the lines of its own source.

use std::path::PathBuf;
use std::process::Command;

use super::build::source;
use super::recorded::stacks;
use super::support::{self, Python, Scratch};
use super::written;

/// Compiling the module takes a while, and these two keep their frames in the most different ways.
const MINORS: [&str; 2] = ["3.11", "3.13"];

#[test]
fn compiled_functions_stand_between_the_python_ones() {
    let scratch = Scratch::new("native-stacks-cython");
    let code = scratch.join("compiled.c");
    let mut cython = Command::new(support::tools().join("cython"));
    cython.args(["--line-directives", "--module-name", "compiled", "-o"]).arg(&code);
    support::run(cython.arg(source("cython_calls.pyx")));
    for python in support::pythons().iter().filter(|python| MINORS.contains(&&*python.minor)) {
        let Some(headers) = headers(python) else {
            eprintln!("skipped: CPython {} has no headers here", python.minor);
            continue;
        };
        let mut compiler = Command::new("cc");
        compiler.args(["-g", "-O1", "-w", "-shared", "-fPIC", "-I"]).arg(headers).arg("-o");
        support::run(compiler.arg(scratch.join("compiled.so")).arg(&code));
        let script = source("cython_calls.py");
        let found = stacks(&scratch, &[python.path.as_path(), &script, scratch.path()]);
        written::check(&format!("CPython {}", python.minor), &script, &found);
    }
}

fn headers(python: &Python) -> Option<PathBuf> {
    const SCRIPT: &str = "import sysconfig; print(sysconfig.get_path('include'), end='')";
    let output = support::run(Command::new(&python.path).args(["-c", SCRIPT]));
    let folder = PathBuf::from(String::from_utf8(output.stdout).ok()?);
    folder.join("Python.h").exists().then_some(folder)
}
