//! `memtrace run --follow-fork`: each child has a capture of its own, however it was started and however it ended.

#[path = "support/gunicorn.rs"]
mod gunicorn;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Python, Scratch, fixture, memtrace, pythons, text};

/// Runs a program with its children recorded into `capture` and `capture.*`.
fn follow(scratch: &Scratch, program: &[&Path]) -> Output {
    support::run(
        memtrace().args(["run", "--follow-fork", "-o"]).arg(scratch.join("capture")).args(program).stdin(Stdio::null()),
    )
}

/// The captures of a run, that of the program itself first.
fn captures(scratch: &Scratch) -> Vec<PathBuf> {
    let entries = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("capture")).collect();
    found.sort();
    found
}

/// What a capture says, without allocations below a megabyte; checks that it is whole.
#[track_caller]
fn events(capture: &Path) -> Vec<Value> {
    let events = support::events_from(capture, 1_000_000);
    let damage: Vec<_> = events.iter().filter(|event| event["event"] == "damage").collect();
    assert!(damage.is_empty(), "{}: {damage:?}", capture.display());
    assert_eq!(events.last().unwrap()["event"], "end", "{}", capture.display());
    events
}

/// The sizes of large allocations.
fn sizes(events: &[Value]) -> Vec<u64> {
    events.iter().filter(|event| event["event"] == "alloc").filter_map(|event| event["size"].as_u64()).collect()
}

fn compile(scratch: &Scratch, name: &str) -> PathBuf {
    let program = scratch.join(name);
    let source = fixture("children").join(format!("{name}.c"));
    support::run(Command::new("gcc").args(["-O1", "-pthread", "-o"]).arg(&program).arg(&source));
    program
}

#[test]
fn every_way_of_making_a_child_gives_it_a_capture() {
    let scratch = Scratch::new("ways");
    let program = compile(&scratch, "ways");
    let output = follow(&scratch, &[&program]);
    let mut by_parent = BTreeMap::<String, Vec<u64>>::new();
    let mut root = 0;
    for capture in captures(&scratch) {
        let events = events(&capture);
        let head = &events[0];
        let mut own = sizes(&events);
        let parent = match head["parent_pid"].as_u64() {
            None => {
                root = head["pid"].as_u64().unwrap();
                "none"
            }
            Some(parent) if parent == root => "root",
            Some(_) => "child",
        };
        let n_images = events.iter().filter(|event| event["event"] == "image").count();
        assert_eq!(n_images, if own == [2_000_004, 2_000_005] { 2 } else { 1 }, "{own:?}");
        by_parent.entry(parent.into()).or_default().append(&mut own);
    }
    by_parent.values_mut().for_each(|sizes| sizes.sort());
    let of_root = [1, 3, 4, 5, 6, 6, 6, 7, 8, 9, 10, 11, 12].map(|number| 2_000_000 + number).to_vec();
    let expected = [("none", vec![1_000_001]), ("root", of_root), ("child", vec![2_000_002])];
    assert_eq!(by_parent, expected.map(|(parent, sizes)| (parent.to_string(), sizes)).into());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("with its children: 14 processes"), "{said}");
    assert!(said.contains("flamegraph") && said.contains("capture.*"), "{said}");
}

#[test]
fn a_signal_handler_may_fork_inside_a_hook_while_other_threads_are_in_theirs() {
    let scratch = Scratch::new("handler-forks");
    let program = compile(&scratch, "handler_forks");
    let output = follow(&scratch, &[&program]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "40 of 40\n", "{}", text(&output));
    captures(&scratch).iter().for_each(|capture| drop(events(capture)));
}

#[test]
fn all_start_methods_of_multiprocessing_are_followed() {
    // Their ways of starting a process differ: fork, vfork, posix_spawn.
    for python in pythons().iter().filter(|python| ["3.9", "3.11", "3.14"].contains(&python.minor.as_str())) {
        let scratch = Scratch::new("start-methods");
        let output = follow(&scratch, &[&python.path, &fixture("children/start_methods.py")]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{}: {}", python.minor, text(&output));
        let mut n_of = BTreeMap::<u64, usize>::new();
        let mut functions = 0;
        for capture in captures(&scratch) {
            for event in events(&capture).iter().filter(|event| event["event"] == "alloc") {
                *n_of.entry(event["size"].as_u64().unwrap() / 3_000_000).or_default() += 1;
                functions += usize::from(event["stack"].to_string().contains("\"work\""));
            }
        }
        assert_eq!((n_of.get(&1), functions), (Some(&12), 12), "{}: {n_of:?}", python.minor);
    }
}

#[test]
fn a_child_with_an_environment_of_its_own_is_followed_and_sees_that_environment() {
    let python = pythons().last().unwrap();
    let scratch = Scratch::new("own-environment");
    let script = scratch.join("start.py");
    let code = "import os, subprocess, sys\n\
                child = 'import os; kept = bytearray(5_000_001); print(sorted(os.environ))'\n\
                for close in (True, False):\n    \
                    subprocess.run([sys.executable, '-I', '-c', child], env={'A': '1'}, close_fds=close, check=True)\n";
    fs::write(&script, code).unwrap();
    let output = follow(&scratch, &[&python.path, &script]);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        assert!(line == "['A']" || line == "['A', 'LC_CTYPE']", "{line}");
    }
    let sizes: Vec<u64> = captures(&scratch).iter().flat_map(|capture| sizes(&events(capture))).collect();
    assert_eq!(sizes.iter().filter(|size| **size > 5_000_000).count(), 2, "{sizes:?}");
}

