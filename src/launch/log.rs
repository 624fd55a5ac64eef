//! The launcher's side of a log: creating it, adding samples while the program runs, putting it in order at the end.
//! The recorder writes to the same file at the same time, so blocks are taken the way it takes them. Whatever the
//! program does to the file, this must never fail the run: it only ends the sampling.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use memtrace_format as format;
use nix::fcntl::{FallocateFlags, fallocate};
use zerocopy::{FromBytes, IntoBytes};

use format::decode::Decoder;
use format::encode::{self, Deltas, HOT_ROOM, MAX_PLAIN_LEN};
use format::record::{Clock, Rss};
use format::turn::{Turn, TurnWord};
use format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, FileHeader, HEADER_LEN, LAUNCHER_IMAGE, MAGIC, Record,
    VERSION, block_kind, block_state, codec, state,
};

use crate::capture::info::{self, CaptureEnd, CaptureInfo};
use crate::launch::clock;
use crate::launch::sys::{self, SharedHeader};

/// The first block of samples; each further one is twice as long, up to the last.
const FIRST_CAPACITY: usize = BLOCK_ALIGN;
const LARGEST_CAPACITY: usize = 16 * BLOCK_ALIGN;
/// The block of the end stands in front of all others.
const END_OFFSET: u64 = HEADER_LEN as u64;
/// Samples are lane 0 of the launcher.
const END_LANE: u32 = 1;

/// A log that is being written.
pub struct Log {
    file: File,
    path: PathBuf,
    shared: SharedHeader,
    /// The block that takes samples; `None` before the first and once sampling has ended.
    block: Option<SampleBlock>,
    n_blocks: u32,
    is_sampling: bool,
}

struct SampleBlock {
    /// Where it starts in the file.
    offset: u64,
    header: BlockHeader,
    deltas: Deltas,
}

/// What the recorder left behind.
pub struct Finished {
    /// As it was when the program ended, with the recorder's own last state.
    pub header: FileHeader,
    /// Length of the file in bytes.
    pub len: u64,
    /// Allocations, frees and mappings.
    pub events: EventCount,
}

/// How many events a log has: counted, or, for a large one, extrapolated from a part of its blocks. Counting costs
/// 5 ns an event, as much as recording does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCount {
    pub n_events: u64,
    pub is_estimate: bool,
}

/// Bytes of events that are counted one by one.
const COUNTED_LEN: u64 = 64 << 20;

impl Log {
    /// Creates the log of process `pid`. An existing file is an error, unless `is_forced`: then a new file takes its
    /// place, and whoever still has the old one open is not disturbed.
    pub fn create(path: &Path, is_forced: bool, pid: u32, info: &CaptureInfo) -> anyhow::Result<Log> {
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
        Log::start(file, path, pid, info).inspect_err(|_| {
            let _ = fs::remove_file(path);
        })
    }

