//! Python programs without and under memtrace, on every interpreter that is here.
//!
//! Called by the tests of Python programs. It must never let an interpreter be left out in silence.

use std::{
    ffi::OsStr,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use crate::{
    account::{self, Level},
    support::{self, Python, Scratch},
};

/// One run of a program: what to start, and what is said about how it goes.
#[derive(Clone, Default)]
pub struct Program {
    /// Command line after the interpreter; a fixture's path, or options and then the path.
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Options of `memtrace run` beyond those that every run has.
    has_no_python_allocators: bool,
    /// The text it prints differs from run to run.
    has_varying_output: bool,
    /// It need not end well without us.
    may_fail: bool,
    /// Packages of `tests/requirements.txt` that it imports.
    packages: &'static [&'static str],
}

impl Program {
    /// A script of `fixtures/python`.
    pub fn fixture(name: &str) -> Program {
        Program::new(&[fixture(name).to_str().expect("the checkout's path is UTF-8")])
    }

    /// The interpreter with these arguments.
    pub fn new(arguments: &[&str]) -> Program {
        Program { arguments: arguments.iter().map(|argument| argument.to_string()).collect(), ..Program::default() }
    }

    pub fn argument(mut self, argument: &str) -> Program {
        self.arguments.push(argument.to_string());
        self
    }

