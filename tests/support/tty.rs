//! A program on a terminal of its own: what it shows is read as its user would see it, and keys are pressed.

// Each user compiles its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

pub struct Tty {
    master: File,
    /// Kept, so that the terminal can be looked at when the program has ended.
    slave: OwnedFd,
    screen: vt100::Parser,
    /// Every byte that was written.
    pub written: Vec<u8>,
    child: Child,
}

/// Programs that take longer hang.
const PATIENCE: Duration = Duration::from_secs(40);

impl Tty {
    /// Starts the program with the terminal as all three of its streams.
    pub fn start(command: &mut Command, size: (u16, u16)) -> Tty {
        Tty::start_with_output(command, size, None)
    }

    /// The same with an output that goes elsewhere.
    pub fn start_with_output(command: &mut Command, (rows, cols): (u16, u16), output: Option<Stdio>) -> Tty {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let stream = || pair.slave.try_clone().unwrap();
        let output = output.unwrap_or_else(|| stream().into());
        command.env("TERM", "xterm-256color").stdin(stream()).stdout(output).stderr(stream());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Tty {
            master: pair.master.into(),
            slave: pair.slave,
            screen: vt100::Parser::new(non_zero(rows), non_zero(cols), 0),
            written: Vec::new(),
            child,
        }
    }

    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What is on the screen, line by line.
    pub fn contents(&self) -> String {
        self.screen.screen().contents()
    }

    /// Reads until the screen is as wanted.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, is_there: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !is_there(&self.contents()) {
            let is_late = start.elapsed() > PATIENCE;
            assert!(!is_late, "no {what} on the screen:\n{}", self.contents());
            self.read(100);
        }
    }

    /// Waits for a text on the screen.
    #[track_caller]
    pub fn wait_for_text(&mut self, text: &str) {
        self.wait_for(text, |contents| contents.contains(text));
    }

    /// Reads until the program has ended and everything that it wrote is on the screen.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap();
            while self.read(0) {}
            if let Some(status) = ended {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the program does not end:\n{}", self.contents());
            self.read(100);
        }
    }

    /// Whether the terminal is as a shell expects it: lines are edited and echoed, the cursor is there, and what was
    /// on the screen before is there again.
    pub fn is_given_back(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        let screen = self.screen.screen();
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
            && !screen.alternate_screen()
            && !screen.hide_cursor()
    }

    /// Whether anything is shown in colour.
    pub fn is_coloured(&self) -> bool {
        let screen = self.screen.screen();
        let (rows, cols) = screen.size();
        let mut places = (0..rows.get()).flat_map(|row| (0..cols.get()).map(move |col| (row, col)));
        places.any(|(row, col)| screen.cell(row, col).is_some_and(|cell| cell.fgcolor() != vt100::Color::Default))
    }

    /// Takes what was written; false when there was nothing for so long.
    fn read(&mut self, millis: u16) -> bool {
        let mut ready = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(millis)).unwrap() == 0 {
            return false;
        }
        let mut buf = [0; 1 << 16];
        let n_read = self.master.read(&mut buf).unwrap_or(0);
        self.screen.process(&buf[..n_read]);
        self.written.extend(&buf[..n_read]);
        n_read > 0
    }
}

fn non_zero(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has rows and columns")
}

impl Drop for Tty {
    fn drop(&mut self) {
        // A failed test leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
