//! What an outside process does for a recording that `memtrace run` started, done by a thread in the recorded process:
//! samples of the resident set, and making the log small. What the thread allocates is not recorded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use memtrace::capture::info::{CaptureEnd, Exit};
use memtrace::launch::clock;
use memtrace::launch::log::Log;
use memtrace::launch::watch::Memory;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::SigSet;
use nix::unistd::getpid;

use crate::recorder::Recorder;

pub struct Watcher {
    thread: JoinHandle<Result<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` when the log is finished.
    log: Mutex<Option<Log>>,
    has_ended: AtomicBool,
}

impl Watcher {
    /// Begins to watch; returns when the thread runs, so that its start is not part of the recording.
    pub fn start(log: Log, recorder: Recorder, interval: Duration) -> Result<Watcher> {
        let shared = Arc::new(Shared { log: Mutex::new(Some(log)), has_ended: AtomicBool::new(false) });
        let of_thread = Arc::clone(&shared);
        let (runs, is_running) = std::sync::mpsc::sync_channel(1);
        // Signals are for the program's own threads.
        let mask = SigSet::thread_get_mask().context("cannot read the signal mask")?;
        SigSet::all().thread_block().context("cannot block signals")?;
        let thread = thread::Builder::new().name("memtrace".into()).spawn(move || {
            recorder.ignore_thread();
            let _ = runs.send(());
            of_thread.watch(interval)
        });
        mask.thread_set_mask().context("cannot restore the signal mask")?;
        let thread = thread.context("cannot start a thread")?;
        let _ = is_running.recv();
        Ok(Watcher { thread, shared })
    }

    /// Has something written into the log; `false` when it could not be.
    pub fn with_log(&self, write: impl FnOnce(&mut Log) -> bool) -> bool {
        self.shared.log().as_mut().is_some_and(write)
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
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, interval: Duration) -> Result<()> {
        let mut memory = Memory::open(getpid());
        loop {
            let has_ended = self.has_ended.load(Ordering::Acquire);
            if let Some(log) = self.log().as_mut() {
                log.sample(memory.resident_bytes());
                log.compact();
            }
            if has_ended {
                break;
            }
            thread::park_timeout(interval);
        }
        let log = self.log().take();
        log.map_or(Ok(()), |log| log.finish(&end(), || false).map(drop))
    }
}

fn end() -> CaptureEnd {
    // In KiB, as Linux counts it.
    let peak_rss_bytes = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().max(0) as u64 * 1024);
    let (unix_nanos, mono_nanos) = (clock::unix_nanos(), clock::mono_nanos());
    CaptureEnd { unix_nanos, mono_nanos, exit: Exit::Code(0), peak_rss_bytes }
}
