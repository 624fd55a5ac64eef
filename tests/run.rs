//! `memtrace run` as its users and their programs see it: what is started, how it ends, what reaches it meanwhile.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Scratch, fixture, memtrace, memtrace_path, pythons, text};

/// `memtrace run` in a folder, with the newest interpreter.
fn memtrace_run(folder: &Scratch) -> Command {
    let mut command = memtrace();
    command.arg("run").arg("--python").arg(newest_python()).current_dir(folder.path());
    command
}

fn newest_python() -> &'static Path {
    &pythons().last().expect("there is at least one").path
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn check_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", output.status, text(output));
}

/// The files of a folder, sorted.
fn files(folder: &Scratch) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The lines of a capture that are not about memory: the bulk of them is not worth decoding here.
fn facts_of(capture: &Path) -> Vec<Value> {
    let output = support::run(memtrace().arg("parse").arg(capture).arg("--json"));
    let is_fact =
        |line: &&str| !["alloc", "free", "restore"].iter().any(|kind| line.contains(&format!("\"event\":\"{kind}\"")));
    stdout(&output).lines().filter(is_fact).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The last line of a capture; checks that it is whole.
#[track_caller]
fn end_of(capture: &Path) -> Value {
    let facts = facts_of(capture);
    let damage: Vec<_> = facts.iter().filter(|event| event["event"] == "damage").collect();
    assert!(damage.is_empty(), "{damage:?}");
    let end = facts.last().unwrap().clone();
    assert_eq!(end["event"], "end", "{end}");
    end
}

fn compile(folder: &Scratch, name: &str, source: &str, options: &[&str]) -> PathBuf {
    let file = folder.join(&format!("{name}.c"));
    fs::write(&file, source).unwrap();
    let program = folder.join(name);
    support::run(Command::new("gcc").arg("-o").arg(&program).arg(&file).args(options));
    program
}

fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A program that has said its first line.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn finish(mut self) -> Output {
        let mut rest = Vec::new();
        self.stdout.read_to_end(&mut rest).unwrap();
        let mut output = self.child.wait_with_output().unwrap();
        output.stdout = rest;
        output
    }
}

/// The process that a launcher started; beside it there is a copy of the launcher, which only watches for signals.
fn program_of(launcher: Pid) -> Pid {
    let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    let programs: Vec<_> = children.split_whitespace().filter(|pid| name(pid) != "memtrace\n").collect();
    assert_eq!(programs.len(), 1, "{children}");
    Pid::from_raw(programs[0].parse().unwrap())
}

/// The letter of a process's state.
fn state_of(pid: Pid) -> String {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return "gone".into() };
    stat.rsplit_once(") ").unwrap().1[..1].to_string()
}

/// Waits for something that has to happen, however long the machine takes.
#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// What is started.

/// Compares a start by the interpreter alone with one under memtrace.
#[track_caller]
fn check_identity(arguments: &[&str], prepare: impl Fn(&Scratch)) {
    for python in pythons() {
        let folder = Scratch::new("identity");
        prepare(&folder);
        let alone = run_with_input(Command::new(&python.path).args(arguments).current_dir(folder.path()));
        let mut command = memtrace();
        command.args(["run", "-q", "-o", "capture.bin", "--python"]).arg(&python.path).args(arguments);
        let traced = run_with_input(command.current_dir(folder.path()));
        assert_eq!(alone.status.code(), Some(23), "{}", text(&alone));
        assert_eq!(text(&traced), text(&alone), "{} {arguments:?}", python.minor);
        assert_eq!(traced.status, alone.status);
        assert_eq!(end_of(&folder.join("capture.bin"))["exit_code"], 23);
    }
}

fn run_with_input(command: &mut Command) -> Output {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("EMPTY", "").env("LD_PRELOAD", "").env("MEMTRACE_TEST", "kept");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe\n").unwrap();
    child.wait_with_output().unwrap()
}

fn copy_identity(folder: &Scratch, to: &str) {
    let to = folder.join(to);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(fixture("run/identity.py"), to).unwrap();
}

#[test]
fn a_script_is_started_as_by_the_interpreter() {
    let script = fixture("run/identity.py");
    check_identity(&[script.to_str().unwrap(), "-q", "--", "-o", "x y", ""], |_| {});
    check_identity(&["sub/identity.py"], |folder| copy_identity(folder, "sub/identity.py"));
}

#[test]
fn a_text_file_without_a_suffix_is_a_script() {
    check_identity(&["./tool", "a"], |folder| copy_identity(folder, "tool"));
}

#[test]
fn a_module_is_started_as_by_the_interpreter() {
    check_identity(&["-m", "package.tool", "-q", "-c", "--help"], |folder| copy_identity(folder, "package/tool.py"));
}

#[test]
fn code_is_started_as_by_the_interpreter() {
    let code = fs::read_to_string(fixture("run/identity.py")).unwrap();
    check_identity(&["-c", &code, "-q", "--", "x"], |_| {});
}

#[test]
fn a_folder_is_started_as_by_the_interpreter() {
    check_identity(&["app", "a"], |folder| copy_identity(folder, "app/__main__.py"));
    check_identity(&["."], |folder| copy_identity(folder, "__main__.py"));
}

