//! `memtrace attach --follow-fork`: the children that a running process starts meanwhile are recorded like itself, and left
//! alone like itself afterwards.

#[path = "support/gunicorn.rs"]
mod gunicorn;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Scratch, fixture, memtrace, pythons};

/// A process that makes children when it is told to, in its own folder; killed at the end, with them.
struct Parent {
    process: Child,
    children: Vec<u32>,
    stdout: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Parent {
    fn start(command: &mut Command, folder: &Path) -> Parent {
        let command = command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Parent { process, children: Vec::new(), stdout, folder: folder.to_owned() }
    }

    /// A child of this kind: its process id.
    fn start_child(&mut self, kind: &str) -> u32 {
        writeln!(self.process.stdin.as_mut().unwrap(), "{kind}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let child = line.trim_end().parse().unwrap();
        if child != self.process.id() {
            self.children.push(child);
        }
        child
    }

    /// The same, when it works.
    fn start_working_child(&mut self, kind: &str) -> u32 {
        let child = self.start_child(kind);
        self.assert_goes_on(child);
        child
    }

    fn assert_goes_on(&self, child: u32) {
        let beats = self.folder.join(format!("beats.{child}"));
        let n_beats = || fs::metadata(&beats).map_or(0, |metadata| metadata.len());
        let enough = n_beats() + 20;
        wait_until(&format!("child {child} goes on"), || n_beats() >= enough);
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Those of multiprocessing's server are not its own and keep that alive.
        self.children.drain(..).for_each(end);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ends a process that is not our child.
fn end(pid: u32) {
    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        thread::sleep(Duration::from_millis(5));
    }
}

/// memtrace, attached.
struct Attached {
    memtrace: Child,
    stderr: BufReader<std::process::ChildStderr>,
    pid: u32,
}

impl Attached {
    fn start(pid: u32, capture: &Path) -> Attached {
        let mut command = memtrace();
        command.args(["attach", &pid.to_string(), "--follow-fork", "-o"]).arg(capture);
        let mut memtrace = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(memtrace.stderr.take().unwrap());
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        assert!(said.contains("recording process"), "{said}");
        Attached { memtrace, stderr, pid }
    }

    /// What memtrace said at the end.
    fn detach(mut self) -> String {
        support::run(memtrace().arg("detach").arg(self.pid.to_string()));
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        assert!(self.memtrace.wait().unwrap().success(), "{said}");
        assert!(!said.contains("can't be detached from"), "{said}");
        said
    }
}

/// Whose children the captures beside one are, in order.
fn children_with_captures(capture: &Path) -> Vec<u32> {
    let prefix = format!("{}.", capture.file_name().unwrap().to_str().unwrap());
    let names = fs::read_dir(capture.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let pids = names.filter_map(|name| name.to_str()?.strip_prefix(&prefix)?.parse().ok());
    let mut pids: Vec<u32> = pids.collect();
    pids.sort();
    pids
}

fn of_child(capture: &Path, pid: u32) -> PathBuf {
    PathBuf::from(format!("{}.{pid}", capture.display()))
}

/// The children that are expected have captures, which are whole and finished.
#[track_caller]
fn assert_recorded(capture: &Path, expected: &[u32]) {
    let found = children_with_captures(capture);
    for pid in expected {
        assert!(found.contains(pid), "{pid} is not in {found:?}");
        let events = support::events_from(&of_child(capture, *pid), 1_000_000);
        let has = |kind: &str| events.iter().any(|event| event["event"] == kind);
        assert!(!has("damage") && has("alloc"), "{pid}: {events:?}");
        assert_eq!(events.last().unwrap()["event"], "end", "{pid}");
    }
    let report = capture.with_extension("html");
    let captures = found.iter().map(|pid| of_child(capture, *pid));
    support::run(memtrace().arg("flamegraph").arg("-f").arg("-o").arg(report).arg(capture).args(captures));
}

/// All files of a folder, and how long they are, but for those that say that a child goes on.
fn files(folder: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()));
    files.filter(|(name, _)| !name.starts_with("beats.")).collect()
}

/// Attaches twice, with children of these kinds each time.
fn attach_to(command: &mut Command, scratch: &Scratch, kinds: &[&str]) {
    let captures = ["first.bin", "second.bin"].map(|name| scratch.join(name));
    let mut parent = Parent::start(command, scratch.path());
    let pid = parent.process.id();
    let before = parent.start_working_child("f");
    let attached = Attached::start(pid, &captures[0]);
    let first = kinds.iter().map(|kind| parent.start_working_child(kind)).collect::<Vec<_>>();
    let said = attached.detach();
    assert!(said.contains("with its children: ") && said.contains("first.bin.*"), "{said}");
    assert_recorded(&captures[0], &first);
    assert!(!children_with_captures(&captures[0]).contains(&before));
    // Afterwards nobody writes to these, nor beside them.
    let recorded = files(scratch.path());
    let after = kinds.iter().map(|kind| parent.start_working_child(kind)).collect::<Vec<_>>();
    [&[before], first.as_slice(), &after].concat().iter().for_each(|child| parent.assert_goes_on(*child));
    assert_eq!(files(scratch.path()), recorded);

    let attached = Attached::start(pid, &captures[1]);
    // multiprocessing's server is there already, so its children are not of this time.
    let kinds = kinds.iter().filter(|kind| **kind != "m");
    let second = kinds.map(|kind| parent.start_working_child(kind)).collect::<Vec<_>>();
    attached.detach();
    assert_recorded(&captures[1], &second);
    first.iter().for_each(|child| parent.assert_goes_on(*child));
}

fn family(scratch: &Scratch) -> Command {
    let program = scratch.join("family");
    support::run(Command::new("gcc").args(["-O1", "-o"]).arg(&program).arg(fixture("attach/family.c")));
    Command::new(program)
}

#[test]
fn children_of_a_c_process_are_recorded_and_left_alone_again() {
    let scratch = Scratch::new("attach-family-c");
    attach_to(&mut family(&scratch), &scratch, &["f", "s", "f"]);
}

#[test]
fn a_process_that_replaces_itself_is_recorded_on_and_left_alone_again() {
    let scratch = Scratch::new("attach-family-exec");
    let capture = scratch.join("capture.bin");
    let mut parent = Parent::start(&mut family(&scratch), scratch.path());
    let attached = Attached::start(parent.process.id(), &capture);
    assert_eq!(parent.start_child("e"), parent.process.id());
    let child = parent.start_working_child("f");
    attached.detach();
    assert_recorded(&capture, &[child]);
    let n_images = support::events_from(&capture, 1_000_000).iter().filter(|event| event["event"] == "image").count();
    assert_eq!(n_images, 2);
    let (recorded, after) = (files(scratch.path()), parent.start_working_child("s"));
    [child, after].iter().for_each(|child| parent.assert_goes_on(*child));
    assert_eq!(files(scratch.path()), recorded);
}

#[test]
fn children_of_python_are_recorded_and_left_alone_again() {
    for python in pythons().iter().filter(|python| ["3.9", "3.11", "3.13t", "3.14"].contains(&python.minor.as_str())) {
        let scratch = Scratch::new("attach-family-python");
        let mut command = Command::new(&python.path);
        attach_to(command.args(["-W", "ignore"]).arg(fixture("attach/family.py")), &scratch, &["f", "s", "m"]);
    }
}

#[test]
fn a_child_that_does_nothing_before_the_end_is_not_recorded_afterwards() {
    let scratch = Scratch::new("attach-family-idle");
    let capture = scratch.join("capture.bin");
    let mut parent = Parent::start(&mut family(&scratch), scratch.path());
    let attached = Attached::start(parent.process.id(), &capture);
    let idle = parent.start_child("i");
    let busy = parent.start_working_child("f");
    attached.detach();
    assert_eq!(children_with_captures(&capture), [busy]);
    fs::write(scratch.join("go"), "").unwrap();
    parent.assert_goes_on(idle);
    assert_eq!(children_with_captures(&capture), [busy]);
}

/// Whose child a process is.
fn parent_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap().parse().unwrap()
}

/// In a mount namespace of its own, with a root that can't be written to but for the folder of the test.
#[test]
fn children_of_a_process_with_other_files_are_recorded_until_they_become_other_programs() {
    let scratch = Scratch::new("attach-family-namespace");
    // Its own files beside those of the recording.
    let (inside, outside) = (scratch.join("inside"), scratch.join("outside"));
    [&inside, &outside].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    let script = "mount --rbind / /mnt && mount -o remount,bind,ro /mnt && mount --rbind \"$1\" \"/mnt$1\" && \
                  exec chroot /mnt sh -c 'cd \"$1\" && exec \"$0\"' \"$0\" \"$1\"";
    let mut outer = Command::new("unshare");
    outer.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    outer.arg(family(&scratch).get_program()).arg(&inside);
    let mut parent = Parent::start(&mut outer, &inside);
    let before = parent.start_working_child("f");
    let pid = parent_of(before);
    for name in ["first.bin", "second.bin"] {
        let capture = outside.join(name);
        let mut attached = Attached::start(pid, &capture);
        let mut said = String::new();
        attached.stderr.read_line(&mut said).unwrap();
        assert!(said.contains("children are recorded until they become other programs"), "{said}");
        let forked = [(); 5].map(|()| parent.start_working_child("f"));
        let other = parent.start_working_child("s");
        let said = attached.detach();
        assert!(said.contains("with its children: 6 processes"), "{said}");
        assert_recorded(&capture, &forked);
        assert_eq!(children_with_captures(&capture).len(), forked.len());
        let recorded = files(&outside);
        let after = parent.start_working_child("f");
        forked.into_iter().chain([other, before, after]).for_each(|child| parent.assert_goes_on(child));
        assert_eq!(files(&outside), recorded);
        // Logs that nobody took are gone.
        assert!(recorded.keys().all(|name| !name.contains("spare")), "{recorded:?}");
    }
}

#[test]
fn when_the_process_is_killed_its_children_are_detached_from() {
    let scratch = Scratch::new("attach-family-killed");
    let capture = scratch.join("capture.bin");
    let script = scratch.join("orphan.py");
    let code = "import os, time\n\
                while not os.path.exists('fork'): time.sleep(0.01)\n\
                if os.fork() == 0:\n    \
                    while True:\n        \
                        kept = bytearray(1_000_001)\n        \
                        time.sleep(0.001)\n        \
                        open('alive', 'a').write('.')\n\
                time.sleep(1000)\n";
    fs::write(&script, code).unwrap();
    let python = pythons().last().unwrap();
    let parent = Parent::start(Command::new(&python.path).arg(&script), scratch.path());
    let mut attached = Attached::start(parent.process.id(), &capture);
    fs::write(scratch.join("fork"), "").unwrap();
    let alive = scratch.join("alive");
    let n_alive = || fs::metadata(&alive).map_or(0, |metadata| metadata.len());
    wait_until("the child works", || n_alive() > 20);
    drop(parent);
    let mut said = String::new();
    attached.stderr.read_to_string(&mut said).unwrap();
    assert!(attached.memtrace.wait().unwrap().success(), "{said}");
    assert!(said.contains("with its children: 2 processes") && !said.contains("can't be detached"), "{said}");
    let children = children_with_captures(&capture);
    assert_recorded(&capture, &children);
    let (enough, recorded) = (n_alive() + 20, files(scratch.path()));
    wait_until("the child goes on", || n_alive() >= enough);
    let mut now = files(scratch.path());
    now.insert("alive".into(), recorded["alive"]);
    assert_eq!(now, recorded);
    children.into_iter().for_each(end);
}

/// A server without memtrace, with its port; killed at the end.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(folder: &Path) -> Server {
        Server::start_by(&mut Command::new(support::servers()), folder)
    }

    fn start_by(python: &mut Command, folder: &Path) -> Server {
        let mut process = python
            .args(["-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "--max-requests", "30", "--chdir"])
            .arg(fixture("children"))
            .arg("service:app")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut errors = BufReader::new(process.stderr.take().unwrap());
        let mut server = Server { process, port: 0 };
        server.port = gunicorn::port(&mut errors);
        thread::spawn(move || errors.read_to_string(&mut String::new()));
        server
    }

    /// The worker that answered; `None` when none did.
    fn ask(&self) -> Option<u32> {
        gunicorn::ask(self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn workers_that_a_server_starts_meanwhile_are_recorded_and_serve_on_afterwards() {
    let scratch = Scratch::new("attach-gunicorn");
    let mut server = Server::start(scratch.path());
    wait_until("a worker answers", || server.ask().is_some());
    let capture = scratch.join("capture.bin");
    let attached = Attached::start(server.process.id(), &capture);
    record_workers(&server, attached, &capture);
    kill(Pid::from_raw(server.process.id() as i32), Signal::SIGTERM).unwrap();
    assert!(server.process.wait().unwrap().success());
}

/// As in a container: numbers and files are others than ours.
#[test]
fn workers_that_a_server_in_other_namespaces_starts_are_recorded_and_serve_on_afterwards() {
    let scratch = Scratch::new("attach-gunicorn-namespaces");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let server = Server::start_by(command.arg(support::servers()), scratch.path());
    wait_until("a worker answers", || server.ask().is_some());
    let children = format!("/proc/{0}/task/{0}/children", server.process.id());
    let pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let capture = scratch.join("capture.bin");
    let attached = Attached::start(pid, &capture);
    record_workers(&server, attached, &capture);
}

fn record_workers(server: &Server, attached: Attached, capture: &Path) {
    // Until those that were there before have been replaced, and the new ones have worked.
    let mut answers = BTreeMap::<u32, u32>::new();
    wait_until("workers come and go", || {
        server.ask().into_iter().for_each(|worker| *answers.entry(worker).or_default() += 1);
        children_with_captures(capture).iter().filter(|worker| answers.get(worker) > Some(&5)).count() >= 3
    });
    attached.detach();
    let recorded = children_with_captures(capture);
    let has_worked = |worker: &&u32| answers.get(worker) > Some(&5);
    assert_recorded_workers(capture, &recorded.iter().copied().filter(|it| has_worked(&it)).collect::<Vec<_>>());
    let before = files(capture.parent().unwrap());
    let mut n_answers = 0;
    wait_until("the server serves on", || {
        n_answers += u32::from(server.ask().is_some());
        n_answers >= 80
    });
    assert_eq!(files(capture.parent().unwrap()), before);
}

/// The workers' captures have what their answers have left behind, and the report of all of them as well.
fn assert_recorded_workers(capture: &Path, workers: &[u32]) {
    for worker in workers {
        let events = support::events_from(&of_child(capture, *worker), 100_000);
        let n_large = events.iter().filter(|event| event["stack"].to_string().contains("\"app\"")).count();
        assert!(n_large > 5, "{worker}: {n_large}");
        assert_eq!(events.last().unwrap()["event"], "end", "{worker}");
    }
    let all = children_with_captures(capture).into_iter().map(|pid| of_child(capture, pid));
    let table = support::run(memtrace().args(["table", "--json"]).arg(capture).args(all));
    assert!(String::from_utf8_lossy(&table.stdout).contains("service.py"));
}
