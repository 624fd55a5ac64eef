//! Names of native code wherever they come from: packed beside a capture, in folders of debug information, from a server
//! when that is asked for; and what is said when they are nowhere.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Scratch, memtrace, run};

/// A program with a library of its own, both with debug information.
struct Machine {
    scratch: Scratch,
}

impl Machine {
    fn new() -> Machine {
        let machine = Machine { scratch: Scratch::new("bundle") };
        let library = machine.compile("library.c", "libowned.so", &["-shared", "-fPIC", "-Wl,--build-id"]);
        let origin = format!("-Wl,-rpath,{}", machine.scratch.path().display());
        machine.compile("with_library.c", "program", &[library.to_str().unwrap(), &origin, "-Wl,--build-id"]);
        machine
    }

    fn compile(&self, source: &str, name: &str, flags: &[&str]) -> PathBuf {
        let path = self.scratch.join(name);
        let source = support::fixture("native_programs").join(source);
        run(Command::new("cc").args(["-g", "-O1", "-o"]).arg(&path).arg(source).args(flags));
        path
    }

    fn record(&self, name: &str) -> PathBuf {
        let capture = self.scratch.join(name);
        run(memtrace().args(["run", "-qfo"]).arg(&capture).arg(self.scratch.join("program")));
        capture
    }

    /// Its files, with their debug information in others.
    fn strip(&self) {
        for name in ["program", "libowned.so"] {
            let path = self.scratch.join(name);
            let debug = self.scratch.join(&format!("debug/.build-id/{}.debug", build_id(&path)));
            fs::create_dir_all(debug.parent().unwrap()).unwrap();
            run(Command::new("objcopy").arg("--only-keep-debug").arg(&path).arg(debug));
            run(Command::new("strip").arg("--strip-all").arg(&path));
        }
    }

    fn lose_files(&self) {
        for name in ["program", "libowned.so"] {
            fs::remove_file(self.scratch.join(name)).unwrap();
        }
    }
}

/// `ab/cdef…`, as debug information is filed.
fn build_id(path: &Path) -> String {
    let notes = String::from_utf8(run(Command::new("readelf").arg("-n").arg(path)).stdout).unwrap();
    let hex = notes.split("Build ID: ").nth(1).unwrap().split_whitespace().next().unwrap();
    format!("{}/{}", &hex[..2], &hex[2..])
}

/// What the report prints, and what it says on stderr.
fn tree(captures: &[&Path], configure: impl FnOnce(&mut Command)) -> (String, Vec<String>) {
    let mut command = memtrace();
    command.args(["tree", "--text", "--leaks"]).args(captures);
    configure(&mut command);
    let output = run(&mut command);
    (String::from_utf8(output.stdout).unwrap(), lines(&output.stderr))
}

fn lines(stderr: &[u8]) -> Vec<String> {
    let said = String::from_utf8_lossy(stderr);
    said.lines().map(|line| line.strip_prefix("memtrace: ").unwrap_or(line).to_owned()).collect()
}

/// What is said about captures whose reports are whole.
const NOTHING: [&str; 0] = [];

#[test]
fn a_report_on_another_machine_is_the_one_of_the_machine_that_recorded() {
    let machine = Machine::new();
    let (first, second) = (machine.record("first.bin"), machine.record("second.bin"));
    let (both, one) = ([&*first, &*second], [&*first]);
    let here = [tree(&one, |_| {}).0, tree(&both, |_| {}).0];
    for (function, source) in [("from_library", "library.c:5)"), ("main", "with_library.c:7")] {
        let place =
            format!("{function}:{}", support::fixture("native_programs").join(source.trim_end_matches(')')).display());
        assert!(here[0].contains(&place), "{place} in\n{}", here[0]);
    }
    let said = lines(&run(memtrace().arg("bundle").args(both)).stderr);
    assert_eq!(said.len(), 2, "{said:?}");
    for (capture, said) in both.iter().zip(&said) {
        let start = format!("wrote {}.symbols (", capture.display());
        assert!(said.starts_with(&start) && said.contains(" addresses in "), "{said}");
    }
    machine.lose_files();
    let elsewhere = Scratch::new("bundle");
    let there = both.map(|capture| elsewhere.join(capture.file_name().unwrap().to_str().unwrap()));
    for (from, to) in both.iter().zip(&there) {
        fs::copy(from, to).unwrap();
    }
    // Without what was packed only offsets are left.
    let (report, said) = tree(&[&there[0]], |_| {});
    assert!(report.contains("libowned.so+0x") && !report.contains("from_library"), "{report}");
    assert_eq!(said, ["libowned.so and program are gone: their functions are shown as offsets"]);
    for (from, to) in both.iter().zip(&there) {
        fs::copy(format!("{}.symbols", from.display()), format!("{}.symbols", to.display())).unwrap();
    }
    assert_eq!(tree(&[&there[0]], |_| {}), (here[0].clone(), NOTHING.map(String::from).to_vec()));
    assert_eq!(tree(&[&there[0], &there[1]], |_| {}), (here[1].clone(), NOTHING.map(String::from).to_vec()));
}

