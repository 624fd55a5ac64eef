//! Real programs, watched by memtrace and memray at once: the same peak, the same number of allocations, at the same
//! lines.
//!
//! Both sit in one process and see the same events, so nothing but the tools can differ. Apart they would not: memray
//! has imported half the standard library and filled its caches before the program starts, and its profile function
//! makes CPython build a frame object for every call (ten times as many objects in `deltablue.py`).
//! Only what `main` of the program and what it calls allocate is compared, because memray starts later.

mod account;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    fmt,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    rc::Rc,
    sync::Mutex,
};

use account::{Account, Totals};
use serde::Deserialize;
use support::{Python, Scratch};

/// Largest difference of a figure, in per cent of the larger one.
const TOLERANCE_PERCENT: f64 = 2.0;
/// Places are compared when they hold this much of the peak in either recording.
const NOTABLE_PERCENT: f64 = 1.0;

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
    compare("json_texts.py", &["1"], newest());
}

#[test]
fn pandas_is_seen_as_memray_sees_it() {
    compare("pandas_frames.py", &["20000"], newest());
}

#[test]
fn django_is_seen_as_memray_sees_it() {
    compare("django_site.py", &["30"], newest());
}

#[test]
fn fastapi_is_seen_as_memray_sees_it() {
    compare("fastapi_service.py", &["40"], newest());
}

#[test]
fn html5lib_is_seen_as_memray_sees_it() {
    compare("html5lib_page.py", &["40"], newest());
}

#[test]
fn a_call_heavy_program_is_seen_as_memray_sees_it() {
    compare("deltablue.py", &["200"], newest());
}

#[test]
#[ignore = "long tier"]
fn twenty_megabytes_of_json_are_seen_as_memray_sees_them() {
    with_packages().for_each(|python| compare("json_texts.py", &["20"], python));
}

#[test]
#[ignore = "long tier"]
fn a_million_rows_in_pandas_are_seen_as_memray_sees_them() {
    with_packages().for_each(|python| compare("pandas_frames.py", &["1000000"], python));
}

#[test]
#[ignore = "long tier"]
fn two_thousand_django_requests_are_seen_as_memray_sees_them() {
    with_packages().for_each(|python| compare("django_site.py", &["2000"], python));
}

#[test]
#[ignore = "long tier"]
fn two_thousand_fastapi_requests_are_seen_as_memray_sees_them() {
    with_packages().for_each(|python| compare("fastapi_service.py", &["2000"], python));
}

#[test]
#[ignore = "long tier"]
fn a_large_page_in_html5lib_is_seen_as_memray_sees_it() {
    with_packages().for_each(|python| compare("html5lib_page.py", &["2000"], python));
}

fn newest() -> &'static Python {
    with_packages().next_back().expect("one interpreter has all the packages of tests/requirements.txt")
}

/// memray and pandas come later than an interpreter, and not at all for the free-threaded ones.
fn with_packages() -> impl DoubleEndedIterator<Item = &'static Python> {
    support::pythons().iter().filter(|python| support::has_all_packages(python))
}

/// Records the program with both tools at once, on both levels, and compares.
fn compare(program: &str, arguments: &[&str], python: &Python) {
    // Two programs at once would take each other's processor and, with the long sizes, each other's memory.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());

    let scratch = Scratch::new("real");
    let script = support::fixture("programs").join(program);
    let interpreter = support::environment(python);
    // Whatever is imported late is compiled once and cached on disk by this run, for neither tool to see.
    support::run(Command::new(&interpreter).arg(&script).args(arguments));

    let mut differences = Vec::new();
    for level in &LEVELS {
        let ours = scratch.join(&format!("{}.memtrace", level.name));
        let theirs = scratch.join(&format!("{}.memray", level.name));
        let alone = scratch.join(&format!("{}.alone", level.name));
        let mut command = memtrace_run(level, &interpreter, &ours);
        command.args(["-m", "memray", "run", "-q", "-f", "--no-compress"]).args(level.memray).arg("-o").arg(&theirs);
        support::run(command.arg(&script).args(arguments));
        support::run(memtrace_run(level, &interpreter, &alone).arg(&script).args(arguments));

        let mut theirs = memray_records(&theirs, &interpreter, &script);
        let (ours, alone) = (Events::of(&ours, &script), Events::of(&alone, &script));
        let heading = format!("{program} {} on CPython {}, {}", arguments.join(" "), python.minor, level.name);
        differences.extend(Comparison::of(ours, &mut theirs, alone).differences(&heading));
    }
    assert!(differences.is_empty(), "memtrace and memray differ:\n{}", differences.join("\n"));
}

