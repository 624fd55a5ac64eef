//! `memtrace live` beside a running program, and the reading of a growing log that it stands on.

mod support;
#[path = "support/tty.rs"]
mod tty;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use memtrace::analysis::{Detail, Heap, MmapRule};
use memtrace::capture::Capture;
use memtrace::capture::follow::{Follower, Progress};
use memtrace::model::{Event, Model};
use support::{Scratch, fixture, memtrace, pythons, text};
use tty::Tty;

/// A program that does what it is told, recorded.
struct Program {
    launcher: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pid: u32,
}

impl Program {
    fn start(scratch: &Scratch) -> Program {
        let mut command = memtrace();
        command.args(["run", "-q", "-o"]).arg(scratch.join("capture.bin"));
        command.arg("--python").arg(&pythons().last().unwrap().path).arg(fixture("programs/on_command.py"));
        let mut launcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = launcher.stdin.take().unwrap();
        let stdout = BufReader::new(launcher.stdout.take().unwrap());
        let mut program = Program { launcher, stdin, stdout, pid: 0 };
        program.pid = program.line().parse().unwrap();
        program
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
        assert_eq!(self.line(), "done");
    }

    fn finish(self) {
        drop(self.stdin);
        let output = self.launcher.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}

fn live(pid: u32) -> Command {
    let mut command = memtrace();
    command.arg("live").arg(pid.to_string()).env_remove("NO_COLOR");
    command
}

#[test]
fn the_view_comes_and_goes_while_the_program_runs() {
    let scratch = Scratch::new("live-view");
    let mut program = Program::start(&scratch);
    program.tell("alloc 70000000");
    let mut tty = Tty::start(&mut live(program.pid), (24, 80));
    tty.wait_for_text("on_command.py");
    tty.wait_for("the heap", |screen| screen.contains("Heap 7"));
    tty.wait_for_text("<module> at ");
    tty.press("M");
    tty.wait_for_text("Allocated since ");
    program.tell("alloc 5000000");
    tty.wait_for("what was allocated since", |screen| screen.contains("5.00"));
    program.tell("free 5000000");
    tty.wait_for("what is gone", |screen| !screen.contains("5.00"));
    tty.press("c");
    tty.wait_for("all that is there", |screen| !screen.contains("Allocated since"));
    tty.press("/module\r");
    tty.wait_for_text("with “module”");
    tty.press("\x1bq");
    assert!(tty.wait_for_end().success());
    assert!(tty.is_given_back());
    program.tell("free 70000000");
    let mut tty = Tty::start(&mut live(program.pid), (40, 120));
    tty.wait_for("the peak", |screen| screen.contains("Peak 7"));
    tty.wait_for("the heap now", |screen| !screen.contains("Heap 7"));
    program.finish();
    tty.wait_for_text("ended with code 0");
    tty.press("\x03");
    assert!(tty.wait_for_end().success());
    assert!(tty.is_given_back());
}

#[test]
fn without_a_terminal_there_is_a_sentence() {
    let scratch = Scratch::new("live-terminal");
    let program = Program::start(&scratch);
    let output = live(program.pid).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("the live view needs a terminal"), "{}", text(&output));
    program.finish();
}

#[derive(Debug, PartialEq, Eq)]
struct Account {
    n_events: u64,
    heap_bytes: u64,
    n_missed_frees: u64,
}

struct Fold {
    heap: Heap,
    n_events: u64,
}

impl Fold {
    fn new() -> Fold {
        Fold { heap: Heap::new(MmapRule::Memory, Detail::Full), n_events: 0 }
    }

    fn take(&mut self, model: &Model, events: &[Event]) {
        self.heap.take_all(model, events);
        self.n_events += events.iter().filter(|event| event.action.is_of_memory()).count() as u64;
    }

    fn account(&self) -> Account {
        let n_missed_frees = self.heap.n_missed_frees();
        Account { n_events: self.n_events, heap_bytes: self.heap.bytes(), n_missed_frees }
    }
}

/// While it runs, with threads that take turns and share them, and blocks that the launcher compresses and moves.
#[test]
fn following_a_program_to_its_end_comes_to_what_reading_its_capture_does() {
    let scratch = Scratch::new("live-follow");
    let capture = scratch.join("capture.bin");
    let mut command = memtrace();
    command.args(["run", "-q", "-o"]).arg(&capture).arg("--python").arg(&pythons().last().unwrap().path);
    let mut launcher = command.arg(fixture("programs/json_threads.py")).stdout(Stdio::null()).spawn().unwrap();
    while !capture.exists() || std::fs::metadata(&capture).unwrap().len() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut follower = Follower::open(&capture, None).unwrap();
    let (mut fold, mut n_steps) = (Fold::new(), 0);
    loop {
        n_steps += 1;
        let mut n_batches = 0;
        let is_enough = || {
            n_batches += 1;
            n_batches % 50 == 0
        };
        if follower.step(|model, events| fold.take(model, events), is_enough).unwrap() == Progress::Ended {
            break;
        }
    }
    assert!(launcher.wait().unwrap().success());
    let mut expected = Fold::new();
    let model = Capture::open(&capture).unwrap().read(|model, event| expected.take(model, &[*event])).unwrap();
    assert!(n_steps > 10 && fold.n_events > 100_000, "{n_steps} steps, {:?}", fold.account());
    assert_eq!(fold.account(), expected.account());
    assert_eq!(fold.account().n_missed_frees, 0);
    assert_eq!(follower.model().process().facts.damage, []);
    assert_eq!(follower.model().process().facts.end, model.process().facts.end);
}
