//! What recording an event costs, in instructions: counted by valgrind and compared with the figures of
//! `fixtures/expected/instructions.json`. Instructions and not time, so that the answer is the same on a busy machine.
//!
//! A program runs with two lengths, with the shim and without it: the difference of differences is free of start-up
//! and of the program's own work. It must never pass because nothing was recorded: the capture has to hold the events.
//!
//! `MEMTRACE_BLESS=1` writes the figures that it finds.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use memtrace::{
    capture::info::CaptureInfo,
    launch::log::{Compression, Log},
};
use memtrace_format::options::{CAPTURE_VAR, NativeStacks, OPTIONS_VAR, RecordOptions};

#[path = "support/mod.rs"]
mod support;

use support::Scratch;

/// How much more than the committed figure an event may cost: what another compiler or libc makes of the same code.
const SLACK: f64 = 1.10;
/// Rounds of the short and of the long run.
const ROUNDS: [u64; 2] = [10_000, 20_000];
/// One allocation and one free.
const EVENTS_PER_ROUND: u64 = 2;
/// The interpreters whose figures are kept: their frames differ most, and each of them takes a while under valgrind.
const MINORS: [&str; 2] = ["3.11", "3.13"];

#[test]
fn an_event_of_a_c_program_takes_no_more_instructions_than_it_did() {
    let Some(valgrind) = Valgrind::find() else { return };
    let scratch = Scratch::new("instructions");
    let program = scratch.join("malloc_loop");
    let source = support::fixture("programs/malloc_loop.c");
    support::run(Command::new("gcc").args(["-O1", "-fno-builtin", "-pthread", "-o"]).args([&program, &source]));
    let found = valgrind.instructions_per_event(&scratch, |rounds| Program {
        path: program.clone(),
        arguments: vec![rounds.to_string()],
    });
    check(&[("malloc and free in C".into(), found)]);
}

#[test]
fn an_event_of_a_python_program_takes_no_more_instructions_than_it_did() {
    let Some(valgrind) = Valgrind::find() else { return };
    let scratch = Scratch::new("instructions");
    let script =
        support::fixture("programs/allocations.py").to_str().expect("the checkout's path is UTF-8").to_string();
    let mut found = Vec::new();
    for python in support::pythons().iter().filter(|python| MINORS.contains(&python.minor.as_str())) {
        let program = |rounds: u64| Program {
            path: python.path.clone(),
            // Without `site` the interpreter starts sooner.
            arguments: ["-S", &script, &rounds.to_string(), "bytes", "10"].map(str::to_string).to_vec(),
        };
        let name = format!("bytes at depth 10 in Python {}", python.minor);
        found.push((name, valgrind.instructions_per_event(&scratch, program)));
    }
    check(&found);
}

/// What to run.
struct Program {
    path: PathBuf,
    arguments: Vec<String>,
}

/// Compares with the committed figures, or writes them.
fn check(found: &[(String, f64)]) {
    let path = support::fixture("expected/instructions.json");
    // The release is linked as one, other builds are not: each has figures of its own.
    let profile = support::memtrace_path().parent().and_then(Path::file_name).and_then(OsStr::to_str);
    let profile = profile.expect("a build lies in the folder of its profile");
    let text = fs::read_to_string(&path).expect("the figures can be read");
    let mut figures: BTreeMap<String, BTreeMap<String, f64>> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
    if std::env::var_os("MEMTRACE_BLESS").is_some() {
        let rounded = found.iter().map(|(name, figure)| (name.clone(), figure.round()));
        figures.entry(profile.into()).or_default().extend(rounded);
        let text = serde_json::to_string_pretty(&figures).expect("figures are text") + "\n";
        return fs::write(&path, text).expect("the figures can be written");
    }
    let mut problems = Vec::new();
    for (name, figure) in found {
        let Some(expected) = figures.get(profile).and_then(|figures| figures.get(name)) else {
            problems
                .push(format!("{name}: {figure:.0} instructions an event, and no figure for the build `{profile}`"));
            continue;
        };
        let line = format!("{name}: {figure:.0} instructions an event, {expected:.0} expected");
        eprintln!("{line}");
        if *figure > expected * SLACK {
            problems.push(line);
        }
    }
    let path = path.display();
    assert!(
        problems.is_empty(),
        "{}\nthe figures are in {path}; MEMTRACE_BLESS=1 writes new ones",
        problems.join("\n")
    );
}

