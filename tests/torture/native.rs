//! `fixtures/torture/blocks.cpp` under memtrace: the order of events between threads.

use std::{fs, path::Path, process::Command};

use crate::{
    account::Account,
    support::{self, Scratch},
};

/// The program, built.
pub struct Blocks {
    scratch: Scratch,
}

impl Blocks {
    pub fn build() -> Blocks {
        let blocks = Blocks { scratch: Scratch::new("torture") };
        compile("blocks.cpp", &blocks.scratch.join("blocks"), &["-pthread"]);
        // The library that comes and goes.
        compile("library.c", &blocks.scratch.join("library.so"), &["-shared", "-fPIC"]);
        blocks
    }

    /// Runs it once and compares its own account with that of the capture.
    pub fn check(&self, seed: u64, n_blocks: u64) {
        let n_threads = 2 + seed % 7;
        let capture = self.scratch.join("capture.bin");
        let mut command = support::memtrace();
        if seed.is_multiple_of(2) {
            // One heap for all and no caches: what a thread gives back another one gets at once.
            command.env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0");
        }
        command.args(["run", "-q", "-f", "-o"]).arg(&capture).arg("--").arg(self.scratch.join("blocks"));
        command.args([seed, n_blocks, n_threads].map(|number| number.to_string()));
        let output = support::run(command.arg(self.scratch.join("library.so")));
        let account = Account::of(&capture);
        let counted = format!("counted {} {}\n", account.counted.0, account.counted.1);
        let n_allocated = account.n_allocated;
        let mut problems = account.problems();
        let printed = support::text(&output);
        if !output.stderr.is_empty() || output.stdout != counted.as_bytes() {
            problems.push(format!("the capture has {counted}the program printed\n{printed}"));
        }
        eprintln!("seed {seed}: {n_threads} threads, {n_allocated} allocations");
        assert!(problems.is_empty(), "seed {seed}, {n_blocks} blocks:\n{}", problems.join("\n"));
        fs::remove_file(&capture).expect("the capture is ours");
    }
}

/// Builds a file of `fixtures/torture`.
pub fn compile(source: &str, target: &Path, options: &[&str]) {
    let compiler = if source.ends_with(".cpp") { "g++" } else { "gcc" };
    let mut command = Command::new(compiler);
    command.args(["-g", "-O1", "-fno-builtin", "-Wall", "-Werror", "-D_GNU_SOURCE", "-o"]).arg(target);
    command.arg(support::fixture("torture").join(source)).args(options);
    support::run(command.arg("-ldl"));
}
