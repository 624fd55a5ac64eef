//! What the user's words mean: a script for an interpreter, or a program; found where a shell would find it.
//! Called by `commands::run` before anything is created. It must never run the program, only a version manager's shim.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::unistd::{AccessFlags, access};

/// What to run, as the user named it.
pub enum Target<'a> {
    /// A script or program, and its arguments.
    File(&'a [OsString]),
    /// `-m`: a module and its arguments.
    Module(&'a [OsString]),
    /// `-c`: a piece of code and its arguments.
    Code(&'a [OsString]),
}

/// What to execute.
#[derive(Debug)]
pub struct Program {
    /// The file to execute.
    pub path: PathBuf,
    /// Its arguments, `argv[0]` first.
    pub argv: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
    /// What the user gave, for the reports.
    pub command_line: Vec<OsString>,
    /// A short name for files: the script's, module's or program's.
    pub name: String,
    /// The script's path as its frames will show it, or the module.
    pub script: Option<String>,
}

/// There is no such program (127), or it can't be executed (126), as shells have it.
#[derive(Debug)]
pub struct NotRunnable {
    pub exit_code: u8,
    pub message: String,
}

impl NotRunnable {
    pub fn not_found(message: String) -> NotRunnable {
        NotRunnable { exit_code: 127, message }
    }

    pub fn not_executable(message: String) -> NotRunnable {
        NotRunnable { exit_code: 126, message }
    }
}

impl fmt::Display for NotRunnable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for NotRunnable {}

impl Program {
    /// Finds out what to execute. `python` is the user's `--python`.
    pub fn find(target: Target<'_>, python: Option<&Path>) -> anyhow::Result<Program> {
        match target {
            Target::Module(words) => {
                let name = words[0].to_string_lossy().into_owned();
                let program = with_interpreter(python, "-m", words)?;
                Ok(Program { script: Some(name.clone()), name, ..program })
            }
            Target::Code(words) => with_interpreter(python, "-c", words),
            Target::File(words) => match find_file(&words[0])? {
                Found::Script => {
                    let program = with_interpreter(python, "", words)?;
                    let path = Path::new(&words[0]);
                    let script = (words[0] != "-").then(|| std::path::absolute(path)).transpose()?;
                    let script = script.map(|path| path.to_string_lossy().into_owned());
                    Ok(Program { name: script_name(path), script, ..program })
                }
                Found::Program(path) => Ok(Program {
                    name: last_part(&words[0]),
                    path,
                    argv: words.to_vec(),
                    env: environment(),
                    command_line: words.to_vec(),
                    script: None,
                }),
            },
        }
    }
}

enum Found {
    Script,
    Program(PathBuf),
}

fn find_file(word: &OsStr) -> anyhow::Result<Found> {
    let path = Path::new(word);
    // Python's own word for a script on standard input.
    if word == "-" {
        return Ok(Found::Script);
    }
    let Ok(metadata) = fs::metadata(path) else {
        if !has_slash(word)
            && let Some(path) = on_path(word, &env::var_os("PATH").unwrap_or_default())
        {
            return Ok(Found::Program(path));
        }
        let place = if has_slash(word) { "" } else { " here or on PATH" };
        return Err(NotRunnable::not_found(format!("there is no {}{place}", path.display())).into());
    };
    let refuse = |why: &str| Err(NotRunnable::not_executable(format!("cannot run {}: {why}", path.display())).into());
    if metadata.is_dir() {
        let is_package = path.join("__main__.py").exists() || path.join("__main__.pyc").exists();
        return if is_package { Ok(Found::Script) } else { refuse("the directory has no __main__.py") };
    }
    let extension = path.extension().unwrap_or_default();
    if ["py", "pyw", "pyz", "pyc"].iter().any(|known| extension == *known) {
        return Ok(Found::Script);
    }
    if access(path, AccessFlags::X_OK).is_ok() {
        // A bare name that is a file here means that file, and exec must not look for it elsewhere.
        let path = if has_slash(word) { path.to_owned() } else { Path::new(".").join(path) };
        return Ok(Found::Program(path));
    }
    if !metadata.is_file() {
        return refuse("it is not a regular file");
    }
    match looks_like_script(path) {
        Ok(true) => Ok(Found::Script),
        Ok(false) => refuse("it is neither executable nor a script"),
        Err(error) => refuse(&error.to_string()),
    }
}

fn has_slash(word: &OsStr) -> bool {
    word.as_bytes().contains(&b'/')
}

/// The first executable file of this name in the folders of a PATH.
fn on_path(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|folder| if folder.as_os_str().is_empty() { Path::new(".").join(name) } else { folder.join(name) })
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
}

/// Whether a file that is not executable is text, or a zip file, which Python runs as well.
fn looks_like_script(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    (&mut file).take(4096).read_to_end(&mut start)?;
    if !start.contains(&0) {
        return Ok(true);
    }
    // The directory of a zip file stands at its end, behind it only a comment of up to 64 KiB.
    let len = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(len.saturating_sub(22 + 0xffff)))?;
    let mut end = Vec::new();
    file.take(22 + 0xffff).read_to_end(&mut end)?;
    Ok(end.windows(4).any(|bytes| bytes == b"PK\x05\x06"))
}