fn memtrace_run(level: &Level, python: &Path, capture: &Path) -> Command {
    let mut command = support::memtrace();
    command.env("PYTHONHASHSEED", "0").args(["run", "-q", "-f", level.memtrace, "--python"]);
    command.arg(python).arg("-o").arg(capture);
    command
}

/// Both recordings of one run, walked side by side.
struct Comparison {
    ours: Account,
    theirs: Account,
    /// Allocations that memray has and memtrace has not, or not at that place: the first one tells, because whatever
    /// follows it is missing too.
    missing: Vec<String>,
    n_matched: u64,
    n_frame_objects: u64,
    /// Events that only memtrace has: what memray itself allocated meanwhile.
    n_only_ours: u64,
    n_alone: u64,
}

const FIRST_FEW: usize = 20;

impl Comparison {
    /// The allocations that memray saw are a subsequence of those that memtrace saw, which include memray's own.
    fn of(ours: Events, theirs: &mut dyn Iterator<Item = Event>, alone: Events) -> Comparison {
        let mut comparison = Comparison {
            ours: Account::new(),
            theirs: Account::new(),
            missing: Vec::new(),
            n_matched: 0,
            n_frame_objects: 0,
            n_only_ours: 0,
            n_alone: alone.filter(Event::is_in_main).count() as u64,
        };
        let mut next = comparison.next_of(theirs);
        for event in ours {
            if !event.is_in_main() {
                event.enter(&mut comparison.ours, None);
                continue;
            }
            match next.as_ref().and_then(|their| event.place_in_common(their)) {
                Some(depth) => {
                    comparison.n_matched += 1;
                    comparison.n_frame_objects += (depth > 0) as u64;
                    event.enter(&mut comparison.ours, next.as_ref().and_then(|their| their.place.first()));
                    next = comparison.next_of(theirs);
                }
                None => comparison.n_only_ours += 1,
            }
        }
        while let Some(missed) = next {
            comparison.missing.push(missed.to_string());
            next = comparison.next_of(theirs);
        }
        comparison
    }

    /// memray's next allocation in `main`; on the way to it the others are entered into its account.
    fn next_of(&mut self, theirs: &mut dyn Iterator<Item = Event>) -> Option<Event> {
        for event in theirs {
            let is_in_main = event.is_in_main();
            event.enter(&mut self.theirs, event.place.first());
            if is_in_main {
                return Some(event);
            }
        }
        None
    }

    /// What the two disagree on, as lines for a person.
    fn differences(self, heading: &str) -> Vec<String> {
        println!(
            "   {heading}: {} allocations in common, {} of them frame objects for memray, {} of memray itself; {} without memray",
            self.n_matched, self.n_frame_objects, self.n_only_ours, self.n_alone
        );
        let mut lines = Vec::new();
        let missing = self.missing.iter().take(FIRST_FEW).map(|event| format!("{heading}: only memray has {event}"));
        lines.extend(missing);
        // Alone, the program allocates less than beside memray, and never more: or we have invented something.
        let n_theirs = self.n_matched + self.missing.len() as u64;
        if self.n_alone as f64 > n_theirs as f64 * (1.0 + TOLERANCE_PERCENT / 100.0) {
            lines.push(format!("{heading}: {} allocations without memray, {n_theirs} that memray saw", self.n_alone));
        }
        lines.extend(differences_between(heading, &self.ours.finish(), &self.theirs.finish()));
        lines
    }
}

/// One allocation or release, in the words of both.
struct Event {
    kind: Kind,
    address: u64,
    size: u64,
    /// `function:file:line` of the innermost frames, the leaf first, when `main` is on the stack; else none.
    place: Rc<[String]>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Alloc,
    Free,
    Mmap,
    Munmap,
}