#[test]
fn a_zip_file_is_started_as_by_the_interpreter() {
    for name in ["app.pyz", "app"] {
        check_identity(&[name, "a"], |folder| {
            copy_identity(folder, "source/__main__.py");
            let mut zip = Command::new(newest_python());
            support::run(zip.args(["-m", "zipapp", "source", "-o", name]).current_dir(folder.path()));
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        });
    }
}

#[test]
fn a_script_on_standard_input_is_started_as_by_the_interpreter() {
    let folder = Scratch::new("stdin");
    let mut command = memtrace_run(&folder);
    let mut child = command.args(["-q", "-", "a"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"import sys; print(sys.argv)").unwrap();
    assert_eq!(stdout(&child.wait_with_output().unwrap()), "['-', 'a']\n");
    assert!(files(&folder)[0].starts_with("memtrace-stdin."), "{:?}", files(&folder));
}

#[test]
fn the_users_own_preload_and_variables_are_the_programs() {
    let folder = Scratch::new("preload");
    let library = folder.join("libnothing.so");
    fs::write(folder.join("nothing.c"), "int memtrace_test_nothing = 7;").unwrap();
    let mut gcc = Command::new("gcc");
    support::run(gcc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(folder.join("nothing.c")));
    let code = "import ctypes, os; print(os.environ['LD_PRELOAD'], [k for k in ('CAPTURE', 'OPTIONS', 'LD_PRELOAD') if 'MEMTRACE_' + k in os.environ], \
                ctypes.c_int.in_dll(ctypes.CDLL(None), 'memtrace_test_nothing').value)";
    let output = output(memtrace_run(&folder).args(["-q", "-c", code]).env("LD_PRELOAD", &library));
    assert_eq!(text(&output), format!("--- stdout\n{} [] 7\n\n--- stderr\n", library.display()));
}

#[test]
fn an_executable_is_a_program_wherever_it_is_found() {
    let folder = Scratch::new("program");
    let tool = folder.join("bin/tool");
    fs::create_dir(folder.join("bin")).unwrap();
    fs::write(&tool, "#!/bin/sh\necho \"$0 $*\"; exit 9\n").unwrap();
    make_executable(&tool);
    let path = format!("{}:/usr/bin:/bin", folder.join("bin").display());
    for (arguments, zero) in [
        (vec!["tool", "-q", "--"], tool.display().to_string()),
        (vec!["--", "tool", "-q", "--"], tool.display().to_string()),
        (vec!["bin/tool", "-q", "--"], "bin/tool".into()),
    ] {
        let output = output(memtrace_run(&folder).args(["-qf"]).args(&arguments).env("PATH", &path));
        check_exit(&output, 9);
        assert_eq!(stdout(&output), format!("{zero} -q --\n"), "{arguments:?}");
    }
    // As execvp has it, and with it every shell.
    fs::write(&tool, "echo \"no first line $*\"; exit 9\n").unwrap();
    let output = output(memtrace_run(&folder).args(["-qf", "tool", "a"]).env("PATH", &path));
    check_exit(&output, 9);
    assert_eq!(stdout(&output), "no first line a\n");
}

#[test]
fn the_interpreter_behind_a_shell_script_is_started() {
    let folder = Scratch::new("shim");
    let shim = folder.join("python3");
    let python = newest_python().display();
    fs::write(&shim, format!("#!/bin/sh\nFROM_SHIM='a  b'\nexport FROM_SHIM\nexec {python} \"$@\"\n")).unwrap();
    make_executable(&shim);
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let code = "import os, sys; print(sys.orig_argv[0], os.environ['FROM_SHIM'], sys.flags.isolated)";
    let mut command = memtrace();
    command.args(["run", "-q", "-o", "capture.bin", "-c", code]).current_dir(folder.path());
    let output = output(command.env("PATH", &path).env_remove("VIRTUAL_ENV"));
    assert_eq!(text(&output), format!("--- stdout\n{python} a  b 0\n\n--- stderr\n"));
    let events = facts_of(&folder.join("capture.bin"));
    let images: Vec<_> = events.iter().filter(|event| event["event"] == "image").collect();
    assert!(images.len() == 1, "{images:?}");
}

#[test]
fn the_interpreter_of_the_virtual_environment_is_started() {
    let folder = Scratch::new("venv");
    support::run(Command::new(newest_python()).args(["-m", "venv", "--without-pip"]).arg(folder.join("env")));
    let mut command = memtrace();
    command.args(["run", "-q", "-c", "import sys; print(sys.prefix, sys.executable)"]).current_dir(folder.path());
    let output = output(command.env("VIRTUAL_ENV", folder.join("env")));
    let env = folder.join("env");
    assert_eq!(stdout(&output), format!("{0} {0}/bin/python\n", env.display()), "{}", text(&output));
}

// Where the capture goes.

#[test]
fn the_capture_is_named_after_the_program_and_its_process() {
    let folder = Scratch::new("names");
    fs::write(folder.join("my.script.py"), "import os; print(os.getpid())").unwrap();
    fs::create_dir(folder.join("package")).unwrap();
    fs::write(folder.join("package/__main__.py"), "import os; print(os.getpid())").unwrap();
    fs::write(folder.join("package/tool.py"), "import os; print(os.getpid())").unwrap();
    for (arguments, name) in [
        (vec!["my.script.py"], "my.script"),
        (vec!["package"], "package"),
        (vec!["-m", "package.tool"], "package.tool"),
        (vec!["-c", "import os; print(os.getpid())"], "code"),
        (vec!["sh", "-c", "echo $$"], "sh"),
    ] {
        let output = output(memtrace_run(&folder).args(["-q"]).args(&arguments));
        let capture = folder.join(&format!("memtrace-{name}.{}.bin", stdout(&output).trim()));
        assert!(capture.is_file(), "{arguments:?} {:?}\n{}", files(&folder), text(&output));
        assert_eq!(fs::metadata(&capture).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let code = "import os; os.chdir('/'); print(os.getpid())";
    let output = output(memtrace_run(&folder).args(["-q", "-o", "a%p-%p.bin", "-c", code]));
    let pid = stdout(&output).trim().to_string();
    assert!(folder.join(&format!("a{pid}-{pid}.bin")).is_file(), "{:?}", files(&folder));
}

#[test]
fn an_existing_file_is_only_overwritten_with_f() {
    let folder = Scratch::new("force");
    fs::write(folder.join("out.bin"), "precious").unwrap();
    let mut open = File::open(folder.join("out.bin")).unwrap();
    let refused = output(memtrace_run(&folder).args(["-o", "out.bin", "-c", "print('started')"]));
    check_exit(&refused, 125);
    assert_eq!(stdout(&refused), "");
    let place = folder.path().display();
    assert_eq!(
        stderr(&refused),
        format!("memtrace: cannot create {place}/out.bin: it exists already; -f overwrites it\n")
    );
    assert_eq!(fs::read(folder.join("out.bin")).unwrap(), b"precious");

    check_exit(&output(memtrace_run(&folder).args(["-o", "out.bin", "-f", "-c", "pass"])), 0);
    end_of(&folder.join("out.bin"));
    let mut old = String::new();
    open.read_to_string(&mut old).unwrap();
    assert_eq!(old, "precious", "a file that somebody has open is not written to");
}

#[test]
fn a_wrong_path_fails_before_the_program_starts() {
    let folder = Scratch::new("paths");
    fs::create_dir(folder.join("folder")).unwrap();
    fs::write(folder.join("there.html"), "").unwrap();
    let place = folder.path().display();
    for (options, expected) in [
        (
            ["-o", "missing/out.bin"],
            format!("cannot create {place}/missing/out.bin: No such file or directory (os error 2)"),
        ),
        (["-o", "folder"], "cannot create folder: it is a folder".into()),
        (["-o", "/proc/out.bin"], "cannot create /proc/out.bin: No such file or directory (os error 2)".into()),
        (["-o", "/dev/null"], "cannot create /dev/null: it exists already; -f overwrites it".into()),
        (["--report", "there.html"], "cannot create there.html: it exists already; -f overwrites it".into()),
        (["--report", "missing/x.html"], "cannot create missing/x.html: ENOENT: No such file or directory".into()),
    ] {
        let output = output(memtrace_run(&folder).args(options).args(["-c", "print('started')"]));
        check_exit(&output, 125);
        assert_eq!(text(&output), format!("--- stdout\n\n--- stderr\nmemtrace: {expected}\n"));
    }
    let output = output(memtrace_run(&folder).args(["-fo", "/dev/null", "-c", "print('started')"]));
    check_exit(&output, 125);
    assert!(Path::new("/dev/null").exists());
    assert_eq!(files(&folder), ["folder", "there.html"]);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_refused() {
    let folder = Scratch::new("read-only");
    // Root may write anywhere, so the program is started as somebody else.
    let copy = Scratch::new("for-others");
    let tool = copy.join("memtrace");
    for name in ["memtrace", "libmemtrace_preload.so"] {
        fs::copy(memtrace_path().with_file_name(name), copy.join(name)).unwrap();
    }
    if !nix::unistd::geteuid().is_root() {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let mut command = Command::new(tool);
    command.args(["run", "sh", "-c", "echo started"]).current_dir(folder.path());
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = output(&mut command);
    check_exit(&output, 125);
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).ends_with("Permission denied (os error 13)\n"), "{}", stderr(&output));
}

// How it ends.

#[test]
fn the_exit_code_is_the_programs() {
    let folder = Scratch::new("exit");
    for code in [0, 1, 2, 77, 125, 126, 127, 255] {
        let exit = format!("exit {code}");
        check_exit(&output(memtrace_run(&folder).args(["-qfo", "capture.bin", "sh", "-c", &exit])), code);
        assert_eq!(end_of(&folder.join("capture.bin"))["exit_code"], code);
    }
}

#[test]
fn a_death_by_signal_is_128_and_its_number() {
    let folder = Scratch::new("death");
    for signal in [1, 2, 3, 6, 9, 10, 11, 13, 14, 15, 34, 64] {
        let die = format!(
            "import os, signal; signal.signal({signal}, 0) if {signal} != 9 else 0; os.kill(os.getpid(), {signal})"
        );
        let output = output(memtrace_run(&folder).args(["-qfo", "capture.bin", "-c", &die]));
        check_exit(&output, 128 + signal);
        assert_eq!(end_of(&folder.join("capture.bin"))["signal"], signal);
    }
}

#[test]
fn a_core_is_dumped_as_the_limits_have_it() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        eprintln!("cores go to {pattern:?} on this machine");
        return;
    }
    let folder = Scratch::new("core");
    let run = |limit: &str| {
        let mut command = Command::new("sh");
        let script = format!("ulimit -c {limit} && exec \"$@\"");
        command.args(["-c", &script, "sh"]).arg(memtrace_path()).args(["run", "-qfo", "capture.bin", "--python"]);
        command.arg(newest_python()).args(["-c", "import os; os.abort()"]).current_dir(folder.path());
        output(&mut command)
    };
    check_exit(&run("0"), 134);
    assert_eq!(files(&folder), ["capture.bin"]);
    check_exit(&run("unlimited"), 134);
    assert!(files(&folder).iter().any(|name| name.starts_with("core")), "{:?}", files(&folder));
    assert_eq!(end_of(&folder.join("capture.bin"))["signal"], 6);
}

#[test]
fn a_missing_program_is_127_and_one_that_is_not_executable_126() {
    let folder = Scratch::new("missing");
    fs::create_dir(folder.join("folder")).unwrap();
    fs::write(folder.join("data"), [0u8, 1, 2]).unwrap();
    fs::write(folder.join("bad"), "#!/does/not/exist\n").unwrap();
    make_executable(&folder.join("bad"));
    for (program, code, message) in [
        ("missing.py", 127, "there is no missing.py here or on PATH"),
        ("./missing", 127, "there is no ./missing"),
        ("folder", 126, "cannot run folder: the directory has no __main__.py"),
        ("data", 126, "cannot run data: it is neither executable nor a script"),
        ("./bad", 127, "cannot run ./bad: No such file or directory (os error 2)"),
        ("/dev/null", 126, "cannot run /dev/null: it is not a regular file"),
    ] {
        let output = output(memtrace_run(&folder).arg(program));
        check_exit(&output, code);
        assert_eq!(text(&output), format!("--- stdout\n\n--- stderr\nmemtrace: {message}\n"));
    }
    for (python, code) in [("missing", 127), ("./missing", 127), ("./data", 126), ("./folder", 126)] {
        let output = output(memtrace().args(["run", "--python", python, "-c", ""]).current_dir(folder.path()));
        check_exit(&output, code);
    }
    assert_eq!(files(&folder), ["bad", "data", "folder"]);
}

#[test]
fn a_wrong_command_line_is_125() {
    let folder = Scratch::new("usage");
    for arguments in [vec![], vec!["--nonsense", "x"], vec!["-o"]] {
        let output = output(memtrace().arg("run").args(&arguments).current_dir(folder.path()));
        check_exit(&output, 125);
        assert_eq!(stdout(&output), "");
    }
    let output = output(memtrace().args(["run", "--help"]));
    check_exit(&output, 0);
    assert!(stdout(&output).contains("memtrace run [OPTIONS] SCRIPT [ARGS]..."), "{}", text(&output));
}

#[test]
fn the_closing_lines_are_on_stderr_and_name_the_next_command() {
    let folder = Scratch::new("closing");
    let output = output(memtrace_run(&folder).args(["-o", "out.bin", "-c", "print('program')"]));
    assert_eq!(stdout(&output), "program\n");
    let said = stderr(&output);
    assert!(said.lines().all(|line| line.starts_with("memtrace: ")), "{said}");
    assert!(said.contains("peak RSS "), "{said}");
    assert!(said.ends_with("memtrace flamegraph out.bin\n"), "{said}");
}

#[test]
fn a_report_is_drawn_when_the_program_has_ended() {
    let folder = Scratch::new("report");
    let mut command = memtrace_run(&folder);
    let output = output(command.args(["-o", "out.bin", "--report", "out.html", "-c", "import sys; sys.exit(3)"]));
    check_exit(&output, 3);
    let page = fs::read_to_string(folder.join("out.html")).unwrap_or_else(|error| panic!("{error}\n{}", text(&output)));
    assert!(page.trim_end().ends_with("</html>"), "{page}");
}

#[test]
fn a_capture_of_megabytes_of_arguments_is_whole() {
    let folder = Scratch::new("arguments");
    let long = "ä".repeat(60_000);
    let mut command = memtrace_run(&folder);
    let many = std::iter::repeat_n(long.as_str(), 10);
    check_exit(&output(command.args(["-qo", "out.bin", "sh", "-c", "exit 0"]).args(many)), 0);
    let facts = facts_of(&folder.join("out.bin"));
    assert_eq!(facts[0]["command_line"], json!(["sh", "-c", "exit 0", "…"]));
}

#[test]
fn the_peak_is_the_programs_own_and_not_its_childrens() {
    let folder = Scratch::new("peak");
    let large = "b'x' * (200 << 20)";
    let child = format!("import subprocess, sys; subprocess.run([sys.executable, '-c', \"{large}\"], check=True)");
    for (code, is_large) in [(large, true), (&child, false)] {
        check_exit(&output(memtrace_run(&folder).args(["-qfo", "capture.bin", "-c", code])), 0);
        let peak = end_of(&folder.join("capture.bin"))["peak_rss_bytes"].as_u64().unwrap();
        assert_eq!(peak > 200 << 20, is_large, "{code}: {peak}");
    }
}

// Programs that can't be recorded.

#[test]
fn programs_that_cannot_be_recorded_run_as_without_us() {
    const SOURCE: &str = "#include <stdio.h>\n#include <stdlib.h>\n\
        int main(void) { printf(\"%s\", getenv(\"LD_PRELOAD\") ? \"preloaded\" : \"as it is\"); return 5; }";
    let folder = Scratch::new("obstacles");
    compile(&folder, "static", SOURCE, &["-static"]);
    compile(&folder, "static-pie", SOURCE, &["-static-pie"]);
    compile(&folder, "narrow", SOURCE, &["-m32"]);
    fs::write(folder.join("script"), format!("#!{}\n", folder.join("static").display())).unwrap();
    make_executable(&folder.join("script"));
    for (program, why) in [
        ("./static", "it is statically linked"),
        ("./static-pie", "it is statically linked"),
        ("./narrow", "it is a 32-bit program"),
        ("./script", "it is statically linked"),
    ] {
        let output = output(memtrace_run(&folder).arg(program));
        check_exit(&output, 5);
        let expected = format!("--- stdout\nas it is\n--- stderr\nmemtrace: {program} runs unrecorded: {why}\n");
        assert_eq!(text(&output), expected);
    }
    assert!(!files(&folder).iter().any(|name| name.ends_with(".bin")), "{:?}", files(&folder));
}

#[test]
fn a_program_of_another_c_library_runs_as_without_us() {
    let folder = Scratch::new("musl");
    // Its loader is a static program, which the kernel starts in its place.
    const LOADER: &str = "void _start(void) { __asm__(\"mov $60, %eax\\n mov $6, %edi\\n syscall\"); }";
    let loader = compile(&folder, "ld-musl-x86_64.so.1", LOADER, &["-nostdlib", "-static-pie"]);
    let option = format!("-Wl,--dynamic-linker={}", loader.display());
    compile(&folder, "musl", "int main(void) { return 5; }", &[&option]);
    let output = output(memtrace_run(&folder).arg("./musl"));
    check_exit(&output, 6);
    assert_eq!(stderr(&output), "memtrace: ./musl runs unrecorded: it does not use the GNU C library\n");
}

#[test]
fn a_set_user_id_program_runs_as_without_us() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can make such a program");
        return;
    }
    let folder = Scratch::new("setuid");
    let program = compile(&folder, "setuid", "#include <unistd.h>\nint main(void) { return geteuid() == 65534; }", &[]);
    nix::unistd::chown(&program, Some(65534.into()), None).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let output = output(memtrace_run(&folder).arg("./setuid"));
    check_exit(&output, 1);
    assert_eq!(stderr(&output), "memtrace: ./setuid runs unrecorded: it runs with another user's privileges\n");
}

