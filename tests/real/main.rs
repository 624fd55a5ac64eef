//! Real programs, recorded once by memtrace and once by memray: the same peak, the same number of allocations, at the
//! same lines.
//!
//! Only what `main` of the program and what it calls allocate is compared. memray runs inside the interpreter that it
//! watches and has imported half the standard library (json, tempfile, asyncio, …) before the program starts, so an
//! `import` in the program allocates with us and costs nothing there.

mod account;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Mutex,
};

use account::{ARENA_LEN, ARENAS, Account, Totals};
use serde::Deserialize;
use support::{Python, Scratch};

/// Largest difference of a figure, in per cent of the larger one.
const TOLERANCE_PERCENT: f64 = 2.0;
/// Places are compared when they hold this much of the peak in either recording.
const NOTABLE_PERCENT: f64 = 1.0;

/// Recordings of one program by each tool, at most.
const ROUNDS: usize = 3;
/// Arenas are taken whole, and how full the last one was when `main` began is not the program's doing.
const ARENA_SLACK: u64 = 2 * ARENA_LEN;

/// What is recorded, in the words of each tool.
struct Level {
    name: &'static str,
    memtrace: &'static str,
    memray: Option<&'static str>,
}

const LEVELS: [Level; 2] = [
    Level { name: "malloc", memtrace: "--no-python-allocators", memray: None },
    Level { name: "objects", memtrace: "--python-allocators", memray: Some("--trace-python-allocators") },
];

#[test]
fn json_is_seen_as_memray_sees_it() {
    compare("json_texts.py", &["2"], newest());
}

#[test]
fn pandas_is_seen_as_memray_sees_it() {
    compare("pandas_frames.py", &["20000"], newest());
}

#[test]
fn django_is_seen_as_memray_sees_it() {
    compare("django_site.py", &["60"], newest());
}

#[test]
fn fastapi_is_seen_as_memray_sees_it() {
    compare("fastapi_service.py", &["100"], newest());
}

#[test]
fn html5lib_is_seen_as_memray_sees_it() {
    compare("html5lib_page.py", &["100"], newest());
}

#[test]
fn a_call_heavy_program_is_seen_as_memray_sees_it() {
    compare("deltablue.py", &["500"], newest());
}

#[test]
#[ignore = "long tier"]
fn twenty_megabytes_of_json_are_seen_as_memray_sees_them() {
    support::pythons().iter().for_each(|python| compare("json_texts.py", &["20"], python));
}

#[test]
#[ignore = "long tier"]
fn a_million_rows_in_pandas_are_seen_as_memray_sees_them() {
    support::pythons().iter().for_each(|python| compare("pandas_frames.py", &["1000000"], python));
}

#[test]
#[ignore = "long tier"]
fn two_thousand_django_requests_are_seen_as_memray_sees_them() {
    support::pythons().iter().for_each(|python| compare("django_site.py", &["2000"], python));
}

#[test]
#[ignore = "long tier"]
fn two_thousand_fastapi_requests_are_seen_as_memray_sees_them() {
    support::pythons().iter().for_each(|python| compare("fastapi_service.py", &["2000"], python));
}

#[test]
#[ignore = "long tier"]
fn a_large_page_in_html5lib_is_seen_as_memray_sees_it() {
    support::pythons().iter().for_each(|python| compare("html5lib_page.py", &["2000"], python));
}

fn newest() -> &'static Python {
    support::pythons().last().expect("there is one")
}

