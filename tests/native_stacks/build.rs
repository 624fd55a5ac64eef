//! Fixtures of `fixtures/native_stacks` in the ways in which programs are built and their debug information is kept.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{self, Scratch};

/// Where the debug information of a program is.
#[derive(Clone, Copy, PartialEq)]
pub enum Debug {
    Inside,
    /// In a file of its own, which the program names (`.gnu_debuglink`).
    Linked,
    /// Nowhere; the program with it is kept as `NAME.whole`.
    Gone,
}

pub fn source(name: &str) -> PathBuf {
    support::fixture("native_stacks").join(name)
}

/// A program from a source; flags are the compiler's, between spaces.
pub fn build(scratch: &Scratch, name: &str, flags: &str, debug: Debug) -> PathBuf {
    let (stem, kind) = name.split_once('.').expect("a source has a kind");
    let program = scratch.join(stem);
    let mut compiler = match kind {
        "rs" => command("rustc", &["--edition=2024", "-g"]),
        "cpp" => command("c++", &["-g", "-pthread"]),
        _ => command("cc", &["-g", "-pthread"]),
    };
    support::run(compiler.args(flags.split_whitespace()).arg("-o").arg(&program).arg(source(name)));
    let tool = |line: &str| {
        let mut words = line.split_whitespace();
        support::run(Command::new(words.next().unwrap()).args(words).current_dir(scratch.path()));
    };
    match debug {
        Debug::Inside => {}
        Debug::Linked => {
            tool(&format!("objcopy --only-keep-debug {stem} {stem}.debug"));
            tool(&format!("strip {stem}"));
            tool(&format!("objcopy --add-gnu-debuglink={stem}.debug {stem}"));
        }
        Debug::Gone => {
            std::fs::copy(&program, whole(&program)).unwrap();
            tool(&format!("strip {stem}"));
        }
    }
    program
}

/// The program as it was before it was stripped.
pub fn whole(program: &Path) -> PathBuf {
    program.with_extension("whole")
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}
