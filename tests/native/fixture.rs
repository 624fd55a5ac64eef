//! A fixture program: built, run without memtrace and with it, and compared with what its source expects.
//!
//! Besides the expectations (`expect.rs`) the head of a fixture may say
//!
//! ```text
//! // build: -pthread                          flags for the compiler
//! // library: libdeep.so from deep.c -O0      a library beside the program, from fixtures/native/parts
//! // program: child from child.c -m32         another program beside it
//! // arguments: one two
//! // environment: NAME=VALUE
//! // needs: root                              or `32-bit`, `static`, `sanitizer`: passed over, with a word, where it is missing
//! // only under memtrace: reason              the program behaves differently without memtrace
//! // seconds: 60                              how long a run may take (20 unless said)
//! ```
//!
//! A fixture runs in an empty directory of its own, with the program as `./name`.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::events::{self, Log};
use super::expect::{self, Ending, Expectation};
use super::matcher;
use super::support::{self, Scratch};

/// A fixture that is built and ready to run.
pub struct Fixture {
    pub name: String,
    source: String,
    pub expectation: Expectation,
    /// Holds the program and its libraries; every run gets the folder `run` in it.
    scratch: Scratch,
}

/// How a run went.
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// What memtrace says when it had to leave something out.
const LOST: &str = "events could not be recorded";

/// Build a fixture, run it both ways, with options of `memtrace run`, and compare; a difference is shown as text.
pub fn check(name: &str, options: &[&str]) {
    let Some(fixture) = Fixture::build(name) else { return };
    let plain = fixture.run_plain();
    let (traced, log) = fixture.run_traced(options);
    let mut complaints = fixture.compare_runs(&plain, &traced);
    if let Err(text) = matcher::compare(&fixture.expectation, &log) {
        complaints.push(text);
    }
    assert!(complaints.is_empty(), "{name}:\n{}", complaints.join("\n"));
}

impl Fixture {
    /// Compile a fixture; nothing when this machine lacks what it needs.
    pub fn build(name: &str) -> Option<Fixture> {
        let root = support::fixture("native");
        let (path, compiler) = match root.join(format!("{name}.c")) {
            path if path.exists() => (path, "gcc"),
            _ => (root.join(format!("{name}.cpp")), "g++"),
        };
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expectation = expect::parse(&source).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let fixture = Fixture { name: name.to_string(), source, expectation, scratch: Scratch::new(name) };
        for need in fixture.directives("needs") {
            if !has(need) {
                eprintln!("{name}: passed over, needs {need}");
                return None;
            }
        }
        for (directive, flags) in [("library", "-shared -fPIC"), ("program", "")] {
            for line in fixture.directives(directive) {
                let (target, rest) = line.split_once(" from ").expect("a part is built from something");
                let (part, more) = rest.split_once(' ').unwrap_or((rest, ""));
                let compiler = if part.ends_with(".cpp") { "g++" } else { "gcc" };
                fixture.compile(compiler, &root.join("parts").join(part), target, &format!("{flags} {more}"));
            }
        }
        fixture.compile(compiler, &path, name, &fixture.directives("build").collect::<Vec<_>>().join(" "));
        Some(fixture)
    }

    /// Compile a program from `parts` for a test that needs more than the fixture itself asks for.
    pub fn compile_part(&self, part: &str, target: &str) {
        self.compile("gcc", &support::fixture("native/parts").join(part), target, "");
    }