// What reaches it.

#[test]
fn signals_sent_to_the_launcher_reach_the_program_once() {
    let folder = Scratch::new("signals");
    for number in [1, 2, 3, 6, 10, 12, 13, 14, 15, 18, 20, 21, 22, 23, 25, 28, 29, 31, 34, 50, 64] {
        let script = fixture("run/signals.py");
        let mut command = memtrace_run(&folder);
        let mut running = Running::start(command.args(["-qfo", "capture.bin"]).arg(script).arg("1"));
        assert_eq!(running.line(), "ready");
        // By number, because there is no other name for real-time signals.
        support::run(Command::new("kill").args(["-s", &number.to_string(), &running.pid().to_string()]));
        let output = if number == libc::SIGCONT {
            // Continuing what was not stopped changes nothing, so it is not passed on.
            kill(running.pid(), Signal::SIGUSR1).unwrap();
            let output = running.finish();
            assert_eq!(stdout(&output), "got [10]\n");
            output
        } else {
            let output = running.finish();
            assert_eq!(stdout(&output), format!("got [{number}]\n"));
            output
        };
        check_exit(&output, 7);
        assert_eq!(end_of(&folder.join("capture.bin"))["exit_code"], 7);
    }
}

#[test]
fn a_signal_for_the_whole_group_reaches_the_program_once() {
    let folder = Scratch::new("group");
    let mut command = memtrace_run(&folder);
    command.args(["-qfo", "capture.bin"]).arg(fixture("run/signals.py")).arg("3").process_group(0);
    let mut running = Running::start(&mut command);
    assert_eq!(running.line(), "ready");
    let launcher = running.pid();
    let group = Pid::from_raw(-launcher.as_raw());
    // Far enough apart that the launcher can tell them from each other.
    for (target, signal) in [(group, Signal::SIGUSR1), (launcher, Signal::SIGUSR1), (group, Signal::SIGTERM)] {
        kill(target, signal).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    let output = running.finish();
    assert_eq!(stdout(&output), "got [10, 10, 15]\n", "{}", text(&output));
    check_exit(&output, 7);
}

#[test]
fn nothing_of_ours_is_left_when_the_launcher_is_killed() {
    let folder = Scratch::new("leftover");
    let mut running =
        Running::start(memtrace_run(&folder).args(["-qo", "capture.bin", "sh", "-c", "echo ready; sleep 60"]));
    assert_eq!(running.line(), "ready");
    let program = program_of(running.pid());
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let children = fs::read_to_string(children).unwrap();
    let others =
        children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).filter(|pid| *pid != program);
    let others: Vec<_> = others.collect();
    kill(running.pid(), Signal::SIGKILL).unwrap();
    for pid in others {
        wait_until("our own processes to end", || matches!(state_of(pid).as_str(), "gone" | "Z"));
    }
    assert_ne!(state_of(program), "gone");
    kill(program, Signal::SIGKILL).unwrap();
    running.child.wait().unwrap();
}

