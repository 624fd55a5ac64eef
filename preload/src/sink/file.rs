//! The file of the log: its first page, mapped for as long as the program runs, and windows of its blocks.
//!
//! # Safety
//! Dangerous: a page of a shared mapping that the file system can't back raises SIGBUS; a descriptor number that the
//! program closed may name one of its own files; growing past RLIMIT_FSIZE raises SIGXFSZ. So space is allocated
//! before a window is mapped, and only on file systems known to keep that promise; the descriptor's device and inode
//! are compared before the file is grown; the limit is asked before. Windows are raw memory whose length is kept
//! beside them. Callers get slices that end where the window ends.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use memtrace_format::{
    BLOCK_HEADER_LEN, BlockHeader, FileHeader, HEADER_LEN, MAGIC, MAPPABLE_FILE_SYSTEMS, VERSION, block_state, clock,
    state, stop_reason,
};

use super::shared_u32;
use crate::abi;
use crate::guard::Guard;
use crate::lifecycle;
use crate::lock::Lock;
use crate::sys::{self, Errno, FileStatus};

/// The longest path of a log.
pub const MAX_PATH: usize = 4096;
/// Descriptors of ours have at least this number when the limits allow it, out of the way of programs that expect the
/// lowest free one; and never those of the standard streams, which may be closed.
const HIGH_DESCRIPTORS: [i32; 3] = [900, 200, 3];

/// How blocks reach the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Windows of the file: nothing is lost when the program is killed.
    Mapped,
    /// Private memory, written when a block is full or the program exits.
    Buffered,
}

struct Log {
    path: UnsafeCell<[u8; MAX_PATH]>,
    identity: UnsafeCell<FileStatus>,
    fd: AtomicI32,
    header: AtomicPtr<u8>,
    is_buffered: AtomicU32,
    uses_counter: AtomicU32,
}

// SAFETY: `path` and `identity` are written once, before recording starts; the rest is atomic.
unsafe impl Sync for Log {}

static LOG: Log = Log {
    path: UnsafeCell::new([0; MAX_PATH]),
    identity: UnsafeCell::new(FileStatus { device: 0, inode: 0, mode: 0 }),
    fd: AtomicI32::new(-1),
    header: AtomicPtr::new(core::ptr::null_mut()),
    is_buffered: AtomicU32::new(0),
    uses_counter: AtomicU32::new(0),
};

/// Held while the log is opened again.
pub static REOPENING: Lock<()> = Lock::new(());

/// The first page of the log.
pub struct LogHeader {
    start: *mut u8,
}

impl LogHeader {
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

    pub fn n_self_checked(&self) -> &AtomicU64 {
        self.u64(offset_of!(FileHeader, n_self_checked))
    }

    /// Whether the launcher gives kept windows back.
    pub fn releases_windows(&self) -> bool {
        self.u32(offset_of!(FileHeader, releases_windows)).load(Ordering::Relaxed) != 0
    }

    #[inline(always)]
    pub fn uses_counter(&self) -> bool {
        LOG.uses_counter.load(Ordering::Relaxed) != 0
    }
}

/// The log's first page; `None` before recording has started.
#[inline(always)]
pub fn header() -> Option<LogHeader> {
    let start = LOG.header.load(Ordering::Acquire);
    if start.is_null() { None } else { Some(LogHeader { start }) }
}

/// How this log is written.
pub fn mode() -> Mode {
    if LOG.is_buffered.load(Ordering::Relaxed) != 0 { Mode::Buffered } else { Mode::Mapped }
}

/// The path of the log.
pub fn path() -> &'static CStr {
    // SAFETY: written once before recording starts.
    CStr::from_bytes_until_nul(unsafe { &*LOG.path.get() }).unwrap_or(c"")
}

/// Opens the log and maps its first page. Called once per image, before anything is recorded.
pub fn open(path: &CStr) -> bool {
    let bytes = path.to_bytes_with_nul();
    // SAFETY: nobody reads it before recording starts.
    let Some(place) = (unsafe { (*LOG.path.get()).get_mut(..bytes.len()) }) else {
        return false;
    };
    place.copy_from_slice(bytes);
    let Ok(fd) = sys::open_read_write(path).map(move_high) else {
        return false;
    };
    let opened = identify(fd).and_then(|identity| {
        let start = sys::map_file(fd, 0, HEADER_LEN).ok()?;
        Some((identity, start))
    });
    let Some((identity, start)) = opened else {
        sys::close(fd);
        return false;
    };
    // SAFETY: the mapping is a page long and the structure has no invalid values.
    let fields = unsafe { start.cast::<FileHeader>().read() };
    if fields.magic != MAGIC || fields.version != VERSION || fields.pid != sys::pid() {
        // SAFETY: nobody else knows the mapping.
        unsafe { sys::unmap(start, HEADER_LEN) };
        sys::close(fd);
        return false;
    }
    // SAFETY: nobody reads it before recording starts.
    unsafe { *LOG.identity.get() = identity };
    let is_mappable = sys::file_system(fd).is_ok_and(|magic| MAPPABLE_FILE_SYSTEMS.contains(&magic));
    LOG.is_buffered.store(!is_mappable as u32, Ordering::Relaxed);
    LOG.uses_counter.store((fields.clock == clock::COUNTER) as u32, Ordering::Relaxed);
    LOG.fd.store(fd, Ordering::Relaxed);
    LOG.header.store(start.as_ptr(), Ordering::Release);
    true
}

