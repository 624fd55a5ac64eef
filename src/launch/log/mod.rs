//! The launcher's side of a log: creating it, adding samples and making finished blocks small while the program runs,
//! putting it in order at the end. The recorder writes to the same file at the same time. Whatever the program does to
//! the file, this must never fail the run: it only ends the sampling, or leaves the log larger than it could be.

mod codec;
mod compactor;
mod place;
mod samples;
mod space;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use memtrace_format as format;
use nix::sys::statfs::fstatfs;
use zerocopy::{FromBytes, IntoBytes};

use format::record::{Clock, Mark, Rss, mark};
use format::turn::Turn;
use format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, FIRST_BLOCK, FileHeader, HEADER_LEN, LAUNCHER_IMAGE, MAGIC,
    MAPPABLE_FILE_SYSTEMS, PACKED_ALIGN, Record, VERSION, block_kind, block_state, state,
};

use crate::capture::info::{self, CaptureEnd, CaptureInfo};
use crate::launch::clock;
use crate::launch::sys::{self, SharedHeader};
use compactor::Compactor;
use samples::Samples;

/// Samples are lane 0 of the launcher.
const END_LANE: u32 = 1;
const END_CAPACITY: usize = 4 * PACKED_ALIGN;
/// How long signals and samples may wait for the compression.
const LONGEST_STEP: Duration = Duration::from_millis(4);

/// How often a reader is waited for at the end of a program, and how long each time.
const N_TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// When blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    WhileRunning,
    AtEnd,
    Never,
}

/// What [`Log::compact`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// There was nothing to do.
    Idle,
    /// There may be more soon.
    CaughtUp,
    /// There is more.
    Behind,
}

/// A log that is being written.
pub struct Log {
    file: File,
    path: PathBuf,
    shared: SharedHeader,
    /// `None` once sampling has ended.
    samples: Option<Samples>,
    /// Where the block of the end is.
    end_offset: u64,
    compactor: Compactor,
    compression: Compression,
    /// Whether blocks can be compressed before the program has ended.
    is_compacting: bool,
    /// Whether the recorder leaves out what is allocated.
    is_paused: bool,
}

/// What the recorder left behind.
pub struct Finished {
    /// As it was when the program ended, with the recorder's own last state.
    pub header: FileHeader,
    /// Length of the file in bytes.
    pub len: u64,
    /// Bytes of records in it, uncompressed.
    pub raw_len: u64,
    /// Allocations, frees and mappings.
    pub n_events: u64,
}

