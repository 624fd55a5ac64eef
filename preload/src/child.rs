//! A log for a child, made by the child itself: nobody outside knows of it yet. It lies beside the log of the program that
//! was started, under the same name with the child's process id behind, and begins as a copy of its parent's first page.
//! Called by `lifecycle`, in a child of fork at its first event, and in a program that a recorded one has started.
//!
//! A program whose files are others than those of whoever keeps its log, as in a container, has no such place. Then empty
//! logs wait in a socket that its children of fork inherit, and each takes the next one, without waiting for anybody.
//!
//! It must never touch a file that was there before, but for the count of children in the first log; nor take a descriptor
//! of the program's for the socket.
//!
//! # Safety
//! Dangerous: memory of its own as structures and texts, each as long as its page.

use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use memtrace_format::{FIRST_BLOCK, FileHeader, HEADER_LEN, MAGIC, VERSION};

use crate::sink::file::{self, MAX_PATH};
use crate::{abi, sys};

/// Where empty logs wait.
struct Socket {
    /// Negative when there is none.
    fd: AtomicI32,
    inode: AtomicU64,
}

static SOCKET: Socket = Socket { fd: AtomicI32::new(-1), inode: AtomicU64::new(0) };

/// From now on children take their logs out of this socket, which stays the caller's. `false` when it is none.
pub fn take_logs_from(socket: i32) -> bool {
    make_logs();
    let Ok(status) = sys::status(socket) else { return false };
    if status.mode & abi::S_IFMT != abi::S_IFSOCK {
        return false;
    }
    // Above those of the program, and ours to close.
    let Ok(copy) = sys::duplicate_above(socket, 3).map(file::move_high) else { return false };
    SOCKET.inode.store(status.inode, Ordering::Relaxed);
    SOCKET.fd.store(copy, Ordering::Release);
    true
}

/// From now on children make their logs themselves.
pub fn make_logs() {
    if let Some(socket) = SOCKET.current() {
        sys::close(socket);
    }
    SOCKET.fd.store(-1, Ordering::Relaxed);
}

/// Whether children take their logs out of a socket.
pub fn takes_logs() -> bool {
    SOCKET.fd.load(Ordering::Relaxed) >= 0
}

impl Socket {
    /// `None` when there is none, or the program has closed it; its number may be another file's then.
    fn current(&self) -> Option<i32> {
        let fd = self.fd.load(Ordering::Acquire);
        let status = sys::status(fd).ok()?;
        let is_ours = status.mode & abi::S_IFMT == abi::S_IFSOCK && status.inode == self.inode.load(Ordering::Relaxed);
        is_ours.then_some(fd)
    }
}

/// Takes the next log for this process, whose parent is `parent_pid`; its descriptor.
pub fn take(parent_pid: u32) -> Option<i32> {
    let fd = sys::receive_descriptor(SOCKET.current()?).ok()?;
    let filled = fill(fd, parent_pid);
    if filled.is_none() {
        sys::close(fd);
    }
    filled.map(|()| fd)
}

/// Says in a log that was made in advance whose it is.
fn fill(fd: i32, parent_pid: u32) -> Option<()> {
    let mut page = Page::new()?;
    let len = sys::read_at(fd, page.bytes(), 0).ok()?;
    let header = page.header();
    if len != HEADER_LEN || header.magic != MAGIC || header.version != VERSION || header.pid != 0 {
        return None;
    }
    header.pid = sys::pid();
    header.parent_pid = parent_pid;
    header.pid_namespace = pid_namespace();
    header.start_unix_nanos = sys::nanos(abi::CLOCK_REALTIME);
    header.start_mono_nanos = sys::nanos(abi::CLOCK_MONOTONIC);
    sys::write_at(fd, page.bytes(), 0).ok()
}

/// Process ids come again: so many of one program's children may have had the same.
const MAX_NAMES: u32 = 100;

/// Makes a log for this process, whose nearest recorded ancestor has (or had) the one at `parent`; its path.
pub fn create(parent: &CStr) -> Option<Path> {
    let mut page = Page::new()?;
    let fd = sys::open_read(parent).ok()?;
    let len = sys::read_at(fd, page.bytes(), 0);
    sys::close(fd);
    let header = *page.header();
    if len != Ok(HEADER_LEN) || header.magic != MAGIC || header.version != VERSION || header.pid == sys::pid() {
        return None;
    }
    let root = root(parent.to_bytes(), &header);
    // Before the log is there: if it can't be made, whoever counts finds one missing.
    if !announce(root) {
        return None;
    }
    // It releases no windows until somebody outside takes it up.
    let header = FileHeader {
        header_len: header.header_len,
        clock: header.clock,
        start_unix_nanos: sys::nanos(abi::CLOCK_REALTIME),
        start_mono_nanos: sys::nanos(abi::CLOCK_MONOTONIC),
        info_len: header.info_len,
        info_crc: header.info_crc,
        parent_pid: header.pid,
        pid_namespace: pid_namespace(),
        ..FileHeader::begin(sys::pid(), FIRST_BLOCK)
    };
    *page.header() = header;
    // What comes behind the description is the place of the end, which is for whoever is outside.
    let described = size_of::<FileHeader>() + page.header().info_len as usize;
    page.bytes().get_mut(described..)?.fill(0);
    for number in 1..=MAX_NAMES {
        let mut path = Path::new()?;
        path.add(root)?;
        path.add(b".")?;
        path.add_number(sys::pid())?;
        if number > 1 {
            path.add(b".")?;
            path.add_number(number)?;
        }
        match sys::create(path.as_c_str()) {
            Ok(fd) => {
                let written = sys::write_at(fd, page.bytes(), 0);
                sys::close(fd);
                return written.ok().map(|()| path);
            }
            Err(sys::Errno(abi::EEXIST)) => {}
            Err(_) => return None,
        }
    }
    None
}