/// Records the program with both tools on both levels, and compares.
fn compare(program: &str, arguments: &[&str], python: &Python) {
    // Two programs at once would take each other's processor and, with the long sizes, each other's memory.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());

    let scratch = Scratch::new("real");
    let script = support::fixture("programs").join(program);
    let interpreter = support::environment(python);
    // Whatever is imported late is compiled once and cached on disk by this run, for neither tool to see.
    support::run(environment(&mut Command::new(&interpreter)).arg(&script).args(arguments));

    let mut differences = Vec::new();
    for level in &LEVELS {
        let mut ours = Runs::new("memtrace");
        let mut theirs = Runs::new("memray");
        // A program is not the same twice: addresses hash differently, so caches fill and sets grow elsewhere. Where
        // the tools seem to differ both record again, and a figure differs when no run of one comes near one of the
        // other.
        let heading = format!("{program} {} on CPython {}, {}", arguments.join(" "), python.minor, level.name);
        for round in 1..=ROUNDS {
            let capture = record_with_memtrace(level, &interpreter, &script, arguments, &scratch);
            ours.add(&fold_memtrace(&capture, &script));
            let capture = record_with_memray(level, &interpreter, &script, arguments, &scratch);
            theirs.add(&fold_memray(&capture, &interpreter, &script));
            let found = differences_between(&heading, &ours, &theirs);
            if found.is_empty() {
                break;
            }
            if round == ROUNDS {
                differences.extend(found);
            }
        }
    }
    assert!(differences.is_empty(), "memtrace and memray differ:\n{}", differences.join("\n"));
}

/// Both tools get the same hashes, so the same dictionaries.
fn environment(command: &mut Command) -> &mut Command {
    command.env("PYTHONHASHSEED", "0")
}

fn record_with_memtrace(level: &Level, python: &Path, script: &Path, arguments: &[&str], scratch: &Scratch) -> PathBuf {
    let capture = scratch.join(&format!("{}.memtrace", level.name));
    let mut command = support::memtrace();
    command.args(["run", "-q", "-f", level.memtrace, "--python"]).arg(python).arg("-o").arg(&capture);
    support::run(environment(&mut command).arg(script).args(arguments));
    capture
}

fn record_with_memray(level: &Level, python: &Path, script: &Path, arguments: &[&str], scratch: &Scratch) -> PathBuf {
    let capture = scratch.join(&format!("{}.memray", level.name));
    let mut command = Command::new(python);
    command.args(["-m", "memray", "run", "-q", "-f", "--no-compress"]).args(level.memray).arg("-o").arg(&capture);
    support::run(environment(&mut command).arg(script).args(arguments));
    capture
}

/// One line of `memtrace parse --json --stacks-once`, as far as it matters here.
#[derive(Deserialize)]
struct Event<'a> {
    event: &'a str,
    #[serde(default)]
    address: Option<&'a str>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    arena: bool,
    /// Absent for the empty stack.
    #[serde(default)]
    stack: usize,
}

/// The line before the first use of a stack.
#[derive(Deserialize)]
struct StackLine {
    id: usize,
    stack: Vec<(String, String, u32)>,
}

fn fold_memtrace(capture: &Path, script: &Path) -> Totals {
    let mut command = support::memtrace();
    command.arg("parse").arg(capture).args(["--json", "--stacks-once"]);
    let script = script.to_str().expect("the checkout's path is UTF-8");
    let mut account = Account::new();
    let mut locations = vec![0];
    for_each_line(&mut command, |line| {
        if line.starts_with(r#"{"event":"stack""#) {
            let StackLine { id, stack } = read_json(line);
            let is_ours = stack.iter().any(|(function, file, _)| function == "main" && file == script);
            let (function, file, number) = &stack[0];
            locations.resize(locations.len().max(id + 1), 0);
            if is_ours {
                locations[id] = account.location(&place_name(&format!("{function}:{file}:{number}")));
            }
            return;
        }
        let event: Event = read_json(line);
        let address = event.address.map_or(0, address_in);
        match event.event {
            "alloc" => account.allocated(address, event.size, locations[event.stack]),
            "free" => account.freed(address),
            // What comes out of such an arena is recorded itself.
            "mmap" if event.arena => {}
            "mmap" => account.mapped(address, event.size, locations[event.stack]),
            "munmap" => account.unmapped(address, event.size),
            "mremap" | "restore" => panic!("none of the programs is known to do this, and memray misses it: {line}"),
            "lost" | "damage" => panic!("{line}"),
            _ => {}
        }
    });
    account.finish()
}

fn read_json<'a, T: Deserialize<'a>>(line: &'a str) -> T {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
}

