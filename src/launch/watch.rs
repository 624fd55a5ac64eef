//! Beside a running program: passes signals on, samples its memory, stops and goes on with it, answers whoever asks about
//! the recording, until it ends.
//! Called by `commands::run`. It must never end before the program does.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use memtrace_format::record::mark;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, SysconfVar, getpid, getsid, sysconf};

use crate::capture::info::Exit;
use crate::control::message::{Answer, Request, Status};
use crate::control::server::Server;
use crate::launch::bystander::Bystander;
use crate::launch::family::Family;
use crate::launch::log::{Log, Progress};
use crate::launch::signals::{Received, Signals, Woken};
use crate::launch::{spawn, sys};

/// Time between two samples at first.
const SHORTEST: Duration = Duration::from_millis(10);
/// And at most.
const LONGEST: Duration = Duration::from_secs(1);
/// The time between samples grows with the age of the program, so that a minute has all of them and a week has a
/// hundred times as many as a minute and not ten thousand times.
const SAMPLES_PER_AGE: u32 = 6000;

/// Between two looks for blocks to compress, when the last one found some…
const SHORTEST_LOOK: Duration = Duration::from_millis(5);
/// …and twice as long whenever there was none, up to this; but whoever samples looks too.
const LONGEST_LOOK: Duration = Duration::from_millis(320);
/// While there are more, time for signals, and for whoever waits to read the log.
const BETWEEN_STEPS: Duration = Duration::from_micros(100);

/// How a program ended.
pub struct Ended {
    pub exit: Exit,
    /// The largest resident set of the program itself, in bytes.
    pub peak_rss_bytes: u64,
}

/// Stays with the program until it ends, and reaps it.
///
/// The server, if there is one, answers whoever asks about the recording.
pub fn until_end(
    pid: Pid,
    signals: &Signals,
    log: Option<&mut Log>,
    family: Option<&mut Family>,
    server: Option<Server>,
) -> anyhow::Result<Ended> {
    // When it fails, the program still runs as it should.
    let _ = spawn::leave_streams();
    let bystander = Bystander::start(signals);
    let mut watch = Watch { pid, log, family, memory: Memory::open(pid), is_stopped: false, bystander, server };
    let start = Instant::now();
    let mut next_sample = start;
    let mut next_look = start + SHORTEST_LOOK;
    let mut pause = SHORTEST_LOOK;
    loop {
        let now = Instant::now();
        if now >= next_sample {
            watch.sample();
            next_sample = now + ((now - start) / SAMPLES_PER_AGE).clamp(SHORTEST, LONGEST);
            next_look = now;
        }
        if now >= next_look {
            pause = pause_after(watch.compact(), pause);
            next_look = Instant::now() + pause;
        }
        let due = next_sample.min(next_look);
        let received = match watch.wait(signals, due.saturating_duration_since(Instant::now())) {
            Woken::Signal(received) => received,
            Woken::Other => {
                watch.serve();
                continue;
            }
            Woken::Nothing => continue,
        };
        if received.number == libc::SIGCHLD {
            if watch.has_ended(signals) {
                break;
            }
        } else {
            watch.pass_on(received, signals);
        }
    }
    watch.sample();
    // The number is another process's as soon as this one is reaped.
    watch.server = None;
    // Read before the process is reaped, while it is still there to be asked.
    let has_had_children = has_waited_for_children(pid);
    let (status, peak_rss_bytes) = sys::reap(pid.as_raw())?;
    let exit = match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    };
    // The kernel's figure is the largest of the program and of its children. (And of the launcher before exec, but
    // that is no more than a C library and a little.)
    let peak_rss_bytes = if has_had_children { watch.memory.peak_bytes } else { peak_rss_bytes };
    Ok(Ended { exit, peak_rss_bytes })
}

/// How long to wait for the next look for blocks, when the pause before this one was `last`.
pub fn pause_after(progress: Progress, last: Duration) -> Duration {
    match progress {
        Progress::Behind => BETWEEN_STEPS,
        Progress::CaughtUp => SHORTEST_LOOK,
        Progress::Idle => (last * 2).clamp(SHORTEST_LOOK, LONGEST_LOOK),
    }
}

struct Watch<'a> {
    pid: Pid,
    log: Option<&'a mut Log>,
    family: Option<&'a mut Family>,
    memory: Memory,
    is_stopped: bool,
    bystander: Option<Bystander>,
    server: Option<Server>,
}