#[test]
fn what_was_packed_for_another_capture_is_not_used() {
    let machine = Machine::new();
    let (first, second) = (machine.record("first.bin"), machine.record("second.bin"));
    let beside = |capture: &Path| PathBuf::from(format!("{}.symbols", capture.display()));
    run(memtrace().arg("bundle").arg(&first));
    let here = tree(&[&second], |_| {});
    fs::rename(beside(&first), beside(&second)).unwrap();
    let (report, said) = tree(&[&second], |_| {});
    assert_eq!(report, here.0);
    let path = beside(&second);
    assert_eq!(said, [format!("the symbols in {} are those of another capture: they are not used", path.display())]);
    fs::write(&path, "memtrace symbols").unwrap();
    let (report, said) = tree(&[&second], |_| {});
    assert_eq!(report, here.0);
    let start = format!("cannot read the symbols in {}: it is cut off: ", path.display());
    assert!(said.len() == 1 && said[0].starts_with(&start) && said[0].ends_with(": they are not used"), "{said:?}");
}

#[test]
fn a_bundle_is_there_whole_or_not_at_all() {
    let machine = Machine::new();
    let capture = machine.record("capture.bin");
    let path = machine.scratch.join("capture.bin.symbols");
    fs::write(&path, "older").unwrap();
    let refused = memtrace().arg("bundle").arg(&capture).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let expected = format!("cannot write {}: it exists already (use -f to overwrite it)", path.display());
    assert_eq!(lines(&refused.stderr), [expected]);
    assert_eq!(fs::read(&path).unwrap(), b"older");
    run(memtrace().args(["bundle", "-f"]).arg(&capture));
    let elsewhere = machine.scratch.join("elsewhere");
    run(memtrace().args(["bundle", "-o"]).arg(&elsewhere).arg(&capture));
    assert_eq!(fs::read(&path).unwrap(), fs::read(&elsewhere).unwrap());

    let without = machine.scratch.join("without.bin");
    run(memtrace().args(["run", "-q", "--no-native", "-o"]).arg(&without).arg(machine.scratch.join("program")));
    let refused = memtrace().arg("bundle").arg(&without).output().unwrap();
    assert_eq!(lines(&refused.stderr), [format!("there are no native stacks in {}", without.display())]);
    assert!(!machine.scratch.join("without.bin.symbols").exists());
}

#[test]
fn debug_information_is_found_in_a_folder_that_is_named() {
    let machine = Machine::new();
    let capture = machine.record("capture.bin");
    let (here, _) = tree(&[&capture], |_| {});
    machine.strip();
    let (bare, said) = tree(&[&capture], |_| {});
    // The library has symbols for others, the program none.
    assert!(bare.contains("from_library:") && bare.contains("program+0x") && !bare.contains(".c:7"), "{bare}");
    let expected = "no debug information for libowned.so and program: their functions have no lines, and those without \
                    a symbol are shown as offsets (build with -g, ";
    assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
    let folder = machine.scratch.join("debug");
    let with_folder = tree(&[&capture], |command| {
        command.arg("--debug-folder").arg(&folder);
    });
    assert_eq!(with_folder, (here.clone(), NOTHING.map(String::from).to_vec()));
    // What is packed comes from there as well.
    run(memtrace().arg("bundle").arg("--debug-folder").arg(&folder).arg(&capture));
    fs::remove_dir_all(folder).unwrap();
    assert_eq!(tree(&[&capture], |_| {}), (here, NOTHING.map(String::from).to_vec()));
}

#[test]
fn a_server_is_asked_only_when_the_user_says_so() {
    let machine = Machine::new();
    let capture = machine.record("capture.bin");
    let (here, _) = tree(&[&capture], |_| {});
    machine.strip();
    // Stands for elfutils' own, which asks servers and prints where it put their answer.
    let (tools, log) = (machine.scratch.join("tools"), machine.scratch.join("log"));
    fs::create_dir(&tools).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$1 $2\" >> {}\nid=$2\nfile={}/$(echo $id | cut -c1-2)/$(echo $id | cut -c3-).debug\n\
         test -e $file && echo $file\n",
        log.display(),
        machine.scratch.join("debug/.build-id").display()
    );
    let finder = tools.join("debuginfod-find");
    fs::write(&finder, script).unwrap();
    fs::set_permissions(&finder, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let ask = |options: &[&str], servers: &str| {
        tree(&[&capture], |command| {
            command.args(options).env("PATH", &path).env("DEBUGINFOD_URLS", servers);
        })
    };
    ask(&[], "http://127.0.0.1:1/");
    assert!(!log.exists(), "{}", fs::read_to_string(&log).unwrap_or_default());
    let (report, said) = ask(&["--debuginfod"], "http://127.0.0.1:1/");
    assert_eq!(report, here);
    assert_eq!(said, NOTHING);
    let asked = fs::read_to_string(&log).unwrap();
    let own = build_id(&machine.scratch.join("program")).replace('/', "");
    assert_eq!(asked.lines().filter(|line| *line == format!("debuginfo {own}")).count(), 1, "{asked}");
    let (_, said) = ask(&["--debuginfod"], "");
    assert_eq!(said, ["no debuginfod server is asked: DEBUGINFOD_URLS names none"]);
}
