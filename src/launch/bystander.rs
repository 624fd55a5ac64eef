//! A process beside the program that only tells what it is sent. Called by `watch`: a signal that the bystander got as
//! well was for the whole process group (a shell's `kill %1`) or for everything in a service (a supervisor that stops
//! it), so the program has got it too and must not get it twice: many programs take a second one as "now, at once".
//! It must never outlive the launcher.
//!
//! # Safety
//!
//! The launcher has one thread, so the child of the fork may do whatever the parent could. It never returns into the
//! caller.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe2};

use crate::launch::signals::Signals;
use crate::launch::{clock, sys};

/// How long the others of a group may get a signal after us.
const PATIENCE: Duration = Duration::from_millis(20);
/// What the bystander got longer ago has nothing to do with what we get now.
const MAX_AGE_NANOS: u64 = 100_000_000;

pub struct Bystander {
    pid: Pid,
    told: File,
}

/// A signal number and when it came, in CLOCK_MONOTONIC nanoseconds: one write, so never in parts.
const MESSAGE_LEN: usize = 12;

impl Bystander {
    /// Starts one. Without, signals to a group reach the program twice, and nothing else is lost.
    pub fn start(signals: &Signals) -> Option<Bystander> {
        let (told, tell) = pipe2(OFlag::O_CLOEXEC).ok()?;
        let launcher = nix::unistd::getpid();
        // SAFETY: see the head of the file.
        match unsafe { fork() }.ok()? {
            ForkResult::Parent { child } => Some(Bystander { pid: child, told: File::from(told) }),
            ForkResult::Child => {
                drop(told);
                sys::die_with_parent();
                // The parent may have ended before that was said.
                if getppid() == launcher {
                    tell_everything(signals, File::from(tell));
                }
                // SAFETY: ends the process without running what the parent will run at its own end.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Whether the bystander has got this signal too, at the same time as we.
    pub fn has_got(&mut self, signal: i32) -> bool {
        let start = clock::mono_nanos();
        loop {
            let waited = Duration::from_nanos(clock::mono_nanos().saturating_sub(start));
            let left = PATIENCE.saturating_sub(waited);
            let mut fds = [PollFd::new(self.told.as_fd(), PollFlags::POLLIN)];
            if !matches!(ppoll(&mut fds, Some(left.into()), None), Ok(1..)) {
                return false;
            }
            let mut message = [0; MESSAGE_LEN];
            if self.told.read_exact(&mut message).is_err() {
                return false;
            }
            let (number, nanos) = message.split_at(4);
            let number = i32::from_le_bytes(number.try_into().expect("split at the number's length"));
            let nanos = u64::from_le_bytes(nanos.try_into().expect("the rest is the time"));
            if number == signal && start.saturating_sub(nanos) < MAX_AGE_NANOS {
                return true;
            }
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        sys::send_signal(self.pid.as_raw(), libc::SIGKILL);
        let _ = sys::reap(self.pid.as_raw());
    }
}

fn tell_everything(signals: &Signals, mut tell: File) {
    loop {
        let Some(received) = signals.next(Duration::from_secs(3600)) else { continue };
        let mut message = [0; MESSAGE_LEN];
        message[..4].copy_from_slice(&received.number.to_le_bytes());
        message[4..].copy_from_slice(&clock::mono_nanos().to_le_bytes());
        if received.is_from_process && tell.write_all(&message).is_err() {
            return;
        }
    }
}
