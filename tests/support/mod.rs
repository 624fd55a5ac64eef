//! What the end-to-end tests share: the built `memtrace`, the interpreters, scratch folders, decoded captures.
//!
//! Called by every file in `tests/` that runs programs. It must never hand out a `memtrace` that `cargo test` built:
//! that one unwinds on panic, the one people get aborts, and the difference is the whole run-time of the shim.
//!
//! `tests/run` builds the release once and names it in `MEMTRACE_BIN`. Without that variable the first call builds the
//! workspace in the profile `e2e` (the release without link-time optimisation), so a plain `cargo nextest run` always
//! tests the code as it stands.

// Each test program compiles its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::Value;

/// The `memtrace` under test; its shim lies beside it.
pub fn memtrace_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = match env::var_os("MEMTRACE_BIN") {
            Some(path) => PathBuf::from(path),
            None => build_e2e_profile(),
        };
        assert!(path.is_file(), "{} does not exist: MEMTRACE_BIN has to name a built memtrace", path.display());
        path
    })
}

/// A command line that begins with the `memtrace` under test.
pub fn memtrace() -> Command {
    Command::new(memtrace_path())
}

/// The shim under test.
pub fn shim_path() -> PathBuf {
    memtrace_path().with_file_name("libmemtrace_preload.so")
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A text equals its file in `fixtures/expected`.
pub fn assert_expected(name: &str, actual: &str) {
    let path = fixture("expected").join(name);
    if std::env::var_os("MEMTRACE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{} differs from what is expected (MEMTRACE_BLESS=1 rewrites it)\n--- expected\n{expected}\n--- actual\n{actual}",
        path.display()
    );
}

/// A file or folder in `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    root().join("fixtures").join(path)
}