fn script_name(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "stdin".into();
    }
    // `.` and `..` have no name of their own.
    let absolute = fs::canonicalize(path);
    let path = absolute.as_deref().ok().filter(|_| path.file_name().is_none()).unwrap_or(path);
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.unwrap_or(OsStr::new("script")).to_string_lossy().into_owned()
}

fn last_part(word: &OsStr) -> String {
    Path::new(word).file_name().unwrap_or(word).to_string_lossy().into_owned()
}

fn with_interpreter(python: Option<&Path>, option: &str, words: &[OsString]) -> anyhow::Result<Program> {
    let interpreter = Interpreter::find(python)?;
    let mut argv = vec![interpreter.name];
    let mut command_line = Vec::new();
    if !option.is_empty() {
        command_line.push(OsString::from(option));
    }
    command_line.extend(words.iter().cloned());
    argv.extend(command_line.iter().cloned());
    let name = if option == "-c" { "code" } else { "script" };
    Ok(Program { path: interpreter.path, argv, env: interpreter.env, command_line, name: name.into(), script: None })
}

/// A CPython and how to start it.
struct Interpreter {
    path: PathBuf,
    /// `argv[0]`, from which Python computes `sys.executable` and finds its virtual environment.
    name: OsString,
    env: Vec<(OsString, OsString)>,
}

impl Interpreter {
    fn find(wanted: Option<&Path>) -> anyhow::Result<Interpreter> {
        let name = match (wanted, env::var_os("VIRTUAL_ENV").filter(|folder| !folder.is_empty())) {
            (Some(path), _) => path.as_os_str().to_owned(),
            (None, Some(folder)) => Path::new(&folder).join("bin/python").into_os_string(),
            (None, None) => OsString::from("python3"),
        };
        let path = if has_slash(&name) {
            Some(PathBuf::from(&name)).filter(|path| path.exists())
        } else {
            on_path(&name, &env::var_os("PATH").unwrap_or_default())
        };
        let Some(path) = path else {
            let advice = match wanted {
                Some(_) => "--python names no file",
                None if has_slash(&name) => "VIRTUAL_ENV has no interpreter; name one with --python",
                None => "it is not on PATH; name an interpreter with --python",
            };
            let message = format!("cannot find {}: {advice}", Path::new(&name).display());
            return Err(NotRunnable::not_found(message).into());
        };
        if path.is_dir() || access(&path, AccessFlags::X_OK).is_err() {
            let message = format!("cannot run the interpreter {}: it is not an executable file", path.display());
            return Err(NotRunnable::not_executable(message).into());
        }
        if is_shell_script(&path) {
            return Interpreter::behind(&path);
        }
        Ok(Interpreter { path, name, env: environment() })
    }

    /// The interpreter that a version manager's shim ends in, with the arguments and environment that the shim gives
    /// it. Recording starts there, so that the shim's own shells and helpers are not in the capture.
    fn behind(shim: &Path) -> anyhow::Result<Interpreter> {
        // What exec was given, before Python or its start-up files could change anything.
        const ASK: &str = "import sys\n\
            out = sys.stdout.buffer\n\
            out.write(sys.executable.encode(sys.getfilesystemencoding(), 'surrogateescape') + b'\\0')\n\
            for name in ('cmdline', 'environ'):\n    \
                data = open('/proc/self/' + name, 'rb').read()\n    \
                out.write(b'%d\\0' % data.count(b'\\0') + data)\n";
        let failed = || format!("cannot find the interpreter behind {}", shim.display());
        let answer = Command::new(shim)
            .args(["-I", "-S", "-c", ASK])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .with_context(failed)?;
        if !answer.status.success() {
            let said = String::from_utf8_lossy(&answer.stderr);
            bail!("{}: it ended with {}: {}", failed(), answer.status, said.trim());
        }
        let (path, name, env) = parse_answer(&answer.stdout).with_context(failed)?;
        if is_shell_script(&path) {
            bail!("{}: {} is a script too", failed(), path.display());
        }
        Ok(Interpreter { path, name, env })
    }
}

type Answer = (PathBuf, OsString, Vec<(OsString, OsString)>);

fn parse_answer(bytes: &[u8]) -> anyhow::Result<Answer> {
    let mut parts = bytes.split(|&byte| byte == 0).map(|part| OsString::from_vec(part.to_vec()));
    let mut next = || parts.next().context("its answer is cut off");
    let count = |part: OsString| {
        part.to_str().and_then(|part| part.parse::<usize>().ok()).context("its answer is not a Python's")
    };
    let path = PathBuf::from(next()?);
    let n_arguments = count(next()?)?;
    let name = next()?;
    for _ in 1..n_arguments {
        next()?;
    }
    let mut env = Vec::new();
    for _ in 0..count(next()?)? {
        env.push(split_variable(next()?));
    }
    Ok((path, name, env))
}

fn split_variable(entry: OsString) -> (OsString, OsString) {
    let bytes = entry.as_bytes();
    let end = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
    let value = bytes.get(end + 1..).unwrap_or_default();
    (OsStr::from_bytes(&bytes[..end]).to_owned(), OsStr::from_bytes(value).to_owned())
}

fn is_shell_script(path: &Path) -> bool {
    let mut start = [0; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"#!"
}

fn environment() -> Vec<(OsString, OsString)> {
    env::vars_os().collect()
}