#[test]
fn signals_that_the_program_does_not_handle_end_it_and_the_capture_is_whole() {
    let folder = Scratch::new("unhandled");
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1] {
        let code = "import time; print('ready', flush=True); time.sleep(60)";
        let mut running = Running::start(memtrace_run(&folder).args(["-qfo", "capture.bin", "-c", code]));
        assert_eq!(running.line(), "ready");
        kill(running.pid(), signal).unwrap();
        check_exit(&running.finish(), 128 + signal as i32);
        assert_eq!(end_of(&folder.join("capture.bin"))["signal"], signal as i32);
    }
}

#[test]
fn stop_and_continue_reach_the_program() {
    let folder = Scratch::new("stop");
    let mut running =
        Running::start(memtrace_run(&folder).args(["-q"]).arg(fixture("run/ticks.py")).args(["ticks", "end"]));
    let ticks = folder.join("ticks");
    wait_until("the program", || fs::read_to_string(&ticks).is_ok_and(|text| text.lines().count() > 2));
    let program = program_of(running.pid());
    for _ in 0..3 {
        kill(running.pid(), Signal::SIGTSTP).unwrap();
        wait_until("the stop", || state_of(program) == "T");
        kill(running.pid(), Signal::SIGCONT).unwrap();
        wait_until("the program to go on", || state_of(program) != "T");
        // Behind our back: we must not be the ones who stay stopped.
        kill(program, Signal::SIGSTOP).unwrap();
        wait_until("the stop", || state_of(program) == "T");
        kill(program, Signal::SIGCONT).unwrap();
        wait_until("the program to go on", || state_of(program) != "T");
    }
    assert_ne!(state_of(running.pid()), "T");
    fs::write(folder.join("end"), "").unwrap();
    assert_eq!(running.line(), "");
    check_exit(&running.finish(), 0);
}