/// A folder of this test's own, removed when the test passed and kept for a look when it failed.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// `name` makes the folder findable; it need not be unique.
    pub fn new(name: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        Scratch { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("files of the failed test: {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A CPython that is here.
#[derive(Clone, Debug)]
pub struct Python {
    /// `3.11`; `3.13t` for the free-threaded build
    pub minor: String,
    pub path: PathBuf,
}

impl Python {
    /// A build without a global interpreter lock.
    pub fn is_free_threaded(&self) -> bool {
        self.minor.ends_with('t')
    }
}

/// The interpreters of the supported minors that this machine has, oldest first; at least one.
///
/// `tests/run` names them in `MEMTRACE_TEST_PYTHONS` (paths between colons); else they are looked for where pyenv, PATH
/// and `tests/provide-python` have them.
pub fn pythons() -> &'static [Python] {
    static PYTHONS: OnceLock<Vec<Python>> = OnceLock::new();
    PYTHONS.get_or_init(|| {
        let found: Vec<Python> = NAMES.iter().filter_map(|name| find_python(name)).collect();
        assert!(!found.is_empty(), "none of CPython {} is on this machine", NAMES.join(", "));
        found
    })
}

/// The interpreter of the virtual environment with the packages of `tests/requirements.txt`, which `tests/run` makes.
pub fn environment(python: &Python) -> PathBuf {
    let path = test_environment().join(format!("venv-{}/bin/python", python.minor));
    assert!(path.exists(), "{} does not exist: tests/run makes it", path.display());
    path
}

/// Whether that environment has all the packages: some have nothing yet for a new interpreter.
pub fn has_all_packages(python: &Python) -> bool {
    missing_packages(python).is_empty()
}

/// Whether that environment has this package.
pub fn has_package(python: &Python, package: &str) -> bool {
    !missing_packages(python).lines().any(|line| line.starts_with(package))
}

fn missing_packages(python: &Python) -> String {
    let environment = environment(python);
    let folder = environment.parent().and_then(Path::parent).expect("it ends in bin/python");
    std::fs::read_to_string(folder.join("missing")).unwrap_or_default()
}

/// The programs of the Python packages in `tests/tools.txt`, which `tests/run` installs.
pub fn tools() -> PathBuf {
    test_environment().join("venv-tools/bin")
}

/// The interpreter of the virtual environment with the packages of `tests/models.txt`, which `tests/run` makes.
pub fn models() -> PathBuf {
    let path = test_environment().join("venv-models/bin/python");
    assert!(path.exists(), "{} does not exist: tests/run makes it", path.display());
    path
}

/// The interpreter of the virtual environment with the packages of `tests/package.txt`, which `tests/run` makes; `None`,
/// and a word about it, when they could not be had.
pub fn package_environment() -> Option<PathBuf> {
    let path = test_environment().join("venv-package/bin/python");
    let is_whole = path.exists() && !test_environment().join("venv-package/missing").exists();
    if !is_whole {
        eprintln!("not tested: {} has not all packages of tests/package.txt; tests/run installs them", path.display());
    }
    is_whole.then_some(path)
}

/// The interpreter of the virtual environment with the packages of `tests/servers.txt`, which `tests/run` makes.
pub fn servers() -> PathBuf {
    let path = test_environment().join("venv-servers/bin/python");
    assert!(path.exists(), "{} does not exist: tests/run makes it", path.display());
    path
}

/// Where `tests/run` keeps what it has made outside the checkout.
fn test_environment() -> PathBuf {
    env::var_os("MEMTRACE_TEST_ENV")
        .map(PathBuf::from)
        .unwrap_or_else(|| env::home_dir().unwrap_or_else(|| "/tmp".into()).join(".cache/memtrace-tests"))
}

/// Runs it and says what happened when it failed, with both its outputs.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} ended with {}\n{}", output.status, text(&output));
    output
}

/// Both outputs as text for a person.
pub fn text(output: &Output) -> String {
    format!(
        "--- stdout\n{}\n--- stderr\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Every record of a capture, as `memtrace parse --json` prints them, in order.
pub fn events(capture: &Path) -> Vec<Value> {
    events_from(capture, 0)
}

/// The same without allocations and mappings of fewer bytes.
pub fn events_from(capture: &Path, min_size: u64) -> Vec<Value> {
    let output = run(memtrace().arg("parse").arg(capture).args(["--json", "--min-size", &min_size.to_string()]));
    String::from_utf8(output.stdout)
        .expect("JSON is UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect()
}

/// What `memtrace stats --json` says about a capture.
pub fn stats(capture: &Path) -> Value {
    let output = run(memtrace().arg("stats").arg(capture).arg("--json"));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in\n{}", text(&output)))
}

const NAMES: [&str; 8] = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.13t", "3.14", "3.15"];

fn build_e2e_profile() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder holds tmp");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .args(["build", "--quiet", "--profile", "e2e", "--target-dir"])
        .arg(target)
        .current_dir(root()));
    target.join("e2e/memtrace")
}

fn find_python(minor: &str) -> Option<Python> {
    let candidates: Vec<PathBuf> = match env::var_os("MEMTRACE_TEST_PYTHONS") {
        Some(paths) => env::split_paths(&paths).collect(),
        None => python_candidates(minor),
    };
    let path = candidates.into_iter().find(|path| is_python(path, minor))?;
    Some(Python { minor: minor.to_string(), path })
}

fn python_candidates(minor: &str) -> Vec<PathBuf> {
    let pyenv = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".pyenv")));
    let mut found: Vec<PathBuf> = pyenv
        .and_then(|pyenv| std::fs::read_dir(pyenv.join("versions")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{}.", minor.trim_end_matches('t'))))
        .map(|entry| entry.path().join("bin").join(format!("python{minor}")))
        .collect();
    found.sort();
    let path = env::var_os("PATH").unwrap_or_default();
    found.extend(env::split_paths(&path).map(|folder| folder.join(format!("python{minor}"))));
    found.extend([format!("python-{minor}/bin"), "debian-sid/usr/bin".into()].map(|folder| {
        let provided = test_environment().join(folder);
        provided.join(format!("python{minor}"))
    }));
    found
}

/// Asked rather than believed: a version manager's shim of that name may exist and start nothing.
fn is_python(path: &Path, minor: &str) -> bool {
    const SCRIPT: &str = "import sys; print(sys.implementation.name, \
                          '%d.%d' % sys.version_info[:2] + sys.abiflags.strip('dmu'))";
    Command::new(path)
        .args(["-S", "-c", SCRIPT])
        .output()
        .is_ok_and(|output| output.stdout == format!("cpython {minor}\n").as_bytes())
}