/// The tool that counts, started without its launcher: that one is a program too, and the shim would go to it.
struct Valgrind {
    callgrind: PathBuf,
}

impl Valgrind {
    /// Says so when it is not there.
    fn find() -> Option<Valgrind> {
        let folders = ["/usr/libexec/valgrind", "/usr/lib/valgrind", "/usr/lib/x86_64-linux-gnu/valgrind"];
        let tools = folders.iter().map(|folder| Path::new(folder).join("callgrind-amd64-linux"));
        let callgrind = tools.into_iter().find(|tool| tool.is_file());
        if callgrind.is_none() {
            eprintln!("passed over: valgrind is not on this machine (looked in {})", folders.join(", "));
        }
        callgrind.map(|callgrind| Valgrind { callgrind })
    }

    fn instructions_per_event(&self, scratch: &Scratch, program: impl Fn(u64) -> Program) -> f64 {
        let [short, long] = ROUNDS;
        let growth = |count: &dyn Fn(u64) -> u64| (count(long) - count(short)) as f64;
        let plain = growth(&|rounds| self.count(&program(rounds), None));
        let traced = growth(&|rounds| {
            let capture = scratch.join("capture.bin");
            let count = self.count(&program(rounds), Some(&capture));
            let n_allocations = support::stats(&capture)["total_num_allocations"].as_u64().unwrap_or_default();
            assert!(n_allocations >= rounds, "{rounds} rounds, and only {n_allocations} allocations are recorded");
            count
        });
        (traced - plain) / ((long - short) * EVENTS_PER_ROUND) as f64
    }

    /// The instructions of a whole run, recorded when there is a `capture`.
    fn count(&self, program: &Program, capture: Option<&Path>) -> u64 {
        // Waits, because the log names its process.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read go && exec \"$@\"", "sh"]);
        if let Some(capture) = capture {
            let options =
                RecordOptions { python_allocators: false, native_stacks: NativeStacks::Never, follow_fork: false };
            command.arg("env").arg(variable("LD_PRELOAD", support::shim_path())).arg(variable(CAPTURE_VAR, capture));
            command.arg(variable(OPTIONS_VAR, options.to_bits().to_string()));
        }
        // It asks for the path of its launcher to start children with; there are none.
        command.arg(&self.callgrind).args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        command.arg(&program.path).args(&program.arguments);
        command.env("VALGRIND_LAUNCHER", "/usr/bin/valgrind").env("PYTHONHASHSEED", "0");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a shell starts");
        let log = capture.map(|capture| Log::create(capture, true, Compression::Never, child.id(), &info()));
        log.transpose().expect("a log can be created");
        child.stdin.take().expect("piped").write_all(b"go\n").expect("the shell waits for a line");
        let output = child.wait_with_output().expect("valgrind ends");
        assert!(output.status.success(), "{command:?} ended with {}\n{}", output.status, support::text(&output));
        let text = String::from_utf8_lossy(&output.stderr);
        let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
        collected.unwrap_or_else(|| panic!("valgrind counted nothing:\n{text}"))
    }
}

/// Nothing in it matters to the recorder.
fn info() -> CaptureInfo {
    CaptureInfo {
        memtrace_version: String::new(),
        command_line: Vec::new(),
        argv: Vec::new(),
        cwd: String::new(),
        python_allocators: false,
        script: None,
        tracked: None,
        aggregated: None,
    }
}

/// `NAME=VALUE`, for `env`: the shell that starts it must not be recorded.
fn variable(name: &str, value: impl AsRef<OsStr>) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(name);
    text.push("=");
    text.push(value.as_ref());
    text
}