#[test]
fn the_program_lives_on_when_the_launcher_is_killed() {
    let folder = Scratch::new("orphan");
    let arguments = ["ticks", "end"];
    let script = fixture("run/ticks.py");
    let mut running = Running::start(memtrace_run(&folder).args(["-qo", "capture.bin"]).arg(script).args(arguments));
    let ticks = folder.join("ticks");
    wait_until("the program", || fs::read_to_string(&ticks).is_ok_and(|text| text.lines().count() > 2));
    let launcher = running.pid();
    kill(launcher, Signal::SIGKILL).unwrap();
    assert_eq!(running.child.wait().unwrap().signal(), Some(9));
    let count = fs::read_to_string(&ticks).unwrap().lines().count();
    wait_until("the program to go on", || fs::read_to_string(&ticks).unwrap().lines().count() > count + 5);
    fs::write(folder.join("end"), "").unwrap();
    wait_until("the program to end by itself", || fs::read_to_string(&ticks).unwrap().ends_with("done\n"));
    let events = facts_of(&folder.join("capture.bin"));
    assert!(events.iter().any(|event| event["event"] == "rss"), "{events:?}");
    assert!(!events.iter().any(|event| event["event"] == "end" || event["event"] == "damage"), "{events:?}");
}

#[test]
fn ignored_signals_stay_ignored_and_others_stay_deadly() {
    let folder = Scratch::new("dispositions");
    // A shell hands on what it ignores. CHLD ignored would keep the launcher from seeing the end of the program.
    let code = "print([line for line in open('/proc/self/status') if line.startswith(('SigIgn', 'SigBlk'))])";
    for ignored in ["", "HUP", "PIPE", "CHLD", "HUP INT QUIT TERM PIPE USR1 CHLD TSTP"] {
        let script = format!("trap '' {ignored}; exec \"$@\"");
        let mut alone = Command::new("bash");
        alone.args(["-c", &script, "sh"]).arg(newest_python()).args(["-c", code]);
        let mut traced = Command::new("bash");
        traced.args(["-c", &script, "sh"]).arg(memtrace_path()).args(["run", "-qfo", "capture.bin", "--python"]);
        traced.arg(newest_python()).args(["-c", code]).current_dir(folder.path());
        let traced = output(&mut traced);
        check_exit(&traced, 0);
        assert_eq!(text(&traced), text(&output(&mut alone)), "{ignored}");
    }
    // The C library's default for Python programs is to ignore SIGPIPE; a program without Python dies of it.
    let script = "memtrace=$1; shift; $memtrace run -qfo pipe.bin sh -c 'while :; do echo y; done; exit 4' | head -1; echo ${PIPESTATUS[0]}";
    let piped =
        output(Command::new("bash").args(["-c", script, "bash"]).arg(memtrace_path()).current_dir(folder.path()));
    assert_eq!(stdout(&piped), "y\n141\n", "{}", text(&piped));
}

