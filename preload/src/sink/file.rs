//! The file of a log: its first page, mapped for as long as it is written, and windows of its blocks.
//!
//! A process writes one log at a time; when that has ended it may begin another one. What is known of a log stays,
//! because a thread may still be in the middle of an event of it (`lifecycle::end`): its place is taken by another log
//! when no writer is about it any more, so a process that is attached to every hour for months has a few of them.
//!
//! # Safety
//! Dangerous: a page of a shared mapping that the file system can't back raises SIGBUS; a descriptor number that the
//! program closed may name one of its own files; growing past RLIMIT_FSIZE raises SIGXFSZ. So space is allocated
//! before a window is mapped, and only on file systems known to keep that promise; the descriptor's device and inode
//! are compared before the file is grown; the limit is asked before. Windows are raw memory whose length is kept
//! beside them. Callers get slices that end where the window ends.

use core::ffi::CStr;
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use memtrace_format::turn::TurnWord;
use memtrace_format::{
    BLOCK_HEADER_LEN, BlockHeader, FileHeader, HEADER_LEN, MAGIC, MAPPABLE_FILE_SYSTEMS, VERSION, block_state, clock,
    state, stop_reason,
};

use super::{MAX_BLOCK_LEN, shared_u32};
use crate::guard::Guard;
use crate::lock::Lock;
use crate::sys::{self, Errno, FileStatus};
use crate::{abi, elf, lane, lifecycle};

/// The longest path of a log.
pub const MAX_PATH: usize = 4096;
/// Descriptors of ours have at least this number when the limits allow it, out of the way of programs that expect the
/// lowest free one; and never those of the standard streams, which may be closed.
const HIGH_DESCRIPTORS: [i32; 3] = [900, 200, 3];
/// In a process that has threads already, as when it is attached to: its table of descriptors has 64 places at first, and
/// until that has grown the kernel lets the caller wait for all processors, which takes 10 to 20 ms.
const LATE_DESCRIPTORS: [i32; 2] = [48, 3];

/// How blocks reach the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Windows of the file: nothing is lost when the program is killed.
    Mapped,
    /// Private memory, written when a block is full or the program exits.
    Buffered,
}

/// A log that this process writes, or has written.
pub struct Log {
    path: [u8; MAX_PATH],
    identity: FileStatus,
    /// Negative when it is not open: when it has ended, or this is no log yet.
    fd: AtomicI32,
    /// The first page; private memory once the log has ended.
    header: LogHeader,
    mode: Mode,
    uses_counter: bool,
    /// The one that was made before; null for the first.
    older: *mut Log,
}

/// The newest place of a log, and by it all of them. Held while one is filled.
static PLACES: Lock<Places> = Lock::new(Places { newest: ptr::null_mut() });

struct Places {
    newest: *mut Log,
}

/// A place is whole pages, and behind them the first page of the log.
const PLACE_LEN: usize = size_of::<Log>().next_multiple_of(HEADER_LEN);

/// The log that is written, or was written last; null before there is one.
static CURRENT: AtomicPtr<Log> = AtomicPtr::new(ptr::null_mut());

/// Held while a log is opened again.
static REOPENING: Lock<()> = Lock::new(());

/// Address space for the windows of a program that has used up its own and may live on (`RLIMIT_AS`): where it is, with
/// the number of pieces that are left in the lowest bits. A piece takes any window of the usual lengths.
static RESERVE: AtomicUsize = AtomicUsize::new(0);
const N_PIECES: usize = 4;
const N_PIECES_LEFT: usize = 0xfff;

/// Maps a window, out of the reserve when there is no other room.
fn map_window(fd: i32, offset: u64, len: usize) -> Result<NonNull<u8>, Errno> {
    match sys::map_file(fd, offset, len) {
        Ok(start) => {
            fill_reserve();
            Ok(start)
        }
        Err(errno) => {
            let piece = if len <= MAX_BLOCK_LEN { take_piece() } else { None }.ok_or(errno)?;
            // SAFETY: the piece is ours, and nothing is in it.
            unsafe {
                sys::replace_by_file(piece, fd, offset, len)?;
                if len < MAX_BLOCK_LEN {
                    sys::unmap(piece.add(len), MAX_BLOCK_LEN - len);
                }
            }
            Ok(piece)
        }
    }
}

