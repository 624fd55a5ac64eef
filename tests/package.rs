//! The Python package: built as a wheel, installed where nothing else is, and put through its own tests
//! (`python/tests`) by every CPython that is here.

mod support;

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Scratch, environment, has_package, memtrace_path, package_environment, pythons, root, run};

#[test]
fn the_wheel_does_the_whole_job_in_an_environment_of_its_own() {
    let Some(builder) = package_environment() else { return };
    let scratch = Scratch::new("wheel");
    let wheel = build(&builder, &scratch.join("wheels"));
    check_contents(&builder, &wheel);
    for python in pythons() {
        // Such a build takes no wheel for the stable interface, and what builds one for it has to run on it.
        if python.is_free_threaded() {
            continue;
        }
        let venv = scratch.join(&format!("venv-{}", python.minor));
        run(Command::new(&python.path).args(["-m", "venv"]).arg(&venv));
        let inside = venv.join("bin/python");
        run(pip(&inside).args(["install", "--no-index"]).arg(&wheel));
        run(Command::new(venv.join("bin/memtrace")).arg("--version"));
        run_its_tests(&inside, None);
    }
}

#[test]
fn a_free_threaded_build_gets_a_wheel_of_its_own() {
    let Some(builder) = package_environment() else { return };
    let Some(python) = pythons().iter().find(|python| python.is_free_threaded()) else {
        eprintln!("no free-threaded CPython is here");
        return;
    };
    let scratch = Scratch::new("wheel-free-threaded");
    let venv = scratch.join("venv");
    run(Command::new(&python.path).args(["-m", "venv"]).arg(&venv));
    let inside = venv.join("bin/python");
    // Its `pip` builds with the interpreter that it runs on, and maturin is a program that does not care.
    let wheel = build_with(&inside, &builder, &scratch.join("wheels"));
    run(pip(&inside).args(["install", "--no-index"]).arg(&wheel));
    run_its_tests(&inside, None);
}

#[test]
fn the_package_works_beside_memray_and_what_reads_its_tables() {
    let Some(builder) = package_environment() else { return };
    let scratch = Scratch::new("wheel-beside");
    let wheel = build(&builder, &scratch.join("wheels"));
    let target = scratch.join("packages");
    run(pip(&builder).args(["install", "--no-index", "--target"]).arg(&target).arg(&wheel));
    run_its_tests(&builder, Some(&target));
    let with_memray = pythons().iter().filter(|python| has_package(python, "memray"));
    for python in with_memray.filter(|python| python.minor == "3.11") {
        run_its_tests(&environment(python), Some(&target));
    }
    check_types(&builder, &target);
}

#[test]
#[ignore = "long tier"]
fn the_source_distribution_builds_a_wheel() {
    let Some(builder) = package_environment() else { return };
    let scratch = Scratch::new("sdist");
    let script = "import sys, build_backend; print(build_backend.build_sdist(sys.argv[1]))";
    run(Command::new(&builder)
        .args(["-c", script])
        .arg(scratch.path())
        .env("PYTHONPATH", root().join("python"))
        .env("PATH", path_with(&builder))
        .current_dir(root()));
    let archive = found(scratch.path(), ".tar.gz");
    // Everything is compiled anew here, as it is for whoever has no wheel.
    run(pip(&builder)
        .args(["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir"])
        .arg(scratch.join("wheels"))
        .arg(&archive)
        .env("PATH", path_with(&builder))
        .env("CARGO_TARGET_DIR", scratch.join("target")));
    check_contents(&builder, &found(&scratch.join("wheels"), ".whl"));
}

/// The wheel, with the program under test in it.
fn build(builder: &Path, folder: &Path) -> PathBuf {
    build_with(builder, builder, folder)
}

