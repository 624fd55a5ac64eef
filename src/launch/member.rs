//! One child of a recorded program, seen from outside: the log that it has made, how much memory it has, and whether it has
//! ended. Called by `family`.
//! It must never take a log for finished that somebody still writes to: what is cut off under a mapping ends that process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use memtrace_format::FileHeader;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::launch::log::{Compression, Log};
use crate::launch::running::Running;
use crate::launch::watch::Memory;

pub struct Member {
    pub log: Log,
    pub memory: Memory,
    /// `None` when nobody writes the log any more: the process had ended before we looked, or was told to stop.
    process: Option<Running>,
}

impl Member {
    /// Takes a child's log up.
    pub fn open(path: &Path, header: &FileHeader, compression: Compression) -> Result<Member> {
        let own = fs::metadata("/proc/self/ns/pid").context("cannot tell in which namespace we are")?;
        if u64::from(header.pid_namespace) != own.ino() {
            bail!("its process has another number here");
        }
        let pid = Pid::from_raw(header.pid as i32);
        let process = match Running::open(pid) {
            Ok(process) => Some(process),
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => None,
            Err(error) => return Err(error).context("cannot watch its process"),
        };
        let log = Log::adopt(path, compression)?;
        Ok(Member { log, memory: Memory::open(pid), process })
    }

    pub fn has_ended(&self) -> bool {
        self.process.as_ref().is_none_or(Running::has_ended)
    }

    /// Has the recorder in it end, by `stop`, which says whether it has; `false` when it has not.
    pub fn stop(&mut self, stop: &mut dyn FnMut(Pid) -> bool) -> bool {
        let pid = self.memory.pid();
        if !self.has_ended() {
            self.log.refuse_others();
            if !stop(pid) && !self.has_ended() {
                return false;
            }
        }
        self.process = None;
        true
    }

    pub fn sample(&mut self) {
        self.log.sample(self.memory.resident_bytes());
    }
}
