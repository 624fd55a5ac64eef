//! What an outside process does for a recording that `memtrace run` started, done by a thread in the recorded process:
//! samples of the resident set, making the log small, the same for the logs of forked children, and answers to whoever
//! reads meanwhile. What the thread allocates is not recorded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use memtrace::capture::info::{CaptureEnd, Exit};
use memtrace::commands::aggregate;
use memtrace::control::message::{Answer, Request};
use memtrace::control::server::Server;
use memtrace::launch::clock;
use memtrace::launch::family::Family;
use memtrace::launch::log::Log;
use memtrace::launch::watch::{self, Memory};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::SigSet;
use nix::unistd::getpid;

use crate::lock::lock;
use crate::recorder::Recorder;

pub struct Watcher {
    thread: JoinHandle<Result<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` when the log is finished.
    log: Mutex<Option<Log>>,
    /// Whether there is a recording to be told about.
    has_begun: AtomicBool,
    has_ended: AtomicBool,
}

/// While somebody may ask, between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// For so long the end of a recording waits for readers that have just come.
const LONGEST_OPENING: Duration = Duration::from_secs(2);

impl Watcher {
    /// Begins to watch; returns when the thread runs, so that its start is not part of the recording. Logs are aggregated
    /// in the end, if that is wanted. With a server, the recording is for those who watch it; with a family, children that
    /// are forked are recorded, too.
    pub fn start(
        log: Log,
        recorder: Recorder,
        interval: Duration,
        aggregates: bool,
        server: Option<Server>,
        family: Option<Family>,
    ) -> Result<Watcher> {
        let shared =
            Shared { log: Mutex::new(Some(log)), has_begun: AtomicBool::new(false), has_ended: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let of_thread = Arc::clone(&shared);
        let (runs, is_running) = std::sync::mpsc::sync_channel(1);
        // Signals are for the program's own threads.
        let mask = SigSet::thread_get_mask().context("cannot read the signal mask")?;
        SigSet::all().thread_block().context("cannot block signals")?;
        let thread = thread::Builder::new().name("memtrace".into()).spawn(move || {
            recorder.ignore_thread();
            let _ = runs.send(());
            of_thread.watch(recorder, interval, aggregates, server, family)
        });
        mask.thread_set_mask().context("cannot restore the signal mask")?;
        let thread = thread.context("cannot start a thread")?;
        let _ = is_running.recv();
        Ok(Watcher { thread, shared })
    }

    /// From now on whoever asks is told.
    pub fn has_begun(&self) {
        self.shared.has_begun.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// Has something written into the log; `false` when it could not be.
    pub fn with_log(&self, write: impl FnOnce(&mut Log) -> bool) -> bool {
        self.shared.log().as_mut().is_some_and(write)
    }

    /// Ends the recording, unless that has ended before: another one may have begun then, which is none of ours.
    pub fn stop(&self, recorder: Recorder) {
        if self.shared.log().as_ref().is_some_and(|log| !log.has_stopped()) {
            recorder.stop();
        }
    }

    /// Puts the log in order, after the recording has ended.
    pub fn finish(self) -> Result<()> {
        self.shared.has_ended.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_else(|_| anyhow::bail!("the log could not be finished"))
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Option<Log>> {
        lock(&self.log)
    }

    fn watch(
        &self,
        recorder: Recorder,
        interval: Duration,
        aggregates: bool,
        mut server: Option<Server>,
        mut family: Option<Family>,
    ) -> Result<()> {
        let mut memory = Memory::open(getpid());
        let wait = if server.is_some() { interval.min(LOOK) } else { interval };
        let mut next_sample = Instant::now();
        loop {
            let has_ended = self.has_ended.load(Ordering::Acquire);
            if let Some(log) = self.log().as_mut() {
                let now = Instant::now();
                if has_ended || now >= next_sample {
                    log.sample(memory.resident_bytes());
                    family.iter_mut().for_each(|family| family.sample(log));
                    next_sample = now + interval;
                }
                log.compact();
            }
            if let Some(family) = &mut family {
                family.compact();
            }
            if let Some(server) = server.as_mut().filter(|_| self.has_begun.load(Ordering::Acquire)) {
                self.answer(server, &mut memory);
                if !server.is_watched() {
                    self.abandon(recorder);
                    return Ok(());
                }
            }
            if has_ended {
                server.iter_mut().for_each(|server| self.await_readers(server, &mut memory));
                break;
            }
            thread::park_timeout(wait);
        }
        let Some(log) = self.log().take() else { return Ok(()) };
        let n_children = log.n_children();
        let path = log.path().to_owned();
        // Nothing is made small that goes at once.
        let is_kept = server.is_none();
        let finished = log.finish(&end(), || !is_kept);
        let mut children = family.map(|family| family.end(n_children, &mut || false));
        let finished = finished.map(|mut finished| {
            if aggregates {
                // What can't be made small stays as it is, and answers more.
                let _ = aggregate::replace_all(&path, &mut finished, children.as_mut());
            }
        });
        // Whoever watches is let go only here, and so finds the end.
        finished
    }

    /// Lets those open the log who know where it is, so that a recording can be as short as it likes. One who is stopped is
    /// not waited for.
    fn await_readers(&self, server: &mut Server, memory: &mut Memory) {
        let start = Instant::now();
        while server.is_awaited() && start.elapsed() < LONGEST_OPENING {
            thread::sleep(Duration::from_millis(1));
            self.answer(server, memory);
        }
    }

    fn answer(&self, server: &mut Server, memory: &mut Memory) {
        let mut log = self.log();
        let Some(log) = log.as_mut() else { return };
        server.serve(&mut |request| match request {
            Request::Detach => Answer::Refused { reason: "its own Tracker records it, until its with ends".into() },
            request => watch::answer(getpid(), log, memory, request),
        });
    }

    /// Nobody sees any more what is recorded, and so it would only fill the disk.
    fn abandon(&self, recorder: Recorder) {
        let mut log = self.log();
        // This thread is no part of the recording, and can't end it.
        let ended = thread::Builder::new().spawn(move || recorder.stop()).map(JoinHandle::join);
        if matches!(ended, Ok(Ok(()))) {
            *log = None;
        }
    }
}

fn end() -> CaptureEnd {
    // In KiB, as Linux counts it.
    let peak_rss_bytes = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().max(0) as u64 * 1024);
    let (unix_nanos, mono_nanos) = (clock::unix_nanos(), clock::mono_nanos());
    CaptureEnd { unix_nanos, mono_nanos, exit: Exit::Code(0), peak_rss_bytes }
}
