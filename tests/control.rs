//! `memtrace ctl` beside a running `memtrace run`: what it tells, what a pause leaves out, and who gets no answer.

#[path = "support/on_command.rs"]
mod on_command;
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};

use on_command::OnCommand;
use serde_json::Value;
use support::{Scratch, memtrace, memtrace_path, text};

/// `on_command.py`, recorded.
struct Program {
    python: OnCommand,
    capture: PathBuf,
    /// In the place of the user's own, so that tests do not meet.
    runtime: PathBuf,
}

impl Program {
    fn start(scratch: &Scratch) -> Program {
        let runtime = scratch.join("runtime");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
        let capture = scratch.join("capture.bin");
        let python = OnCommand::start(&capture, |command| {
            command.env("XDG_RUNTIME_DIR", &runtime);
        });
        Program { python, capture, runtime }
    }

    fn tell(&mut self, line: &str) {
        self.python.tell(line);
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        ctl(self.python.pid).args(arguments).env("XDG_RUNTIME_DIR", &self.runtime).output().unwrap()
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.runtime.join(format!("memtrace/{}.sock", self.python.pid))
    }

    /// Lets it end; the events of the capture.
    fn finish(self) -> Vec<Value> {
        self.python.finish();
        support::events_from(&self.capture, 1 << 20)
    }
}