impl Watch<'_> {
    fn sample(&mut self) {
        if let Some(log) = &mut self.log {
            log.sample(self.memory.resident_bytes());
            if let Some(family) = &mut self.family {
                family.sample(log);
            }
        }
    }

    fn compact(&mut self) -> Progress {
        let own = self.log.as_mut().map_or(Progress::Idle, |log| log.compact());
        own.max(self.family.as_mut().map_or(Progress::Idle, |family| family.compact()))
    }

    fn wait(&self, signals: &Signals, timeout: Duration) -> Woken {
        signals.next_beside(self.server.iter().flat_map(Server::descriptors), timeout)
    }

    /// Answers whoever asks about the recording.
    fn serve(&mut self) {
        let Watch { pid, log: Some(log), memory, server: Some(server), .. } = self else { return };
        server.serve(&mut |request| answer(*pid, log, memory, request));
    }

    /// Takes note of what the program did; whether it has ended. It stays a zombie until it is reaped.
    fn has_ended(&mut self, signals: &Signals) -> bool {
        loop {
            let changes = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
            match waitid(Id::Pid(self.pid), changes) {
                Ok(WaitStatus::Stopped(_, signal)) => self.stopped(signal, signals),
                Ok(WaitStatus::Continued(_)) => self.is_stopped = false,
                _ => break,
            }
        }
        let end = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        !matches!(waitid(Id::Pid(self.pid), end), Ok(WaitStatus::StillAlive))
    }

    /// The shell waits for us, so it sees the stop of the program only if we stop too. Without a terminal there is no
    /// such shell, and whoever continues the program may not know of us; nor after a SIGSTOP, which is sent to one
    /// process by hand.
    fn stopped(&mut self, signal: Signal, signals: &Signals) {
        self.is_stopped = true;
        let is_job_control = matches!(signal, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU);
        if is_job_control && File::open("/dev/tty").is_ok() {
            signals.stop_self(signal);
        }
    }

    /// The terminal signals its whole foreground group, so the program has got those signals itself; what a process
    /// sent to us alone was meant for the program.
    fn pass_on(&mut self, received: Received, signals: &Signals) {
        if received.number == libc::SIGCONT {
            // A shell continues the whole group, and then the program goes on already.
            self.has_ended(signals);
            if !self.is_stopped {
                return;
            }
        }
        // When the terminal goes away, only the session's leader is told.
        let is_hangup = received.number == libc::SIGHUP && getsid(None).is_ok_and(|leader| leader == getpid());
        let mut is_for_all = || self.bystander.as_mut().is_some_and(|bystander| bystander.has_got(received.number));
        if is_hangup || received.is_from_process && !is_for_all() {
            sys::send_signal(self.pid.as_raw(), received.number);
        }
    }
}

/// While somebody is waited for.
pub fn answer_before_start(pid: Pid, log: &Log, request: &Request) -> Answer {
    match request {
        Request::Status | Request::Watch | Request::Pictures => Answer::Status(Status {
            pid: pid.as_raw() as u32,
            log: log.path().to_owned(),
            start_unix_nanos: log.start_unix_nanos(),
            paused: false,
            rss_bytes: None,
            peak_rss_bytes: 0,
        }),
        _ => Answer::Refused { reason: "the program has not started yet".into() },
    }
}

/// What whoever asks about the recording is told.
pub fn answer(pid: Pid, log: &mut Log, memory: &mut Memory, request: Request) -> Answer {
    let done = |is_written: bool| match is_written {
        true => Answer::Done { changed: true },
        false => Answer::Refused { reason: "the capture can't be written any more".into() },
    };
    match request {
        Request::Status | Request::Watch | Request::Pictures => Answer::Status(Status {
            pid: pid.as_raw() as u32,
            log: log.path().to_owned(),
            start_unix_nanos: log.start_unix_nanos(),
            paused: log.is_paused(),
            rss_bytes: memory.resident_bytes(),
            peak_rss_bytes: memory.peak_bytes,
        }),
        Request::Opened => Answer::Done { changed: true },
        Request::Pause | Request::Resume if log.is_paused() == (request == Request::Pause) => {
            Answer::Done { changed: false }
        }
        Request::Pause => done(log.pause(true)),
        Request::Resume => done(log.pause(false)),
        Request::Mark { name } if name.is_empty() || name.len() > mark::MAX_NAME_LEN => {
            let longest = mark::MAX_NAME_LEN;
            Answer::Refused { reason: format!("the name of a mark has 1 to {longest} bytes, this one {}", name.len()) }
        }
        Request::Mark { name } => done(log.mark(&name)),
        Request::Detach => {
            let reason = "it was started by memtrace run, and is recorded until it ends".into();
            Answer::Refused { reason }
        }
    }
}

/// The program's memory as the kernel counts it.
pub struct Memory {
    statm: Option<File>,
    page_bytes: u64,
    /// The most that was seen.
    pub peak_bytes: u64,
    n_samples: u64,
    pid: Pid,
}

impl Memory {
    pub fn open(pid: Pid) -> Memory {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
        let statm = File::open(format!("/proc/{pid}/statm")).ok();
        Memory { statm, page_bytes, peak_bytes: 0, n_samples: 0, pid }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn resident_bytes(&mut self) -> Option<u64> {
        let mut buf = [0; 128];
        let len = self.statm.as_ref()?.read_at(&mut buf, 0).ok()?;
        let pages = std::str::from_utf8(&buf[..len]).ok()?.split(' ').nth(1)?.parse::<u64>().ok()?;
        let bytes = pages * self.page_bytes;
        self.peak_bytes = self.peak_bytes.max(bytes);
        // The kernel's own mark sees what happens between samples, but is ten times as dear to read.
        if self.n_samples.is_multiple_of(16) {
            self.peak_bytes = self.peak_bytes.max(high_water_bytes(self.pid).unwrap_or(0));
        }
        self.n_samples += 1;
        Some(bytes)
    }
}

/// The largest resident set of a process so far, as its `status` says.
fn high_water_bytes(pid: Pid) -> Option<u64> {
    // In one read: the kernel writes the whole text anew for each.
    let mut buf = [0; 4096];
    let len = File::open(format!("/proc/{pid}/status")).ok()?.read_at(&mut buf, 0).ok()?;
    let status = String::from_utf8_lossy(&buf[..len]);
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Whether a process, which may have ended but is not reaped, has waited for children of its own.
fn has_waited_for_children(pid: Pid) -> bool {
    const CHILDREN_MINOR_FAULTS: usize = 8;
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The second field, the name, is in parentheses and may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    fields.split(' ').nth(CHILDREN_MINOR_FAULTS).is_none_or(|faults| faults != "0")
}