/// By functions of glibc 2.39 and later, which programs find where they are and nowhere else.
#[test]
fn what_is_spawned_with_a_descriptor_is_followed() {
    for python in pythons() {
        let scratch = Scratch::new("pidfd-spawn");
        let script = scratch.join("start.py");
        let code = "import ctypes, os, sys\n\
                    child = [sys.executable, '-c', 'kept = bytearray(5_000_001)', None]\n\
                    words = lambda texts: (ctypes.c_char_p * len(texts))(*[text and text.encode() for text in texts])\n\
                    for name in ('pidfd_spawn', 'pidfd_spawnp'):\n    \
                        spawn = getattr(ctypes.CDLL(None), name, None)\n    \
                        if spawn is None:\n        \
                            print('none')\n        \
                            continue\n    \
                        fd = ctypes.c_int()\n    \
                        path = sys.executable.encode()\n    \
                        assert spawn(ctypes.byref(fd), path, None, None, words(child), words([None])) == 0\n    \
                        print(os.waitid(os.P_PIDFD, fd.value, os.WEXITED).si_status)\n";
        fs::write(&script, code).unwrap();
        let plain = support::run(Command::new(&python.path).arg(&script));
        let output = follow(&scratch, &[&python.path, &script]);
        assert_eq!(output.stdout, plain.stdout, "{}: {}", python.minor, text(&output));
        let n_spawned = String::from_utf8_lossy(&output.stdout).lines().filter(|line| *line == "0").count();
        let sizes: Vec<u64> = captures(&scratch).iter().flat_map(|capture| sizes(&events(capture))).collect();
        assert_eq!(sizes.iter().filter(|size| **size > 5_000_000).count(), n_spawned, "{}: {sizes:?}", python.minor);
    }
}

/// Commands whose meaning depends on how the shell was started: its name, its environment, its line numbers, its end.
const COMMANDS: [&str; 14] = [
    "echo \"it's\" '$0' $0 $# $- \\",
    "",
    "export -p",
    "env | sort",
    "unset HOME; set | grep -c -e MEMTRACE_CAPTURE -e LD_PRELOAD=.*memtrace",
    "exit 7",
    "kill -9 $$",
    "no-such-command-here",
    "echo before; if",
    "cat <<end\nfirst $((1 + 1))\nend\nfalse",
    "(exit 3); echo $?; trap 'echo trapped' EXIT",
    "exec sh -c 'echo $PPID' | grep -c .",
    "-c 'echo option'",
    "cd /; pwd; echo \"$PWD $SHLVL\"",
];

#[test]
fn what_system_and_popen_start_is_followed_and_does_what_it_would_do() {
    let scratch = Scratch::new("shell");
    let program = compile(&scratch, "shell");
    let mut plain = Command::new(&program);
    let plain = plain.args(COMMANDS).stdin(Stdio::null()).output().unwrap();
    let output = memtrace()
        .args(["run", "-q", "--follow-fork", "-o"])
        .arg(scratch.join("capture"))
        .arg(&program)
        .args(COMMANDS)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(text(&output), text(&plain));
    let n_shells = 2 * COMMANDS.iter().filter(|command| !command.starts_with('-')).count() + 1;
    assert!(captures(&scratch).len() > n_shells, "{:?}", captures(&scratch));
}

#[test]
fn what_python_starts_by_a_shell_is_followed() {
    let python = pythons().last().unwrap();
    let scratch = Scratch::new("python-shell");
    let script = scratch.join("start.py");
    let child = "kept = bytearray(5_000_001)";
    let code = format!("import os, sys\nassert os.system(f'{{sys.executable}} -c \"{child}\"') == 0\n");
    fs::write(&script, code).unwrap();
    follow(&scratch, &[&python.path, &script]);
    let sizes: Vec<u64> = captures(&scratch).iter().flat_map(|capture| sizes(&events(capture))).collect();
    assert!(sizes.iter().any(|size| *size > 5_000_000), "{sizes:?}");
}