/// The number of the namespace in which this process has its id; 0 when nobody says.
fn pid_namespace() -> u32 {
    let mut text = [0; 32];
    // `pid:[4026531836]`
    let text = sys::read_link(c"/proc/self/ns/pid", &mut text).unwrap_or(&[]);
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0u32, |number, digit| number.wrapping_mul(10).wrapping_add((digit - b'0') as u32))
}

/// The path of the log of the program that was started, which every name begins with.
fn root<'a>(parent: &'a [u8], header: &FileHeader) -> &'a [u8] {
    if header.parent_pid == 0 {
        return parent;
    }
    let mut digits = [0; 11];
    let suffix = with_dot(header.pid, &mut digits);
    let ends = (0..parent.len()).rev().find(|start| {
        let rest = parent.get(*start..).and_then(|rest| rest.strip_prefix(suffix));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
    });
    ends.and_then(|end| parent.get(..end)).unwrap_or(parent)
}

/// Counts a child in the first page of the log that began it all. `false` when that says that no more are recorded; when
/// it can't be asked, nobody has said so.
fn announce(root: &[u8]) -> bool {
    let Some(mut path) = Path::new() else { return true };
    if path.add(root).is_none() {
        return true;
    }
    let Ok(fd) = sys::open_read_write(path.as_c_str()) else { return true };
    let mut is_wanted = true;
    // A page behind the end of the file, if the program has cut it off, can't be touched.
    let mut probe = [0; 1];
    if sys::read_at(fd, &mut probe, HEADER_LEN as u64 - 1) == Ok(1)
        && let Ok(start) = sys::map_file(fd, 0, HEADER_LEN)
    {
        // SAFETY: the first page of a log.
        let header = unsafe { file::LogHeader::at(start) };
        header.n_children().fetch_add(1, Ordering::SeqCst);
        if header.refuses_children() {
            header.n_children().fetch_sub(1, Ordering::SeqCst);
            is_wanted = false;
        }
        // SAFETY: nobody else knows the mapping.
        unsafe { sys::unmap(start, HEADER_LEN) };
    }
    sys::close(fd);
    is_wanted
}

/// A path in memory of its own: a child may begin on a small stack.
pub struct Path {
    memory: NonNull<u8>,
    len: usize,
}

impl Path {
    fn new() -> Option<Path> {
        Some(Path { memory: sys::map_anonymous(MAX_PATH).ok()?, len: 0 })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is as long, and this value's own.
        unsafe { core::slice::from_raw_parts_mut(self.memory.as_ptr(), MAX_PATH) }
    }

    /// `None` when there is no room, with a zero behind.
    fn add(&mut self, text: &[u8]) -> Option<()> {
        let (start, end) = (self.len, self.len + text.len());
        if end >= MAX_PATH {
            return None;
        }
        self.bytes().get_mut(start..end)?.copy_from_slice(text);
        self.len = end;
        Some(())
    }

    fn add_number(&mut self, number: u32) -> Option<()> {
        let mut digits = [0; 11];
        self.add(with_dot(number, &mut digits).get(1..)?)
    }

    pub fn as_c_str(&mut self) -> &CStr {
        CStr::from_bytes_until_nul(self.bytes()).unwrap_or(c"")
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        // SAFETY: nobody else knows the memory.
        unsafe { sys::unmap(self.memory, MAX_PATH) };
    }
}

/// A number in decimal digits, with a dot in front.
fn with_dot(mut number: u32, buf: &mut [u8; 11]) -> &[u8] {
    let mut start = buf.len();
    let mut put = |byte: u8| {
        start = start.saturating_sub(1);
        if let Some(place) = buf.get_mut(start) {
            *place = byte;
        }
    };
    loop {
        put(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    put(b'.');
    buf.get(start..).unwrap_or(&[])
}

/// The first page of a log.
struct Page(NonNull<u8>);

impl Page {
    fn new() -> Option<Page> {
        sys::map_anonymous(HEADER_LEN).ok().map(Page)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is as long, and this value's own.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_ptr(), HEADER_LEN) }
    }

    fn header(&mut self) -> &mut FileHeader {
        // SAFETY: as above, aligned, and the structure has no invalid values.
        unsafe { self.0.cast().as_mut() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: nobody else knows the memory.
        unsafe { sys::unmap(self.0, HEADER_LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_log_is_called_like_the_first_one_whoever_its_parent_is() {
        // SAFETY: numbers.
        let mut header: FileHeader = unsafe { core::mem::zeroed() };
        let check = |header: &FileHeader, parent: &str, expected: &str| {
            assert_eq!(root(parent.as_bytes(), header), expected.as_bytes(), "{parent}");
        };
        header.pid = 41;
        check(&header, "/tmp/app.41", "/tmp/app.41");
        header.parent_pid = 40;
        check(&header, "/tmp/app.bin.41", "/tmp/app.bin");
        check(&header, "/tmp/app.41.41", "/tmp/app.41");
        // The second one of that number.
        check(&header, "/tmp/app.bin.41.2", "/tmp/app.bin");
        check(&header, "/tmp/app.bin.410", "/tmp/app.bin.410");
    }
}