fn fill_reserve() {
    let empty = RESERVE.load(Ordering::Relaxed);
    if empty & N_PIECES_LEFT == 0
        && let Ok(start) = sys::map_anonymous(N_PIECES * MAX_BLOCK_LEN)
        && RESERVE
            .compare_exchange(empty, start.as_ptr() as usize | N_PIECES, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
    {
        // SAFETY: nobody else knows the mapping.
        unsafe { sys::unmap(start, N_PIECES * MAX_BLOCK_LEN) };
    }
}

fn take_piece() -> Option<NonNull<u8>> {
    let without_one = |word: usize| (word & N_PIECES_LEFT != 0).then(|| word + MAX_BLOCK_LEN - 1);
    let word = RESERVE.fetch_update(Ordering::AcqRel, Ordering::Relaxed, without_one).ok()?;
    NonNull::new((word & !N_PIECES_LEFT) as *mut u8)
}

/// The log that is written, or was written last; `None` before there is one.
#[inline(always)]
pub fn current() -> Option<&'static Log> {
    // SAFETY: a log stays where it is, and but for its atomics as it is.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// The first page of the current log.
#[inline(always)]
pub fn header() -> Option<LogHeader> {
    current().map(|log| log.header)
}

/// The first page of a log.
#[derive(Clone, Copy)]
pub struct LogHeader {
    start: *mut u8,
}

impl LogHeader {
    /// The page that is mapped at `start`.
    ///
    /// # Safety
    /// It is the first one of a log.
    pub unsafe fn at(start: NonNull<u8>) -> LogHeader {
        LogHeader { start: start.as_ptr() }
    }

    fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the page stays mapped, the offset is one of the structure's, and both sides use atomics.
        unsafe { shared_u32(self.start.add(offset)) }
    }

    #[inline(always)]
    fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.start.add(offset).cast()) }
    }

    pub fn state(&self) -> &AtomicU32 {
        self.u32(offset_of!(FileHeader, state))
    }

    pub fn stop_reason(&self) -> &AtomicU32 {
        self.u32(offset_of!(FileHeader, stop_reason))
    }

    pub fn stop_errno(&self) -> &AtomicU32 {
        self.u32(offset_of!(FileHeader, stop_errno))
    }

    pub fn n_images(&self) -> &AtomicU32 {
        self.u32(offset_of!(FileHeader, n_images))
    }

    pub fn next_offset(&self) -> &AtomicU64 {
        self.u64(offset_of!(FileHeader, next_offset))
    }

    pub fn counter(&self) -> &AtomicU64 {
        self.u64(offset_of!(FileHeader, counter))
    }

    /// Whose turn it is.
    #[inline(always)]
    pub fn turn(&self) -> &AtomicU64 {
        self.u64(offset_of!(FileHeader, turn))
    }

    /// Whether allocations and mappings are left out.
    pub fn is_paused(&self) -> bool {
        self.u32(offset_of!(FileHeader, is_paused)).load(Ordering::Relaxed) != 0
    }

    pub fn lost_events(&self) -> &AtomicU64 {
        self.u64(offset_of!(FileHeader, lost_events))
    }

    pub fn n_children(&self) -> &AtomicU32 {
        self.u32(offset_of!(FileHeader, n_children))
    }

    /// Whether no more children are to be recorded.
    pub fn refuses_children(&self) -> bool {
        self.u32(offset_of!(FileHeader, refuses_children)).load(Ordering::SeqCst) != 0
    }

    pub fn n_self_checked(&self) -> &AtomicU64 {
        self.u64(offset_of!(FileHeader, n_self_checked))
    }

    /// Whether the launcher gives kept windows back.
    pub fn releases_windows(&self) -> bool {
        self.u32(offset_of!(FileHeader, releases_windows)).load(Ordering::Relaxed) != 0
    }
}