impl Event {
    fn is_in_main(&self) -> bool {
        !self.place.is_empty()
    }

    /// The frame of this event that is the other's place, when it is the same memory.
    ///
    /// It is the leaf, or the one below: CPython builds a frame object for memray's profile function when a call
    /// begins. The new frame is on the stack by then, and memray puts it on its own only afterwards. When that object
    /// makes the collector run, a callback of a weak reference begins on top of it, and it is the second one below.
    fn place_in_common(&self, other: &Event) -> Option<usize> {
        let is_same_memory = (self.kind, self.address, self.size) == (other.kind, other.address, other.size);
        self.place.iter().position(|place| is_same_memory && is_same_place(place, &other.place[0]))
    }

    fn enter(&self, account: &mut Account, place: Option<&String>) {
        let location = place.map_or(0, |place| account.location(place));
        match self.kind {
            Kind::Alloc => account.allocated(self.address, self.size, location),
            Kind::Free => account.freed(self.address),
            Kind::Mmap => account.mapped(self.address, self.size, location),
            Kind::Munmap => account.unmapped(self.address, self.size),
        }
    }
}

/// Whether the two name the same place. Before a function's first instruction memray says line 0 on CPython 3.9, where
/// the interpreter, and so memtrace, says the line of its `def`.
fn is_same_place(ours: &str, theirs: &str) -> bool {
    let without_line = |name: &str| name.rsplit_once(':').map(|(place, _)| place.to_string());
    ours == theirs || theirs.ends_with(":0") && without_line(ours) == without_line(theirs)
}

impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes at {:#x} in {}", self.size, self.address, self.place.join(" < "))
    }
}

/// Frames of a stack that are kept.
const INNERMOST: usize = 3;

/// memtrace's record of a program.
struct Events {
    lines: Lines,
    script: String,
    stacks: Vec<Rc<[String]>>,
}

impl Events {
    fn of(capture: &Path, script: &Path) -> Events {
        let mut command = support::memtrace();
        command.arg("parse").arg(capture).args(["--json", "--stacks-once", "--no-native"]);
        let script = script.to_str().expect("the checkout's path is UTF-8").to_string();
        Events { lines: Lines::of(command), script, stacks: vec![Rc::new([])] }
    }

    fn keep_stack(&mut self, line: &str) {
        let StackLine { id, stack } = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        let is_ours = stack.iter().any(|(function, file, _)| function == "main" && *file == self.script);
        let innermost = stack.iter().take(if is_ours { INNERMOST } else { 0 });
        let names = innermost.map(|(function, file, number)| place_name(&format!("{function}:{file}:{number}")));
        self.stacks.resize(self.stacks.len().max(id + 1), Rc::new([]));
        self.stacks[id] = names.collect();
    }
}