#[test]
fn nohup_keeps_the_program_alive_over_a_hangup() {
    let folder = Scratch::new("nohup");
    let script = fixture("run/ticks.py");
    let mut command = Command::new("nohup");
    command.arg(memtrace_path()).args(["run", "-q", "--python"]).arg(newest_python()).arg(script);
    let running = Running::start(command.args(["ticks", "end"]).current_dir(folder.path()));
    let ticks = folder.join("ticks");
    wait_until("the program", || fs::read_to_string(&ticks).is_ok_and(|text| text.lines().count() > 2));
    kill(running.pid(), Signal::SIGHUP).unwrap();
    kill(program_of(running.pid()), Signal::SIGHUP).unwrap();
    let count = fs::read_to_string(&ticks).unwrap().lines().count();
    wait_until("the program to go on", || fs::read_to_string(&ticks).unwrap().lines().count() > count + 5);
    fs::write(folder.join("end"), "").unwrap();
    check_exit(&running.finish(), 0);
}

#[test]
fn closed_descriptors_are_closed_for_the_program_too() {
    let folder = Scratch::new("closed");
    for closed in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"] {
        let script = fixture("run/identity.py");
        let list = |command: &str| {
            let line = format!(
                "{command} -c 'import os; open(\"fds\", \"w\").write(str([os.path.lexists(f\"/proc/self/fd/{{n}}\") \
                and os.readlink(f\"/proc/self/fd/{{n}}\").split(\"[\")[0] for n in range(3)]))' {closed}"
            );
            output(Command::new("bash").args(["-c", &line]).current_dir(folder.path()));
            fs::read_to_string(folder.join("fds")).unwrap()
        };
        let python = newest_python().display();
        let traced = list(&format!("{} run -qfo capture.bin --python {python}", memtrace_path().display()));
        assert_eq!(traced, list(&python.to_string()), "{closed} {}", script.display());
    }
}

