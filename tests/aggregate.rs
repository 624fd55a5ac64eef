//! `--aggregate`: a capture that was made small answers as the whole one, or says that it can't.

mod support;
#[path = "support/webpage.rs"]
mod webpage;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use memtrace::capture::Capture;
use memtrace::model::facts::RecordingState;
use serde_json::Value;
use support::{Scratch, memtrace, pythons, text};

/// What `table` says of the lines of one file: its size and count by place and allocator.
type Places = BTreeMap<String, (u64, u64)>;

struct Program {
    folder: Scratch,
    python: PathBuf,
}

const SOURCE: &str = r#"
import mmap, os, sys, threading

def build(n):
    return [bytes(1000 + i) for i in range(n)]

def churn():
    for size in range(3000):
        bytearray(size)

def high():
    kept.append(build(30))
    return bytearray(5_000_000), build(200)

kept = build(100)
churn()
more = high()
worker = threading.Thread(target=lambda: kept.append(build(50)), name="worker")
worker.start()
worker.join()
region = mmap.mmap(-1, 2_000_000)
del more
churn()
if "fork" in sys.argv:
    child = os.fork()
    kept.append(build(300) if child == 0 else None)
    if child:
        os.waitpid(child, 0)
    os._exit(0)
if "wait" in sys.argv:
    print("ready", flush=True)
    sys.stdin.read()
os._exit(0)
"#;

impl Program {
    /// On the newest CPython that is here.
    fn new(name: &str) -> Program {
        let folder = Scratch::new(name);
        fs::write(folder.join("app.py"), SOURCE).unwrap();
        let python = pythons().iter().rfind(|python| !python.is_free_threaded()).expect("a CPython is here");
        Program { folder, python: python.path.clone() }
    }

    fn command(&self, capture: &str, options: &[&str], arguments: &[&str]) -> Command {
        let mut command = memtrace();
        command.args(["run", "-o", capture, "--python"]).arg(&self.python).args(options).arg("app.py").args(arguments);
        command.current_dir(self.folder.path()).env("PYTHONHASHSEED", "0");
        command
    }

    fn record(&self, capture: &str, options: &[&str], arguments: &[&str]) -> PathBuf {
        support::run(&mut self.command(capture, options, arguments));
        self.folder.join(capture)
    }

    /// One recording under two names: as it was, and what was made of it. Two runs of one program are not the same to the
    /// byte; which numbers an interpreter still has at hand differs, for one.
    fn record_both(&self, options: &[&str]) -> [PathBuf; 2] {
        let [whole, small] = ["whole.bin", "small.bin"].map(|name| self.folder.join(name));
        let launcher = self.start("small.bin", &[options, &["--aggregate"]].concat());
        fs::hard_link(&small, &whole).unwrap();
        ended(launcher);
        [whole, small]
    }

