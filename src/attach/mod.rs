//! The recorder in a process that was started without us: `process` says what we can attach to. From Python 3.14 on the
//! interpreter runs a script for us (`remote`, through the door that `interpreter` finds); otherwise `inject` borrows a
//! thread by ptrace, through `tracer` and `memory`, in a process `apart` that survives ours, and `handover` gives the
//! process what it can't open itself. Called by `commands::attach`, in a process with one thread.
//! The process must never be worse off for it: what can't be done is left, and said in one sentence.

mod apart;
mod handover;
mod inject;
mod interpreter;
mod memory;
pub mod process;
mod remote;
mod seccomp;
mod sys;
mod tracer;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use memtrace_format::answer;
use memtrace_format::options::RecordOptions;

use inject::{Borrowed, Injector};
use process::Process;

/// What the recorder is started with.
pub struct Start<'a> {
    pub shim: &'a Path,
    pub log: &'a Path,
    pub options: RecordOptions,
}

/// The way into a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The first that works, in the order below.
    Auto,
    /// The interpreter runs a script, from Python 3.14 on.
    RemoteExec,
    /// A thread is borrowed.
    Ptrace,
}

/// How recording was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    ByRemoteExec,
    /// A thread of the process was held up for so long.
    ByPtrace(Duration),
}

/// For so long an interpreter is waited for, when there is another way.
const PATIENCE: Duration = Duration::from_millis(250);
/// And when there is none.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// A borrowed thread may just be inside the recorder: another one is not.
const MAX_TRIES: u32 = 20;

/// Starts recording in a process.
pub fn start(process: &Process, start: &Start<'_>, method: Method) -> anyhow::Result<Entered> {
    if start.options.follow_fork {
        allow_children(process, start)?;
    }
    if method != Method::Ptrace {
        let patience = if method == Method::Auto { PATIENCE } else { LONG_PATIENCE };
        match apart::run(|_| remote::start(process, start, patience)) {
            Ok(answer) => match answer::parts(answer) {
                (answer::DONE, _) => return Ok(Entered::ByRemoteExec),
                parts => bail!("process {} ({}) can't be recorded: {}", process.pid, process.name, refusal(parts)),
            },
            Err(reason) if method == Method::RemoteExec => bail!(
                "process {} ({}) can't be entered by remote execution: {reason:#}; try --method ptrace",
                process.pid,
                process.name
            ),
            Err(_) => {}
        }
    }
    start_by_ptrace(process, start).map(Entered::ByPtrace)
}

/// Whether the process opens the library and the log by our paths. Its children need these, too.
fn is_by_path(process: &Process, start: &Start<'_>) -> bool {
    process.shares_files || start.options.follow_fork
}

fn allow_children(process: &Process, start: &Start<'_>) -> anyhow::Result<()> {
    let (pid, name) = (process.pid, &process.name);
    if !process.shares_root {
        bail!(
            "the children of process {pid} ({name}) can't be followed: its files are others than ours, as in a container; \
             run memtrace in there, or without --follow-fork"
        );
    }
    if !process.shares_files {
        let log = File::open(start.log).with_context(|| format!("cannot open {}", start.log.display()))?;
        handover::give(&log, process);
    }
    Ok(())
}

/// Ends recording in a process, if need be by another method. `false` when nothing is recorded there, perhaps because
/// another program runs in it now.
pub fn stop(process: &Process, method: Method) -> anyhow::Result<bool> {
    if method == Method::RemoteExec
        && let Ok(answer) = apart::run(|_| remote::stop(process, LONG_PATIENCE))
        && answer != Some(answer::BUSY)
    {
        return Ok(answer == Some(answer::DONE));
    }
    stop_by_ptrace(process)
}

/// For how long a thread of it was held up.
fn start_by_ptrace(process: &Process, start: &Start<'_>) -> anyhow::Result<Duration> {
    apart::run(|waiting| {
        let mut injector = Injector::seize(process)?;
        let mut n_tries = 0;
        loop {
            n_tries += 1;
            let mut thread = injector.borrow_thread()?;
            ensure!(waiting.is_there(), "nobody keeps the log any more");
            seccomp::check(process, thread.tid())?;
            let places = if is_by_path(process, start) {
                Places { shim: start.shim.to_owned(), log: start.log.to_owned(), descriptors: None }
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

fn stop_by_ptrace(process: &Process) -> anyhow::Result<bool> {
    apart::run(|_| {
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

/// The library and the log, as the process can open them.
struct Places {
    shim: PathBuf,
    log: PathBuf,
    /// In the process, until they were opened.
    descriptors: Option<[i32; 2]>,
}

impl Places {
    fn handed_over(thread: &mut Borrowed<'_, '_>, process: &Process, start: &Start<'_>) -> anyhow::Result<Places> {
        let [shim, log] = handover::files(process, start)?;
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
