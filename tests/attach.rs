//! `memtrace attach` and `memtrace detach`: processes that were started without memtrace, what is recorded of them, and
//! that they go on as if nothing had been.
//!
//! The short tests attach a few times; the long tier a hundred times to each kind of process.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use support::{Python, Scratch, fixture, memtrace, pythons, stats, text};

/// A process that is not memtrace's child; killed at the end.
struct Target {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Target {
    fn start(command: &mut Command) -> Target {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Target { process, stdin, stdout }
    }

    /// One of the busy ones, when it is.
    fn start_busy(command: &mut Command) -> Target {
        let mut target = Target::start(command);
        assert_eq!(target.line(), "ready");
        target
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn tell(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"x\n").unwrap();
    }

    /// Processor time so far, in ticks.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Whether it goes on doing what it does all the time.
    fn assert_goes_on(&mut self) {
        let (before, start) = (self.ticks(), Instant::now());
        while self.ticks() < before + 3 {
            let ended = self.process.try_wait().unwrap();
            assert_eq!(ended, None, "the process has ended");
            assert!(start.elapsed() < Duration::from_secs(30), "the process hangs");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A fixture, built.
fn build(scratch: &Scratch, name: &str, flags: &[&str]) -> PathBuf {
    let program = scratch.join(name.trim_end_matches(".c"));
    let source = fixture("attach").join(name);
    support::run(Command::new("gcc").args(["-O1", "-g", "-pthread", "-o"]).arg(&program).arg(source).args(flags));
    program
}

fn busy_python(python: &Python, n_threads: u32) -> Target {
    let mut command = Command::new(&python.path);
    Target::start_busy(command.arg(fixture("attach/busy.py")).arg(n_threads.to_string()))
}

fn attach(pid: u32, capture: &Path, arguments: &[&str]) -> Output {
    memtrace().args(["attach", &pid.to_string(), "-f", "-o"]).arg(capture).args(arguments).output().unwrap()
}

fn must_attach(pid: u32, capture: &Path, arguments: &[&str]) -> String {
    let output = attach(pid, capture, arguments);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn n_allocations(capture: &Path) -> u64 {
    stats(capture)["total_num_allocations"].as_u64().unwrap()
}

/// Of each thread its number, niceness and policy.
fn precedence(pid: u32) -> Vec<[String; 3]> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut found: Vec<[String; 3]> = tasks
        .map(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            [task.file_name().to_str().unwrap(), fields[16], fields[38]].map(String::from)
        })
        .collect();
    found.sort();
    found
}

fn attach_to_new_c_processes(n_times: u32) {
    let scratch = Scratch::new("attach-c");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    for n_threads in [1, 3] {
        for _ in 0..n_times {
            let mut target = Target::start_busy(Command::new(&program).arg(n_threads.to_string()));
            while precedence(target.pid()).len() < n_threads {
                thread::yield_now();
            }
            let before = precedence(target.pid());
            must_attach(target.pid(), &capture, &["--duration", "0.05"]);
            assert!(n_allocations(&capture) > 100);
            assert_eq!(precedence(target.pid()), before);
            target.assert_goes_on();
        }
    }
}

fn attach_to_new_python_processes(n_times: u32) {
    let scratch = Scratch::new("attach-python");
    let capture = scratch.join("capture.bin");
    for python in pythons() {
        for n_threads in [1, 3] {
            for _ in 0..n_times {
                let mut target = busy_python(python, n_threads);
                must_attach(target.pid(), &capture, &["--duration", "0.1"]);
                let output = support::run(memtrace().arg("table").arg(&capture).args(["--json"]));
                let table = String::from_utf8(output.stdout).unwrap();
                assert!(table.contains("take") && table.contains("busy.py"), "{} {table}", python.minor);
                target.assert_goes_on();
            }
        }
    }
}

#[test]
fn busy_c_processes_are_recorded_and_go_on() {
    attach_to_new_c_processes(3);
}

#[test]
fn busy_python_processes_are_recorded_and_go_on() {
    attach_to_new_python_processes(1);
}

#[test]
#[ignore = "long tier"]
fn a_hundred_busy_c_processes_are_recorded_and_go_on() {
    attach_to_new_c_processes(100);
}

#[test]
#[ignore = "long tier"]
fn a_hundred_busy_python_processes_are_recorded_and_go_on() {
    attach_to_new_python_processes(100);
}

/// A Python that waits for a line, then says `done`.
const WAITING: &str = "print('ready', flush=True); input(); print('done', flush=True)";

fn has_remote_execution(python: &Python) -> bool {
    python.minor.trim_end_matches('t').split_once('.').unwrap().1.parse::<u32>().unwrap() >= 14
}

/// From 3.14 on they run what they are asked to from outside.
fn pythons_with_remote_execution() -> impl Iterator<Item = &'static Python> {
    pythons().iter().filter(|python| has_remote_execution(python))
}

#[test]
fn an_interpreter_that_runs_scripts_from_outside_loads_the_recorder_itself() {
    let scratch = Scratch::new("attach-remote");
    let capture = scratch.join("capture.bin");
    for python in pythons_with_remote_execution() {
        for (n_threads, method) in [(1, "remote-exec"), (3, "remote-exec"), (1, "auto")] {
            let mut target = busy_python(python, n_threads);
            // The second time the recorder is there already.
            for _ in 0..2 {
                let said = must_attach(target.pid(), &capture, &["-v", "--duration", "0.1", "--method", method]);
                // The machine may be too busy for a quarter of a second.
                assert!(said.contains("its Python has loaded it") || method == "auto", "{said}");
                let table = support::run(memtrace().arg("table").arg(&capture).args(["--json"]));
                let table = String::from_utf8(table.stdout).unwrap();
                assert!(table.contains("take") && table.contains("busy.py"), "{} {table}", python.minor);
            }
            target.assert_goes_on();
            assert_eq!(left_in_tmp(target.pid()), 0);
        }
    }
}

/// Folders that were made there for a process.
fn left_in_tmp(pid: u32) -> usize {
    let entries = fs::read_dir("/tmp").unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("memtrace-{pid}-"))).count()
}

