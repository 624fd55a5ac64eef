//! `memtrace run --live`: the view in front, and behind it the same command without a view, on a terminal of its own. So
//! the program, its signals and its end are those of any `memtrace run`; what it writes is kept for when the view is
//! left, and from then on the two terminals are one.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::commands::live::Logs;
use crate::control::place;
use crate::launch::pty;
use crate::terminal;
use crate::terminal::live::{Picture, Source};

/// What the program writes while the view is there, at most; the rest of a longer output is its end.
const MAX_KEPT: usize = 4 << 20;
const INTERRUPT: u8 = 3;
const SUSPEND: u8 = 26;

/// Shows the view, and returns with the program's exit code.
pub fn run() -> Result<ExitCode> {
    if !terminal::is_possible() {
        bail!("--live needs a terminal; --live-remote waits for `memtrace live` in another one");
    }
    let size = terminal::size().unwrap_or((80, 24));
    let meeting = Meeting::new()?;
    let (mut child, screen) = pty::start(&mut same_command(&meeting.path)?, size)?;
    let output = Output::of(screen.try_clone()?);
    if let Some(log) = meeting.wait(&mut child)? {
        let mut front = Front { logs: Logs::new(&log)?, screen: screen.try_clone()?, size, output: output.clone() };
        terminal::live::show(&mut front)?;
    }
    relay(&mut child, screen, &output).map(exit_code)
}

/// Says to the view in front where the log is. When nobody is there any more, that is no reason to fail.
pub fn tell(view: &Path, log: &Path) {
    if let Ok(mut stream) = UnixStream::connect(view) {
        let _ = stream.write_all(log.as_os_str().as_encoded_bytes());
    }
}

/// The command line as it was given, told to stay behind the view.
fn same_command(view: &Path) -> Result<Command> {
    let mut given: Vec<OsString> = env::args_os().skip(1).collect();
    let run = given.iter().position(|word| word == "run").context("the command line has no `run`")?;
    given.splice(run + 1..run + 1, ["--behind-view".into(), view.as_os_str().to_owned()]);
    let mut command = Command::new(env::current_exe().context("cannot find memtrace itself")?);
    command.args(given);
    Ok(command)
}

/// As shells have it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(code as u8)
}

/// Where the one behind says what it writes to.
struct Meeting {
    listener: UnixListener,
    path: PathBuf,
}

impl Meeting {
    fn new() -> Result<Meeting> {
        let place = place::create(&place::socket(std::process::id()))
            .context("there is no safe folder for the view's socket")?;
        let path = place.with_extension("view");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot create {}", path.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Meeting { listener, path })
    }

