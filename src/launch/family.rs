//! The children of a recorded program, and theirs: each makes a log itself (`preload/src/child.rs`) and counts itself in
//! the first one, or takes one of those that we have made in advance (`spares`). Here those logs are noticed, sampled,
//! compressed and finished, until the program ends or is left. Called by `watch` and `running`.
//! It must never end a process, nor have more files open than it can afford, however many come and go.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memtrace_format::FileHeader;
use memtrace_format::state;
use nix::unistd::Pid;

use crate::capture::info::{CaptureEnd, Exit};
use crate::launch::clock;
use crate::launch::log::{Compression, Log, Progress, read_header};
use crate::launch::member::Member;
use crate::launch::spares::Spares;

/// So many are looked after at a time. Those that come later wait, which makes them larger and takes nothing else away.
const MAX_MEMBERS: usize = 64;
/// For so long a child that has counted itself may be making its log.
const LONGEST_CREATION: Duration = Duration::from_secs(2);
/// For so long the end of the last children is waited for when the program has ended.
const LAST_WAIT: Duration = Duration::from_millis(100);
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// The logs of all children.
pub struct Family {
    /// The log of the program that was started.
    root: PathBuf,
    /// When the program started: what is older is of another run.
    since_unix_nanos: u64,
    compression: Compression,
    /// Logs for children that can't make any.
    spares: Option<Spares>,
    n_announced: u32,
    announced: Instant,
    /// In the logs of children, where theirs have counted themselves.
    n_announced_below: u64,
    known: HashSet<PathBuf>,
    waiting: VecDeque<(PathBuf, FileHeader)>,
    members: Vec<Member>,
    /// Whose turn it is to be compressed.
    next: usize,
    totals: Totals,
}

/// What became of the children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The logs of all of them.
    pub logs: Vec<PathBuf>,
    /// Of those whose logs are finished.
    pub n_events: u64,
    /// Bytes of their logs, and of the records in them.
    pub len: u64,
    pub raw_len: u64,
    /// That go on without us, and those of which we can't tell when they end: their logs stay as they are.
    pub n_left: u64,
    /// That could not make a log.
    pub n_missing: u64,
}

impl Totals {
    pub fn n_processes(&self) -> u64 {
        self.logs.len() as u64
    }
}

impl Family {
    /// Of the program that writes to `root`.
    pub fn new(root: &Log, compression: Compression) -> Family {
        let since_unix_nanos = read_header(root.path()).map_or(0, |header| header.start_unix_nanos);
        Family {
            root: root.path().to_owned(),
            since_unix_nanos,
            compression,
            spares: None,
            n_announced: 0,
            announced: Instant::now(),
            n_announced_below: 0,
            known: HashSet::new(),
            waiting: VecDeque::new(),
            members: Vec::new(),
            next: 0,
            totals: Totals::default(),
        }
    }

    /// The same, of children that take their logs out of `spares`, if there are some.
    pub fn with(self, spares: Option<Spares>) -> Family {
        Family { spares, ..self }
    }

    /// Samples all that live, and takes leave of the others.
    pub fn sample(&mut self, root: &Log) {
        let n_announced = root.n_children();
        if n_announced != self.n_announced {
            (self.n_announced, self.announced) = (n_announced, Instant::now());
        }
        // It counts itself first, and some can't make a log.
        let are_missing = self.totals.n_processes() < u64::from(self.n_announced);
        if are_missing && self.announced.elapsed() < LONGEST_CREATION {
            self.look_for_logs();
        }
        let begun = self.spares.as_mut().map(Spares::take_up);
        self.add_all(begun.into_iter().flatten());
        let ended = self.take_ended();
        self.members.iter_mut().for_each(Member::sample);
        for member in ended {
            self.finish(member, &mut || false);
        }
        self.take_up();
    }

    /// Compresses finished blocks of one of them.
    pub fn compact(&mut self) -> Progress {
        let mut progress = Progress::Idle;
        for _ in 0..self.members.len() {
            self.next = (self.next + 1) % self.members.len();
            match self.members[self.next].log.compact() {
                Progress::Behind => return Progress::Behind,
                Progress::CaughtUp => progress = Progress::CaughtUp,
                Progress::Idle => {}
            }
        }
        progress
    }

    /// Once the first log refuses more of them: has those that are there end their recording, by `stop`, which says
    /// whether a process has. `end` finishes their logs.
    pub fn stop(&mut self, root: &Log, stop: &mut dyn FnMut(Pid) -> bool) {
        let start = Instant::now();
        self.spares.iter_mut().for_each(Spares::take_back);
        loop {
            self.look_for_logs();
            let are_coming = match self.spares.as_mut().map(Spares::take_up_last) {
                Some((are_coming, begun)) => {
                    self.add_all(begun);
                    are_coming
                }
                None => self.totals.n_processes() < u64::from(root.n_children()),
            };
            self.take_up();
            let left: Vec<_> = self.members.extract_if(.., |member| !member.stop(stop)).collect();
            self.leave(left);
            if !self.waiting.is_empty() {
                // These make room.
                self.take_ended().into_iter().for_each(|member| self.finish(member, &mut || false));
            } else if !are_coming || start.elapsed() > LONGEST_CREATION {
                break;
            } else {
                std::thread::sleep(BETWEEN_LOOKS);
            }
        }
    }