#[test]
fn who_reads_the_programs_output_sees_its_end_while_the_program_runs_on() {
    let folder = Scratch::new("eof");
    // Gives up after a while with another exit code.
    let script = "echo line; exec >&-; n=0; until test -e end; do n=$((n+1)); test $n = 600 && exit 9; sleep 0.1; done";
    let mut running = Running::start(memtrace_run(&folder).args(["-qo", "capture.bin", "sh", "-c", script]));
    let mut written = String::new();
    running.stdout.read_to_string(&mut written).unwrap();
    assert_eq!(written, "line\n");
    fs::write(folder.join("end"), "").unwrap();
    check_exit(&running.finish(), 0);
}

// At a terminal.

#[track_caller]
fn at_terminal(folder: &Scratch, steps: Value, command: &[&str]) -> String {
    let mut terminal = Command::new(newest_python());
    terminal.arg(fixture("run/terminal.py")).arg(steps.to_string()).args(command).current_dir(folder.path());
    let output = output(terminal.env("PS1", "prompt> ").env("TERM", "dumb"));
    assert!(output.status.success(), "{}", text(&output));
    stdout(&output)
}

#[test]
fn a_key_of_the_terminal_reaches_the_program_once() {
    let folder = Scratch::new("keys");
    let memtrace = memtrace_path().to_str().unwrap();
    let python = newest_python().to_str().unwrap();
    let script = fixture("run/signals.py");
    let script = script.to_str().unwrap();
    for (key, number) in [("\u{3}", 2), ("\u{1c}", 3)] {
        let steps = json!([["expect", "ready"], ["type", key], ["expect", "got"]]);
        let command = [memtrace, "run", "-qfo", "capture.bin", "--python", python, script, "1"];
        let said = at_terminal(&folder, steps, &command);
        assert!(said.contains(&format!("got [{number}]\r\n")), "{said}");
        assert!(said.ends_with("exit code 7\n"), "{said}");
        end_of(&folder.join("capture.bin"));
    }
}

#[test]
fn ctrl_z_stops_the_job_and_fg_goes_on_with_it() {
    let folder = Scratch::new("job");
    let code = "import time; print('rea' + 'dy', flush=True); time.sleep(1); print('do' + 'ne')";
    let run = format!(
        "{} run -qo capture.bin --python {} -c \"{code}\"\n",
        memtrace_path().display(),
        newest_python().display()
    );
    let steps = json!([
        ["expect", "prompt> "],
        ["type", run],
        ["expect", "ready"],
        ["type", "\u{1a}"],
        ["expect", "Stopped"],
        ["expect", "prompt> "],
        ["type", "jobs\n"],
        ["expect", "Stopped"],
        ["expect", "prompt> "],
        ["type", "fg\n"],
        ["expect", "done"],
        ["expect", "prompt> "],
        ["type", "echo code $?\n"],
        ["expect", "code 0"],
        ["type", "exit\n"],
    ]);
    let said = at_terminal(&folder, steps, &["bash", "--norc", "-i"]);
    assert!(said.ends_with("exit code 0\n"), "{said}");
    end_of(&folder.join("capture.bin"));
}

