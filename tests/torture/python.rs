//! `fixtures/torture/random_program.py` under memtrace: a random Python program in every surrounding, on one interpreter
//! after the other.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use memtrace_format::header::{FileHeader, HEADER_LEN, stop_reason};
use zerocopy::FromBytes;

use crate::{
    account::Account,
    native,
    support::{self, Python, Scratch},
};

/// What runs beside the Python code, built.
pub struct RandomPrograms {
    scratch: Scratch,
    blocks: PathBuf,
    loaded: PathBuf,
}

impl RandomPrograms {
    pub fn build() -> RandomPrograms {
        let scratch = Scratch::new("torture");
        let (blocks, loaded) = (scratch.join("blocks.so"), scratch.join("library.so"));
        native::compile("blocks.cpp", &blocks, &["-shared", "-fPIC", "-pthread"]);
        native::compile("library.c", &loaded, &["-shared", "-fPIC"]);
        RandomPrograms { scratch, blocks, loaded }
    }

    /// Runs the program of this seed: the capture has to account for every block.
    pub fn check_account(&self, seed: u64, python: &Python, budget: u64) {
        let (capture, mut problems) = self.compare(seed, python, budget, false);
        let account = Account::of(&capture);
        let name = name(seed, python, budget);
        eprintln!("{name}: {} allocations", account.n_allocated);
        problems.extend(account.problems());
        assert!(problems.is_empty(), "{name}:\n{}", problems.join("\n"));
    }

    /// The same with every stack compared. Such a capture has no account: the comparison makes the interpreter build
    /// frame objects, which nobody records and the program gives back.
    pub fn check_stacks(&self, seed: u64, python: &Python, budget: u64) {
        let (capture, mut problems) = self.compare(seed, python, budget, true);
        let name = name(seed, python, budget);
        match n_self_checked(&capture) {
            Ok(0) => problems.push("not one stack was compared".into()),
            Ok(n_checked) => eprintln!("{name}: {n_checked} stacks compared"),
            Err(problem) => problems.push(problem),
        }
        assert!(problems.is_empty(), "{name}, self-check:\n{}", problems.join("\n"));
    }

    /// Without memtrace and under it the program prints and ends alike; the capture, and what is not so.
    fn compare(&self, seed: u64, python: &Python, budget: u64, is_self_checked: bool) -> (PathBuf, Vec<String>) {
        let plain = self.run(&mut Command::new(support::environment(python)), seed, budget);
        let name = name(seed, python, budget);
        assert!(plain.status.success(), "{name}, without memtrace: {}\n{}", plain.status, support::text(&plain));
        let capture = self.scratch.join("capture.bin");
        let mut command = support::memtrace();
        if is_self_checked {
            command.env("MEMTRACE_SELF_CHECK", "1");
        }
        command.args(["run", "-q", "-f", "-o"]).arg(&capture).arg("--").arg(support::environment(python));
        let traced = self.run(&mut command, seed, budget);
        let mut problems = Vec::new();
        if (traced.status.code(), &traced.stdout) != (plain.status.code(), &plain.stdout) {
            let (plain, traced) = (support::text(&plain), support::text(&traced));
            problems.push(format!("other output\nwithout memtrace:\n{plain}\nunder memtrace:\n{traced}"));
        }
        (capture, problems)
    }

    fn run(&self, command: &mut Command, seed: u64, budget: u64) -> Output {
        command
            .arg(support::fixture("torture/random_program.py"))
            .args([seed, budget].map(|number| number.to_string()));
        command.args([&self.blocks, &self.loaded]);
        command.env("PYTHONHASHSEED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
        command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
    }
}

fn name(seed: u64, python: &Python, budget: u64) -> String {
    format!("seed {seed}, CPython {}, budget {budget}", python.minor)
}

/// How many stacks were compared; a sentence when recording was not whole.
fn n_self_checked(capture: &Path) -> Result<u64, String> {
    let mut start = [0; HEADER_LEN];
    let read = fs::File::open(capture).and_then(|mut file| file.read_exact(&mut start));
    read.map_err(|error| format!("cannot read the capture: {error}"))?;
    let (header, _) = FileHeader::read_from_prefix(&start).expect("the header is shorter than what was read");
    let FileHeader { stop_reason, stop_errno, lost_events, n_self_checked, .. } = header;
    if stop_reason != stop_reason::NONE || lost_events != 0 {
        return Err(format!("stopped for reason {stop_reason} ({stop_errno}), {lost_events} events lost"));
    }
    Ok(n_self_checked)
}