    fn start(file: File, path: &Path, pid: u32, info: &CaptureInfo) -> anyhow::Result<Log> {
        let failed = || format!("cannot write {}", path.display());
        let info = fitting(info);
        let header = FileHeader {
            magic: MAGIC,
            version: VERSION,
            header_len: HEADER_LEN as u32,
            clock: clock::choose(),
            pid,
            state: state::CREATED,
            stop_reason: format::stop_reason::NONE,
            next_offset: (HEADER_LEN + BLOCK_ALIGN) as u64,
            counter: 0,
            lost_events: 0,
            n_images: 0,
            stop_errno: 0,
            turn: TurnWord::START.0,
            n_self_checked: 0,
            start_unix_nanos: clock::unix_nanos(),
            start_mono_nanos: clock::mono_nanos(),
            info_len: info.len() as u32,
            info_crc: format::crc32c(&info),
        };
        let mut page = vec![0; HEADER_LEN];
        page[..size_of::<FileHeader>()].copy_from_slice(header.as_bytes());
        page[size_of::<FileHeader>()..][..info.len()].copy_from_slice(&info);
        // The place of the end is taken now, because the disk may be full when it comes.
        page.extend_from_slice(&end_block(&[]));
        file.write_all_at(&page, 0).with_context(failed)?;
        let shared = SharedHeader::map(&file).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => anyhow!("its file system has no shared mappings; choose another folder with -o"),
            _ => error.into(),
        });
        let shared = shared.with_context(failed)?;
        Ok(Log { file, path: path.to_owned(), shared, block: None, n_blocks: 0, is_sampling: true })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the log of a program that could not be started.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Adds the time, and the resident set in bytes where it could be read.
    pub fn sample(&mut self, rss_bytes: Option<u64>) {
        // A full disk, or a file that the program has cut off: no more samples, and nothing else.
        if self.is_sampling && self.try_sample(rss_bytes).is_err() {
            self.is_sampling = false;
            self.block = None;
        }
    }

    fn try_sample(&mut self, rss_bytes: Option<u64>) -> io::Result<()> {
        self.check_header_is_there()?;
        let turn = self.shared.take_turn();
        let mono_nanos = clock::mono_nanos();
        let record = match rss_bytes {
            Some(bytes) => Record::Rss(Rss { mono_nanos, bytes }),
            None => Record::Clock(Clock { mono_nanos }),
        };
        if let Some(block) = &mut self.block
            && block.append(&self.file, turn, &record)?
        {
            return Ok(());
        }
        if let Some(block) = self.block.take() {
            block.write_state(&self.file, block_state::CLOSED)?;
        }
        let mut block = self.take_block(turn)?;
        block.append(&self.file, turn, &record)?;
        self.block = Some(block);
        Ok(())
    }

    fn take_block(&mut self, turn: Turn) -> io::Result<SampleBlock> {
        let capacity = (FIRST_CAPACITY << self.n_blocks.min(16)).min(LARGEST_CAPACITY);
        let header = launcher_block(block_kind::LAUNCHER, capacity, self.n_blocks, turn);
        let offset = self.shared.take_block(capacity as u64);
        self.n_blocks += 1;
        let mut bytes = vec![0; capacity];
        bytes[..BLOCK_HEADER_LEN].copy_from_slice(header.as_bytes());
        self.file.write_all_at(&bytes, offset)?;
        Ok(SampleBlock { offset, header, deltas: Deltas::at_block_start(turn) })
    }

    /// The mapping of a file that was cut off must not be touched.
    fn check_header_is_there(&self) -> io::Result<()> {
        if self.file.metadata()?.len() < HEADER_LEN as u64 {
            return Err(io::Error::from(ErrorKind::UnexpectedEof));
        }
        Ok(())
    }

    /// Puts the log in order once the program has ended: seals its blocks, says how it ended, cuts off what is unused.
    /// An error says what is wrong with the file; it is then left as it is.
    pub fn finish(self, end: &CaptureEnd) -> anyhow::Result<Finished> {
        let in_file = |message: &str| format!("{}: {message}", self.path.display());
        let len = self.file.metadata().with_context(|| in_file("cannot read"))?.len();
        if !is_same_file(&self.file, &self.path) {
            bail!("the program removed or replaced {}", self.path.display());
        }
        let mut page = [0; HEADER_LEN];
        let Ok(()) = self.file.read_exact_at(&mut page, 0) else {
            bail!("{}", in_file("the program cut the file off"));
        };
        let header = FileHeader::read_from_prefix(&page).ok().map(|(header, _)| header);
        let Some(header) = header.filter(|header| header.magic == MAGIC && header.version == VERSION) else {
            bail!("{}", in_file("the program has overwritten the file"));
        };
        self.put_in_order(header, len, end).with_context(|| in_file("cannot finish the file"))
    }

    fn put_in_order(&self, header: FileHeader, len: u64, end: &CaptureEnd) -> io::Result<Finished> {
        let file = &self.file;
        let mut blocks = find_blocks(file, header.next_offset.min(len))?;
        let mut len = END_OFFSET + BLOCK_ALIGN as u64;
        let mut counter = Counter::new(&blocks);
        let last = blocks.len().saturating_sub(1);
        let mut buf = Vec::new();
        for (index, (offset, block)) in blocks.iter_mut().enumerate() {
            if index == last && block.state != block_state::SEALED {
                block.capacity = used_len(block) as u32;
                block.header_crc = block.computed_crc();
            }
            let payload = seal(file, *offset, block, &mut buf)?;
            counter.add(block, payload);
            len = *offset + u64::from(block.capacity);
        }
        file.set_len(len)?;
        file.write_all_at(&end_block(&info::to_bytes(end)), END_OFFSET)?;
        // Last, so that the state is true whenever it is read.
        let ended = FileHeader { state: state::ENDED, next_offset: len, ..header };
        file.write_all_at(ended.as_bytes(), 0)?;
        Ok(Finished { header, len, events: counter.finish() })
    }
}

