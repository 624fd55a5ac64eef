//! `memtrace live` beside a running program, and the reading of a growing log that it stands on.

#[path = "support/on_command.rs"]
mod on_command;
mod support;
#[path = "support/tty.rs"]
mod tty;

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use memtrace::analysis::{Detail, Heap, MmapRule};
use memtrace::capture::Capture;
use memtrace::capture::follow::{Follower, Progress};
use memtrace::model::native::NativeStacks;
use memtrace::model::{Event, Model};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use on_command::OnCommand;
use support::{Scratch, fixture, memtrace, pythons, text};
use tty::Tty;

fn start(scratch: &Scratch) -> OnCommand {
    OnCommand::start(&scratch.join("capture.bin"), |_| {})
}

fn live(pid: u32) -> Command {
    let mut command = memtrace();
    command.arg("live").arg(pid.to_string()).env_remove("NO_COLOR");
    command
}

#[test]
fn the_view_comes_and_goes_while_the_program_runs() {
    let scratch = Scratch::new("live-view");
    let mut program = start(&scratch);
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
    let program = start(&scratch);
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
    let mut follower = Follower::open(&capture, NativeStacks::LeftOut).unwrap();
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

fn run_live(scratch: &Scratch, arguments: &[&str]) -> Command {
    let mut command = memtrace();
    command.arg("run").arg("-o").arg(scratch.join("capture.bin")).env_remove("NO_COLOR");
    command.arg("--python").arg(&pythons().last().unwrap().path).args(arguments);
    command
}

#[test]
fn a_program_behind_its_view_keeps_its_output_its_keys_and_its_exit_code() {
    const SCRIPT: &str = "\
import sys
kept = bytearray(60_000_000)
print('\\x1b[1mfirst\\x1b[0m line', sys.stdin.isatty(), sys.stdout.isatty(), flush=True)
answer = input('your name? ')
print('hello', answer, flush=True)
sys.exit(7)
";
    let scratch = Scratch::new("live-run");
    let mut tty = Tty::start(run_live(&scratch, &["--live", "-c", SCRIPT]).arg("and").arg("arguments"), (24, 80));
    tty.wait_for("the heap", |screen| screen.contains("Heap 6"));
    tty.press("p");
    tty.wait_for_text("first line True True");
    tty.press("p");
    tty.wait_for_text("Function");
    tty.press("q");
    // On the terminal itself now, as it was written.
    tty.wait_for_text("your name? ");
    assert!(!tty.contents().contains("Function"));
    tty.press("Ada\r");
    assert_eq!(tty.wait_for_end().code(), Some(7));
    assert!(tty.is_given_back());
    let screen = tty.contents();
    assert!(screen.contains("hello Ada"), "{screen}");
    assert!(screen.contains("memtrace: next: memtrace flamegraph"), "{screen}");
    let stats = support::stats(&scratch.join("capture.bin"));
    assert!(stats["metadata"]["peak_memory"].as_u64() > Some(60_000_000), "{stats}");
}

#[test]
fn ctrl_c_in_the_view_interrupts_the_program_and_its_end_is_shown() {
    let scratch = Scratch::new("live-interrupt");
    let script = "import time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('interrupted')\n    raise SystemExit(3)";
    let mut tty = Tty::start(&mut run_live(&scratch, &["--live", "-q", "-c", script]), (24, 80));
    tty.wait_for("a table", |screen| screen.contains("<module> at"));
    tty.press("\x03");
    tty.wait_for_text("ended with code 3");
    tty.press("q");
    assert_eq!(tty.wait_for_end().code(), Some(3));
    assert!(tty.contents().contains("interrupted"), "{}", tty.contents());
    assert!(tty.is_given_back());
}

#[test]
fn what_cannot_run_behind_a_view_says_so_as_without_one() {
    let scratch = Scratch::new("live-missing");
    let mut tty =
        Tty::start(memtrace().args(["run", "--live", "no-such-program"]).current_dir(scratch.path()), (24, 80));
    assert_eq!(tty.wait_for_end().code(), Some(127));
    assert!(tty.contents().contains("no-such-program"), "{}", tty.contents());
    assert!(tty.is_given_back());
    let output = memtrace().args(["run", "--live", "true"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", text(&output));
    assert!(text(&output).contains("--live needs a terminal"), "{}", text(&output));
}

#[test]
fn a_program_waits_for_a_viewer_with_the_token_and_strangers_get_nothing() {
    let scratch = Scratch::new("live-remote");
    let script = "kept = bytearray(60_000_000)\nprint('started', flush=True)\ninput()";
    let mut command = run_live(&scratch, &["--live-remote", "-c", script]);
    let mut launcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    let mut errors = BufReader::new(launcher.stderr.take().unwrap());
    errors.read_line(&mut told).unwrap();
    let port: u16 = told.trim_end().rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{told}"));
    assert!(told.starts_with("memtrace: waiting for a viewer before the program starts: memtrace live "), "{told}");
    for request in ["{\"request\":\"watch\"}\n", "{\"token\":\"00\",\"request\":\"watch\"}\n", "GET / HTTP/1.0\n\n"] {
        let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stranger.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    let mut tty = Tty::start(&mut live(port.into()), (24, 80));
    let mut stdout = BufReader::new(launcher.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    tty.wait_for("the heap", |screen| screen.contains("Heap 6"));
    tty.press("q");
    assert!(tty.wait_for_end().success());
    drop(launcher.stdin.take());
    // The end of its input is an error to the program, and its own.
    assert_eq!(launcher.wait().unwrap().code(), Some(1));
}

/// The folder of tokens, where the place of the sockets is one of this test.
fn token_of(runtime: &Path, port: u16) -> PathBuf {
    runtime.join(format!("memtrace/{port}.token"))
}

/// In a mount namespace where the folders of the recording are empty, as in another container or on another machine.
#[test]
fn a_viewer_without_the_files_of_a_recording_sees_it_through_the_port() {
    let (scratch, elsewhere) = (Scratch::new("live-elsewhere"), Scratch::new("live-viewer"));
    let runtime = scratch.join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    std::fs::set_permissions(&runtime, Permissions::from_mode(0o700)).unwrap();
    let script = "first = bytearray(60_000_000)\ninput()\nsecond = bytearray(5_000_000)\ninput()";
    let mut command = run_live(&scratch, &["--live-remote", "-c", script]);
    command.env("XDG_RUNTIME_DIR", &runtime).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut launcher = command.spawn().unwrap();
    let mut told = String::new();
    BufReader::new(launcher.stderr.take().unwrap()).read_line(&mut told).unwrap();
    let port: u16 = told.trim_end().rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{told}"));
    let token = elsewhere.join("token");
    std::fs::copy(token_of(&runtime, port), &token).unwrap();
    let view = |token: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command.arg("mount -t tmpfs none \"$0\" && exec \"$@\"").arg(scratch.path()).arg(support::memtrace_path());
        command.args(["live", &port.to_string(), "--token-file"]).arg(token).env_remove("NO_COLOR");
        command
    };
    let wrong = elsewhere.join("wrong");
    std::fs::write(&wrong, "0".repeat(32)).unwrap();
    let mut tty = Tty::start(&mut view(&wrong), (24, 80));
    assert_eq!(tty.wait_for_end().code(), Some(2), "{}", tty.contents());
    let mut tty = Tty::start(&mut view(&token), (24, 80));
    tty.wait_for("the heap", |screen| screen.contains("Heap 6"));
    tty.wait_for_text("<module> at ");
    tty.press("M");
    tty.wait_for_text("Allocated since ");
    launcher.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    tty.wait_for("what was allocated since", |screen| screen.contains("5.00"));
    tty.press("q");
    assert!(tty.wait_for_end().success());
    // It may come back, and one that is stopped holds up nobody.
    let mut tty = Tty::start(&mut view(&token), (24, 80));
    tty.wait_for("the heap", |screen| screen.contains("Heap 6"));
    let stopped = Tty::start(&mut view(&token), (24, 80));
    kill(Pid::from_raw(stopped.pid()), Signal::SIGSTOP).unwrap();
    launcher.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert!(launcher.wait().unwrap().success());
    tty.wait_for_text("ended with code 0");
    tty.press("q");
    assert!(tty.wait_for_end().success());
    let stats = support::stats(&scratch.join("capture.bin"));
    assert!(stats["metadata"]["peak_memory"].as_u64() > Some(65_000_000), "{stats}");
}

#[test]
fn whoever_does_not_want_to_wait_for_a_viewer_leaves_nothing_behind() {
    let scratch = Scratch::new("live-unwatched");
    let mut command = run_live(&scratch, &["--live-remote", "-c", "pass"]);
    let mut launcher = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(launcher.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert!(told.contains("waiting for a viewer"), "{told}");
    kill(Pid::from_raw(launcher.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(launcher.wait().unwrap().code(), Some(128 + 15));
    assert!(!scratch.join("capture.bin").exists());
}
