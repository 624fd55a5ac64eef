//! Opening a capture and reading it to its end. Refuses what is not a capture with one sentence.

use std::fs::{File, TryLockError};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memtrace_format::{FileHeader, HEADER_LEN, MAGIC, VERSION, block_kind, clock, state, stop_reason};
use zerocopy::FromBytes;

use super::batch::Batch;
use super::blocks::{self, Block};
use super::events::Events;
use super::info::CaptureInfo;
use super::{ahead, count, metadata, range};
use crate::model::facts::{Facts, RecordingState};
use crate::model::native::NativeStacks;
use crate::model::{Clock, Event, Model};

/// How long a launcher is waited for that moves blocks.
const LONGEST_WAIT_MILLIS: u32 = 2000;

/// The range that leaves out nothing.
pub(super) const ALWAYS: Range<u64> = 0..u64::MAX;

/// An open capture, with what its header says.
pub struct Capture {
    path: PathBuf,
    file: File,
    header: FileHeader,
    facts: Facts,
    /// Bytes of the file that were decoded.
    n_read: AtomicU64,
}

impl Capture {
    /// Opens a capture and checks that it is one. The error is one sentence that names the file.
    pub fn open(path: &Path) -> Result<Capture> {
        let capture = Capture::open_moving(path)?;
        keep_still(&capture.file);
        Ok(capture)
    }