/// The same for another interpreter than the one in whose environment maturin is.
fn build_with(python: &Path, builder: &Path, folder: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder holds tmp");
    let maturin = run(Command::new(builder).args(["-c", "import maturin; print(maturin.__path__[0])"])).stdout;
    let maturin = PathBuf::from(String::from_utf8(maturin).expect("a path").trim());
    run(pip(python)
        .args(["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir"])
        .arg(folder)
        .arg(root())
        .env("PATH", path_with(builder))
        .env("PYTHONPATH", maturin.parent().expect("a package lies in a folder"))
        .env("MEMTRACE_BIN", memtrace_path())
        .env("MEMTRACE_WHEEL_PROFILE", "e2e")
        .env("CARGO_TARGET_DIR", target));
    found(folder, ".whl")
}

/// The wheel holds what it should, and nothing else.
fn check_contents(builder: &Path, wheel: &Path) {
    let script = "import sys, zipfile\n\
                  for it in zipfile.ZipFile(sys.argv[1]).infolist(): print(oct(it.external_attr >> 16), it.filename)";
    let listed = String::from_utf8(run(Command::new(builder).args(["-c", script]).arg(wheel)).stdout).expect("UTF-8");
    let files: BTreeSet<&str> = listed.lines().filter_map(|line| line.split_once(' ')).map(|(_, name)| name).collect();
    let ends = |end: &str| files.iter().any(|file| file.ends_with(end));
    for end in [
        ".data/scripts/memtrace",
        "memtrace/_memtrace.abi3.so",
        "memtrace/libmemtrace_preload.so",
        "memtrace/_memtrace.pyi",
        "memtrace/py.typed",
        "memtrace/__init__.py",
        "memtrace/__main__.py",
        ".dist-info/METADATA",
    ] {
        assert!(ends(end), "{end} is not in the wheel:\n{listed}");
    }
    let is_ours = |file: &&str| file.starts_with("memtrace/") || file.starts_with("memtrace_profiler-");
    assert!(files.iter().all(is_ours), "{listed}");
    assert!(!ends(".rs") && !ends(".pyc") && !ends(".toml"), "{listed}");
    let program = listed.lines().find(|line| line.ends_with(".data/scripts/memtrace")).expect("it is there");
    assert!(program.starts_with("0o100755"), "{program}");
}

/// Runs `python/tests` with a package that is installed, or lies in a folder.
fn run_its_tests(python: &Path, packages: Option<&Path>) {
    let mut command = Command::new(python);
    command.args(["-m", "unittest", "discover", "--start-directory", "python/tests"]);
    command.current_dir(root()).env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(packages) = packages {
        command.env("PYTHONPATH", packages);
    }
    let output = run(&mut command);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("\nRan "), "{told}");
}

/// Signatures in the stubs are those of the extension, and the package is typed.
fn check_types(builder: &Path, packages: &Path) {
    run(Command::new(builder)
        .args(["-m", "mypy", "--config-file"])
        .arg(root().join("pyproject.toml"))
        .args(["-p", "memtrace"])
        .env("MYPYPATH", packages)
        .current_dir(packages));
    // The recorder is no module, though it is named like one.
    let allowed = packages.join("allowed");
    std::fs::write(&allowed, "memtrace.libmemtrace_preload\n").expect("the folder is ours");
    run(Command::new(builder)
        .args(["-m", "mypy.stubtest", "memtrace", "--allowlist"])
        .arg(&allowed)
        .env("MYPYPATH", packages)
        .env("PYTHONPATH", packages)
        .current_dir(packages));
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]);
    command
}

/// PATH with the programs of an environment first.
fn path_with(python: &Path) -> std::ffi::OsString {
    let bin = python.parent().expect("it ends in bin/python").to_path_buf();
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(bin).chain(env::split_paths(&path))).expect("no colon in it")
}

/// The only file in a folder with that end.
fn found(folder: &Path, end: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).expect("it was made").flatten().map(|entry| entry.path());
    let files: Vec<PathBuf> = files.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    file.clone()
}
