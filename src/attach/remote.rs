//! Starts and ends recordings by the interpreter's own remote execution (CPython 3.14 and later): it is asked to run a
//! small script, which connects to a socket of ours, is told there what to load and to call, and says what came of it.
//! No thread of the process is stopped. Whoever gives up hangs up, so a script that comes too late does nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use super::interpreter::Door;
use super::memory::{Memory, Object};
use super::process::Process;
use super::{Start, handover, sys};
use crate::launch::clock;
use crate::launch::running::Running;

const SCRIPT: &str = include_str!("remote.py");
/// Between two knocks.
const KNOCK: Duration = Duration::from_millis(2);
/// A script that was taken runs, as soon as the program's other threads and the machine let it.
const ON_THE_WAY: Duration = Duration::from_secs(2);
/// A call may wait for another thread that is just loading a library.
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// Starts recording; what `memtrace_start` answers. Within `patience` the main thread must execute bytecode. An error is
/// the second half of a sentence, and then nothing has begun.
pub fn start(process: &Process, start: &Start<'_>, patience: Duration) -> anyhow::Result<i32> {
    // Whether it would survive only who stops a thread of it can see.
    ensure!(process.seccomp == 0, "it filters its system calls (seccomp)");
    let (memory, objects) = look_at(process)?;
    let known = Functions::find(&memory, &objects, "memtrace_start").unwrap_or_default();
    let files = if super::is_by_path(process, start) { None } else { Some(handover::files(process, start)?) };
    let message = known.message(&start.options.to_bits().to_string(), start.shim, start.log);
    let descriptors: Vec<i32> = files.iter().flatten().map(AsRawFd::as_raw_fd).collect();
    call(process, &memory, &objects, &message, &descriptors, patience)
}

/// Ends a recording; what `memtrace_stop` answers. `None` when the recorder is not there.
pub fn stop(process: &Process, patience: Duration) -> anyhow::Result<Option<i32>> {
    let (memory, objects) = look_at(process)?;
    let Some(known) = Functions::find(&memory, &objects, "memtrace_stop") else { return Ok(None) };
    // It takes no arguments, and passes those over that it gets.
    let message = known.message("0", Path::new(""), Path::new(""));
    call(process, &memory, &objects, &message, &[], patience).map(Some)
}

fn look_at(process: &Process) -> anyhow::Result<(Memory, Vec<Object>)> {
    let memory = Memory::open(process.pid).context("its memory can't be read")?;
    let objects = memory.objects(Vec::new())?.context("it is statically linked")?;
    Ok((memory, objects))
}

/// Addresses in a process that has the recorder already, otherwise 0.
#[derive(Default)]
struct Functions {
    called: u64,
    ignore_thread: u64,
}

impl Functions {
    fn find(memory: &Memory, objects: &[Object], name: &str) -> Option<Functions> {
        objects.iter().find_map(|object| {
            let function = |name| memory.symbol(object, name).ok()?;
            Some(Functions { called: function(name)?, ignore_thread: function("memtrace_ignore_thread")? })
        })
    }

    /// What the script is told.
    fn message(&self, options: &str, shim: &Path, log: &Path) -> Vec<u8> {
        let (called, ignore) = (self.called.to_string(), self.ignore_thread.to_string());
        let (shim, log) = (shim.as_os_str().as_bytes(), log.as_os_str().as_bytes());
        [called.as_bytes(), ignore.as_bytes(), options.as_bytes(), shim, log].join(&0)
    }
}

fn call(
    process: &Process,
    memory: &Memory,
    objects: &[Object],
    message: &[u8],
    descriptors: &[i32],
    patience: Duration,
) -> anyhow::Result<i32> {
    let running = Running::open(process.pid).context("it can't be watched")?;
    let door = Door::find(memory, objects)?;
    let folder = Folder::create(process).context("there is no place for a script that it could read")?;
    door.ask(&folder.inside.join(Folder::SCRIPT))?;
    let deadline = Instant::now() + patience;
    let mut caller = None;
    while caller.is_none() && Instant::now() < deadline && door.is_asked()? && !running.has_ended() {
        door.knock()?;
        caller = folder.accept(process, KNOCK)?;
    }
    if caller.is_none() {
        let is_on_the_way = !door.is_asked()?;
        door.withdraw()?;
        caller = folder.accept(process, if is_on_the_way { ON_THE_WAY } else { KNOCK })?;
    }
    let Some(mut caller) = caller else {
        ensure!(!running.has_ended(), "it has ended");
        bail!("its main thread has not come to execute Python code");
    };
    sys::send_descriptors(caller.as_fd(), message, descriptors)?;
    caller.set_read_timeout(Some(LONGEST_CALL))?;
    let mut answer = String::new();
    caller.read_to_string(&mut answer).context("its Python has not answered")?;
    answer.parse().map_err(|_| match answer.as_str() {
        "" => anyhow::anyhow!("its Python has not answered"),
        reason => anyhow::anyhow!("its Python says {reason}"),
    })
}

/// A folder that belongs to the process's user, with the script and the socket, and goes when this is dropped.
struct Folder {
    /// By a descriptor: what another user's process calls `/tmp` may lead anywhere.
    outside: PathBuf,
    _parent: File,
    inside: PathBuf,
    listener: UnixListener,
}

impl Folder {
    const SCRIPT: &str = "script.py";
    const SOCKET: &str = "socket";

    fn create(process: &Process) -> anyhow::Result<Folder> {
        let parent = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(format!("/proc/{}/root/tmp", process.pid))?;
        let name = format!("memtrace-{}-{:x}", process.pid, clock::mono_nanos());
        let outside = PathBuf::from(format!("/proc/self/fd/{}/{name}", parent.as_raw_fd()));
        let inside = Path::new("/tmp").join(&name);
        DirBuilder::new().mode(0o700).create(&outside)?;
        let filled = fill(&outside, &inside, process);
        let listener = filled.inspect_err(|_| remove(&outside))?;
        Ok(Folder { outside, _parent: parent, inside, listener })
    }

    /// The process, when it comes by in time.
    fn accept(&self, process: &Process, time: Duration) -> io::Result<Option<UnixStream>> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            if !poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
                return Ok(None);
            }
            let (stream, _) = self.listener.accept()?;
            if getsockopt(&stream, sockopt::PeerCredentials).is_ok_and(|peer| peer.pid() == process.pid.as_raw()) {
                return Ok(Some(stream));
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.outside);
    }
}

fn fill(outside: &Path, inside: &Path, process: &Process) -> anyhow::Result<UnixListener> {
    let (script, socket) = (outside.join(Folder::SCRIPT), outside.join(Folder::SOCKET));
    let listener = UnixListener::bind(&socket)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&script)?;
    // The path has our own characters only.
    let heading = format!("SOCKET = {:?}\n", inside.join(Folder::SOCKET));
    file.write_all(heading.as_bytes())?;
    file.write_all(SCRIPT.as_bytes())?;
    for path in [&script, &socket, outside] {
        lchown(path, Some(process.user), Some(process.group))?;
    }
    Ok(listener)
}

fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join(Folder::SCRIPT));
    let _ = fs::remove_file(folder.join(Folder::SOCKET));
    let _ = fs::remove_dir(folder);
}