#[test]
fn an_interpreter_in_other_namespaces_loads_the_recorder_itself() {
    let scratch = Scratch::new("attach-remote-namespaces");
    let capture = scratch.join("capture.bin");
    for python in pythons_with_remote_execution() {
        let unshare = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut command = Command::new("unshare");
        command.args(unshare).arg(&python.path).arg(fixture("attach/busy.py")).arg("2");
        let outer = Target::start_busy(&mut command);
        let children = format!("/proc/{0}/task/{0}/children", outer.pid());
        let inner = fs::read_to_string(&children).unwrap().trim().parse().unwrap();
        must_attach(inner, &capture, &["--duration", "0.1", "--method", "remote-exec"]);
        assert!(n_allocations(&capture) > 100);
        assert!(Path::new(&format!("/proc/{inner}/exe")).exists());
    }
}

#[test]
fn an_interpreter_that_waits_is_entered_otherwise_and_runs_no_script_later() {
    let scratch = Scratch::new("attach-remote-waiting");
    let capture = scratch.join("capture.bin");
    for python in pythons_with_remote_execution() {
        let mut target = Target::start_busy(Command::new(&python.path).args(["-c", WAITING]));
        let output = attach(target.pid(), &capture, &["--duration", "0.1", "--method", "remote-exec"]);
        assert!(text(&output).contains("has not come to execute Python code"), "{}", text(&output));
        let said = must_attach(target.pid(), &capture, &["-v", "--duration", "0.1"]);
        assert!(said.contains("which was held up"), "{said}");
        target.tell();
        assert_eq!(target.line(), "done");
        assert!(target.process.wait().unwrap().success());
    }
}

