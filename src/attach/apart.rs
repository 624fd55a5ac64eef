//! Work that must not be broken off, in a process apart: whoever kills memtrace, its group or its terminal does not kill
//! that. Called by `attach` for what it does by ptrace: a process whose tracer is killed has breakpoints in its code that
//! nobody takes out, and dies of them. Only who kills the process apart itself, as the kernel does for want of memory, or
//! the whole control group, does that harm.
//! It must never outlive its work.

use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::setsid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::sys;

/// Whoever waits for the work.
pub struct Waiting {
    pipe: PipeWriter,
}

impl Waiting {
    /// Whether it is still there.
    pub fn is_there(&self) -> bool {
        // A pipe that nobody can read any more is an error without being asked about.
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }
}

/// Does the work and returns what it comes to. This process has one thread. Of its descriptors the work can use those that
/// are `kept`.
pub fn run<T>(kept: &[BorrowedFd<'_>], work: impl FnOnce(&Waiting) -> anyhow::Result<T>) -> anyhow::Result<T>
where
    T: Serialize + DeserializeOwned,
{
    let (mut reader, pipe) = io::pipe().context("cannot make a pipe")?;
    let Some(child) = sys::fork().context("cannot start a process")? else {
        drop(reader);
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
        let _ = setsid();
        // The sockets and locks of whoever waits must not stay when that is killed.
        sys::close_all_but(&[kept, &[pipe.as_fd()]].concat());
        let mut waiting = Waiting { pipe };
        let result = work(&waiting).map_err(|error| format!("{error:#}"));
        let _ = serde_json::to_vec(&result).map(|text| waiting.pipe.write_all(&text));
        sys::end();
    };
    drop(pipe);
    let mut text = Vec::new();
    let read = reader.read_to_end(&mut text);
    let _ = waitpid(child, None);
    read?;
    let result: Result<T, String> =
        serde_json::from_slice(&text).context("the process that does the tracing has died")?;
    result.map_err(|error| anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_work_comes_to_comes_back_and_it_has_no_other_descriptors() {
        assert_eq!(run(&[], |waiting| Ok((waiting.is_there(), 7))).unwrap(), (true, 7));
        let error = run::<()>(&[], |_| Err(anyhow!("inner").context("outer"))).unwrap_err();
        assert_eq!(error.to_string(), "outer: inner");
        let file = std::fs::File::open("/dev/null").unwrap();
        let is_there = |kept: &[BorrowedFd]| run(kept, |_| Ok(file.metadata().is_ok())).unwrap();
        assert!(!is_there(&[]) && is_there(&[file.as_fd()]) && file.metadata().is_ok());
    }
}
