//! `fixtures/torture/blocks.cpp` under memtrace.

use std::{
    io::{BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    account::Account,
    support::{self, Scratch},
};

/// The program, built.
pub struct Torture {
    scratch: Scratch,
}

impl Torture {
    pub fn build() -> Torture {
        let scratch = Scratch::new("torture");
        let source = |name: &str| support::fixture("torture").join(name);
        let options = ["-g", "-O1", "-fno-builtin", "-Wall", "-Werror", "-D_GNU_SOURCE"];
        let mut program = Command::new("g++");
        program.args(options).arg("-pthread").arg(source("blocks.cpp")).arg("-o").arg(scratch.join("blocks"));
        support::run(program.arg("-ldl"));
        let mut library = Command::new("gcc");
        library.args(options).args(["-shared", "-fPIC"]).arg(source("library.c")).arg("-o");
        support::run(library.arg(scratch.join("library.so")));
        Torture { scratch }
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
        let account = account_of(&capture);
        let counted = format!("counted {} {}\n", account.counted.0, account.counted.1);
        let n_allocated = account.n_allocated;
        let mut problems = account.problems();
        let printed = support::text(&output);
        if !output.stderr.is_empty() || output.stdout != counted.as_bytes() {
            problems.push(format!("the capture has {counted}the program printed\n{printed}"));
        }
        eprintln!("seed {seed}: {n_threads} threads, {n_allocated} allocations");
        assert!(problems.is_empty(), "seed {seed}, {n_blocks} blocks:\n{}", problems.join("\n"));
    }
}

/// What a capture says about every block.
pub fn account_of(capture: &Path) -> Account {
    let mut parse = support::memtrace();
    parse.args(["parse", "--json", "--stacks-once"]).arg(capture).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parse = parse.spawn().expect("memtrace starts");
    let account = Account::of(BufReader::with_capacity(1 << 20, parse.stdout.take().expect("piped")));
    let mut complaints = String::new();
    parse.stderr.take().expect("piped").read_to_string(&mut complaints).expect("complaints are text");
    let status = parse.wait().expect("memtrace ends");
    assert!(status.success(), "parse ended with {status}\n{complaints}");
    account
}