#[test]
fn who_can_not_run_scripts_from_outside_is_entered_otherwise() {
    let scratch = Scratch::new("attach-remote-refused");
    let capture = scratch.join("capture.bin");
    let check = |target: &mut Target, reason: &str| {
        let output = attach(target.pid(), &capture, &["--duration", "0.1", "--method", "remote-exec"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(reason) && said.lines().count() == 1, "{said}");
        let said = must_attach(target.pid(), &capture, &["-v", "--duration", "0.1"]);
        assert!(said.contains("which was held up"), "{said}");
        target.assert_goes_on();
    };
    check(&mut Target::start_busy(&mut Command::new(build(&scratch, "busy.c", &[]))), "there is no Python in it");
    for python in pythons() {
        let mut command = Command::new(&python.path);
        command.arg(fixture("attach/busy.py")).arg("1").env("PYTHON_DISABLE_REMOTE_DEBUG", "1");
        let reason = if has_remote_execution(python) { "remote debugging disabled" } else { "older than 3.14" };
        check(&mut Target::start_busy(&mut command), reason);
    }
    for python in pythons_with_remote_execution() {
        let mut command = Command::new(&python.path);
        let busy = "import sys; sys.modules['_ctypes'] = None; print('ready', flush=True)\nwhile True: bytes(2000)";
        check(&mut Target::start_busy(command.args(["-c", busy])), "_ctypes");
    }
}

#[test]
fn a_process_that_waits_in_a_system_call_goes_on_waiting() {
    let scratch = Scratch::new("attach-waiting");
    let program = build(&scratch, "waiting.c", &[]);
    for (call, expected) in [
        ("read", "read 1 Success"),
        ("poll", "poll 1 Success"),
        ("epoll", "epoll 1 Success"),
        ("accept", "accept 1 Success"),
        ("condition", "condition 0 Success"),
        ("nanosleep", "nanosleep 0 Success"),
        ("pause", "pause -1 Interrupted system call"),
    ] {
        let capture = scratch.join(&format!("{call}.bin"));
        let mut target = Target::start(Command::new(&program).arg(call));
        assert_eq!(target.line(), "ready");
        let port = if call == "accept" { target.line() } else { String::new() };
        let mut memtrace = memtrace()
            .args(["attach", "-v", "-o"])
            .arg(&capture)
            .arg(target.pid().to_string())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(memtrace.stderr.take().unwrap());
        stderr.read_line(&mut said).unwrap();
        assert!(said.contains("held up for"), "{call}: {said}");
        match call {
            "accept" => drop(TcpStream::connect(format!("127.0.0.1:{port}")).unwrap()),
            "pause" => drop(support::run(Command::new("kill").args(["-USR1", &target.pid().to_string()]))),
            "nanosleep" => {}
            _ => target.tell(),
        }
        assert_eq!(target.line(), expected);
        assert_eq!(target.line(), "done");
        support::run(support::memtrace().arg("detach").arg(target.pid().to_string()));
        assert!(memtrace.wait().unwrap().success());
        assert_eq!(target.process.try_wait().unwrap(), None);
        let leaks = support::run(support::memtrace().arg("summary").arg(&capture).args(["--leaks", "--json"]));
        let leaks = String::from_utf8(leaks.stdout).unwrap();
        assert!(leaks.contains("\"leak\"") && leaks.contains("1234560"), "{call}: {leaks}");
    }
}

#[test]
fn a_process_in_other_namespaces_is_recorded() {
    let scratch = Scratch::new("attach-namespaces");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    // `exec` leaves one process between us and the target, which `--kill-child` takes with it.
    let unshare = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let outer = Target::start_busy(Command::new("unshare").args(unshare).arg(&program).arg("2"));
    let children = format!("/proc/{0}/task/{0}/children", outer.pid());
    let inner = fs::read_to_string(&children).unwrap().trim().parse().unwrap();
    must_attach(inner, &capture, &["--duration", "0.1"]);
    assert!(n_allocations(&capture) > 100);
    assert!(Path::new(&format!("/proc/{inner}/exe")).exists());
}

#[test]
fn a_process_with_few_descriptors_is_recorded() {
    let scratch = Scratch::new("attach-limits");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    let mut target =
        Target::start_busy(Command::new("prlimit").args(["--nofile=8", "--core=0"]).arg(&program).arg("2"));
    must_attach(target.pid(), &capture, &["--duration", "0.1"]);
    assert!(n_allocations(&capture) > 100);
    target.assert_goes_on();
}

/// It can't be attached to, and is told so in one sentence.
fn assert_refused(pid: u32, sentence: &str) {
    let scratch = Scratch::new("attach-refused");
    let capture = scratch.join("capture.bin");
    let output = attach(pid, &capture, &["--duration", "0.1"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(sentence), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!capture.exists());
}

#[test]
fn a_process_that_can_not_be_recorded_is_left_alone() {
    let scratch = Scratch::new("attach-obstacles");
    let linked_statically = build(&scratch, "busy.c", &["-static"]);
    let mut target = Target::start_busy(&mut Command::new(linked_statically));
    assert_refused(target.pid(), "is statically linked");
    target.assert_goes_on();

    let filtered = build(&scratch, "filtered.c", &[]);
    for (kind, sentence) in [("strict", "may only read, write and exit"), ("deadly", "system calls (seccomp)")] {
        let mut target = Target::start(Command::new(&filtered).arg(kind));
        while fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap().contains("Seccomp:\t0") {
            thread::sleep(Duration::from_millis(1));
        }
        assert_refused(target.pid(), sentence);
        target.assert_goes_on();
    }

    let mut target = Target::start(Command::new("sleep").arg("1000"));
    support::run(Command::new("kill").args(["-STOP", &target.pid().to_string()]));
    while !fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap().contains("State:\tT") {
        thread::sleep(Duration::from_millis(1));
    }
    assert_refused(target.pid(), "is stopped");

    target.process.kill().unwrap();
    // Not waited for: it stays a zombie.
    while !fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap().contains("State:\tZ") {
        thread::sleep(Duration::from_millis(1));
    }
    assert_refused(target.pid(), "has ended already");
    assert_refused(0x3fff_ffff, "there is no process");
}

#[test]
fn a_process_that_is_traced_already_is_left_alone() {
    let scratch = Scratch::new("attach-traced");
    let (busy, tracing) = (build(&scratch, "busy.c", &[]), build(&scratch, "tracing.c", &[]));
    let mut target = Target::start_busy(&mut Command::new(busy));
    let tracer = Target::start_busy(Command::new(tracing).arg(target.pid().to_string()));
    assert_refused(target.pid(), &format!("is being traced already, by process {} (tracing)", tracer.pid()));
    target.assert_goes_on();
    drop(tracer);
    must_attach(target.pid(), &scratch.join("capture.bin"), &["--duration", "0.05"]);
    target.assert_goes_on();
}

/// `busy.c` by another compiler or for another processor, if that is installed here.
fn build_otherwise(scratch: &Scratch, compiler: &str, flag: &str) -> Option<PathBuf> {
    let program = scratch.join("busy");
    let mut command = Command::new(compiler);
    command.args(["-O1", "-pthread", flag, "-o"]).arg(&program).arg(fixture("attach/busy.c"));
    let is_built = command.output().is_ok_and(|output| output.status.success());
    if !is_built {
        eprintln!("left out: {compiler} {flag} builds nothing here");
    }
    is_built.then_some(program)
}

#[test]
fn a_program_of_another_c_library_or_processor_is_left_alone() {
    let scratch = Scratch::new("attach-foreign");
    for (compiler, flag, sentence) in [("musl-gcc", "-O1", "uses musl"), ("gcc", "-m32", "is a 32-bit program")] {
        if let Some(program) = build_otherwise(&scratch, compiler, flag) {
            let mut target = Target::start_busy(Command::new(program).arg("2"));
            assert_refused(target.pid(), sentence);
            target.assert_goes_on();
        }
    }
}

#[test]
fn a_process_with_a_read_only_root_is_recorded() {
    let scratch = Scratch::new("attach-read-only");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    let script = "mount --rbind / /mnt && mount -o remount,bind,ro /mnt && exec chroot /mnt \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&program).arg("2");
    let mut target = Target::start_busy(&mut command);
    must_attach(target.pid(), &capture, &["--duration", "0.1"]);
    assert!(n_allocations(&capture) > 100);
    target.assert_goes_on();
}

#[test]
fn a_process_of_another_user_is_recorded_by_root() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: only root can have processes of another user");
        return;
    }
    let scratch = Scratch::new("attach-user");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    // Anybody may execute it, wherever the folders of the tests are.
    let folder = std::env::temp_dir().join(format!("memtrace-attach-user-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let copy = folder.join("busy");
    fs::copy(program, &copy).unwrap();
    support::run(Command::new("chmod").arg("0755").args([&folder, &copy]));
    let mut command = Command::new("setpriv");
    let mut target =
        Target::start_busy(command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).arg("2"));
    fs::remove_dir_all(folder).unwrap();
    must_attach(target.pid(), &capture, &["--duration", "0.1"]);
    assert!(n_allocations(&capture) > 100);
    target.assert_goes_on();
}

#[test]
fn a_process_that_may_not_write_more_is_recorded_as_far_as_it_may() {
    let scratch = Scratch::new("attach-fsize");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    let mut target = Target::start_busy(Command::new("prlimit").arg("--fsize=1048576").arg(&program));
    // It ends by itself.
    let said = must_attach(target.pid(), &capture, &["--no-compress"]);
    assert!(said.contains("runs on") && said.contains("limit"), "{said}");
    assert!(n_allocations(&capture) > 100);
    target.assert_goes_on();
}

#[test]
fn a_process_without_room_for_the_recorder_is_left_alone() {
    let scratch = Scratch::new("attach-as");
    let program = build(&scratch, "busy.c", &[]);
    let mut target = Target::start_busy(&mut Command::new(program));
    // All that it has, and hardly more.
    target.assert_goes_on();
    let status = fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
    let size = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10;
    let limit = format!("--as={}", size + 400_000);
    support::run(Command::new("prlimit").arg(limit).arg("--pid").arg(target.pid().to_string()));
    assert_refused(target.pid(), "can't load the recorder");
    target.assert_goes_on();
}

#[test]
fn native_stacks_of_a_running_process_have_its_functions() {
    let scratch = Scratch::new("attach-native");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    let mut target = Target::start_busy(Command::new(program).arg("2"));
    must_attach(target.pid(), &capture, &["--duration", "0.1", "--native"]);
    let folded = scratch.join("folded.txt");
    support::run(memtrace().args(["transform", "folded", "-o"]).arg(&folded).arg(&capture));
    let stacks = fs::read_to_string(folded).unwrap();
    let has = |is_one: &dyn Fn(&str) -> bool| stacks.lines().any(is_one);
    assert!(
        has(&|stack| stack.contains(";main (") && stack.contains("busy.c:") && stack.contains(";take (")),
        "{stacks}"
    );
    // Of the other thread.
    assert!(has(&|stack| !stack.contains(";main (") && stack.contains(";work (")), "{stacks}");
    target.assert_goes_on();
}

#[test]
fn a_process_that_replaces_itself_is_recorded_on() {
    let scratch = Scratch::new("attach-exec");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    let mut command = Command::new("bash");
    command.args(["-c", "echo ready; read line; exec \"$0\" 1"]).arg(&program);
    let mut target = Target::start_busy(&mut command);
    let mut keeper = memtrace();
    keeper.args(["attach", "-o"]).arg(&capture).arg(target.pid().to_string());
    let mut keeper = keeper.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut stderr = BufReader::new(keeper.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("recording process"), "{said}");
    target.tell();
    assert_eq!(target.line(), "ready");
    target.assert_goes_on();
    support::run(memtrace().arg("detach").arg(target.pid().to_string()));
    assert!(keeper.wait().unwrap().success());
    assert!(n_allocations(&capture) > 10_000);
    target.assert_goes_on();
}

#[test]
fn a_process_with_a_harmless_filter_is_recorded_by_who_can_read_it() {
    let scratch = Scratch::new("attach-filter");
    let (program, capture) = (build(&scratch, "filtered.c", &[]), scratch.join("capture.bin"));
    let mut target = Target::start(Command::new(program).arg("harmless"));
    while !fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap().contains("Seccomp:\t2") {
        thread::sleep(Duration::from_millis(1));
    }
    let output = attach(target.pid(), &capture, &["--duration", "0.1"]);
    if output.status.success() {
        assert!(n_allocations(&capture) > 100);
    } else {
        assert!(text(&output).contains("only root can see"), "{}", text(&output));
    }
    target.assert_goes_on();
}

/// Both were seen to leave a thread standing, or memtrace waiting for one to stand, until it gave up after half a minute.
#[test]
fn no_thread_is_left_standing_and_none_that_forks_is_waited_for() {
    let scratch = Scratch::new("attach-standing");
    let (program, capture) = (build(&scratch, "seldom.c", &[]), scratch.join("capture.bin"));
    for (arguments, n_times) in [(&[][..], 8), (&["forks"], 12)] {
        for _ in 0..n_times {
            let target = Target::start_busy(Command::new(&program).args(arguments));
            let start = Instant::now();
            must_attach(target.pid(), &capture, &["--duration", "0.05"]);
            assert!(start.elapsed() < Duration::from_secs(25), "memtrace hangs: {arguments:?}");
        }
    }
}

/// Attaches to one process again and again.
fn attach_again_and_again(mut target: Target, n_times: u32, allocates_by_malloc: bool) {
    let scratch = Scratch::new("attach-again");
    let capture = scratch.join("capture.bin");
    for number in 0..n_times {
        // The second half of the recordings is without Python's own allocators.
        let arguments = if number < n_times / 2 { &[][..] } else { &["--no-python-allocators"] };
        must_attach(target.pid(), &capture, &[&["--duration", "0.05"], arguments].concat());
        let stats = stats(&capture);
        let n_allocations = stats["total_num_allocations"].as_u64().unwrap();
        assert!(n_allocations > 100 || !allocates_by_malloc && !arguments.is_empty(), "{stats}");
        let has_objects = stats["allocator_type_distribution"].to_string().contains("PYMALLOC");
        assert!(!has_objects || arguments.is_empty(), "{stats}");
    }
    target.assert_goes_on();
}

#[test]
fn a_process_can_be_attached_to_again() {
    let scratch = Scratch::new("attach-again-c");
    let program = build(&scratch, "busy.c", &[]);
    attach_again_and_again(Target::start_busy(Command::new(program).arg("3")), 6, true);
    for python in pythons() {
        attach_again_and_again(busy_python(python, 2), 4, !python.is_free_threaded());
    }
}

#[test]
#[ignore = "long tier"]
fn a_process_can_be_attached_to_a_hundred_times() {
    let scratch = Scratch::new("attach-again-c");
    let program = build(&scratch, "busy.c", &[]);
    attach_again_and_again(Target::start_busy(Command::new(program).arg("3")), 100, true);
    for python in pythons() {
        attach_again_and_again(busy_python(python, 2), 100, !python.is_free_threaded());
    }
}

#[test]
fn a_process_does_not_grow_each_time_it_is_attached_to() {
    let scratch = Scratch::new("attach-growth");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    let target = Target::start_busy(&mut Command::new(program));
    let mut n_mappings = Vec::new();
    for _ in 0..16 {
        must_attach(target.pid(), &capture, &["--duration", "0.02"]);
        let mappings = fs::read_to_string(format!("/proc/{}/maps", target.pid())).unwrap();
        n_mappings.push(mappings.lines().count());
    }
    // The first ones find out what there is.
    assert!(n_mappings[15] <= n_mappings[3] + 3, "{n_mappings:?}");
}

/// Who traces a process now; 0 when nobody does.
fn tracer_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("TracerPid:\t")).unwrap().parse().unwrap()
}