impl Log {
    /// Opens a log that was made for this process and maps its first page; it is not the current one yet.
    pub fn open(guard: &Guard, path: &CStr) -> Option<&'static Log> {
        Log::of(guard, sys::open_read_write(path).ok()?, path)
    }

    /// The same of a file that is open, and ours to close. Without a path nobody can open it again.
    pub fn of(guard: &Guard, fd: i32, path: &CStr) -> Option<&'static Log> {
        let fd = move_high(fd);
        let log = Log::mapped(guard, fd, path);
        if log.is_none() {
            sys::close(fd);
        }
        log
    }

    fn mapped(guard: &Guard, fd: i32, path: &CStr) -> Option<&'static Log> {
        let identity = sys::status(fd).ok()?;
        let is_mappable = sys::file_system(fd).is_ok_and(|magic| MAPPABLE_FILE_SYSTEMS.contains(&magic));
        let path = path.to_bytes_with_nul();
        let mut places = PLACES.lock(guard);
        let place = places.free(guard).or_else(|| places.add())?;
        // SAFETY: a place stays for good, and of one that is free others look at atomics only.
        let start = unsafe { NonNull::new((*place).header.start)? };
        // SAFETY: the page is this place's own, and says at most that a log has ended.
        unsafe { sys::replace_by_file(start, fd, 0, HEADER_LEN).ok()? };
        // SAFETY: the mapping is a page long and the structure has no invalid values.
        let fields = unsafe { start.cast::<FileHeader>().read() };
        let is_ours = fields.magic == MAGIC && fields.version == VERSION && fields.pid == sys::pid();
        if !is_ours || path.len() > MAX_PATH {
            // SAFETY: as above.
            unsafe { (*place).disown_header() };
            return None;
        }
        // SAFETY: as above, and the path fits.
        let log = unsafe {
            (&raw mut (*place).path).cast::<u8>().copy_from_nonoverlapping(path.as_ptr(), path.len());
            (&raw mut (*place).identity).write(identity);
            (&raw mut (*place).mode).write(if is_mappable { Mode::Mapped } else { Mode::Buffered });
            (&raw mut (*place).uses_counter).write(fields.clock == clock::COUNTER);
            &*place
        };
        log.fd.store(fd, Ordering::Release);
        Some(log)
    }

    /// Makes it the log that is written.
    pub fn make_current(&'static self) {
        CURRENT.store(ptr::from_ref(self).cast_mut(), Ordering::Release);
    }

    #[inline(always)]
    pub fn is_current(&self) -> bool {
        ptr::eq(self, CURRENT.load(Ordering::Acquire))
    }

    #[inline(always)]
    pub fn header(&self) -> LogHeader {
        self.header
    }

    /// How it is written.
    #[inline(always)]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    #[inline(always)]
    pub fn uses_counter(&self) -> bool {
        self.uses_counter
    }

    pub fn path(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.path).unwrap_or(c"")
    }

    /// Ends recording for good and says why in the log. (What happens to another log is none of the current one's
    /// business.)
    #[cold]
    pub fn stop(&self, reason: u32, errno: Errno) {
        let first = self.header.stop_reason();
        if first.compare_exchange(stop_reason::NONE, reason, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.header.stop_errno().store(errno.0 as u32, Ordering::Relaxed);
            self.header.state().store(state::STOPPED, Ordering::Release);
        }
        if self.is_current() {
            lifecycle::switch_off();
        }
    }

    /// Lets the file go. Threads that are still in the middle of an event find a page in which nobody gets a turn.
    ///
    /// No thread is between two blocks of this log, and none will be.
    pub fn leave(&self) {
        self.disown_header();
        self.header.turn().store(TurnWord::ENDED.0, Ordering::Release);
        let fd = self.fd.swap(-1, Ordering::AcqRel);
        if fd >= 0 && self.is_its(fd) {
            sys::close(fd);
        }
    }

    /// Whether nothing of it is mapped or open any more.
    pub fn has_been_left(&self) -> bool {
        self.header.turn().load(Ordering::Acquire) == TurnWord::ENDED.0
    }

    /// Puts private memory in the first page's place.
    pub fn disown_header(&self) {
        if let Some(start) = NonNull::new(self.header.start) {
            // SAFETY: the page stays readable and writable, and zeroes are values of all its fields.
            unsafe { sys::replace_by_private(start, HEADER_LEN) };
        }
    }

    /// Counts a child of this process, in that child, before it has left the log.
    pub fn count_child(&self) {
        let fd = self.fd.load(Ordering::Relaxed);
        // A page behind the end of the file, if the program has cut it off, can't be touched.
        let mut probe = [0; 1];
        if fd >= 0 && self.is_its(fd) && sys::read_at(fd, &mut probe, HEADER_LEN as u64 - 1) == Ok(1) {
            self.header.n_children().fetch_add(1, Ordering::SeqCst);
        }
    }

    fn is_its(&self, fd: i32) -> bool {
        let expected = self.identity;
        sys::status(fd).is_ok_and(|found| (found.device, found.inode) == (expected.device, expected.inode))
    }

    /// Its descriptor; opened again when the program has closed it.
    fn descriptor(&self, guard: &Guard) -> Result<i32, Errno> {
        let fd = self.fd.load(Ordering::Relaxed);
        if fd >= 0 && self.is_its(fd) {
            return Ok(fd);
        }
        let _reopening = REOPENING.lock(guard);
        let fd = self.fd.load(Ordering::Relaxed);
        if fd >= 0 && self.is_its(fd) {
            return Ok(fd);
        }
        // The old number is not ours any more, whatever it names: it is not closed.
        let fd = move_high(sys::open_read_write(self.path())?);
        if !self.is_its(fd) {
            sys::close(fd);
            return Err(Errno(abi::ENOENT));
        }
        self.fd.store(fd, Ordering::Relaxed);
        Ok(fd)
    }

    /// Takes its next `capacity` bytes and maps them. On failure recording ends.
    pub fn open_block(&self, guard: &Guard, capacity: usize) -> Option<Window> {
        let offset = self.header.next_offset().fetch_add(capacity as u64, Ordering::AcqRel);
        if offset.saturating_add(capacity as u64) > sys::file_size_limit() {
            self.stop(stop_reason::FILE_SIZE_LIMIT, Errno(abi::EFBIG));
            return None;
        }
        let mapped = match self.mode {
            Mode::Mapped => {
                self.descriptor(guard).map_err(|errno| (stop_reason::DESCRIPTOR_LOST, errno)).and_then(|fd| {
                    sys::allocate(fd, offset, capacity as u64).map_err(|errno| (write_failure(errno), errno))?;
                    map_window(fd, offset, capacity).map_err(|errno| (stop_reason::NO_MEMORY, errno))
                })
            }
            Mode::Buffered => sys::map_anonymous(capacity).map_err(|errno| (stop_reason::NO_MEMORY, errno)),
        };
        match mapped {
            // A child that was forked out of the middle of this has no block, and no log.
            Ok(start) if !lifecycle::is_recording() => {
                // SAFETY: nobody else knows the mapping.
                unsafe { sys::unmap(start, capacity) };
                None
            }
            Ok(start) => Some(Window { start, len: capacity, offset }),
            Err((reason, errno)) => {
                self.stop(reason, errno);
                None
            }
        }
    }

    /// In buffered mode, writes the first `committed` bytes of a window's payload and its header out.
    pub fn flush(&self, guard: &Guard, window: &Window, committed: usize) {
        if self.mode == Mode::Mapped || !lifecycle::is_recording() || !self.is_current() {
            return;
        }
        // SAFETY: the window is `len` bytes long.
        let bytes = unsafe { core::slice::from_raw_parts(window.start.as_ptr(), window.len) };
        let bytes = bytes.get(..BLOCK_HEADER_LEN + committed).unwrap_or(bytes);
        if window.offset.saturating_add(bytes.len() as u64) > sys::file_size_limit() {
            self.stop(stop_reason::FILE_SIZE_LIMIT, Errno(abi::EFBIG));
            return;
        }
        if let Err(errno) = self.descriptor(guard).and_then(|fd| sys::write_at(fd, bytes, window.offset)) {
            self.stop(write_failure(errno), errno);
        }
    }
}