impl SampleBlock {
    /// Adds a turn and what happened in it; `false` when the block is full.
    fn append(&mut self, file: &File, turn: Turn, record: &Record<'_>) -> io::Result<bool> {
        let room = self.header.capacity as usize - BLOCK_HEADER_LEN - self.header.committed as usize;
        let mut buf = [0; HOT_ROOM + MAX_PLAIN_LEN];
        if room < buf.len() {
            return Ok(false);
        }
        let turn_len = encode::turn(&mut buf, &mut self.deltas, turn).expect("there is room");
        let len = encode::record(&mut buf[turn_len..], &mut self.deltas, 0, record).expect("there is room");
        let len = turn_len + len;
        let place = self.offset + BLOCK_HEADER_LEN as u64 + u64::from(self.header.committed);
        file.write_all_at(&buf[..len], place)?;
        self.header.committed += len as u32;
        let place = self.offset + std::mem::offset_of!(BlockHeader, committed) as u64;
        file.write_all_at(&self.header.committed.to_le_bytes(), place)?;
        Ok(true)
    }

    fn write_state(&self, file: &File, state: u32) -> io::Result<()> {
        file.write_all_at(&state.to_le_bytes(), self.offset + std::mem::offset_of!(BlockHeader, state) as u64)
    }
}

fn launcher_block(kind: u8, capacity: usize, sequence: u32, first_turn: Turn) -> BlockHeader {
    let mut header = BlockHeader {
        magic: BLOCK_MAGIC,
        kind,
        codec: codec::RAW,
        image: LAUNCHER_IMAGE,
        capacity: capacity as u32,
        lane: 0,
        sequence,
        thread: 0,
        first_turn: first_turn.to_bits(),
        first_node: 0,
        header_crc: 0,
        committed: 0,
        state: block_state::OPEN,
        payload_crc: 0,
        reserved: [0; 3],
    };
    header.header_crc = header.computed_crc();
    header
}

/// A whole block that says how the capture ended; open and empty as long as there is nothing to say.
fn end_block(payload: &[u8]) -> Vec<u8> {
    let mut header = launcher_block(block_kind::END, BLOCK_ALIGN, 0, Turn::default());
    header.lane = END_LANE;
    header.header_crc = header.computed_crc();
    if !payload.is_empty() {
        header.committed = payload.len() as u32;
        header.state = block_state::SEALED;
        header.payload_crc = crc32c::crc32c(payload);
    }
    let mut bytes = vec![0; BLOCK_ALIGN];
    bytes[..BLOCK_HEADER_LEN].copy_from_slice(header.as_bytes());
    bytes[BLOCK_HEADER_LEN..][..payload.len()].copy_from_slice(payload);
    bytes
}

/// The blocks of a log up to `end`, where each starts; not the one of the end. What is no block is stepped over.
fn find_blocks(file: &File, end: u64) -> io::Result<Vec<(u64, BlockHeader)>> {
    let mut blocks = Vec::new();
    let mut offset = END_OFFSET + BLOCK_ALIGN as u64;
    while offset + BLOCK_HEADER_LEN as u64 <= end {
        let mut bytes = [0; BLOCK_HEADER_LEN];
        file.read_exact_at(&mut bytes, offset)?;
        let header = BlockHeader::read_from_bytes(&bytes).expect("the buffer has the header's length");
        if is_whole(&header, end - offset) {
            blocks.push((offset, header));
            offset += u64::from(header.capacity);
        } else {
            offset += BLOCK_ALIGN as u64;
        }
    }
    Ok(blocks)
}

/// Whether a block header is one, with `room` bytes of file from its start on.
fn is_whole(header: &BlockHeader, room: u64) -> bool {
    header.magic == BLOCK_MAGIC
        && header.header_crc == header.computed_crc()
        && header.capacity as usize >= BLOCK_ALIGN
        && (header.capacity as usize).is_multiple_of(BLOCK_ALIGN)
        && u64::from(header.committed) <= u64::from(header.capacity) - BLOCK_HEADER_LEN as u64
        && BLOCK_HEADER_LEN as u64 + u64::from(header.committed) <= room
}

