//! A library of Rust that Python loads through ctypes: its frames stand between the Python ones, also where it calls back.

use std::process::Command;

use super::build::source;
use super::recorded::stacks;
use super::support::{self, Scratch};
use super::written;

#[test]
fn rust_behind_ctypes_stands_between_the_python_frames() {
    let scratch = Scratch::new("native-stacks-ctypes");
    let library = scratch.join("librust_library.so");
    let mut compiler = Command::new("rustc");
    compiler.args(["--edition=2024", "--crate-type=cdylib", "-g", "-Copt-level=2", "-o"]).arg(&library);
    support::run(compiler.arg(source("rust_library.rs")));
    for python in support::pythons() {
        let script = source("rust_library.py");
        let found = stacks(&scratch, &[&python.path, &script, &library]);
        written::check(&format!("CPython {}", python.minor), &script, &found);
    }
}