impl Places {
    /// One whose log has ended, when no thread can be in the middle of an event of it: no writer is about it, nor can be
    /// again. (A thread that has just read which log is current, and comes to say so in its writer when another one has
    /// taken the place, asks again before it uses what it knows, and is about that one.)
    fn free(&self, guard: &Guard) -> Option<*mut Log> {
        let mut place = self.newest;
        // SAFETY: places stay for good, and `older` as it is.
        while let Some(log) = unsafe { place.as_ref() } {
            let has_ended = log.fd.load(Ordering::Acquire) < 0;
            if has_ended && !log.is_current() && !lane::is_any_about(guard, log) {
                return Some(place);
            }
            place = log.older;
        }
        None
    }

    fn add(&mut self) -> Option<*mut Log> {
        let memory = sys::map_anonymous(PLACE_LEN + HEADER_LEN).ok()?;
        let place = memory.cast::<Log>().as_ptr();
        // SAFETY: the memory is new, page-aligned and long enough, and zeroes are values of the other fields.
        unsafe {
            (&raw mut (*place).header).write(LogHeader { start: memory.as_ptr().add(PLACE_LEN) });
            (&raw mut (*place).older).write(self.newest);
            (*place).fd.store(-1, Ordering::Relaxed);
        }
        self.newest = place;
        Some(place)
    }
}

