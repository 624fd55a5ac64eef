//! Builds the fixtures in the many ways in which programs keep their debug information.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Scratch, fixture, run};

/// A program from `fixtures/symbols`, in the scratch folder, with a build-id.
/// `name` is that of the source, and flags are the compiler's between spaces.
pub fn build(scratch: &Scratch, name: &str, flags: &str) -> PathBuf {
    build_as(scratch, name, flags, Path::new(name).file_stem().unwrap())
}

pub fn build_as(scratch: &Scratch, name: &str, flags: &str, target: impl AsRef<OsStr>) -> PathBuf {
    let source = fixture("symbols").join(name);
    let target = scratch.path().join(Path::new(target.as_ref()));
    let mut compiler = match Path::new(name).extension().and_then(OsStr::to_str) {
        Some("rs") => {
            let mut rustc = Command::new("rustc");
            rustc.args(["--edition=2024", "-g", "-C", "link-arg=-Wl,--build-id"]);
            rustc
        }
        Some("cpp") => compiler("g++"),
        _ => compiler("gcc"),
    };
    run(compiler.args(flags.split_whitespace()).arg(source).arg("-o").arg(&target).current_dir(scratch.path()));
    target
}

fn compiler(name: &str) -> Command {
    let mut compiler = Command::new(name);
    compiler.args(["-g", "-Wl,--build-id"]);
    compiler
}

/// Runs a tool of binutils in the scratch folder.
pub fn tool(scratch: &Scratch, line: &str) {
    let mut words = line.split_whitespace();
    run(Command::new(words.next().unwrap()).args(words).current_dir(scratch.path()));
}
