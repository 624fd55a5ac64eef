//! The launcher's own signals: all blocked and read one by one, so that each can be passed on or not.
//! Called by `commands::run` and `watch`. The program must never inherit any of this; `spawn` puts it back.
//!
//! # Safety
//!
//! Setting a disposition to ignore or default installs no handler, so no code of ours runs in signal context.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, raise, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::launch::start_state;

/// A signal that was sent to the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub number: i32,
    /// By a process, with `kill` or the like; otherwise by the kernel, for instance for a key of the terminal.
    pub is_from_process: bool,
}

/// What a wait came to.
pub enum Woken {
    Signal(Received),
    /// One of the others has something to read.
    Other,
    Nothing,
}

/// Signals, taken over.
pub struct Signals {
    fd: SignalFd,
    given_mask: SigSet,
    given_sigchld: SigAction,
}

impl Signals {
    /// From here on every signal waits until it is read. Faults of our own still end us: they can't be blocked.
    pub fn take_over() -> anyhow::Result<Signals> {
        let all = SigSet::all();
        let mut given_mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut given_mask)).context("cannot block signals")?;
        // With SIGCHLD ignored, as some callers leave it, the kernel would reap the program before we can.
        let given_sigchld = set(Signal::SIGCHLD, SigHandler::SigDfl).context("cannot watch for SIGCHLD")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&all, flags).context("cannot open a signalfd")?;
        Ok(Signals { fd, given_mask, given_sigchld })
    }

    /// Puts everything back as it was when memtrace was started. Called in the child, right before exec.
    pub fn give_back(&self) {
        // SAFETY: what was set before is a valid thing to set.
        let _ = unsafe { sigaction(Signal::SIGCHLD, &self.given_sigchld) };
        if !start_state::is_sigpipe_ignored() {
            let _ = set(Signal::SIGPIPE, SigHandler::SigDfl);
        }
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.given_mask), None);
    }

    /// Lets signals end the launcher again, as when it was started.
    pub fn release(&self) {
        self.forget();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.given_mask), None);
    }

    /// Forgets what came so far: it was for the program.
    pub fn forget(&self) {
        while self.read().is_some() {}
    }

    /// Whether somebody has asked us to end since.
    pub fn is_asked_to_end(&self) -> bool {
        std::iter::from_fn(|| self.read()).any(|received| Signals::is_asking(received.number))
    }

    /// Asks that again and again: once somebody has, it stays so.
    pub fn asked_to_end(&self) -> impl FnMut() -> bool {
        let mut is_asked = false;
        move || {
            is_asked |= self.is_asked_to_end();
            is_asked
        }
    }

    /// Whether it asks a program to end.
    pub fn is_asking(number: i32) -> bool {
        const ASKING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
        ASKING.contains(&number)
    }

    /// Waits for signals, up to `timeout`, and returns one of them; call again with no timeout for the others.
    pub fn next(&self, timeout: Duration) -> Option<Received> {
        match self.next_beside(std::iter::empty(), timeout) {
            Woken::Signal(received) => Some(received),
            Woken::Other | Woken::Nothing => None,
        }
    }

    /// The same, and for others that may have something to read.
    pub fn next_beside<'a>(&'a self, others: impl Iterator<Item = BorrowedFd<'a>>, timeout: Duration) -> Woken {
        if let Some(received) = self.read() {
            return Woken::Signal(received);
        }
        let fds = std::iter::once(self.fd.as_fd()).chain(others);
        let mut fds: Vec<PollFd> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut fds, Some(timeout.into()), None) {
            Ok(0) | Err(Errno::EINTR) => Woken::Nothing,
            _ => match self.read() {
                Some(received) => Woken::Signal(received),
                None => Woken::Other,
            },
        }
    }

    fn read(&self) -> Option<Received> {
        let info = self.fd.read_signal().ok()??;
        Some(Received { number: info.ssi_signo as i32, is_from_process: info.ssi_code <= 0 })
    }

    /// Stops the launcher as the program was stopped, for the shell that waits for us; returns when it goes on.
    pub fn stop_self(&self, signal: Signal) {
        let _ = raise(signal);
        let mut only = SigSet::empty();
        only.add(signal);
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None);
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&only), None);
    }
}

fn set(signal: Signal, handler: SigHandler) -> nix::Result<SigAction> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: see the head of the file.
    unsafe { sigaction(signal, &action) }
}