    /// Options of the interpreter.
    pub fn options(mut self, options: &[&str]) -> Program {
        self.arguments.splice(0..0, options.iter().map(|option| option.to_string()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Program {
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    pub fn without_python_allocators(mut self) -> Program {
        self.has_no_python_allocators = true;
        self
    }

    pub fn with_varying_output(mut self) -> Program {
        self.has_varying_output = true;
        self
    }

    /// For programs that are about the way they end; any other one has to end well.
    pub fn that_may_fail(mut self) -> Program {
        self.may_fail = true;
        self
    }

    /// Runs in the virtual environments with the packages of `tests/requirements.txt`, where these are there.
    pub fn with_packages(mut self, packages: &'static [&'static str]) -> Program {
        self.packages = packages;
        self
    }

    /// Runs it on every interpreter, without memtrace and under it: the same outputs and end, and a capture that agrees
    /// with the account.
    pub fn check(&self) {
        // Lives until all the interpreters had their turn, and so is kept when one of them failed.
        let scratch = Scratch::new("python");
        on_every_python(|python| {
            if !self.is_possible_on(python) {
                eprintln!("skipped on CPython {}, which has no such allocator or JIT", python.minor);
                return Vec::new();
            }
            let interpreter = match self.packages {
                [] => python.path.clone(),
                _ => support::environment(python),
            };
            if let Some(package) = self.packages.iter().find(|package| !support::has_package(python, package)) {
                eprintln!("skipped on CPython {}, for which there is no {package}", python.minor);
                return Vec::new();
            }
            let file = |name: &str| scratch.join(&format!("{}-{name}", python.minor));
            let mut plain = Command::new(&interpreter);
            plain.args(&self.arguments);
            let plain = self.run(&mut plain, &file("plain.json"));
            let capture = file("capture.bin");
            let mut traced = support::memtrace();
            traced.args(["run", "--quiet", "--output"]).arg(&capture);
            if self.has_no_python_allocators {
                traced.arg("--no-python-allocators");
            }
            traced.arg("--").arg(&interpreter).args(&self.arguments);
            let traced = self.run(&mut traced, &file("traced.json"));

            let mut problems = self.unlike(&plain, &traced);
            let expected = account::read(&file("traced.json"));
            let identity = (&*version(python), &*self.allocators(python));
            problems.extend(account::differences(&expected, &capture, self.level(python), identity));
            problems
        });
    }

    /// Whether the interpreter has what the environment asks for: a free-threaded one has no allocator but mimalloc, and
    /// few are built with a JIT.
    fn is_possible_on(&self, python: &Python) -> bool {
        self.environment.iter().all(|(name, value)| match &**name {
            "PYTHONMALLOC" => !(python.is_free_threaded() && value.starts_with("malloc")),
            "PYTHON_JIT" => has_jit(python),
            _ => true,
        })
    }

    fn level(&self, python: &Python) -> Level {
        match (self.has_no_python_allocators, python.is_free_threaded()) {
            (false, _) => Level::Objects,
            (true, false) => Level::Malloc,
            (true, true) => Level::Native,
        }
    }

    /// What CPython calls the allocators that it uses with these options.
    fn allocators(&self, python: &Python) -> Vec<&str> {
        if !self.environment.iter().any(|(name, _)| name == "PYTHONTRACEMALLOC") {
            return vec![self.allocator(python)];
        }
        // Without a GIL they are wrapped at the start or never, and tracemalloc may come before or after.
        if python.is_free_threaded() { vec!["custom", "mimalloc"] } else { vec!["custom"] }
    }

    fn allocator(&self, python: &Python) -> &str {
        let chosen = self.environment.iter().find(|(name, _)| name == "PYTHONMALLOC").map(|(_, value)| value.as_str());
        let is_dev = self.arguments.iter().any(|argument| argument == "dev");
        let is_dev = is_dev || is_debug_build(python);
        match (chosen, python.is_free_threaded()) {
            (None, true) if is_dev => "mimalloc_debug",
            (None, false) if is_dev => "pymalloc_debug",
            (None, true) => "mimalloc",
            (None, false) => "pymalloc",
            (Some("debug"), true) => "mimalloc_debug",
            (Some("debug"), false) => "pymalloc_debug",
            (Some(chosen), _) => chosen,
        }
    }

    fn run(&self, command: &mut Command, account: &Path) -> Output {
        command
            .env("EXPECT_FILE", account)
            .env("EXPECT_LIBRARY", helpers())
            // Or each run would compile all that it imports, and check the stacks of that.
            .env_remove("PYTHONDONTWRITEBYTECODE")
            .env("PYTHONPYCACHEPREFIX", Path::new(env!("CARGO_TARGET_TMPDIR")).join("pycache"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
    }

    fn unlike(&self, plain: &Output, traced: &Output) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.may_fail && !plain.status.success() {
            problems.push(format!("without memtrace it ended with {}\n{}", plain.status, support::text(plain)));
        }
        // The launcher ends as a shell would say it: a signal is 128 + its number.
        let expected = plain.status.code().or_else(|| plain.status.signal().map(|signal| 128 + signal));
        if traced.status.code() != expected {
            let seen = traced.status;
            problems.push(format!("ended with {seen} instead of code {expected:?}\n{}", support::text(traced)));
        }
        if !self.has_varying_output && (plain.stdout != traced.stdout || plain.stderr != traced.stderr) {
            let (plain, traced) = (support::text(plain), support::text(traced));
            problems.push(format!("other output\nwithout memtrace:\n{plain}\nunder memtrace:\n{traced}"));
        }
        problems
    }
}

/// Runs `check` for every interpreter and fails with all the problems it returns, the interpreters named.
pub fn on_every_python(check: impl Fn(&Python) -> Vec<String>) {
    const SHOWN: usize = 5;
    let mut report = String::new();
    for python in support::pythons() {
        let problems = check(python);
        if !problems.is_empty() {
            report += &format!("\nCPython {} ({}): {} problems\n", python.minor, python.path.display(), problems.len());
            for problem in problems.iter().take(SHOWN) {
                report += &format!("- {problem}\n");
            }
        }
    }
    let minors: Vec<&str> = support::pythons().iter().map(|python| python.minor.as_str()).collect();
    eprintln!("ran on CPython {}", minors.join(", "));
    assert!(report.is_empty(), "{report}");
}

/// A file in `fixtures/python`.
pub fn fixture(name: &str) -> PathBuf {
    support::fixture("python").join(name)
}

/// `helpers.c` as a library.
pub fn helpers() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| compile("helpers.c", &["-shared", "-fPIC", "-pthread"]))
}

/// A compiled C file of `fixtures/python`, for all the tests that run beside each other.
pub fn compile(source: &str, options: &[&str]) -> PathBuf {
    compile_as(&format!("{source}.built"), source, options)
}

/// The same under a name of its own.
pub fn compile_as(name: &str, source: &str, options: &[&str]) -> PathBuf {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let unfinished = built.with_extension(std::process::id().to_string());
    support::run(Command::new("gcc").args(["-O1", "-o"]).arg(&unfinished).arg(fixture(source)).args(options));
    fs::rename(unfinished, &built).expect("the folder of the build is ours");
    built
}

/// A program of `fixtures/python` that can load the interpreter's library: one that came with a C library of its own
/// needs that library's loader.
pub fn compile_for(python: &Python, source: &str) -> PathBuf {
    let libraries = build_variable(python, "LIBDIR");
    let loader = format!("{libraries}/ld-linux-x86-64.so.2");
    let option = format!("-Wl,--dynamic-linker={loader},--disable-new-dtags,-rpath={libraries}");
    let mut options = vec!["-ldl"];
    options.extend(Path::new(&loader).exists().then_some(&*option));
    compile_as(&format!("{source}-{}.built", python.minor), source, &options)
}

fn has_jit(python: &Python) -> bool {
    const SCRIPT: &str = "import sys; raise SystemExit(not (hasattr(sys, '_jit') and sys._jit.is_available()))";
    Command::new(&python.path).args(["-c", SCRIPT]).status().is_ok_and(|status| status.success())
}

/// An interpreter's version: `3.11.7`.
pub fn version(python: &Python) -> String {
    let output = support::run(Command::new(&python.path).arg("--version"));
    let text = String::from_utf8(output.stdout).expect("a version is UTF-8");
    text.trim().trim_start_matches("Python ").to_string()
}

/// Whether it was built for debugging, `--with-pydebug`.
fn is_debug_build(python: &Python) -> bool {
    let script = "import sys; raise SystemExit(not hasattr(sys, 'gettotalrefcount'))";
    Command::new(&python.path).args(["-c", script]).status().is_ok_and(|status| status.success())
}

/// A variable of an interpreter's build, as `sysconfig` names them.
pub fn build_variable(python: &Python, name: &str) -> String {
    let script = format!("import sysconfig; print(sysconfig.get_config_var({name:?}))");
    let output = support::run(Command::new(&python.path).args([OsStr::new("-c"), OsStr::new(&script)]));
    String::from_utf8(output.stdout).expect("a path of the build is UTF-8").trim().to_string()
}