impl Log {
    /// Creates the log of process `pid`. An existing file is an error, unless `is_forced`: then a new file takes its
    /// place, and whoever still has the old one open is not disturbed.
    pub fn create(
        path: &Path,
        is_forced: bool,
        compression: Compression,
        pid: u32,
        info: &CaptureInfo,
    ) -> anyhow::Result<Log> {
        let failed = || format!("cannot create {}", path.display());
        if is_forced && let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.is_file() && !metadata.is_symlink() {
                bail!("{}: there is something that is not a file", failed());
            }
            fs::remove_file(path).with_context(failed)?;
        }
        let file = match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{}: it exists already; -f overwrites it", failed())
            }
            Err(error) => return Err(error).with_context(failed),
        };
        sys::keep_in_place(&file);
        Log::start(file, path, compression, pid, info).inspect_err(|_| {
            let _ = fs::remove_file(path);
        })
    }

    fn start(file: File, path: &Path, compression: Compression, pid: u32, info: &CaptureInfo) -> anyhow::Result<Log> {
        let failed = || format!("cannot write {}", path.display());
        let info = info.to_fitting_bytes();
        // Elsewhere blocks are not there at once, so nobody can tell that they are whole.
        let is_mapped = is_mappable(&file);
        let is_compacting = compression == Compression::WhileRunning && is_mapped;
        // Elsewhere what is written beside a mapped word may be lost when the page is written back.
        let header_len = if is_mapped { size_of::<FileHeader>() + info.len() } else { HEADER_LEN };
        let header_len = header_len.next_multiple_of(PACKED_ALIGN);
        let packed_start = (header_len + END_CAPACITY) as u64;
        let first_block = match compression {
            Compression::Never => packed_start.next_multiple_of(BLOCK_ALIGN as u64),
            _ => FIRST_BLOCK,
        };
        let header = FileHeader {
            header_len: header_len as u32,
            clock: clock::choose(),
            start_unix_nanos: clock::unix_nanos(),
            start_mono_nanos: clock::mono_nanos(),
            info_len: info.len() as u32,
            info_crc: format::crc32c(&info),
            releases_windows: u32::from(is_compacting),
            ..FileHeader::begin(pid, first_block)
        };
        let mut page = vec![0; HEADER_LEN.max(header_len + END_CAPACITY)];
        page[..size_of::<FileHeader>()].copy_from_slice(header.as_bytes());
        page[size_of::<FileHeader>()..][..info.len()].copy_from_slice(&info);
        // The place of the end is taken now, because the disk may be full when it comes.
        page[header_len..][..END_CAPACITY].copy_from_slice(&end_block(&[]));
        file.write_all_at(&page, 0).with_context(failed)?;
        let shared = SharedHeader::map(&file).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => anyhow!("its file system has no shared mappings; choose another folder with -o"),
            _ => error.into(),
        });
        let shared = shared.with_context(failed)?;
        Ok(Log {
            file,
            path: path.to_owned(),
            shared,
            samples: Some(Samples::default()),
            end_offset: header_len as u64,
            compactor: Compactor::new(packed_start, first_block),
            compression,
            is_compacting,
            is_paused: false,
        })
    }

    /// Takes up a log that a child has made, and that it is writing or has written.
    pub fn adopt(path: &Path, compression: Compression) -> anyhow::Result<Log> {
        let failed = || format!("cannot take up {}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(path).with_context(failed)?;
        let Some(header) = read_header(path).filter(|header| header.header_len as usize <= HEADER_LEN) else {
            bail!("{}: it is no log", failed());
        };
        let is_mapped = is_mappable(&file);
        let is_compacting = compression == Compression::WhileRunning && is_mapped;
        let end_offset = u64::from(header.header_len);
        file.write_all_at(&end_block(&[]), end_offset).with_context(failed)?;
        let shared = SharedHeader::map(&file).with_context(failed)?;
        shared.set_releases_windows(is_compacting);
        Ok(Log {
            file,
            path: path.to_owned(),
            shared,
            samples: Some(Samples::default()),
            end_offset,
            compactor: Compactor::new(end_offset + END_CAPACITY as u64, FIRST_BLOCK),
            compression,
            is_compacting,
            is_paused: false,
        })
    }

    /// Leaves it to a process that goes on writing it.
    pub fn leave(self) {
        if self.len().is_ok() {
            self.shared.set_releases_windows(false);
        }
    }

    /// Nobody keeps it: it has no name any more, and is gone when nobody has it open. Others find it by this process, at
    /// the path that it has then.
    pub fn unlink(&mut self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        self.path = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into();
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it began; 0 when that can't be read any more.
    pub fn start_unix_nanos(&self) -> u64 {
        read_header(&self.path).map_or(0, |header| header.start_unix_nanos)
    }

    /// How many children have made a log beside this one, or tried to.
    pub fn n_children(&self) -> u32 {
        if self.len().is_ok() { self.shared.n_children() } else { 0 }
    }

    /// Has the recorder not begin anew: no program that the process becomes from now on writes to it, and no more children
    /// make logs beside it.
    pub fn refuse_others(&self) {
        if self.len().is_ok() {
            self.shared.refuse_programs();
            self.shared.refuse_children();
        }
    }

    /// Removes the log of a program that could not be started.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Whether the recorder has ended before its program.
    pub fn has_stopped(&self) -> bool {
        let mut found = [0; 4];
        let read = self.file.read_exact_at(&mut found, std::mem::offset_of!(FileHeader, state) as u64);
        read.is_ok() && u32::from_le_bytes(found) == state::STOPPED
    }

    /// Adds the time, and the resident set in bytes where it could be read.
    pub fn sample(&mut self, rss_bytes: Option<u64>) {
        self.add(|mono_nanos| match rss_bytes {
            Some(bytes) => Record::Rss(Rss { mono_nanos, bytes }),
            None => Record::Clock(Clock { mono_nanos }),
        });
    }

    /// Gives this moment a name, of [`mark::MAX_NAME_LEN`] bytes at most; `false` when it could not be written.
    pub fn mark(&mut self, name: &str) -> bool {
        self.add(|mono_nanos| Record::Mark(Mark { mono_nanos, what: mark::NAMED, name: name.as_bytes() }))
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Has the recorder leave out what is allocated from now on, or no longer; `false` when it could not be written, and
    /// nothing is changed then.
    pub fn pause(&mut self, is_paused: bool) -> bool {
        if self.len().is_err() || self.samples.is_none() {
            return false;
        }
        self.shared.set_paused(is_paused);
        self.is_paused = is_paused;
        let what = if is_paused { mark::PAUSED } else { mark::RESUMED };
        self.add(|mono_nanos| Record::Mark(Mark { mono_nanos, what, name: b"" }))
    }

    fn add<'r>(&mut self, record: impl FnOnce(u64) -> Record<'r>) -> bool {
        // A full disk, or a file that the program has cut off: no more samples, and nothing else.
        let is_added = self.try_add(record).is_ok();
        if !is_added {
            self.samples = None;
        }
        is_added && self.samples.is_some()
    }

    fn try_add<'r>(&mut self, record: impl FnOnce(u64) -> Record<'r>) -> io::Result<()> {
        self.len()?;
        let turn = self.shared.take_turn();
        let Some(samples) = &mut self.samples else { return Ok(()) };
        samples.add(&self.file, &self.shared, turn, &record(clock::mono_nanos()))
    }

    /// Compresses finished blocks, for a few milliseconds at most.
    pub fn compact(&mut self) -> Progress {
        if !self.is_compacting {
            return Progress::Idle;
        }
        self.try_compact().unwrap_or_else(|_| {
            // A full disk, or a file that the program has cut off. What can be done is done at the end.
            self.is_compacting = false;
            Progress::Idle
        })
    }

    fn try_compact(&mut self) -> io::Result<Progress> {
        let len = self.len()?;
        self.compactor.look(&self.file, self.shared.next_offset().min(len))?;
        if !self.compactor.has_work() {
            return Ok(Progress::Idle);
        }
        // Under whoever reads the log nothing may move. Who watches it lets go of it again and again, for moments.
        if self.file.try_lock().is_err() {
            return Ok(Progress::CaughtUp);
        }
        let start = Instant::now();
        let mut stepped = Ok(());
        while self.compactor.has_work() && stepped.is_ok() && start.elapsed() < LONGEST_STEP {
            stepped = self.compactor.step(&self.file, &mut |len| self.shared.take_block(len));
        }
        self.file.unlock()?;
        stepped.map(|()| if self.compactor.has_work() { Progress::Behind } else { Progress::CaughtUp })
    }

    /// The length of the file. The mapping of one that was cut off must not be touched.
    fn len(&self) -> io::Result<u64> {
        let len = self.file.metadata()?.len();
        if len < HEADER_LEN as u64 { Err(io::Error::from(ErrorKind::UnexpectedEof)) } else { Ok(len) }
    }

    /// Puts the log in order once the program has ended: compresses or seals its blocks, says how it ended, cuts off
    /// what is unused. When `is_enough`, blocks stay as they are.
    /// An error says what is wrong with the file; it is then left as it is.
    pub fn finish(mut self, end: &CaptureEnd, mut is_enough: impl FnMut() -> bool) -> anyhow::Result<Finished> {
        let path = self.path.clone();
        let in_file = |message: &str| format!("{}: {message}", path.display());
        let len = self.file.metadata().with_context(|| in_file("cannot read"))?.len();
        if !is_same_file(&self.file, &path) {
            bail!("the program removed or replaced {}", path.display());
        }
        let mut page = [0; HEADER_LEN];
        let Ok(()) = self.file.read_exact_at(&mut page, 0) else {
            bail!("{}", in_file("the program cut the file off"));
        };
        let header = FileHeader::read_from_prefix(&page).ok().map(|(header, _)| header);
        let Some(header) = header.filter(|header| header.magic == MAGIC && header.version == VERSION) else {
            bail!("{}", in_file("the program has overwritten the file"));
        };
        let finished = self.put_in_order(header, len, end, &mut is_enough);
        // A child that was forked meanwhile has the file open, and would keep our lock for as long as it lives.
        let _ = self.file.unlock();
        finished.with_context(|| in_file("cannot finish the file"))
    }

    fn put_in_order(
        &mut self,
        header: FileHeader,
        len: u64,
        end: &CaptureEnd,
        is_enough: &mut dyn FnMut() -> bool,
    ) -> io::Result<Finished> {
        let file = &self.file;
        let packs = self.compression != Compression::Never && locks_soon(file, is_enough);
        let compacted = self.compactor.finish(file, header.next_offset.min(len), packs, is_enough)?;
        let len = compacted.end.max(HEADER_LEN as u64);
        file.set_len(len)?;
        file.write_all_at(&end_block(&info::to_bytes(end)), self.end_offset)?;
        // Last, so that the state is true whenever it is read.
        let ended = FileHeader { state: state::ENDED, next_offset: len, ..header };
        file.write_all_at(ended.as_bytes(), 0)?;
        Ok(Finished { header, len, raw_len: compacted.raw_len, n_events: compacted.n_events })
    }
}