    fn compile(&self, compiler: &str, source: &Path, target: &str, flags: &str) {
        let target = self.scratch.join(target);
        fs::create_dir_all(target.parent().expect("a target lies in a folder")).expect("folders can be made");
        // The compiler may not leave out an allocation that nobody looks at: in C that is -fno-builtin, in C++ only -O0.
        let optimization = if compiler == "g++" { "-O0" } else { "-O1" };
        let output = Command::new(compiler)
            .args(["-g", optimization, "-fno-builtin", "-Wall", "-Werror", "-D_GNU_SOURCE", "-o"])
            .args([&target, source])
            .args(flags.split_whitespace())
            .current_dir(self.scratch.path())
            .output()
            .expect("the compiler starts");
        assert!(
            output.status.success(),
            "{} does not compile:\n{}",
            source.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn directives<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.source.lines().filter_map(move |line| line.strip_prefix("// ")?.strip_prefix(name)?.strip_prefix(": "))
    }

    fn limit(&self) -> Duration {
        let seconds = self.directives("seconds").next().map(|text| text.trim().parse().expect("seconds are a number"));
        Duration::from_secs(seconds.unwrap_or(20))
    }

    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn program(&self) -> PathBuf {
        self.scratch.join(&self.name)
    }

    fn arguments(&self) -> Vec<&str> {
        self.directives("arguments").flat_map(str::split_whitespace).collect()
    }

    /// Run a program in the empty folder `run`, with the environment that the fixture asks for.
    pub fn run(&self, mut command: Command) -> Outcome {
        let folder = self.scratch.join("run");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the run's folder can be made");
        command.current_dir(&folder).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MEMTRACE_") {
                command.env_remove(name);
            }
        }
        for line in self.directives("environment") {
            let (name, value) = line.split_once('=').expect("a variable has a value");
            command.env(name, value.replace("{folder}", &self.scratch.path().to_string_lossy()));
        }
        run(command, &folder, self.limit())
    }

    pub fn run_plain(&self) -> Outcome {
        let mut command = Command::new(self.program());
        command.args(self.arguments());
        self.run(command)
    }

    /// Run under memtrace and decode the log.
    pub fn run_traced(&self, options: &[&str]) -> (Outcome, Log) {
        let capture = self.scratch.join("capture.bin");
        let outcome = self.run_traced_into(&capture, &[], options);
        if self.expectation.is_without_capture {
            assert!(!capture.exists(), "{}: there is a capture", self.name);
            return (outcome, Log::default());
        }
        let log = decode(&capture).unwrap_or_else(|error| {
            panic!("{}: {error}\nthe run: {}\n{}", self.name, describe(outcome.status), outcome.stderr)
        });
        (outcome, log)
    }

    /// Run under memtrace, behind the words of `before` (as in `prlimit --fsize=… memtrace run …`).
    pub fn run_traced_into(&self, capture: &Path, before: &[&str], options: &[&str]) -> Outcome {
        let mut command = match before {
            [] => support::memtrace(),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(support::memtrace_path());
                command
            }
        };
        command
            .args(["run", "-q"])
            .args(options)
            .arg("-o")
            .arg(capture)
            .arg("--")
            .arg(self.program())
            .args(self.arguments());
        self.run(command)
    }

    /// What is different for the user of the program when memtrace is there.
    pub fn compare_runs(&self, plain: &Outcome, traced: &Outcome) -> Vec<String> {
        let mut complaints = Vec::new();
        // memtrace passes the exit code on, and 128 + signal.
        let (expected, expected_traced) = match self.expectation.ending {
            Ending::Exit(code) => (format!("exit code {code}"), format!("exit code {code}")),
            Ending::Signal(signal) => (format!("signal {signal}"), format!("exit code {}", 128 + signal)),
        };
        let mut stderr = traced.stderr.clone();
        for message in &self.expectation.messages {
            let n_lines = stderr.lines().count();
            stderr = stderr.lines().filter(|line| !line.contains(message)).map(|line| format!("{line}\n")).collect();
            if stderr.lines().count() + 1 != n_lines {
                complaints.push(format!("memtrace should say once `{message}`:\n{}", traced.stderr));
            }
        }
        if self.expectation.may_lose_events {
            stderr = stderr.lines().filter(|line| !line.contains(LOST)).map(|line| format!("{line}\n")).collect();
        }
        if describe(traced.status) != expected_traced {
            complaints.push(format!("under memtrace: expected {expected_traced}, actual {}", describe(traced.status)));
        }
        if self.directives("only under memtrace").next().is_none() {
            if describe(plain.status) != expected {
                complaints.push(format!("without memtrace: expected {expected}, actual {}", describe(plain.status)));
            }
            if plain.stdout != traced.stdout {
                complaints.push(format!("stdout without memtrace:\n{}\nand with it:\n{}", plain.stdout, traced.stdout));
            }
            if plain.stderr != stderr {
                complaints.push(format!("stderr without memtrace:\n{}\nand with it:\n{}", plain.stderr, traced.stderr));
            }
        } else if !stderr.is_empty() {
            complaints.push(format!("stderr under memtrace:\n{}", traced.stderr));
        }
        if !complaints.is_empty() {
            complaints.push(format!("the run under memtrace printed:\n{}{}", traced.stdout, traced.stderr));
        }
        complaints
    }
}

/// Decode a capture with `memtrace parse --json`.
pub fn decode(capture: &Path) -> Result<Log, String> {
    // Into a file, because a large log must not depend on who reads the pipe.
    let decoded = capture.with_extension("json");
    let output = support::memtrace()
        .args(["parse", "--json", "--no-native"])
        .arg(capture)
        .stdin(Stdio::null())
        .stdout(File::create(&decoded).map_err(|error| error.to_string())?)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("memtrace parse fails: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let log = events::read(BufReader::new(File::open(&decoded).map_err(|error| error.to_string())?))?;
    let _ = fs::remove_file(&decoded);
    Ok(log)
}

/// Run a command to its end; one that takes too long is killed with all its children, and is a failure.
pub fn run(mut command: Command, folder: &Path, limit: Duration) -> Outcome {
    // Files and not pipes: a child left behind must not keep us waiting.
    let (stdout, stderr) = (folder.with_extension("stdout"), folder.with_extension("stderr"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&stdout).expect("the run's output can be stored"))
        .stderr(File::create(&stderr).expect("the run's output can be stored"))
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let start = Instant::now();
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("the output is there")).into_owned();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return Outcome { status, stdout: read(&stdout), stderr: read(&stderr) };
        }
        if start.elapsed() > limit {
            let _ = Command::new("kill").args(["-9", "--", &format!("-{}", child.id())]).status();
            let _ = child.wait();
            panic!("{command:?} hangs; so far it printed:\n{}{}", read(&stdout), read(&stderr));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "neither exit code nor signal".to_string(),
    }
}

/// Whether this machine can do something.
pub fn has(need: &str) -> bool {
    let compiles = |flag: &str| {
        let scratch = Scratch::new("has");
        let (source, program) = (scratch.join("empty.c"), scratch.join("empty"));
        fs::write(&source, "#include <stdlib.h>\nint main(void) { return 0; }\n").expect("the source can be written");
        let status = Command::new("gcc").arg(flag).arg(&source).arg("-o").arg(&program).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
            && Command::new(&program).status().is_ok_and(|status| status.success())
    };
    match need {
        "root" => is_root(),
        "32-bit" => compiles("-m32"),
        "static" => compiles("-static"),
        "sanitizer" => compiles("-fsanitize=address"),
        _ => panic!("nobody knows how to look for `{need}`"),
    }
}

pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}