fn ctl(pid: u32) -> Command {
    let mut command = memtrace();
    command.arg("ctl").arg(pid.to_string());
    command
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{}", text(output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What happened, in order, as far as it is large or a mark.
fn told(events: &[Value]) -> Vec<String> {
    let mut live = std::collections::HashMap::new();
    let mut told = Vec::new();
    for event in events {
        let address = event["address"].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str().unwrap() {
            "alloc" | "mmap" if event["size"].as_u64() >= Some(2_000_000) => {
                let size = event["size"].as_u64().unwrap() / 1_000_000;
                told.push(format!("+{size}"));
                live.insert(address, size);
            }
            "free" | "munmap" => told.extend(live.remove(&address).map(|size| format!("-{size}"))),
            "mark" => told.push(event["name"].as_str().unwrap().to_owned()),
            kind @ ("pause" | "resume") => told.push(kind.to_owned()),
            _ => {}
        }
    }
    told
}

#[test]
fn a_pause_leaves_out_what_is_allocated_and_nothing_that_is_given_back() {
    let scratch = Scratch::new("control-pause");
    let mut program = Program::start(&scratch);
    for size in [2, 3, 4] {
        program.tell(&format!("alloc {size}000000"));
    }
    program.must(&["pause"]);
    assert!(program.must(&["status"]).contains(&format!("process   {}, paused", program.python.pid)));
    let again = program.ctl(&["pause"]);
    assert!(again.status.success() && String::from_utf8_lossy(&again.stderr).contains("it was paused already"));
    program.tell("alloc 5000000");
    program.tell("map 6000000");
    program.tell("free 2000000");
    program.tell("move 3000000 7000000");
    program.must(&["resume"]);
    program.tell("alloc 8000000");
    program.tell("free 5000000");
    program.tell("free 4000000");
    let capture = program.capture.clone();
    let told = told(&program.finish());
    assert_eq!(told, ["+2", "+3", "+4", "pause", "-2", "-3", "resume", "+8", "-4", "-8"]);
    let stats = support::run(memtrace().arg("stats").arg(&capture));
    let warning = String::from_utf8_lossy(&stats.stderr).into_owned();
    assert!(warning.contains("the recording was paused from "), "{warning}");
    assert!(warning.contains("what was allocated then is not in the capture"), "{warning}");
}

#[test]
fn marks_are_told_and_bound_what_is_read() {
    let scratch = Scratch::new("control-marks");
    let mut program = Program::start(&scratch);
    program.tell("alloc 2000000");
    program.must(&["mark", "first batch"]);
    program.tell("alloc 3000000");
    program.must(&["mark", "end"]);
    program.tell("alloc 4000000");
    program.must(&["flush"]);
    let status: Value = serde_json::from_str(&program.must(&["status", "--json"])).unwrap();
    assert_eq!(status["pid"], program.python.pid);
    assert_eq!(status["paused"], false);
    assert_eq!(status["marks"][0]["name"], "first batch");
    assert_eq!(status["marks"][1]["name"], "end");
    assert_eq!(status["lost_events"], 0);
    assert!(status["events"].as_u64() > Some(10_000), "{status}");
    assert!(status["rss_bytes"].as_u64() > Some(9_000_000), "{status}");
    assert!(status["peak_rss_bytes"].as_u64() >= status["rss_bytes"].as_u64(), "{status}");
    assert!(status["command_line"][0].as_str().unwrap().ends_with("on_command.py"), "{status}");
    let too_long = refusal(&program.ctl(&["mark", &"x".repeat(129)]));
    assert!(too_long.contains("the name of a mark has 1 to 128 bytes, this one 129"), "{too_long}");
    let capture = program.capture.clone();
    let events = program.finish();
    assert_eq!(told(&events), ["+2", "first batch", "+3", "end", "+4", "-2", "-3", "-4"]);
    let stats = support::stats(&capture);
    assert_eq!(stats["marks"][0]["name"], "first batch");
    let part =
        support::run(memtrace().arg("parse").arg(&capture).args(["--json", "--from", "first batch", "--to", "end"]));
    let part: Vec<Value> =
        String::from_utf8(part.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told(&part), ["first batch", "+3"]);
    let unknown = memtrace().arg("parse").arg(&capture).args(["--from", "second batch"]).output().unwrap();
    assert!(refusal(&unknown).contains("there are: first batch, end"), "{}", text(&unknown));
    let page = scratch.join("page.html");
    let flamegraph = || {
        let mut command = memtrace();
        command.arg("flamegraph").arg(&capture).args(["--from", "first batch"]);
        command
    };
    support::run(flamegraph().args(["--to", "end", "-o"]).arg(&page));
    assert!(page.exists());
    let picture = flamegraph().args(["--format", "svg"]).output().unwrap();
    assert!(refusal(&picture).contains("--from is for the page"), "{}", text(&picture));
}

#[test]
fn who_cannot_ask_is_told_why() {
    let missing = refusal(&ctl(4_000_000).arg("status").output().unwrap());
    assert!(missing.contains("there is no process 4000000"), "{missing}");
    let unrecorded = refusal(&ctl(std::process::id()).arg("status").output().unwrap());
    assert!(unrecorded.contains("is not recorded: memtrace run or memtrace attach would record it"), "{unrecorded}");
    let scratch = Scratch::new("control-users");
    let program = Program::start(&scratch);
    let socket = fs::symlink_metadata(program.socket()).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o600);
    assert_eq!(fs::symlink_metadata(program.socket().parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    if socket.uid() == 0 {
        // A copy that another user can start.
        let folder = std::env::temp_dir().join(format!("memtrace-control-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = folder.join("memtrace");
        fs::copy(memtrace_path(), &copy).unwrap();
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).arg("ctl");
        let output = other.arg(program.python.pid.to_string()).arg("pause").output().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(refusal(&output).contains("belongs to another user (uid 0, yours is 65534)"), "{}", text(&output));
        assert!(!program.must(&["status"]).contains("paused"));
    }
    let path = program.socket();
    program.finish();
    assert!(!path.exists(), "the socket is still there");
}

#[test]
fn idle_and_noisy_peers_keep_nobody_from_asking() {
    let scratch = Scratch::new("control-peers");
    let program = Program::start(&scratch);
    let idle: Vec<_> = (0..40).map(|_| UnixStream::connect(program.socket()).unwrap()).collect();
    let mut noisy = UnixStream::connect(program.socket()).unwrap();
    // More than any line may have. It is let go, which may come between two pieces.
    let _ = noisy.write_all(&[b'x'; 1 << 20]);
    let mut rude = UnixStream::connect(program.socket()).unwrap();
    rude.write_all(b"{\"request\":\"dance\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(rude).read_line(&mut answer).unwrap();
    assert!(answer.contains("this memtrace does not understand it"), "{answer}");
    assert!(program.must(&["status"]).contains("events"));
    drop(idle);
    assert!(!program.finish().is_empty());
}