/// Whether nobody reads the file from now on. Somebody who watches it does so for moments.
fn locks_soon(file: &File, is_enough: &mut dyn FnMut() -> bool) -> bool {
    for _ in 0..N_TRIES {
        if file.try_lock().is_ok() {
            return true;
        }
        if is_enough() {
            return false;
        }
        std::thread::sleep(BETWEEN_TRIES);
    }
    false
}

/// Whether the recorder maps windows of the file, and does not write them out.
fn is_mappable(file: &File) -> bool {
    fstatfs(file).is_ok_and(|found| MAPPABLE_FILE_SYSTEMS.contains(&found.filesystem_type().0))
}

/// The header of a log; `None` when the file is none, or not as long as one.
pub fn read_header(path: &Path) -> Option<FileHeader> {
    let file = File::open(path).ok()?;
    let mut page = [0; HEADER_LEN];
    file.read_exact_at(&mut page, 0).ok()?;
    let (header, _) = FileHeader::read_from_prefix(&page).ok()?;
    (header.magic == MAGIC && header.version == VERSION).then_some(header)
}

fn launcher_block(kind: u8, capacity: usize, sequence: u32, first_turn: Turn) -> BlockHeader {
    let open = BlockHeader {
        kind,
        image: LAUNCHER_IMAGE,
        capacity: capacity as u32,
        sequence,
        first_turn: first_turn.to_bits(),
        ..BlockHeader::OPEN
    };
    open.checked()
}