    /// Opens a capture whose blocks may move.
    pub(super) fn open_moving(path: &Path) -> Result<Capture> {
        Capture::open_unnamed(path).with_context(|| format!("cannot read {}", path.display()))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn clock(&self) -> Clock {
        clock_of(&self.header)
    }

    fn open_unnamed(path: &Path) -> Result<Capture> {
        // Asked before opening, because opening a pipe would wait for its other end.
        let metadata = path.metadata().map_err(plain_error)?;
        if metadata.is_dir() {
            bail!("it is a directory, not a capture");
        }
        if !metadata.is_file() {
            bail!("it is not a regular file");
        }
        if metadata.len() == 0 {
            bail!("the file is empty");
        }
        let file = File::open(path).map_err(plain_error)?;
        let mut page = [0; HEADER_LEN];
        let n_read = read_at(&file, &mut page, 0).map_err(plain_error)?;
        let page = &page[..n_read];
        if !page.starts_with(&MAGIC) {
            bail!("it is not a memtrace capture");
        }
        let (header, behind) = match FileHeader::read_from_prefix(page) {
            Ok(whole) if n_read == HEADER_LEN => whole,
            _ => bail!("its header is cut off: {n_read} of {HEADER_LEN} bytes are there"),
        };
        if header.version > VERSION {
            bail!(
                "it was recorded by a newer memtrace (log version {}, this one reads up to {VERSION}): update memtrace",
                header.version
            );
        }
        if header.version == 0 {
            bail!("its header is damaged: there is no log version 0");
        }
        let facts = facts(&header, behind);
        Ok(Capture { path: path.to_path_buf(), file, header, facts, n_read: AtomicU64::new(0) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far a reading is, and the whole: bytes of the file.
    pub fn progress(&self) -> (u64, u64) {
        let len = self.file.metadata().map_or(0, |metadata| metadata.len());
        (self.n_read.load(Ordering::Relaxed).min(len), len)
    }

    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// What the header says; complete facts come with the model of [`read`](Capture::read).
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What is known before the first event: metadata, marks, how it ended.
    pub fn described(&self) -> Result<Facts> {
        Ok(self.read_while(|_| {}, |_, _| ControlFlow::Break(()))?.process().facts.clone())
    }

    /// The space that it takes: less than its length while there are holes in it.
    pub fn stored_bytes(&self) -> Result<u64> {
        let metadata = self.file.metadata().with_context(|| format!("cannot read {}", self.path.display()))?;
        Ok((metadata.blocks() * 512).min(metadata.len()))
    }

    /// The allocations, frees and mappings that were recorded so far.
    pub fn n_events(&self) -> Result<u64> {
        let named = || format!("cannot read {}", self.path.display());
        let mut payload = Vec::new();
        let mut n_events = 0;
        for block in blocks::scan(&self.file, None).with_context(named)? {
            if block.kind != block_kind::EVENTS {
                continue;
            }
            n_events += u64::from(match block.n_events {
                Some(n_events) => n_events,
                // Its writer commits no more than fits in memory.
                None => {
                    payload.resize(block.payload_len as usize, 0);
                    let n_read = read_at(&self.file, &mut payload, block.payload_offset).with_context(named)?;
                    count::events_from(block.first_turn, block.first_node, &payload[..n_read])
                }
            });
        }
        Ok(n_events)
    }

    /// Hands every event to `take`, in the order of time, and returns the tables they refer to.
    ///
    /// Memory is bounded by the distinct stacks, strings and threads, whatever the length of the log. A capture that
    /// is still being written is read up to where it was when the reading began. Damage costs what it hit and is
    /// listed in the facts.
    pub fn read(&self, mut take: impl FnMut(&Model, &Event)) -> Result<Model> {
        self.read_while(
            |_| {},
            |model, event| {
                take(model, event);
                ControlFlow::Continue(())
            },
        )
    }

    /// Like [`read`](Capture::read), with a look at the model before the first event (metadata and time are there),
    /// and until `take` breaks off.
    pub fn read_while(
        &self,
        begin: impl FnOnce(&Model),
        mut take: impl FnMut(&Model, &Event) -> ControlFlow<()>,
    ) -> Result<Model> {
        self.read_batches(begin, |model, events| events.iter().try_for_each(|event| take(model, event)))
    }

    /// Like [`read_while`](Capture::read_while), many events at a time; a fold can look ahead in them. The model may
    /// know stacks already that only later events have.
    pub fn read_batches(
        &self,
        begin: impl FnOnce(&Model),
        take: impl FnMut(&Model, &[Event]) -> ControlFlow<()>,
    ) -> Result<Model> {
        self.read_range(ALWAYS, NativeStacks::LeftOut, begin, take)
    }

    /// Like [`read_batches`](Capture::read_batches), of a part of the time: from one moment up to another, in nanoseconds
    /// since the capture began. Blocks that can't matter are not read. What they would have told of threads' names is not
    /// known then; stacks are.
    pub fn read_range(
        &self,
        nanos: Range<u64>,
        native: NativeStacks<'_>,
        begin: impl FnOnce(&Model),
        take: impl FnMut(&Model, &[Event]) -> ControlFlow<()>,
    ) -> Result<Model> {
        self.read_by(nanos, native, begin, take, |blocks, tell| ahead::run(&self.file, blocks, tell))
    }

    /// Like [`read_batches`](Capture::read_batches). Of a capture with native stacks, events have recorded stacks, which
    /// mean nothing before the model is [resolved](Model::resolved).
    pub fn read_recorded(&self, take: impl FnMut(&Model, &[Event]) -> ControlFlow<()>) -> Result<Model> {
        self.read_range(ALWAYS, NativeStacks::Recorded, |_| {}, take)
    }

    /// With a way of decoding the blocks.
    pub(super) fn read_by<T: FnMut(&Model, &[Event]) -> ControlFlow<()>>(
        &self,
        nanos: Range<u64>,
        native: NativeStacks<'_>,
        begin: impl FnOnce(&Model),
        take: T,
        decode: impl FnOnce(&[Block], &mut dyn FnMut(&Batch) -> ControlFlow<()>) -> Result<()>,
    ) -> Result<Model> {
        let named = || format!("cannot read {}", self.path.display());
        let mut model = Model::new(self.facts.clone(), clock_of(&self.header));
        let facts = &mut model.process_mut().facts;
        // First how far the lanes have come, then the metadata: what the lanes refer to is written before they do.
        let found = blocks::scan_lanes(&self.file, facts).with_context(named)?;
        let described = blocks::scan(&self.file, None).with_context(named)?;
        facts.end = described.iter().rev().find_map(|block| metadata::read_end(&self.file, block));
        metadata::read(&self.file, &described, &mut model).with_context(named)?;
        begin(&model);
        let mut lanes: Vec<Block> = found.into_iter().filter(Block::has_events).collect();
        let clock = &model.process().clock;
        // The end of all time is in it: a turn may have any number.
        let turns = clock.turn_at(nanos.start)..if nanos.end == u64::MAX { u64::MAX } else { clock.turn_at(nanos.end) };
        if nanos != ALWAYS {
            lanes = range::within(&lanes, &turns);
        }
        // Where there are none, the stacks of Python are what is shown.
        let native = if model.process().facts.has_native_stacks { native } else { NativeStacks::LeftOut };
        let mut events = Events::new(&mut model, turns, native, take);
        self.n_read.store(0, Ordering::Relaxed);
        let mut tell = |batch: &Batch| {
            self.n_read.fetch_add(batch.n_bytes, Ordering::Relaxed);
            events.tell(batch)
        };
        decode(&lanes, &mut tell).with_context(named)?;
        Ok(model)
    }
}

/// Has no block move as long as the file is open. The launcher moves some for a few milliseconds at a time; when it holds
/// its lock for longer it has been stopped, and moves none.
fn keep_still(file: &File) {
    for _ in 0..LONGEST_WAIT_MILLIS {
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            // Where there are no locks, nothing moves either.
            Ok(()) | Err(TryLockError::Error(_)) => break,
        }
    }
}

/// Fills as much of `buf` as the file has at `offset`; the number of bytes.
pub fn read_at(file: &File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// An error of the system in words, without its number.
fn plain_error(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => anyhow::anyhow!("there is no such file"),
        std::io::ErrorKind::PermissionDenied => anyhow::anyhow!("permission denied"),
        _ => error.into(),
    }
}

fn clock_of(header: &FileHeader) -> Clock {
    Clock::new(header.start_mono_nanos, header.start_unix_nanos)
}

/// Takes over what may change in a header.
pub fn take_over(facts: &mut Facts, header: &FileHeader) {
    facts.state = match header.state {
        state::CREATED => RecordingState::Created,
        state::STOPPED => RecordingState::Stopped,
        state::ENDED => RecordingState::Ended,
        _ => RecordingState::Recording,
    };
    facts.stop_reason = stop_sentence(header);
    facts.lost_events = header.lost_events;
    facts.n_self_checked = header.n_self_checked;
}

fn facts(header: &FileHeader, behind: &[u8]) -> Facts {
    let mut facts = Facts {
        pid: header.pid,
        parent_pid: (header.parent_pid != 0).then_some(header.parent_pid),
        clock: if header.clock == clock::COUNTER { "counter" } else { "tsc" },
        start_unix_nanos: header.start_unix_nanos,
        ..Facts::default()
    };
    take_over(&mut facts, header);
    let described = behind.get(..header.info_len as usize);
    let whole = described.filter(|bytes| memtrace_format::crc32c(bytes) == header.info_crc);
    match whole.and_then(CaptureInfo::from_bytes) {
        Some(info) => {
            facts.memtrace_version = info.memtrace_version;
            facts.command_line = info.command_line;
            facts.argv = info.argv;
            facts.cwd = info.cwd;
            facts.script = info.script;
            facts.python_allocators = info.python_allocators;
            facts.tracked = info.tracked;
            facts.has_native_stacks = info.tracked.is_some_and(|tracked| tracked.native_stacks);
            facts.aggregated = info.aggregated;
        }
        None => {
            // Without the description, better count no arena twice.
            facts.python_allocators = true;
            let offset = size_of::<FileHeader>();
            let bytes = (header.info_len as u64).min(behind.len() as u64);
            facts.add_damage(offset as u64, bytes, "the description of the capture is damaged");
        }
    }
    facts
}

fn stop_sentence(header: &FileHeader) -> Option<String> {
    let reason = match header.stop_reason {
        stop_reason::NONE => return None,
        stop_reason::DISK_FULL => "there was no space left for the capture",
        stop_reason::FILE_SIZE_LIMIT => "the capture reached the limit of file sizes (ulimit -f)",
        stop_reason::DESCRIPTOR_LOST => "the capture could not be opened again after the program closed its descriptor",
        stop_reason::NO_MEMORY => "the kernel gave no memory for the recorder's tables",
        stop_reason::IO_ERROR => "writing the capture failed",
        stop_reason::SECCOMP => "the program restricted its system calls (seccomp)",
        stop_reason::NO_SHARED_MAPPING => "the file system of the capture has no shared mappings",
        stop_reason::OLD_KERNEL => "this kernel (before Linux 4.14) has no wipe-on-fork pages",
        stop_reason::SELF_CHECK_FAILED => "the self-check found a wrong stack",
        _ => "the recorder gave a reason that this memtrace does not know",
    };
    Some(match header.stop_errno {
        0 => format!("recording ended early: {reason}"),
        errno => {
            let text = std::io::Error::from_raw_os_error(errno as i32);
            format!("recording ended early: {reason} ({text})")
        }
    })
}
