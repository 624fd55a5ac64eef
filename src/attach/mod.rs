//! The recorder in a process that was started without us: `process` says what we can attach to, `inject` borrows a thread
//! of it, through `tracer` and `memory`, and `handover` gives it what it can't open itself. Called by `commands::attach`.
//! The process must never be worse off for it: what can't be done is left, and said in one sentence.

mod handover;
mod inject;
mod memory;
pub mod process;
mod seccomp;
mod sys;
mod tracer;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use memtrace_format::answer;
use memtrace_format::options::RecordOptions;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};

use inject::{Borrowed, Injector};
use process::Process;

/// What the recorder is started with.
pub struct Start<'a> {
    pub shim: &'a Path,
    pub log: &'a Path,
    pub options: RecordOptions,
}

/// A borrowed thread may just be inside the recorder: another one is not.
const MAX_TRIES: u32 = 20;

/// Starts recording in a process; for how long a thread of it was held up.
pub fn start(process: &Process, start: &Start<'_>) -> anyhow::Result<Duration> {
    on_a_thread_of_its_own(|| {
        let mut injector = Injector::seize(process)?;
        let mut n_tries = 0;
        loop {
            n_tries += 1;
            let mut thread = injector.borrow_thread()?;
            seccomp::check(process, thread.tid())?;
            let places = if process.shares_files || start.options.follow_fork {
                Places::shared(process, start)?
            } else {
                Places::handed_over(&mut thread, process, start)?
            };
            let answer = load(&mut thread, &places).and_then(|()| begin(&mut thread, &places, start.options));
            places.close(&mut thread);
            let answer = answer?;
            let held_up = thread.give_back();
            match answer::parts(answer) {
                (answer::DONE, _) => return Ok(held_up),
                (answer::BUSY, _) if n_tries < MAX_TRIES => {}
                parts => bail!("process {} ({}) can't be recorded: {}", process.pid, process.name, refusal(parts)),
            }
        }
    })
}

/// Ends recording in a process. `false` when nothing is recorded there, perhaps because another program runs in it now.
pub fn stop(process: &Process) -> anyhow::Result<bool> {
    on_a_thread_of_its_own(|| {
        let mut injector = Injector::seize(process)?;
        let Some(stop) = injector.function("memtrace_stop") else { return Ok(false) };
        let mut n_tries = 0;
        loop {
            n_tries += 1;
            let mut thread = injector.borrow_thread()?;
            let answer = thread.call(stop, &[])? as i32;
            thread.give_back();
            match answer {
                answer::DONE => return Ok(true),
                answer::BUSY if n_tries < MAX_TRIES => {}
                answer::BUSY => bail!("{}", refusal((answer, 0))),
                _ => return Ok(false),
            }
        }
    })
}

/// What ptrace does belongs to a thread; when that ends, the kernel lets all go that it had seized.
fn on_a_thread_of_its_own<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| bail!("attaching failed"))
}

/// The library and the log, as the process can open them.
struct Places {
    shim: PathBuf,
    log: PathBuf,
    /// In the process, until they were opened.
    descriptors: Option<[i32; 2]>,
}

impl Places {
    /// By their paths, as its children need them, too.
    fn shared(process: &Process, start: &Start<'_>) -> anyhow::Result<Places> {
        let (pid, name) = (process.pid, &process.name);
        if !process.shares_root {
            bail!(
                "the children of process {pid} ({name}) can't be followed: its files are others than ours, as in a container; \
                 run memtrace in there, or without --follow-fork"
            );
        }
        if !process.shares_files {
            let log = File::open(start.log).with_context(|| format!("cannot open {}", start.log.display()))?;
            give(&log, process);
        }
        Ok(Places { shim: start.shim.to_owned(), log: start.log.to_owned(), descriptors: None })
    }

    fn handed_over(thread: &mut Borrowed<'_, '_>, process: &Process, start: &Start<'_>) -> anyhow::Result<Places> {
        let library = fs::read(start.shim).with_context(|| format!("cannot read {}", start.shim.display()))?;
        let fd = memfd_create(c"memtrace", MFdFlags::MFD_CLOEXEC).context("cannot hold the recorder in memory")?;
        let mut shim = File::from(fd);
        shim.write_all(&library)?;
        fchmod(&shim, Mode::from_bits_truncate(0o555))?;
        let log = File::options()
            .read(true)
            .write(true)
            .open(start.log)
            .with_context(|| format!("cannot open {}", start.log.display()))?;
        give(&log, process);
        let descriptors = handover::send(thread, process.pid, [shim.as_fd(), log.as_fd()])?;
        let [shim, log] = descriptors.map(|fd| PathBuf::from(format!("/proc/self/fd/{fd}")));
        Ok(Places { shim, log, descriptors: Some(descriptors) })
    }

    fn close(&self, thread: &mut Borrowed<'_, '_>) {
        if let Some(close) = thread.function("close") {
            for fd in self.descriptors.iter().flatten() {
                let _ = thread.call(close, &[*fd as u64]);
            }
        }
    }
}

/// Whoever writes a log must be allowed to; for ourselves that changes nothing.
fn give(log: &File, process: &Process) {
    let _ = fchown(log, Some(Uid::from_raw(process.user)), Some(Gid::from_raw(process.group)));
}

/// Loads the library, if it is not there already.
fn load(thread: &mut Borrowed<'_, '_>, places: &Places) -> anyhow::Result<()> {
    if thread.function("memtrace_start").is_some() {
        return Ok(());
    }
    // Before glibc 2.34 `dlopen` was in a library that a program need not have.
    const BY_NUMBER: u64 = 0x8000_0000;
    let (open, flags) = match (thread.function("dlopen"), thread.function("__libc_dlopen_mode")) {
        (Some(open), _) => (open, 0),
        (None, Some(open)) => (open, BY_NUMBER),
        (None, None) => bail!("the process has no loader that can be asked for more libraries"),
    };
    let path = thread.put_text(places.shim.as_os_str().as_bytes())?;
    let handle = thread.call(open, &[path, libc::RTLD_NOW as u64 | flags])?;
    if handle == 0 {
        let reason = match thread.function("dlerror") {
            Some(dlerror) => match thread.call(dlerror, &[])? {
                0 => String::new(),
                text => thread.memory().text(text)?,
            },
            None => String::new(),
        };
        bail!("the process can't load the recorder: {reason}");
    }
    thread.reload()
}

fn begin(thread: &mut Borrowed<'_, '_>, places: &Places, options: RecordOptions) -> anyhow::Result<i32> {
    let start = thread.function("memtrace_start").context("the recorder is not in the process")?;
    let log = thread.put_text(places.log.as_os_str().as_bytes())?;
    // Programs that it starts can't open what was handed over.
    let shim = match places.descriptors {
        None => thread.put_text(places.shim.as_os_str().as_bytes())?,
        Some(_) => 0,
    };
    Ok(thread.call(start, &[log, u64::from(options.to_bits()), shim])? as i32)
}

/// Why the recorder does not record, in words.
fn refusal((answer, errno): (i32, i32)) -> String {
    match answer {
        answer::RECORDING => "it is being recorded already".into(),
        answer::BUSY => "its threads are inside the recorder all the time; try again".into(),
        answer::NO_LOG => {
            let reason = nix::errno::Errno::from_raw(errno).desc();
            format!("it can't open the log ({reason}): with -o, name a place that it can write to")
        }
        _ => "its recorder is of another version of memtrace, or this kernel is older than Linux 4.14".into(),
    }
}
