//! The terminal, taken over while a view is shown and given back however that ends: by the user, an error, a signal or
//! a panic.
//!
//! Signals are not handled but read, beside the keys, so nothing ever runs between two bytes of an output.

use std::io::{Write, stdin, stdout};
use std::os::fd::AsFd;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossterm::cursor::Show;
use crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{execute, queue};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal, crossterm};

pub struct Screen {
    terminal: Terminal<CrosstermBackend<std::io::Stdout>>,
    signals: SignalFd,
    given_mask: SigSet,
}

/// What a view hears.
#[derive(Debug)]
pub enum Input {
    Key(KeyEvent),
    /// The size is another one, or the program was stopped and goes on.
    Redraw,
    /// It did not come in time.
    Nothing,
}

/// Signals that end the program.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
const OTHERS: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGCONT, Signal::SIGWINCH];

impl Screen {
    pub fn open() -> Result<Screen> {
        let awaited: SigSet = ENDING.into_iter().chain(OTHERS).collect();
        let mut given_mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&awaited), Some(&mut given_mask)).context("cannot block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&awaited, flags).context("cannot open a signalfd")?;
        restore_on_panic();
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).context("cannot use the terminal")?;
        let screen = Screen { terminal, signals, given_mask };
        enter().context("cannot take over the terminal")?;
        Ok(screen)
    }

    pub fn draw(&mut self, view: impl FnOnce(&mut Frame)) -> Result<()> {
        self.terminal.draw(view).context("cannot write to the terminal")?;
        Ok(())
    }

    /// Waits for the next key or reason to draw, `period` at most when there is one. A signal that ends the program ends
    /// it here.
    pub fn next(&mut self, period: Option<Duration>) -> Result<Input> {
        let due = period.map(|period| Instant::now() + period);
        loop {
            while event::poll(Duration::ZERO).context("cannot read from the terminal")? {
                match event::read().context("cannot read from the terminal")? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => return Ok(Input::Key(key)),
                    Event::Resize(..) => return Ok(Input::Redraw),
                    _ => {}
                }
            }
            if let Some(signal) = self.signal()? {
                match signal {
                    Signal::SIGTSTP => self.suspend()?,
                    // Whoever stopped us may have used the terminal meanwhile.
                    Signal::SIGCONT => {
                        leave();
                        self.resume()?;
                    }
                    Signal::SIGWINCH => {}
                    ending => self.end_by(ending)?,
                }
                return Ok(Input::Redraw);
            }
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Input::Nothing);
            }
            self.wait(left)?;
        }
    }

    /// Gives the terminal to whoever started us, until the user wants us back.
    pub fn suspend(&mut self) -> Result<()> {
        leave();
        let stopping: SigSet = [Signal::SIGTSTP].into_iter().collect();
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&stopping), None)?;
        // The whole group, as the terminal does it: a wrapper that waits for us has to stop as well.
        let stopped = kill(Pid::from_raw(0), Signal::SIGTSTP);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&stopping), None)?;
        stopped.context("cannot stop")?;
        self.resume()
    }

    fn resume(&mut self) -> Result<()> {
        enter().context("cannot take over the terminal")?;
        // A new one takes the screen for empty, which it is. Clearing the old one would ask the terminal where its
        // cursor is, and not every terminal answers.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout())).context("cannot use the terminal")?;
        Ok(())
    }

    /// Ends the program as if the signal had come while nothing was shown.
    fn end_by(&self, signal: Signal) -> Result<()> {
        leave();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.given_mask), None)?;
        raise(signal)?;
        // Some callers, nohup for instance, have us ignore it.
        let awaited: SigSet = ENDING.into_iter().chain(OTHERS).collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&awaited), None)?;
        Ok(enter()?)
    }

    fn signal(&self) -> Result<Option<Signal>> {
        let read = self.signals.read_signal().context("cannot read signals")?;
        Ok(read.and_then(|signal| Signal::try_from(signal.ssi_signo as i32).ok()))
    }

    fn wait(&self, time: Option<Duration>) -> Result<()> {
        let stdin = stdin();
        let mut ready =
            [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // A millisecond too long, so that the time is over then.
        let millis = time.map(|time| u16::try_from(time.as_millis() + 1).unwrap_or(u16::MAX));
        match poll(&mut ready, millis.map_or(PollTimeout::NONE, PollTimeout::from)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for keys"),
        }
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        anyhow::ensure!(!ready[0].revents().is_some_and(|events| events.intersects(gone)), "the terminal is gone");
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.given_mask), None);
    }
}

/// Whether the terminal is ours at the moment.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

fn enter() -> std::io::Result<()> {
    IS_TAKEN.store(true, Ordering::Relaxed);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen)
}

/// Best effort: there may be nothing left to give back to.
fn leave() {
    if IS_TAKEN.swap(false, Ordering::Relaxed) {
        let mut out = stdout();
        let _ = queue!(out, LeaveAlternateScreen, Show);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

/// So that the message of a panic is read on a terminal that works: the shipped program aborts and drops nothing.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            report(info);
        }));
    });
}