    /// When the program has ended, and so many have counted themselves: finishes the logs of those that have ended as
    /// well, and leaves the others alone.
    pub fn end(mut self, n_announced: u32, is_enough: &mut dyn FnMut() -> bool) -> Totals {
        let start = Instant::now();
        self.n_announced = n_announced;
        self.look_for_logs();
        loop {
            let ended = self.take_ended();
            let was_any = !ended.is_empty();
            for member in ended {
                self.finish(member, is_enough);
            }
            self.take_up();
            let is_over = self.members.is_empty() && self.waiting.is_empty() || start.elapsed() > LAST_WAIT;
            if is_over && !was_any {
                break;
            }
            if !was_any {
                std::thread::sleep(BETWEEN_LOOKS);
            }
        }
        self.totals.n_left += self.waiting.len() as u64;
        let left = std::mem::take(&mut self.members);
        self.leave(left);
        let n_announced = u64::from(self.n_announced) + self.n_announced_below;
        self.totals.n_missing = n_announced.saturating_sub(self.totals.n_processes());
        self.totals
    }

    fn take_ended(&mut self) -> Vec<Member> {
        self.members.extract_if(.., |member| member.has_ended()).collect()
    }

    fn look_for_logs(&mut self) {
        for path in logs_beside(&self.root) {
            if !self.known.contains(&path)
                && let Some(header) = read_header(&path).filter(|header| self.is_ours(header))
            {
                self.add_all([(path, header)]);
            }
        }
    }

    fn add_all(&mut self, logs: impl IntoIterator<Item = (PathBuf, FileHeader)>) {
        for (path, header) in logs {
            self.known.insert(path.clone());
            self.totals.logs.push(path.clone());
            self.waiting.push_back((path, header));
        }
    }

    fn is_ours(&self, header: &FileHeader) -> bool {
        header.parent_pid != 0 && header.state != state::ENDED && header.start_unix_nanos >= self.since_unix_nanos
    }

    fn take_up(&mut self) {
        while self.members.len() < MAX_MEMBERS
            && let Some((path, header)) = self.waiting.pop_front()
        {
            let visible = self.spares.as_ref().map(Spares::pid_namespace);
            match Member::open(&path, &header, self.compression, visible) {
                Ok(member) => self.members.push(member),
                Err(_) => self.totals.n_left += 1,
            }
        }
    }

    /// They go on writing their logs.
    fn leave(&mut self, members: Vec<Member>) {
        self.totals.n_left += members.len() as u64;
        self.n_announced_below += members.iter().map(|member| u64::from(member.log.n_children())).sum::<u64>();
        members.into_iter().for_each(|member| member.log.leave());
    }

    fn finish(&mut self, member: Member, is_enough: &mut dyn FnMut() -> bool) {
        let end = CaptureEnd {
            unix_nanos: clock::unix_nanos(),
            mono_nanos: clock::mono_nanos(),
            exit: Exit::Unknown,
            peak_rss_bytes: member.memory.peak_bytes,
        };
        self.n_announced_below += u64::from(member.log.n_children());
        // A program may do anything to its log; then it is left as it is.
        if let Ok(finished) = member.log.finish(&end, is_enough) {
            self.totals.n_events += finished.n_events;
            self.totals.len += finished.len;
            self.totals.raw_len += finished.raw_len;
        }
    }
}

/// Removes what children of an earlier program that wrote to `root` have left.
pub fn remove_logs(root: &Path) {
    for path in logs_beside(root) {
        if read_header(&path).is_some_and(|header| header.parent_pid != 0) {
            // What can't be removed shows when a child of that number comes.
            let _ = fs::remove_file(path);
        }
    }
}

/// The files that are called like logs of children of the program that writes to `root`.
pub fn logs_beside(root: &Path) -> Vec<PathBuf> {
    let mut prefix = root.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let entries = root.parent().unwrap_or(Path::new("/")).read_dir().into_iter().flatten().flatten();
    entries.filter(|entry| is_childs(&entry.file_name(), &prefix)).map(|entry| entry.path()).collect()
}

/// Whether a file is called like the log of a child: the first one's name, and behind it a process id, and for a process
/// id that came again a number.
fn is_childs(name: &OsStr, prefix: &OsStr) -> bool {
    let rest = name.as_bytes().strip_prefix(prefix.as_bytes());
    rest.is_some_and(|rest| {
        let mut parts = rest.split(|byte| *byte == b'.');
        let is_number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        parts.next().is_some_and(is_number) && parts.next().is_none_or(is_number) && parts.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_log_is_known_by_its_name() {
        let check = |name: &str| is_childs(OsStr::new(name), OsStr::new("app.bin."));
        assert!(check("app.bin.4711") && check("app.bin.4711.2"));
        for other in
            ["app.bin", "app.bin.", "app.bin.x", "app.bin.1.x", "app.bin.1.2.3", "app.bin.1.html", "app.bin.1."]
        {
            assert!(!check(other), "{other}");
        }
    }
}
