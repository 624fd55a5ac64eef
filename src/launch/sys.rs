//! The few calls that have no safe form elsewhere, with one: a shared mapping of the log's header, `wait4`,
//! extended attributes, real-time signals, descriptors of processes.
//!
//! # Safety
//!
//! Pointers handed to the kernel point to locals or to borrowed strings and are not kept by it. The mapping is of a
//! file that other processes write: it is only touched through atomics. If the file is cut off under it, touching it
//! raises SIGBUS, so callers check the file's length right before.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use format::turn::{Turn, TurnWord};
use format::{FileHeader, HEADER_LEN, state};
use memtrace_format as format;

/// The shared words of a log's header, as the recorder sees them.
pub struct SharedHeader {
    ptr: NonNull<u8>,
}

// SAFETY: the mapping is the process's and not a thread's, and whoever has this value is its only user on our side.
unsafe impl Send for SharedHeader {}

impl SharedHeader {
    /// Maps the first page of a log.
    pub fn map(file: &File) -> io::Result<SharedHeader> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice disturbs no other memory.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), HEADER_LEN, prot, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        match NonNull::new(ptr.cast::<u8>()) {
            Some(ptr) if ptr.as_ptr().cast() != libc::MAP_FAILED => Ok(SharedHeader { ptr }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes the next `len` bytes of the file, like the recorder does, and returns where they start.
    pub fn take_block(&self, len: u64) -> u64 {
        self.word(std::mem::offset_of!(FileHeader, next_offset)).fetch_add(len, Ordering::Relaxed)
    }

    /// Where the next block will be taken.
    pub fn next_offset(&self) -> u64 {
        self.word(std::mem::offset_of!(FileHeader, next_offset)).load(Ordering::Relaxed)
    }

    /// Says whether lanes leave out what is allocated. Each looks when it has to take the turn, so take one afterwards.
    pub fn set_paused(&self, is_paused: bool) {
        self.short_word(std::mem::offset_of!(FileHeader, is_paused)).store(is_paused.into(), Ordering::Release);
    }

    /// How many children have made a log beside this one, or tried to.
    pub fn n_children(&self) -> u32 {
        self.short_word(std::mem::offset_of!(FileHeader, n_children)).load(Ordering::Relaxed)
    }

    /// Says that no more children are to be recorded; how many have counted themselves is to be read afterwards.
    pub fn refuse_children(&self) {
        self.short_word(std::mem::offset_of!(FileHeader, refuses_children)).store(1, Ordering::SeqCst);
    }

    /// Says that nobody is to begin writing.
    pub fn refuse_programs(&self) {
        self.short_word(std::mem::offset_of!(FileHeader, state)).store(state::STOPPED, Ordering::SeqCst);
    }

    /// Says whether kept windows are given back.
    pub fn set_releases_windows(&self, releases: bool) {
        self.short_word(std::mem::offset_of!(FileHeader, releases_windows)).store(releases.into(), Ordering::Release);
    }

    /// Takes a turn for one sample.
    pub fn take_turn(&self) -> Turn {
        let word = self.word(std::mem::offset_of!(FileHeader, turn));
        let next = |word| TurnWord(word).sample();
        let seen = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(next(word).1.0));
        // The update never refuses, so both arms hold what the word was.
        next(seen.unwrap_or_else(|seen| seen)).0
    }

    fn short_word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= HEADER_LEN);
        // SAFETY: as below.
        unsafe { self.ptr.add(offset).cast::<AtomicU32>().as_ref() }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= HEADER_LEN);
        // SAFETY: in bounds and aligned by the line above, mapped as long as `self` lives, and every process that
        // shares it uses atomics too.
        unsafe { self.ptr.add(offset).cast::<AtomicU64>().as_ref() }
    }
}

/// On a file system that writes changed blocks to new places (Btrfs), has those of a new, empty file stay where they
/// are: only then can a mapping of allocated space be written on a full disk. Others don't know the flag.
pub fn keep_in_place(file: &File) {
    let mut flags: libc::c_long = 0;
    // SAFETY: the calls read and write one number.
    unsafe {
        if libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) == 0 {
            flags |= libc::c_long::from(FS_NOCOW_FL);
            libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &flags);
        }
    }
}

/// `linux/fs.h`
const FS_NOCOW_FL: i32 = 0x0080_0000;

impl Drop for SharedHeader {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no reference into it outlives `self`.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), HEADER_LEN) };
    }
}

/// Reaps a child that has ended: how, and the largest resident set in bytes, of it or of any of its own children.
pub fn reap(pid: i32) -> io::Result<(ExitStatus, u64)> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to locals of the right type; all-zero is a valid rusage.
    let (reaped, usage) = unsafe {
        let reaped = libc::wait4(pid, &mut status, 0, usage.as_mut_ptr());
        (reaped, usage.assume_init())
    };
    if reaped == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok((ExitStatus::from_raw(status), usage.ru_maxrss as u64 * 1024))
}

/// Sends a signal by number, real-time ones included, to a child that has not been reaped.
pub fn send_signal(pid: i32, signal: i32) {
    // SAFETY: no memory is involved. The pid is not reused before the child is reaped.
    unsafe { libc::kill(pid, signal) };
}

/// A descriptor for a process (Linux 5.3).
pub fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, and returns a new descriptor for us or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: as above.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }) }
}

/// Has the kernel end this process when its parent ends.
pub fn die_with_parent() {
    // SAFETY: takes a number and keeps it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Whether the file carries capabilities that it would gain when executed.
pub fn has_capabilities(path: &CStr) -> bool {
    // SAFETY: both strings end in zero, and with a length of 0 nothing is written.
    let len = unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    len > 0
}
