//! A terminal of its own for `run --live`: the view has the user's, and the program gets one that is like it.
//!
//! # Safety
//!
//! Between fork and exec the child makes two system calls, which take numbers and touch no memory of ours.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::tcgetattr;

/// Starts a command on a new terminal of this size, in a session of its own; the terminal's other end.
pub fn start(command: &mut Command, (columns, rows): (usize, usize)) -> Result<(Child, File)> {
    let size = Winsize { ws_row: rows as u16, ws_col: columns as u16, ws_xpixel: 0, ws_ypixel: 0 };
    let settings = tcgetattr(io::stdin()).ok();
    let pair = openpty(&size, settings.as_ref()).context("cannot open a terminal for the program")?;
    let stream = || pair.slave.try_clone().context("cannot open a terminal for the program");
    command.stdin(stream()?).stdout(stream()?).stderr(stream()?);
    // SAFETY: see the head of the file. The standard input is the new terminal then.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().context("cannot start memtrace behind the view")?;
    Ok((child, File::from(pair.master)))
}