/// The line before the first use of a stack.
#[derive(Deserialize)]
struct StackLine {
    id: usize,
    stack: Vec<(String, String, u32)>,
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let line = self.lines.next()?;
            let line = line.as_str();
            // Millions of short lines of known keys: looked into and not parsed, or the test would take minutes.
            let kind = match field(line, r#"{"event":"#).expect("every line has an event") {
                "\"alloc\"" => Kind::Alloc,
                "\"free\"" => Kind::Free,
                // What comes out of such an arena is recorded itself.
                "\"mmap\"" if line.contains(r#""arena":true"#) => continue,
                // A shared mapping of a file is not heap: this is memray writing its own recording.
                "\"mmap\"" if number(line, r#""flags":"#) & MAP_SHARED != 0 => continue,
                "\"mmap\"" => Kind::Mmap,
                "\"munmap\"" => Kind::Munmap,
                "\"stack\"" => {
                    self.keep_stack(line);
                    continue;
                }
                "\"mremap\"" | "\"restore\"" => panic!("no program is known to do this, and memray misses it: {line}"),
                "\"lost\"" | "\"damage\"" => panic!("{line}"),
                _ => continue,
            };
            let address = field(line, r#""address":"#).map_or(0, address_in);
            let place = self.stacks[number(line, r#""stack":"#) as usize].clone();
            return Some(Event { kind, address, size: number(line, r#""size":"#), place });
        }
    }
}

const MAP_SHARED: u64 = 1;

/// memray's record of a program, through `tests/memray_records.py`.
fn memray_records(capture: &Path, python: &Path, script: &Path) -> impl Iterator<Item = Event> + use<> {
    let mut command = Command::new(python);
    command.arg(support::root().join("tests/memray_records.py")).arg(capture).arg(script).arg("main");
    let mut places: Vec<Rc<[String]>> = vec![Rc::new([])];
    Lines::of(command).filter_map(move |line| {
        let (kind, rest) = line.split_at(2);
        if kind == "l " {
            let (_, name) = rest.split_once(' ').expect("a place has a number and a name");
            places.push(Rc::new([place_name(name)]));
            return None;
        }
        let mut words = rest.split_ascii_whitespace().map(|word| word.parse::<u64>());
        let mut next = || words.next().map_or(0, |word| word.unwrap_or_else(|error| panic!("{error} in {line}")));
        let (address, size, place) = (next(), next(), next());
        let kind = match kind {
            "a " => Kind::Alloc,
            "f " => Kind::Free,
            "m " => Kind::Mmap,
            "u " => Kind::Munmap,
            _ => panic!("tests/memray_records.py said {line}"),
        };
        Some(Event { kind, address, size, place: places[place as usize].clone() })
    })
}

fn number(line: &str, key: &str) -> u64 {
    field(line, key).map_or(0, |text| text.parse().unwrap_or_else(|error| panic!("{error} in {line}")))
}

/// What stands behind this key in a line of JSON, up to the next comma or brace.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = &line[line.find(key)? + key.len()..];
    Some(&rest[..rest.find([',', '}'])?])
}

/// A place in the words of both: memray leaves a function's class and the function around it out of its name.
fn place_name(name: &str) -> String {
    let (function, rest) = name.split_once(':').expect("a place has a function");
    format!("{}:{rest}", function.rsplit('.').next().expect("there is a last part"))
}

/// What the two disagree on, as lines for a person.
fn differences_between(heading: &str, ours: &Totals, theirs: &Totals) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compare = |what: &str, ours: u64, theirs: u64| {
        let line = format!("{heading}: {what}: memtrace {ours}, memray {theirs}");
        let is_close = (ours.abs_diff(theirs) as f64) <= ours.max(theirs) as f64 * TOLERANCE_PERCENT / 100.0;
        println!("{} {line}", if is_close { "  " } else { "!!" });
        if !is_close {
            lines.push(line);
        }
    };
    compare("peak bytes", ours.peak_bytes, theirs.peak_bytes);
    compare("allocations", ours.count, theirs.count);
    let notable = ours.peak_bytes.max(theirs.peak_bytes) as f64 * NOTABLE_PERCENT / 100.0;
    let names: BTreeSet<&String> = ours.places.keys().chain(theirs.places.keys()).collect();
    for name in names {
        let of = |totals: &Totals| totals.places.get(name).map_or(0, |&(bytes, _)| bytes);
        if of(ours).max(of(theirs)) as f64 >= notable {
            compare(name, of(ours), of(theirs));
        }
    }
    lines
}

/// What a program prints, while it runs.
struct Lines {
    command: Command,
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Lines {
    fn of(mut command: Command) -> Lines {
        let mut child =
            command.stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let out = BufReader::with_capacity(1 << 20, child.stdout.take().expect("piped"));
        Lines { command, child, out }
    }
}

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        if self.out.read_line(&mut line).unwrap_or_else(|error| panic!("{error} from {:?}", self.command)) == 0 {
            let status = self.child.wait().expect("the child was started");
            assert!(status.success(), "{:?} ended with {status}", self.command);
            return None;
        }
        line.truncate(line.trim_end().len());
        Some(line)
    }
}

fn address_in(text: &str) -> u64 {
    u64::from_str_radix(text.trim_matches('"').trim_start_matches("0x"), 16)
        .unwrap_or_else(|error| panic!("{error} in {text:?}"))
}