/// A whole block that says how the capture ended; open and empty as long as there is nothing to say.
fn end_block(payload: &[u8]) -> Vec<u8> {
    let open = launcher_block(block_kind::END, END_CAPACITY, 0, Turn::default());
    let mut header = BlockHeader { lane: END_LANE, ..open }.checked();
    if !payload.is_empty() {
        header.committed = payload.len() as u32;
        header.state = block_state::SEALED;
        header.payload_crc = crc32c::crc32c(payload);
    }
    let mut bytes = vec![0; END_CAPACITY];
    bytes[..BLOCK_HEADER_LEN].copy_from_slice(header.as_bytes());
    bytes[BLOCK_HEADER_LEN..][..payload.len()].copy_from_slice(payload);
    bytes
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::info::Exit;

    #[test]
    fn a_copy_of_the_descriptor_keeps_nobody_from_the_finished_log() {
        let path = std::env::temp_dir().join(format!("memtrace-log-lock-{}", std::process::id()));
        let info = CaptureInfo {
            memtrace_version: "test".into(),
            command_line: Vec::new(),
            argv: Vec::new(),
            cwd: "/".into(),
            python_allocators: false,
            script: None,
            tracked: None,
            aggregated: None,
        };
        let log = Log::create(&path, true, Compression::AtEnd, std::process::id(), &info).unwrap();
        // As a child of fork has one.
        let copy = log.file.try_clone().unwrap();
        let end = CaptureEnd { unix_nanos: 1, mono_nanos: 1, exit: Exit::Unknown, peak_rss_bytes: 0 };
        log.finish(&end, || false).unwrap();
        let locked = File::open(&path).unwrap().try_lock();
        fs::remove_file(path).unwrap();
        assert!(locked.is_ok(), "{locked:?}");
        drop(copy);
    }
}
