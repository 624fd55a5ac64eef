//! A terminal of its own for `run --live`: the view has the user's, and the program gets one that is like it.
//!
//! # Safety
//!
//! Between fork and exec the child makes two system calls, which take numbers and touch no memory of ours. A size is
//! handed to the kernel as a reference to a local, which it reads and does not keep.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::tcgetattr;

/// Starts a command on a new terminal with so many columns and rows, in a session of its own; the terminal's other end.
pub fn start(command: &mut Command, size: (usize, usize)) -> Result<(Child, File)> {
    let size = window(size);
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

/// Tells the program how large the terminal is now.
pub fn resize(screen: &File, size: (usize, usize)) {
    let size = window(size);
    // SAFETY: see the head of the file. When it fails, the old size stays.
    unsafe { libc::ioctl(screen.as_raw_fd(), libc::TIOCSWINSZ, &size) };
}

fn window((columns, rows): (usize, usize)) -> Winsize {
    Winsize { ws_row: rows as u16, ws_col: columns as u16, ws_xpixel: 0, ws_ypixel: 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_program_knows_the_size_of_its_terminal_and_that_it_has_changed() {
        let mut command = Command::new("sh");
        command.args(["-c", "stty size; read line; stty size"]);
        let (mut child, mut screen) = start(&mut command, (80, 24)).unwrap();
        let mut read = String::new();
        let mut until = |screen: &mut File, wanted: &str| {
            let mut buf = [0; 256];
            while !read.contains(wanted) {
                let n_read = screen.read(&mut buf).unwrap_or_else(|error| panic!("{error} behind {read:?}"));
                read.push_str(&String::from_utf8_lossy(&buf[..n_read]));
            }
        };
        until(&mut screen, "24 80");
        resize(&screen, (120, 40));
        screen.write_all(b"\n").unwrap();
        until(&mut screen, "40 120");
        assert!(child.wait().unwrap().success());
    }
}