#[test]
fn a_program_in_the_background_that_reads_the_terminal_stops_as_a_job() {
    let folder = Scratch::new("background");
    let code = "print('got', input().upper())";
    let run = format!(
        "{} run -qo capture.bin --python {} -c \"{code}\" &\n",
        memtrace_path().display(),
        newest_python().display()
    );
    let steps = json!([
        ["expect", "prompt> "],
        ["type", run],
        ["expect", "prompt> "],
        // The prompt comes back at once; the shell tells of the stop when the next line is entered.
        ["type", "while ! jobs | grep Stopped; do sleep 0.1; done\n"],
        ["expect", "Stopped"],
        ["expect", "prompt> "],
        ["type", "fg\n"],
        ["type", "answer\n"],
        ["expect", "got ANSWER"],
        ["expect", "prompt> "],
        ["type", "exit\n"],
    ]);
    let said = at_terminal(&folder, steps, &["bash", "--norc", "-i"]);
    assert!(said.ends_with("exit code 0\n"), "{said}");
}

#[test]
fn the_loss_of_the_terminal_reaches_the_program() {
    let folder = Scratch::new("hangup");
    let code = "import signal, sys, time\n\
        signal.signal(signal.SIGHUP, lambda *_: open('hangup', 'w').close() or sys.exit(3))\n\
        print('ready', flush=True); time.sleep(60)";
    let steps = json!([["expect", "ready"], ["hang up"]]);
    let memtrace = memtrace_path().to_str().unwrap();
    let python = newest_python().to_str().unwrap();
    let said = at_terminal(&folder, steps, &[memtrace, "run", "-qo", "capture.bin", "--python", python, "-c", code]);
    assert!(said.ends_with("exit code 3\n"), "{said}");
    assert!(folder.join("hangup").exists());
    end_of(&folder.join("capture.bin"));
}

// What the program may do to the capture.

#[test]
fn a_program_may_remove_replace_or_destroy_its_capture() {
    let folder = Scratch::new("damage");
    let place = folder.join("capture.bin");
    let place = place.display();
    // The recorder has the file mapped, so a shell that it records dies of the cut.
    for (act, code, said) in [
        ("os.remove('capture.bin')", 4, format!("the program removed or replaced {place}")),
        ("os.replace('other', 'capture.bin')", 4, format!("the program removed or replaced {place}")),
        ("os.truncate('capture.bin', 10)", 135, format!("{place}: the program cut the file off")),
        ("open('capture.bin', 'r+b').write(b'x' * 4096)", 4, format!("{place}: the program has overwritten the file")),
    ] {
        fs::write(folder.join("other"), "mine").unwrap();
        let shell = format!("{} -c \"import os; {act}\"; exit 4", newest_python().display());
        let output = output(memtrace_run(&folder).args(["-o", "capture.bin", "-f", "sh", "-c", &shell]));
        check_exit(&output, code);
        assert_eq!(stderr(&output), format!("memtrace: {said}\n"), "{act}");
        if act.contains("replace") {
            assert_eq!(fs::read(folder.join("capture.bin")).unwrap(), b"mine");
        }
    }
}

// The library.

#[test]
fn the_executable_alone_brings_its_library_along() {
    let folder = Scratch::new("carried");
    fs::create_dir(folder.join("bin")).unwrap();
    let alone = folder.join("bin/memtrace");
    fs::copy(memtrace_path(), &alone).unwrap();
    for _ in 0..2 {
        let mut command = Command::new(&alone);
        command.args(["run", "-qfo", "capture.bin", "--python"]).arg(newest_python()).args(["-c", "pass"]);
        command.current_dir(folder.path()).env("HOME", folder.path()).env_remove("XDG_CACHE_HOME");
        check_exit(&output(&mut command), 0);
        let events = support::events(&folder.join("capture.bin"));
        assert!(events.iter().any(|event| event["event"] == "alloc"), "nothing was recorded");
        assert_eq!(fs::read_dir(folder.join(".cache/memtrace")).unwrap().count(), 1);
    }
}

#[test]
fn a_folder_with_a_space_in_its_name_is_no_obstacle() {
    let folder = Scratch::new("a space");
    let tool = folder.join("memtrace");
    fs::copy(memtrace_path(), &tool).unwrap();
    fs::copy(support::shim_path(), folder.join("libmemtrace_preload.so")).unwrap();
    let mut command = Command::new(tool);
    command.args(["run", "-qo", "capture.bin", "--python"]).arg(newest_python()).args(["-c", "pass"]);
    let output = output(command.current_dir(folder.path()));
    check_exit(&output, 0);
    assert_eq!(text(&output), "--- stdout\n\n--- stderr\n");
    let events = support::events(&folder.join("capture.bin"));
    assert!(events.iter().any(|event| event["event"] == "alloc"), "nothing was recorded");
}