/// Ends recording for good and says why in the log.
#[cold]
pub fn stop(reason: u32, errno: Errno) {
    if let Some(header) = header()
        && header.stop_reason().compare_exchange(stop_reason::NONE, reason, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    {
        header.stop_errno().store(errno.0 as u32, Ordering::Relaxed);
        header.state().store(state::STOPPED, Ordering::Release);
    }
    lifecycle::switch_off();
}

/// In a child of fork: puts private memory in the first page's place.
pub fn disown_header() {
    if let Some(start) = NonNull::new(LOG.header.load(Ordering::Acquire)) {
        // SAFETY: the page stays readable and writable, and zeroes are values of all its fields.
        unsafe { sys::replace_by_private(start, HEADER_LEN) };
    }
}

fn identify(fd: i32) -> Option<FileStatus> {
    sys::status(fd).ok()
}

/// Moves a descriptor out of the way of the program's own.
fn move_high(fd: i32) -> i32 {
    for lowest in HIGH_DESCRIPTORS {
        if let Ok(high) = sys::duplicate_above(fd, lowest) {
            sys::close(fd);
            return high;
        }
    }
    fd
}

fn is_log(fd: i32) -> bool {
    // SAFETY: written once before recording starts.
    let expected = unsafe { *LOG.identity.get() };
    identify(fd).is_some_and(|found| (found.device, found.inode) == (expected.device, expected.inode))
}

/// The log's descriptor; opened again when the program has closed it.
fn descriptor(guard: &Guard) -> Result<i32, Errno> {
    let fd = LOG.fd.load(Ordering::Relaxed);
    if fd >= 0 && is_log(fd) {
        return Ok(fd);
    }
    let _reopening = REOPENING.lock(guard);
    let fd = LOG.fd.load(Ordering::Relaxed);
    if fd >= 0 && is_log(fd) {
        return Ok(fd);
    }
    // The old number is not ours any more, whatever it names: it is not closed.
    let fd = move_high(sys::open_read_write(path())?);
    if !is_log(fd) {
        sys::close(fd);
        return Err(Errno(abi::ENOENT));
    }
    LOG.fd.store(fd, Ordering::Relaxed);
    Ok(fd)
}

/// Takes the next `capacity` bytes of the log and maps them. On failure recording ends.
pub fn open_block(guard: &Guard, capacity: usize) -> Option<Window> {
    let header = header()?;
    let offset = header.next_offset().fetch_add(capacity as u64, Ordering::AcqRel);
    if offset.saturating_add(capacity as u64) > sys::file_size_limit() {
        stop(stop_reason::FILE_SIZE_LIMIT, Errno(abi::EFBIG));
        return None;
    }
    let mapped = match mode() {
        Mode::Mapped => descriptor(guard).map_err(|errno| (stop_reason::DESCRIPTOR_LOST, errno)).and_then(|fd| {
            sys::allocate(fd, offset, capacity as u64).map_err(|errno| (write_failure(errno), errno))?;
            sys::map_file(fd, offset, capacity).map_err(|errno| (stop_reason::NO_MEMORY, errno))
        }),
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
            stop(reason, errno);
            None
        }
    }
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

    /// In buffered mode, writes the first `committed` bytes of payload and the header out.
    pub fn flush(&self, guard: &Guard, committed: usize) {
        if mode() == Mode::Mapped || !lifecycle::is_recording() {
            return;
        }
        // SAFETY: the window is `len` bytes long.
        let bytes = unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) };
        let bytes = bytes.get(..BLOCK_HEADER_LEN + committed).unwrap_or(bytes);
        if self.offset.saturating_add(bytes.len() as u64) > sys::file_size_limit() {
            stop(stop_reason::FILE_SIZE_LIMIT, Errno(abi::EFBIG));
            return;
        }
        if let Err(errno) = descriptor(guard).and_then(|fd| sys::write_at(fd, bytes, self.offset)) {
            stop(write_failure(errno), errno);
        }
    }

    /// Puts private memory in the window's place.
    pub fn disown(&self) {
        // SAFETY: the range is the window's own, and stays readable and writable.
        unsafe { sys::replace_by_private(self.start, self.len) };
    }

    pub fn close(self, guard: &Guard, committed: usize) {
        self.flush(guard, committed);
        // SAFETY: the window goes out of use here.
        unsafe { sys::unmap(self.start, self.len) };
    }
}