/// The least capacity that holds what was committed.
fn used_len(block: &BlockHeader) -> u64 {
    (BLOCK_HEADER_LEN as u64 + u64::from(block.committed)).next_multiple_of(BLOCK_ALIGN as u64)
}

/// Stores the checksum of a block that nobody writes to any more, and gives its unused part back to the file system.
/// Returns the payload, read into `buf`.
fn seal<'a>(file: &File, offset: u64, block: &mut BlockHeader, buf: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    let len = block.committed as usize;
    if buf.len() < len {
        buf.resize(len, 0);
    }
    let payload = &mut buf[..len];
    file.read_exact_at(payload, offset + BLOCK_HEADER_LEN as u64)?;
    if block.state != block_state::SEALED {
        block.payload_crc = crc32c::crc32c(payload);
        block.state = block_state::SEALED;
        file.write_all_at(block.as_bytes(), offset)?;
    }
    let unused = u64::from(block.capacity).saturating_sub(used_len(block));
    if unused > 0 {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // Some file systems have no holes; the zeros then stay.
        let _ = fallocate(file, flags, (offset + used_len(block)) as i64, unused as i64);
    }
    Ok(payload)
}

/// Counts the events of every n-th block.
struct Counter {
    every: u64,
    n_blocks: u64,
    n_events: u64,
    counted_len: u64,
    total_len: u64,
}

impl Counter {
    fn new(blocks: &[(u64, BlockHeader)]) -> Counter {
        let events = blocks.iter().filter(|(_, block)| block.kind == block_kind::EVENTS);
        let total_len: u64 = events.map(|(_, block)| u64::from(block.committed)).sum();
        Counter { every: total_len / COUNTED_LEN + 1, n_blocks: 0, n_events: 0, counted_len: 0, total_len }
    }

    fn add(&mut self, block: &BlockHeader, payload: &[u8]) {
        if block.kind != block_kind::EVENTS {
            return;
        }
        if self.n_blocks.is_multiple_of(self.every) {
            self.n_events += count_events(payload, block.first_turn);
            self.counted_len += payload.len() as u64;
        }
        self.n_blocks += 1;
    }

    fn finish(&self) -> EventCount {
        let is_estimate = self.counted_len < self.total_len;
        let share = self.total_len as f64 / self.counted_len.max(1) as f64;
        let n_events = if is_estimate { (self.n_events as f64 * share) as u64 } else { self.n_events };
        EventCount { n_events, is_estimate }
    }
}

fn count_events(payload: &[u8], first_turn: u64) -> u64 {
    let mut deltas = Deltas::at_block_start(Turn::from_bits(first_turn));
    let mut decoder = Decoder::new(payload, &mut deltas);
    let mut n_events = 0;
    while let Ok(Some(record)) = decoder.next() {
        n_events += match record {
            Record::Alloc(_) | Record::Free(_) | Record::Mmap(_) | Record::Munmap(_) | Record::Mremap(_) => 1,
            _ => 0,
        };
    }
    n_events
}

/// The encoded description, shortened until it fits behind the file header: first the arguments, which can be
/// megabytes, then whatever else is long.
fn fitting(info: &CaptureInfo) -> Vec<u8> {
    const ROOM: usize = HEADER_LEN - size_of::<FileHeader>();
    let mut info = info.clone();
    let mut longest = ROOM;
    loop {
        let bytes = info::to_bytes(&info);
        if bytes.len() <= ROOM {
            return bytes;
        }
        longest /= 2;
        for list in [&mut info.command_line, &mut info.argv] {
            shorten_list(list, longest);
        }
        for text in [Some(&mut info.cwd), info.script.as_mut()].into_iter().flatten() {
            shorten(text, longest);
        }
    }
}

/// Keeps the first `len` bytes of a list of texts.
fn shorten_list(list: &mut Vec<String>, len: usize) {
    let mut room = len;
    let n_whole = list.iter().take_while(|text| {
        let fits = text.len() < room;
        room = room.saturating_sub(text.len() + 1);
        fits
    });
    let n_whole = n_whole.count();
    if n_whole < list.len() {
        list.truncate(n_whole);
        list.push("…".into());
    }
}

fn shorten(text: &mut String, len: usize) {
    if text.len() > len {
        text.truncate(text.floor_char_boundary(len));
        text.push('…');
    }
}

fn is_same_file(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (named.dev(), named.ino())
}