    /// The log; `None` when the one behind has ended without any.
    fn wait(&self, child: &mut Child) -> Result<Option<PathBuf>> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    let mut path = Vec::new();
                    (&stream).read_to_end(&mut path)?;
                    return Ok(Some(OsString::from_vec(path).into()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot hear of the recording"),
            }
            if child.try_wait()?.is_some() {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What the program has written and the user has not seen yet, or only in part.
#[derive(Clone)]
struct Output {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    bytes: VecDeque<u8>,
    n_left_out: u64,
    /// From now on it goes to the terminal.
    is_passed_on: bool,
    has_ended: bool,
}

impl Output {
    /// Reads the terminal's other end until nobody has the terminal any more.
    fn of(mut screen: File) -> Output {
        let output = Output { kept: Arc::default() };
        let reading = output.clone();
        thread::spawn(move || {
            let mut buf = [0; 1 << 14];
            loop {
                match screen.read(&mut buf) {
                    Ok(n) if n > 0 => reading.add(&buf[..n]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
            reading.lock().has_ended = true;
        });
        output
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics with the output in hand")
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        if kept.is_passed_on {
            to_terminal(bytes);
            return;
        }
        kept.bytes.extend(bytes);
        let n_too_many = kept.bytes.len().saturating_sub(MAX_KEPT);
        kept.bytes.drain(..n_too_many);
        kept.n_left_out += n_too_many as u64;
    }

    /// Writes what was kept, and whatever comes from now on at once.
    fn pass_on(&self) {
        let mut kept = self.lock();
        if kept.n_left_out > 0 {
            eprintln!("memtrace: {} bytes of what the program wrote are left out", kept.n_left_out);
        }
        to_terminal(kept.bytes.make_contiguous());
        kept.bytes = VecDeque::new();
        kept.is_passed_on = true;
    }

    /// The last lines, without what moves the cursor or colours.
    fn last_lines(&self, n_lines: usize) -> Vec<String> {
        const MAX_LINE: usize = 400;
        let kept = self.lock();
        let from = kept.bytes.len().saturating_sub(n_lines * MAX_LINE);
        let bytes: Vec<u8> = kept.bytes.range(from..).copied().collect();
        let lines = plain_lines(&String::from_utf8_lossy(&bytes));
        lines[lines.len().saturating_sub(n_lines)..].to_vec()
    }
}

/// When nobody reads it, that is no reason to fail.
fn to_terminal(bytes: &[u8]) {
    let mut out = stdout();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Lines as they would stand on a terminal, roughly: escape sequences are left out, and what follows a carriage return
/// takes the place of the line.
fn plain_lines(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let line = lines.last_mut().expect("there is always one");
        match character {
            '\n' => lines.push(String::new()),
            '\r' if characters.peek() != Some(&'\n') => line.clear(),
            '\r' => {}
            '\t' => line.push_str("    "),
            '\x1b' => {
                if characters.next_if_eq(&'[').is_some() {
                    while characters.next_if(|character| !('@'..='~').contains(character)).is_some() {}
                }
                characters.next();
            }
            other => line.push(other),
        }
    }
    if lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

struct Front {
    logs: Logs,
    screen: File,
    /// Of the screen, as the program knows it.
    size: (usize, usize),
    output: Output,
}

impl Source for Front {
    fn pictures(&mut self) -> Vec<Arc<Picture>> {
        keep_size(&self.screen, &mut self.size);
        self.logs.pictures()
    }

    fn mark(&mut self, process: usize, is_set: bool) {
        self.logs.mark(process, is_set);
    }

    fn output(&mut self, n_lines: usize) -> Option<Vec<String>> {
        Some(self.output.last_lines(n_lines))
    }

    fn interrupt(&mut self) -> bool {
        // As the key does; when the program has ended there is nothing to interrupt.
        !self.output.lock().has_ended && self.screen.write_all(&[INTERRUPT]).is_ok()
    }
}

/// The program's terminal is as large as the user's.
fn keep_size(screen: &File, size: &mut (usize, usize)) {
    if let Some(now) = terminal::size().filter(|now| now != size) {
        pty::resize(screen, now);
        *size = now;
    }
}

/// Without the view: what is typed goes to the program, what it writes to the terminal, until it has ended.
fn relay(child: &mut Child, mut screen: File, output: &Output) -> Result<ExitStatus> {
    const PASSED_ON: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    let awaited: SigSet = PASSED_ON.into_iter().collect();
    awaited.thread_block()?;
    let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let raw = terminal::Raw::enter();
    output.pass_on();
    let mut is_typing = true;
    let mut size = (0, 0);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        keep_size(&screen, &mut size);
        let stdin = stdin();
        let mut ready =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let watched = if is_typing { &mut ready[..] } else { &mut ready[..1] };
        let _ = poll(watched, PollTimeout::from(50u8));
        let has_input = is_typing && ready[1].revents().is_some_and(|events| !events.is_empty());
        while let Some(signal) = signals.read_signal()? {
            if let Ok(signal) = Signal::try_from(signal.ssi_signo as i32) {
                let _ = kill(Pid::from_raw(child.id() as i32), signal);
            }
        }
        if has_input {
            is_typing = pass_typed(&mut screen);
        }
    };
    // What was written last is on its way.
    for _ in 0..100 {
        if output.lock().has_ended {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    drop(raw);
    Ok(status)
}

/// `false` at the end of what is typed.
fn pass_typed(screen: &mut File) -> bool {
    let mut buf = [0; 4096];
    // Past what the standard library would read ahead.
    let read = stdin().as_fd().try_clone_to_owned().and_then(|stdin| File::from(stdin).read(&mut buf));
    let Ok(n @ 1..) = read else { return false };
    let typed = &buf[..n];
    // Nobody could continue a program that is stopped on a terminal without a shell.
    let stops = tcgetattr(screen.as_fd()).is_ok_and(|settings| settings.local_flags.contains(LocalFlags::ISIG));
    let kept: Vec<u8> = typed.iter().copied().filter(|&byte| byte != SUSPEND || !stops).collect();
    screen.write_all(&kept).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_a_terminal_would_show() {
        let text = "one\r\n\x1b[31mred\x1b[0m\r\n10%\r 20%\r100%\r\ntwo\tthree\x1b]\r\nlast";
        assert_eq!(plain_lines(text), ["one", "red", "100%", "two    three", "last"]);
        assert_eq!(plain_lines(""), Vec::<String>::new());
    }

    #[test]
    fn of_a_long_output_the_end_is_kept() {
        let output = Output { kept: Arc::default() };
        let line = [b'x'; 99].iter().chain(b"\n").copied().collect::<Vec<u8>>();
        for _ in 0..MAX_KEPT / 100 + 10 {
            output.add(&line);
        }
        let n_left_out = output.lock().n_left_out;
        assert!((900..=1100).contains(&n_left_out), "{n_left_out}");
        assert_eq!(output.last_lines(3), ["x".repeat(99), "x".repeat(99), "x".repeat(99)]);
    }
}