#[cfg(test)]
pub fn n_places(guard: &Guard) -> usize {
    let places = PLACES.lock(guard);
    // SAFETY: places stay for good, and `older` as it is.
    std::iter::successors(unsafe { places.newest.as_ref() }, |log| unsafe { log.older.as_ref() }).count()
}

/// In a child of fork that begins a log of its own. Whoever had the locks is gone.
pub fn forget_all() {
    // SAFETY: nobody else is inside memtrace yet.
    unsafe {
        REOPENING.reset(());
        PLACES.reset(Places { newest: ptr::null_mut() });
    }
}

/// After a `siglongjmp` out of memtrace.
pub fn release_locks_if_mine() {
    REOPENING.release_if_mine();
    PLACES.release_if_mine();
}

/// Ends recording for good and says why in the current log.
#[cold]
pub fn stop(reason: u32, errno: Errno) {
    if let Some(log) = current() {
        log.stop(reason, errno);
    }
    lifecycle::switch_off();
}

/// Moves a descriptor out of the way of the program's own.
pub fn move_high(fd: i32) -> i32 {
    let numbers = if elf::is_late() { &LATE_DESCRIPTORS[..] } else { &HIGH_DESCRIPTORS };
    for &lowest in numbers {
        if fd >= lowest {
            return fd;
        }
        if let Ok(high) = sys::duplicate_above(fd, lowest) {
            sys::close(fd);
            return high;
        }
    }
    fd
}

fn write_failure(errno: Errno) -> u32 {
    match errno {
        Errno(abi::ENOSPC | abi::EDQUOT) => stop_reason::DISK_FULL,
        Errno(abi::EFBIG) => stop_reason::FILE_SIZE_LIMIT,
        _ => stop_reason::IO_ERROR,
    }
}

/// A block of the log in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Window {
    start: NonNull<u8>,
    len: usize,
    /// Where the block lies in the file.
    offset: u64,
}

impl Window {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes behind the block's header.
    #[inline(always)]
    pub fn payload(&mut self) -> &mut [u8] {
        // SAFETY: the window is `len` bytes long, which is more than the header, and we borrow it exclusively.
        unsafe {
            core::slice::from_raw_parts_mut(self.start.as_ptr().add(BLOCK_HEADER_LEN), self.len - BLOCK_HEADER_LEN)
        }
    }

    /// A reader of the growing file sees a whole header or none: the magic comes last, or, in a window that is used
    /// again, the state.
    pub fn write_header(&mut self, header: &BlockHeader) {
        let (magic, state) = match self.is_released() {
            false => ([0; 4], header.state),
            true => (header.magic, block_state::RELEASED),
        };
        // SAFETY: the window is page-aligned and longer than the header.
        unsafe {
            self.start.cast::<BlockHeader>().write(BlockHeader { magic, state, ..*header });
            shared_u32(self.start.as_ptr()).store(u32::from_le_bytes(header.magic), Ordering::Release);
        }
        self.state().store(header.state, Ordering::Release);
    }

    /// Whether the records of its block are elsewhere, so that it can be used again.
    pub fn is_released(&self) -> bool {
        self.state().load(Ordering::Acquire) == block_state::RELEASED
    }

    #[inline(always)]
    pub fn committed(&self) -> &AtomicU32 {
        // SAFETY: inside the window, aligned, and changed by atomics only.
        unsafe { shared_u32(self.start.as_ptr().add(offset_of!(BlockHeader, committed))) }
    }

    pub fn n_events(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { shared_u32(self.start.as_ptr().add(offset_of!(BlockHeader, n_events))) }
    }

    pub fn state(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { shared_u32(self.start.as_ptr().add(offset_of!(BlockHeader, state))) }
    }

    /// Puts private memory in the window's place.
    pub fn disown(&self) {
        // SAFETY: the range is the window's own, and stays readable and writable.
        unsafe { sys::replace_by_private(self.start, self.len) };
    }

    /// Gives its memory back.
    pub fn unmap(self) {
        // SAFETY: the window goes out of use here.
        unsafe { sys::unmap(self.start, self.len) };
    }
}