/// Starts memtrace and kills it with its whole group, so long after it has begun to trace the process. Whether it had.
fn kill_while_it_traces(command: &mut Command, pid: u32, delay: Duration) -> bool {
    let mut memtrace = command.process_group(0).stderr(Stdio::null()).spawn().unwrap();
    while tracer_of(pid) == 0 {
        if memtrace.try_wait().unwrap().is_some() {
            return false;
        }
    }
    thread::sleep(delay);
    // Until it is waited for there is nobody else of this number.
    killpg(Pid::from_raw(memtrace.id() as i32), Signal::SIGKILL).unwrap();
    memtrace.wait().unwrap();
    true
}

/// Kills memtrace when it attaches and when it detaches, at moments all over `window`.
fn kill_memtrace(mut target: Target, n_times: u32, window: Duration) {
    let scratch = Scratch::new("attach-killed");
    let capture = scratch.join("capture.bin");
    let pid = target.pid();
    let mut n_traced = 0;
    for number in 0..n_times {
        let delay = window * number / n_times;
        let mut attach = memtrace();
        attach.args(["attach", &pid.to_string(), "--duration", "0.3", "-f", "--method", "ptrace", "-o"]).arg(&capture);
        n_traced += u32::from(kill_while_it_traces(&mut attach, pid, delay));
        kill_while_it_traces(memtrace().arg("detach").arg(pid.to_string()), pid, delay);
        // Whatever has become of the recording, this ends it, as soon as those who were killed have ended their work.
        let start = Instant::now();
        loop {
            let output = memtrace().arg("detach").arg(pid.to_string()).output().unwrap();
            if output.status.success() || text(&output).contains("is not being recorded") {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{}", text(&output));
            thread::sleep(Duration::from_millis(1));
        }
        target.assert_goes_on();
    }
    assert!(n_traced > n_times / 2, "{n_traced} of {n_times}");
    must_attach(pid, &capture, &["--duration", "0.05"]);
    target.assert_goes_on();
}

fn kill_memtrace_beside_all_kinds(n_times: u32) {
    let scratch = Scratch::new("attach-killed-c");
    let program = build(&scratch, "busy.c", &[]);
    let window = Duration::from_millis(8);
    kill_memtrace(Target::start_busy(Command::new(program).arg("3")), n_times, window);
    kill_memtrace(busy_python(pythons().last().unwrap(), 2), n_times, window);
}

#[test]
fn a_process_survives_that_memtrace_is_killed_while_it_attaches_or_detaches() {
    kill_memtrace_beside_all_kinds(5);
}

#[test]
#[ignore = "long tier"]
fn a_process_survives_that_memtrace_is_killed_at_many_moments() {
    kill_memtrace_beside_all_kinds(50);
}

/// memtrace, attached to a process until it is detached from.
fn keep_attached(pid: u32, capture: &Path) -> Child {
    let mut keeper = memtrace();
    keeper.args(["attach", "-f", "-o"]).arg(capture).arg(pid.to_string());
    let mut keeper = keeper.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(keeper.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("recording process"), "{said}");
    keeper
}

#[test]
fn an_interpreter_has_its_own_allocators_again_afterwards() {
    let scratch = Scratch::new("attach-allocators");
    let capture = scratch.join("capture.bin");
    for python in pythons() {
        for debug in [&[][..], &["-X", "dev"]] {
            let mut command = Command::new(&python.path);
            command.args(debug).arg(fixture("attach/allocators.py"));
            let mut target = Target::start_busy(&mut command);
            let ask = |target: &mut Target| {
                target.tell();
                target.line()
            };
            let before = ask(&mut target);
            for _ in 0..2 {
                let mut keeper = keep_attached(target.pid(), &capture);
                let meanwhile = ask(&mut target);
                // Below debug allocators it does not show.
                assert!(meanwhile != before || !debug.is_empty(), "{}: {meanwhile}", python.minor);
                support::run(memtrace().arg("detach").arg(target.pid().to_string()));
                assert!(keeper.wait().unwrap().success());
                assert_eq!(ask(&mut target), before, "{}", python.minor);
                let stats = stats(&capture);
                let kinds = stats["allocator_type_distribution"].to_string();
                assert!(kinds.contains("PYMALLOC"), "{}: {stats}", python.minor);
            }
        }
    }
}

#[test]
fn a_process_that_is_recorded_is_not_recorded_twice() {
    let scratch = Scratch::new("attach-twice");
    let (program, capture) = (build(&scratch, "busy.c", &[]), scratch.join("capture.bin"));
    let mut target = Target::start_busy(&mut Command::new(program));
    let mut first = keep_attached(target.pid(), &capture);
    assert_refused(target.pid(), "recorded already");
    support::run(memtrace().arg("detach").arg(target.pid().to_string()));
    assert!(first.wait().unwrap().success());
    assert!(n_allocations(&capture) > 100);
    target.assert_goes_on();
    let again = memtrace().arg("detach").arg(target.pid().to_string()).output().unwrap();
    assert!(text(&again).contains("is not being recorded"), "{}", text(&again));
}