    /// Until everything has been allocated. It ends with its input.
    fn start(&self, capture: &str, options: &[&str]) -> Child {
        let mut command = self.command(capture, options, &["wait"]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut launcher = piped.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(launcher.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        launcher
    }

    fn places(&self, options: &[&str], capture: &Path) -> Places {
        let output = support::run(memtrace().arg("table").arg("--json").args(options).arg(capture));
        let table: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = table["rows"].as_array().unwrap_or_else(|| panic!("{table:#}"));
        let of_program = rows.iter().filter(|row| row.to_string().contains("app.py"));
        let place = |row: &Value| {
            let mut row = row.clone();
            let fields = row.as_object_mut().unwrap();
            let numbers = ["bytes", "allocations"].map(|field| fields.remove(field).unwrap().as_u64().unwrap());
            if let Some(thread) = fields.get_mut("thread") {
                *thread = thread["name"].take();
            }
            (row.to_string(), numbers.into())
        };
        of_program.map(place).collect()
    }
}

/// What it has told at its end, which comes with that of its input.
fn ended(launcher: Child) -> String {
    let output = launcher.wait_with_output().unwrap();
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    told
}

fn refused(command: &mut Command, sentence: &str) {
    let output = command.output().unwrap();
    let told = text(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains(sentence) && told.contains("was recorded with --aggregate"), "{told}");
}

fn is_aggregated(capture: &Path) -> bool {
    Capture::open(capture).unwrap().facts().aggregated.is_some()
}

#[test]
fn it_has_the_same_peak_and_the_same_leaks_and_is_small() {
    for options in [&[][..], &["--native"], &["--no-python-allocators"]] {
        let program = Program::new("aggregate-same");
        let [whole, small] = program.record_both(options);
        assert!(is_aggregated(&small) && !is_aggregated(&whole));
        for question in [&["--no-native"][..], &["--leaks", "--no-native"], &["--split-threads", "--no-native"]] {
            let (expected, actual) = (program.places(question, &whole), program.places(question, &small));
            assert!(expected.len() > 2, "{expected:?}");
            assert_eq!(actual, expected, "{options:?} {question:?}");
        }
        let [whole_len, small_len] = [&whole, &small].map(|path| fs::metadata(path).unwrap().len());
        assert!(small_len < whole_len, "{small_len} {whole_len}");
    }
}

#[test]
fn what_is_about_single_events_is_refused() {
    let program = Program::new("aggregate-refused");
    let small = program.record("small.bin", &["--aggregate"], &[]);
    let history = "Can't get allocation history using a pre-aggregated capture file";
    let events = "Can't get all allocations from a pre-aggregated capture file";
    let temporary = "Can't find temporary allocations using a pre-aggregated capture file";
    for (arguments, sentence) in [
        (&["stats"][..], "Can't compute statistics using a pre-aggregated capture file"),
        (&["flamegraph", "--temporal"], history),
        (&["flamegraph", "--from", "0.1"], history),
        (&["flamegraph", "--all-mappings"], events),
        (&["flamegraph", "--temporary-allocations"], temporary),
        (&["flamegraph", "--format", "svg", "--temporary-allocations"], temporary),
        (&["summary", "--temporary-allocation-threshold", "3"], temporary),
        (&["tree", "--text", "--all-mappings"], events),
        (&["transform", "heaptrack"], events),
        (&["transform", "csv", "--temporary-allocations"], temporary),
    ] {
        refused(memtrace().args(arguments).arg(&small).current_dir(program.folder.path()), sentence);
    }
    refused(memtrace().args(["diff", "--churn"]).args([&small, &small]), events);
    // The rest is there.
    for arguments in [
        &["summary"][..],
        &["summary", "--leaks"],
        &["tree", "--text"],
        &["table", "--text"],
        &["parse"],
        &["transform", "pprof", "-o", "a.pb.gz"],
        &["transform", "speedscope", "-o", "a.json"],
        &["transform", "csv", "-o", "a.csv"],
        &["flamegraph", "--format", "svg", "-o", "a.svg"],
    ] {
        support::run(memtrace().args(arguments).arg(&small).current_dir(program.folder.path()));
    }
    let same = support::run(memtrace().arg("diff").args([&small, &small]));
    assert!(text(&same).contains("Nothing changed"), "{}", text(&same));
}

#[test]
fn its_page_has_the_peak_and_the_leaks_and_their_course_and_no_ranges() {
    let program = Program::new("aggregate-page");
    let [whole, small] = program.record_both(&[]).map(|capture| {
        let page = capture.with_extension("html");
        support::run(memtrace().args(["flamegraph", "-o"]).args([&page, &capture]));
        webpage::Webpage::new(&fs::read_to_string(page).unwrap())
    });
    assert_eq!(small.header["tabs"], serde_json::json!(["peak", "leaks"]));
    assert_eq!([&small, &whole].map(|page| page.header["is_aggregated"].as_bool()), [Some(true), Some(false)]);
    let events = |page: &webpage::Webpage| page.header["processes"][0]["facts"]["events"].as_u64().unwrap();
    assert_eq!(events(&small), events(&whole));
    let of_program = |page: &webpage::Webpage| -> Vec<String> {
        page.stacks().into_iter().filter(|stack| stack.starts_with("build") || stack.starts_with("high")).collect()
    };
    assert_eq!(of_program(&small), of_program(&whole));
    assert!(small.columns["buckets.end_bytes"].iter().any(|bytes| *bytes > 1_000_000));
}

#[test]
fn children_are_made_small_as_well() {
    let program = Program::new("aggregate-children");
    let small = program.record("small.bin", &["--aggregate", "--follow-fork"], &["fork"]);
    let logs: Vec<PathBuf> = fs::read_dir(program.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let child = logs.iter().find(|path| path.to_string_lossy().contains("small.bin."));
    let child = child.unwrap_or_else(|| panic!("{logs:?}"));
    assert!(is_aggregated(&small) && is_aggregated(child));
    let places = program.places(&["--leaks"], child);
    assert!(places.values().any(|(_, count)| *count == 300), "{places:?}");
}

#[test]
fn a_launcher_that_is_killed_leaves_the_whole_capture() {
    let program = Program::new("aggregate-killed");
    let mut launcher = program.start("killed.bin", &["--aggregate"]);
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let capture = program.folder.join("killed.bin");
    let open = Capture::open(&capture).unwrap();
    assert!(open.facts().aggregated.is_none() && open.facts().state != RecordingState::Ended);
    drop(open);
    assert!(support::stats(&capture)["total_num_allocations"].as_u64().unwrap() > 3000);
}

#[test]
fn a_capture_that_cannot_be_replaced_stays_whole() {
    let program = Program::new("aggregate-whole");
    // Meanwhile the folder gets another name.
    fs::create_dir(program.folder.join("kept")).unwrap();
    let launcher = program.start("kept/whole.bin", &["--aggregate"]);
    fs::rename(program.folder.join("kept"), program.folder.join("moved")).unwrap();
    let told = ended(launcher);
    let capture = program.folder.join("moved/whole.bin");
    assert!(!is_aggregated(&capture), "{told}");
    support::stats(&capture);
}