fn fold_memray(capture: &Path, python: &Path, script: &Path) -> Totals {
    let mut command = Command::new(python);
    command.arg(support::root().join("tests/memray_records.py")).arg(capture).arg(script).arg("main");
    let mut account = Account::new();
    let mut locations = vec![0];
    for_each_line(&mut command, |line| {
        let (kind, rest) = line.split_at(1);
        if kind == "l" {
            let (_, name) = rest.trim_start().split_once(' ').expect("a location has a number and a name");
            locations.push(account.location(&place_name(name)));
            return;
        }
        let mut numbers = rest.split_ascii_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        let mut next = || numbers.next().unwrap_or_else(|| panic!("a number is missing in {line}"));
        match kind {
            "a" => account.allocated(next(), next(), locations[next() as usize]),
            "f" => account.freed(next()),
            "m" => account.mapped(next(), next(), locations[next() as usize]),
            "u" => account.unmapped(next(), next()),
            _ => panic!("tests/memray_records.py said {line}"),
        }
    });
    account.finish()
}

/// A place in the words of both: memray leaves a function's class and the function around it out of its name.
fn place_name(name: &str) -> String {
    let (function, rest) = name.split_once(':').expect("a place has a function");
    format!("{}:{rest}", function.rsplit('.').next().expect("there is a last part"))
}

/// The figures of one tool over its runs of the same program.
struct Runs {
    tool: &'static str,
    n_runs: usize,
    /// By name; a figure that a run does not have is 0 there.
    figures: BTreeMap<String, Vec<u64>>,
}

const PEAK: &str = "peak bytes";
const COUNT: &str = "allocations";

impl Runs {
    fn new(tool: &'static str) -> Runs {
        Runs { tool, n_runs: 0, figures: BTreeMap::new() }
    }

    fn add(&mut self, totals: &Totals) {
        let figures = totals.places.iter().map(|(name, &(bytes, _))| (name.clone(), bytes));
        let figures = figures.chain([(PEAK.to_string(), totals.peak_bytes), (COUNT.to_string(), totals.count)]);
        for (name, value) in figures {
            let values = self.figures.entry(name).or_default();
            values.resize(self.n_runs, 0);
            values.push(value);
        }
        self.n_runs += 1;
        for values in self.figures.values_mut() {
            values.resize(self.n_runs, 0);
        }
    }

    fn range(&self, name: &str) -> (u64, u64) {
        let values = self.figures.get(name).map_or(&[0][..], |values| values);
        (*values.iter().min().expect("there was a run"), *values.iter().max().expect("there was a run"))
    }
}

/// What the two disagree on, as lines for a person.
fn differences_between(heading: &str, ours: &Runs, theirs: &Runs) -> Vec<String> {
    let notable = ours.range(PEAK).1.max(theirs.range(PEAK).1) as f64 * NOTABLE_PERCENT / 100.0;
    let names: BTreeSet<&String> = ours.figures.keys().chain(theirs.figures.keys()).collect();
    let mut lines = Vec::new();
    for name in names {
        let (our_least, our_most) = ours.range(name);
        let (their_least, their_most) = theirs.range(name);
        let largest = our_most.max(their_most) as f64;
        if largest < notable && name != COUNT {
            continue;
        }
        let gap = our_least.saturating_sub(their_most).max(their_least.saturating_sub(our_most)) as f64;
        let slack = if name == ARENAS { ARENA_SLACK as f64 } else { 0.0 };
        let is_close = gap <= largest * TOLERANCE_PERCENT / 100.0 + slack;
        let line = format!(
            "{heading}: {name}: {} {our_least}..{our_most}, {} {their_least}..{their_most}",
            ours.tool, theirs.tool
        );
        println!("{} {line}", if is_close { "  " } else { "!!" });
        if !is_close {
            lines.push(line);
        }
    }
    lines
}

fn for_each_line(command: &mut Command, mut each: impl FnMut(&str)) {
    let mut child: Child =
        command.stdout(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let mut lines: BufReader<ChildStdout> = BufReader::with_capacity(1 << 20, child.stdout.take().expect("piped"));
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap_or_else(|error| panic!("cannot read from {command:?}: {error}")) > 0 {
        each(line.trim_end());
        line.clear();
    }
    let status = child.wait().expect("the child was started");
    assert!(status.success(), "{command:?} ended with {status}");
}

fn address_in(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}
