//! One child of a recorded program, seen from outside: the log that it has made, how much memory it has, and whether it has
//! ended. Called by `family`.
//! It must never take a log for finished that somebody still writes to: what is cut off under a mapping ends that process.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
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
    /// Takes a child's log up. Processes of `visible`, a namespace below ours, are known to be seen here.
    pub fn open(path: &Path, header: &FileHeader, compression: Compression, visible: Option<u32>) -> Result<Member> {
        let own = pid_namespace("self").context("cannot tell in which namespace we are")?;
        let pid = match header.pid_namespace == own {
            true => Some(Pid::from_raw(header.pid as i32)),
            false => seen_from_here(header),
        };
        let is_visible = header.pid_namespace == own || Some(header.pid_namespace) == visible;
        ensure!(pid.is_some() || is_visible, "nobody can tell whether its process goes on");
        let process = match pid.map(Running::open).transpose() {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => None,
            Err(error) => return Err(error).context("cannot watch its process"),
        };
        let log = Log::adopt(path, compression)?;
        // Of one that has ended nothing is read.
        let memory = Memory::open(pid.unwrap_or(Pid::from_raw(header.pid as i32)));
        Ok(Member { log, memory, process })
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

/// The number of the namespace in which a process has its id.
pub fn pid_namespace(process: impl Display) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{process}/ns/pid")).ok()?.ino() as u32)
}

/// The number here of a process that is known by its number in a namespace below ours; `None` when it can't be seen.
fn seen_from_here(header: &FileHeader) -> Option<Pid> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let inner = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            numbers.split_whitespace().last()?.parse::<u32>().ok()
        };
        pid_namespace(pid) == Some(header.pid_namespace) && inner() == Some(header.pid)
    };
    pids.find(is_it).map(Pid::from_raw)
}
