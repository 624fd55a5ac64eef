//! fork and exec, with time between them for the parent to create the log. Called by `commands::run`.
//! The program must never inherit a descriptor, a signal mask or a disposition of ours.
//!
//! # Safety
//!
//! The launcher has one thread, so the child of the fork may do whatever the parent could. It never returns into the
//! caller: it executes the program or ends.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, Pid, dup2_stdin, dup2_stdout, execve, fork, getpid, pipe2};

use crate::launch::program::{NotRunnable, Program};
use crate::launch::signals::Signals;
use crate::launch::{start_state, sys};

/// The child of a fork that has not yet become the program. Dropping it ends it.
pub struct Waiting {
    pid: Pid,
    go: Option<File>,
    exec_error: File,
}

/// Forks. In the child, once [`Waiting::start`] is called, `environment` is asked for what to execute with; it is told
/// the child's process id.
pub fn fork_waiting(
    program: &Program,
    signals: &Signals,
    environment: impl FnOnce(Pid) -> Vec<(OsString, OsString)>,
) -> anyhow::Result<Waiting> {
    let (go_reader, go) = pipe2(OFlag::O_CLOEXEC).context("cannot open a pipe")?;
    let (exec_error, error_writer) = pipe2(OFlag::O_CLOEXEC).context("cannot open a pipe")?;
    // SAFETY: see the head of the file.
    match unsafe { fork() }.context("cannot start a process")? {
        ForkResult::Parent { child } => {
            Ok(Waiting { pid: child, go: Some(File::from(go)), exec_error: File::from(exec_error) })
        }
        ForkResult::Child => {
            drop(go);
            drop(exec_error);
            let error = become_program(program, signals, File::from(go_reader), environment);
            let _ = File::from(error_writer).write_all(&(error as i32).to_le_bytes());
            // SAFETY: ends the process without running what the parent will run at its own end.
            unsafe { libc::_exit(125) }
        }
    }
}

impl Waiting {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the child execute the program, and returns when it has.
    pub fn start(mut self, program: &Program) -> anyhow::Result<()> {
        if let Some(mut go) = self.go.take() {
            go.write_all(&[1]).context("the process to be ended before it became the program")?;
        }
        let mut errno = [0; 4];
        if self.exec_error.read_exact(&mut errno).is_err() {
            // The pipe was closed by a successful exec.
            std::mem::forget(self.go.take());
            self.pid = Pid::from_raw(0);
            return Ok(());
        }
        let error = io::Error::from_raw_os_error(i32::from_le_bytes(errno));
        let message = format!("cannot run {}: {error}", program.path.display());
        Err(match error.kind() {
            io::ErrorKind::NotFound => NotRunnable::not_found(message),
            _ => NotRunnable::not_executable(message),
        }
        .into())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Without a word in the pipe the child ends by itself.
        drop(self.go.take());
        if self.pid.as_raw() != 0 {
            let _ = sys::reap(self.pid.as_raw());
        }
    }
}

/// Lets go of the standard input and output, which are the program's: whoever reads what it writes must see the end
/// when the program closes it, and not when we end.
pub fn leave_streams() -> anyhow::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
    dup2_stdin(&null).context("cannot leave the standard input")?;
    dup2_stdout(&null).context("cannot leave the standard output")
}

/// Waits for the word of the parent and executes. Returns only if that failed.
fn become_program(
    program: &Program,
    signals: &Signals,
    mut go: File,
    environment: impl FnOnce(Pid) -> Vec<(OsString, OsString)>,
) -> Errno {
    if go.read_exact(&mut [0]).is_err() {
        return Errno::ECANCELED;
    }
    let path = c_string(program.path.as_os_str());
    let argv: Vec<CString> = program.argv.iter().map(|arg| c_string(arg)).collect();
    let env: Vec<CString> = environment(getpid()).into_iter().map(|(name, value)| variable(&name, &value)).collect();
    signals.give_back();
    for fd in start_state::closed_descriptors() {
        // SAFETY: what std has opened in place of a closed descriptor is used by nobody in this process.
        unsafe { libc::close(fd) };
    }
    match execve(&path, &argv, &env) {
        Err(Errno::ENOEXEC) if program.path.is_file() => as_shell_script(&path, &argv, &env),
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// An executable text without `#!` is for the shell, as `execvp` and every shell have it.
fn as_shell_script(path: &CString, argv: &[CString], env: &[CString]) -> Errno {
    let mut shell = vec![c"/bin/sh".to_owned(), path.clone()];
    shell.extend(argv.iter().skip(1).cloned());
    let result: nix::Result<Infallible> = execve(c"/bin/sh", &shell, env);
    result.err().unwrap_or(Errno::ENOEXEC)
}

fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).expect("arguments and variables came from the kernel, without zero bytes")
}

fn variable(name: &OsStr, value: &OsStr) -> CString {
    let mut entry = name.to_owned();
    entry.push("=");
    entry.push(value);
    c_string(&entry)
}

/// Whether `path` can be given to the loader in LD_PRELOAD, which splits at spaces and colons and expands `$`.
pub fn is_preloadable(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    path.is_absolute() && !bytes.iter().any(|byte| b" \t\n:$".contains(byte))
}
