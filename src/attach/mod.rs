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

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
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
    /// A socket with logs for children, if the process can't open ours: see [`follows_by_socket`].
    pub logs: Option<BorrowedFd<'a>>,
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
    if start.options.follow_fork && !process.shares_files && start.logs.is_none() {
        let log = File::open(start.log).with_context(|| format!("cannot open {}", start.log.display()))?;
        handover::give(&log, process);
    }
    if start.logs.is_some() && method == Method::RemoteExec {
        bail!(
            "the children of process {} ({}) can't be followed by remote execution, because its files are others than ours, \
             as in a container: try --method ptrace",
            process.pid,
            process.name
        );
    }
    if method != Method::Ptrace && start.logs.is_none() {
        let patience = if method == Method::Auto { PATIENCE } else { LONG_PATIENCE };
        match apart::run(&[], |_| remote::start(process, start, patience)) {
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
    process.shares_files || start.options.follow_fork && start.logs.is_none()
}

/// Whether children that are to be followed can't make their logs beside ours, as in a container: then they need a socket
/// out of which they take them.
pub fn follows_by_socket(process: &Process, options: RecordOptions) -> bool {
    options.follow_fork && !process.shares_root
}

/// Ends recording in a process, if need be by another method. `false` when nothing is recorded there, perhaps because
/// another program runs in it now.
pub fn stop(process: &Process, method: Method) -> anyhow::Result<bool> {
    if method == Method::RemoteExec
        && let Ok(answer) = apart::run(&[], |_| remote::stop(process, LONG_PATIENCE))
        && answer != Some(answer::BUSY)
    {
        return Ok(answer == Some(answer::DONE));
    }
    stop_by_ptrace(process)
}

/// For how long a thread of it was held up.
fn start_by_ptrace(process: &Process, start: &Start<'_>) -> anyhow::Result<Duration> {
    apart::run(start.logs.as_slice(), |waiting| {
        // The thread that loads it must not wait for the disk.
        let _ = fs::read(start.shim);
        let mut injector = Injector::seize(process)?;
        let mut n_tries = 0;
        loop {
            n_tries += 1;
            let mut thread = injector.borrow_thread()?;
            ensure!(waiting.is_there(), "nobody keeps the log any more");
            seccomp::check(process, thread.tid(), is_by_path(process, start))?;
            let places = if is_by_path(process, start) {
                Places { shim: start.shim.to_owned(), log: start.log.to_owned(), descriptors: Vec::new() }
            } else {
                Places::handed_over(&mut thread, process, start)?
            };
            let answer = load(&mut thread, &places).and_then(|()| begin(&mut thread, &places, start));
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
    apart::run(&[], |_| {
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
    /// In the process, until they were opened: of the library, the log, and the socket with logs for children, if there
    /// is one. None when paths will do.
    descriptors: Vec<i32>,
}

impl Places {
    fn handed_over(thread: &mut Borrowed<'_, '_>, process: &Process, start: &Start<'_>) -> anyhow::Result<Places> {
        let [shim, log] = handover::files(process, start)?;
        let ours: Vec<BorrowedFd> = [shim.as_fd(), log.as_fd()].into_iter().chain(start.logs).collect();
        let descriptors = handover::send(thread, process.pid, &ours)?;
        let [shim, log] = [0, 1].map(|index| PathBuf::from(format!("/proc/self/fd/{}", descriptors[index])));
        Ok(Places { shim, log, descriptors })
    }

    fn close(&self, thread: &mut Borrowed<'_, '_>) {
        if let Some(close) = thread.function("close") {
            for fd in &self.descriptors {
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

fn begin(thread: &mut Borrowed<'_, '_>, places: &Places, start: &Start<'_>) -> anyhow::Result<i32> {
    let function = thread.function("memtrace_start").context("the recorder is not in the process")?;
    if let Some(socket) = places.descriptors.get(2) {
        let answer = match thread.function("memtrace_take_logs_from") {
            Some(function) => thread.call(function, &[*socket as u64])? as i32,
            None => answer::REFUSED,
        };
        if answer != answer::DONE {
            return Ok(answer);
        }
    }
    let log = thread.put_text(places.log.as_os_str().as_bytes())?;
    // Programs that it starts can't open what was handed over.
    let shim = match places.descriptors.as_slice() {
        [] => thread.put_text(places.shim.as_os_str().as_bytes())?,
        _ => 0,
    };
    Ok(thread.call(function, &[log, u64::from(start.options.to_bits()), shim])? as i32)
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