/// A server under load, with its port.
struct Server {
    launcher: Child,
    errors: BufReader<std::process::ChildStderr>,
    port: u16,
}

impl Server {
    fn start(scratch: &Scratch, python: &Path, arguments: &[&str]) -> Server {
        let mut launcher = memtrace()
            .args(["run", "--follow-fork", "-o"])
            .arg(scratch.join("capture"))
            .arg(python)
            .args(["-m", "gunicorn", "--bind", "127.0.0.1:0", "--chdir"])
            .arg(fixture("children"))
            .args(arguments)
            .arg("service:app")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut errors = BufReader::new(launcher.stderr.take().unwrap());
        let port = gunicorn::port(&mut errors);
        Server { launcher, errors, port }
    }

    /// One answer: the process id of the worker that gave it; `None` when it gave none.
    fn ask(&self) -> Option<u32> {
        gunicorn::ask(self.port)
    }

    /// Ends it as an operator does; what it and memtrace said.
    fn end(mut self) -> String {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.launcher.id() as i32), nix::sys::signal::SIGTERM)
            .unwrap();
        let mut said = String::new();
        self.errors.read_to_string(&mut said).unwrap();
        assert!(self.launcher.wait().unwrap().success(), "{said}");
        said
    }
}

#[test]
fn the_merged_report_of_a_server_has_the_workers_that_were_killed_and_those_that_were_recycled() {
    let scratch = Scratch::new("gunicorn");
    let python = support::servers();
    let server = Server::start(&scratch, &python, &["--workers", "3", "--max-requests", "40"]);
    let start = Instant::now();
    let mut answers = BTreeMap::<u32, u64>::new();
    let mut killed = None;
    // Until one was killed and others have come and gone.
    while answers.len() < 8 || answers.values().sum::<u64>() < 250 {
        assert!(start.elapsed() < Duration::from_secs(120), "{answers:?}");
        match server.ask() {
            Some(pid) => *answers.entry(pid).or_default() += 1,
            None => thread::sleep(Duration::from_millis(20)),
        }
        if killed.is_none()
            && let Some((&worker, _)) = answers.iter().find(|(_, n_answers)| **n_answers >= 10)
        {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker as i32), nix::sys::signal::SIGKILL).unwrap();
            killed = Some(worker);
        }
    }
    let said = server.end();
    let captures = captures(&scratch);
    for (worker, n_answers) in &answers {
        let capture = scratch.join(&format!("capture.{worker}"));
        assert!(captures.contains(&capture), "{worker} is not in {captures:?}\n{said}");
        let n_large = support::events_from(&capture, 100_000)
            .iter()
            .filter(|event| event["event"] == "alloc" && event["stack"].to_string().contains("\"app\""))
            .count() as u64;
        // Of an answer that was interrupted by the end, the allocation is there all the same.
        assert!(
            (*n_answers..=n_answers + 3).contains(&n_large),
            "{worker}: {n_large} allocations, {n_answers} answers"
        );
    }
    let report = scratch.join("report.html");
    support::run(memtrace().arg("flamegraph").args(&captures).arg("-o").arg(&report));
    let table = support::run(memtrace().args(["table", "--json"]).args(&captures));
    assert!(String::from_utf8_lossy(&table.stdout).contains("service.py"), "{}", text(&table));
}

#[test]
fn a_daemon_that_outlives_the_program_keeps_a_whole_capture() {
    let python: &Python = pythons().last().unwrap();
    let scratch = Scratch::new("daemon");
    let script = scratch.join("daemon.py");
    // The program ends when its child is being recorded: on a busy machine that may not have begun before.
    let code = "import os, sys, time\n\
                read, write = os.pipe()\n\
                if os.fork():\n    \
                    os.read(read, 1)\n\
                else:\n    \
                    kept = bytearray(6_000_001)\n    \
                    os.setsid()\n    \
                    os.write(write, b'x')\n    \
                    os.close(1); os.close(2)\n    \
                    while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n    \
                    more = bytearray(6_000_002)\n    \
                    open(sys.argv[1] + '.done', 'w').close()\n";
    fs::write(&script, code).unwrap();
    let go = scratch.join("go");
    let output = follow(&scratch, &[&python.path, &script, &go]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("1 of them run on without memtrace"), "{said}");
    fs::write(&go, "").unwrap();
    let done = scratch.join("go.done");
    let start = Instant::now();
    while !done.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the daemon does not end");
        thread::sleep(Duration::from_millis(10));
    }
    let captures = captures(&scratch);
    assert_eq!(captures.len(), 2, "{captures:?}");
    assert_eq!(sizes(&support::events_from(&captures[1], 6_000_000)).len(), 2);
}
