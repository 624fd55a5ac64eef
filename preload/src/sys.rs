//! The few system calls, raw: libc's wrappers are hooked, set errno, and may not be there yet.
//!
//! # Safety
//! Dangerous: the kernel believes every pointer it is given, and mappings can be pulled away under running code.
//! We rely on the x86-64 system call convention and on the structure layouts in `abi`.
//! Callers get functions that can't corrupt memory unless they unmap what is in use; those that could are `unsafe`.

use core::arch::asm;
use core::ffi::{CStr, c_char};
use core::mem::{MaybeUninit, offset_of};
use core::ops::Range;
use core::ptr::NonNull;

use crate::abi;

/// An error number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// # Safety
/// The arguments must be right for the call: pointers valid for what the kernel reads and writes through them.
#[inline(always)]
unsafe fn syscall(number: i64, arguments: [usize; 6]) -> Result<usize, Errno> {
    let result: isize;
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller vouches for the arguments; rcx and r11 are the registers that the instruction destroys.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// Maps `len` bytes of zeroed private memory.
pub fn map_anonymous(len: usize) -> Result<NonNull<u8>, Errno> {
    map(len, abi::PROT_READ | abi::PROT_WRITE, ANONYMOUS, -1, 0)
}

/// The same with its pages.
pub fn map_populated(len: usize) -> Result<NonNull<u8>, Errno> {
    map(len, abi::PROT_READ | abi::PROT_WRITE, ANONYMOUS | abi::MAP_POPULATE, -1, 0)
}

const ANONYMOUS: i32 = abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_NORESERVE;

/// Maps a window of a file, shared and writable.
pub fn map_file(fd: i32, offset: u64, len: usize) -> Result<NonNull<u8>, Errno> {
    map(len, abi::PROT_READ | abi::PROT_WRITE, abi::MAP_SHARED, fd, offset)
}

fn map(len: usize, prot: i32, flags: i32, fd: i32, offset: u64) -> Result<NonNull<u8>, Errno> {
    let arguments = [0, len, prot as usize, flags as usize, fd as usize, offset as usize];
    // SAFETY: without MAP_FIXED the kernel picks a free range, so nothing that exists changes.
    let address = unsafe { syscall(abi::SYS_MMAP, arguments)? };
    NonNull::new(address as *mut u8).ok_or(Errno(abi::ENOMEM))
}

/// Replaces a mapping by a window of a file, shared and writable. On failure it stays what it was.
///
/// # Safety
/// The range is a mapping of ours, and nobody relies on what is in it.
pub unsafe fn replace_by_file(address: NonNull<u8>, fd: i32, offset: u64, len: usize) -> Result<(), Errno> {
    let prot = (abi::PROT_READ | abi::PROT_WRITE) as usize;
    let flags = (abi::MAP_SHARED | abi::MAP_FIXED) as usize;
    let arguments = [address.as_ptr() as usize, len, prot, flags, fd as usize, offset as usize];
    // SAFETY: as the caller says.
    unsafe { syscall(abi::SYS_MMAP, arguments) }.map(drop)
}

/// Replaces a mapping by zeroed private memory; when the kernel has none, unmaps nothing.
///
/// # Safety
/// The range is a mapping of ours, and nobody relies on what is in it.
pub unsafe fn replace_by_private(address: NonNull<u8>, len: usize) {
    let prot = (abi::PROT_READ | abi::PROT_WRITE) as usize;
    let flags = (abi::MAP_PRIVATE | abi::MAP_ANONYMOUS | abi::MAP_FIXED) as usize;
    // SAFETY: as the caller says.
    let _ = unsafe { syscall(abi::SYS_MMAP, [address.as_ptr() as usize, len, prot, flags, usize::MAX, 0]) };
}

/// Unmaps a range.
///
/// # Safety
/// Nothing may use the range any more.
pub unsafe fn unmap(address: NonNull<u8>, len: usize) {
    // SAFETY: the caller gave the range up.
    let _ = unsafe { syscall(abi::SYS_MUNMAP, [address.as_ptr() as usize, len, 0, 0, 0, 0]) };
}

/// Makes a mapping longer, zeroed behind what is there, wherever there is room for it.
///
/// # Safety
/// Nothing may use the old range any more when this succeeds.
pub unsafe fn grow(address: NonNull<u8>, old_len: usize, len: usize) -> Result<NonNull<u8>, Errno> {
    let may_move = abi::MREMAP_MAYMOVE as usize;
    // SAFETY: the caller's own mapping.
    let moved = unsafe { syscall(abi::SYS_MREMAP, [address.as_ptr() as usize, old_len, len, may_move, 0, 0])? };
    NonNull::new(moved as *mut u8).ok_or(Errno(abi::ENOMEM))
}

/// Lets pages be written, or no more.
///
/// # Safety
/// Nobody relies on the range being what it is now.
pub unsafe fn protect(start: usize, len: usize, is_writable: bool) -> Result<(), Errno> {
    let prot = abi::PROT_READ | if is_writable { abi::PROT_WRITE } else { 0 };
    // SAFETY: as the caller says.
    unsafe { syscall(abi::SYS_MPROTECT, [start, len, prot as usize, 0, 0, 0]) }.map(drop)
}

/// Makes a mapping read as zero in children of fork (Linux 4.14).
pub fn wipe_on_fork(address: NonNull<u8>, len: usize) -> Result<(), Errno> {
    let advice = abi::MADV_WIPEONFORK as usize;
    // SAFETY: the advice changes nothing in this process.
    unsafe { syscall(abi::SYS_MADVISE, [address.as_ptr() as usize, len, advice, 0, 0, 0]) }.map(drop)
}

/// Opens an existing file for reading and writing, close-on-exec.
pub fn open_read_write(path: &CStr) -> Result<i32, Errno> {
    open(path, abi::O_RDWR)
}

/// Opens a file for reading, close-on-exec.
pub fn open_read(path: &CStr) -> Result<i32, Errno> {
    open(path, abi::O_RDONLY)
}

/// Opens a file for reading by a path that the program passed, which may be no path.
pub fn open_read_unchecked(path: *const c_char) -> Result<i32, Errno> {
    open_read_in(abi::AT_FDCWD, path, 0)
}

/// The same as `execveat` finds it: from a folder on, or the descriptor itself.
pub fn open_read_in(folder: i32, path: *const c_char, flags: i32) -> Result<i32, Errno> {
    let follow = if flags & abi::AT_SYMLINK_NOFOLLOW != 0 { abi::O_NOFOLLOW } else { 0 };
    let how = abi::O_RDONLY | abi::O_CLOEXEC | abi::O_NOCTTY | abi::O_NONBLOCK | follow;
    // SAFETY: the kernel answers EFAULT for a pointer that leads nowhere.
    let opened = unsafe { syscall(abi::SYS_OPENAT, [folder as usize, path as usize, how as usize, 0, 0, 0]) };
    match opened {
        // Of an empty path it says that there is no such file.
        Err(Errno(abi::ENOENT)) if flags & abi::AT_EMPTY_PATH != 0 => duplicate_above(folder, 3),
        opened => opened.map(|fd| fd as i32),
    }
}

/// Whether executing the file gives a process rights that its user has not (file capabilities).
pub fn has_capabilities(fd: i32) -> bool {
    let name = c"security.capability";
    // SAFETY: with no room given the kernel only tells the length.
    unsafe { syscall(abi::SYS_FGETXATTR, [fd as usize, name.as_ptr() as usize, 0, 0, 0, 0]) }.is_ok()
}

/// Creates a file that was not there, for this user to read and write, close-on-exec.
pub fn create(path: &CStr) -> Result<i32, Errno> {
    open(path, abi::O_RDWR | abi::O_CREAT | abi::O_EXCL)
}

fn open(path: &CStr, flags: i32) -> Result<i32, Errno> {
    const MODE: usize = 0o600;
    let flags = flags | abi::O_CLOEXEC | abi::O_NOCTTY | abi::O_NONBLOCK;
    let arguments = [abi::AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, MODE, 0, 0];
    // SAFETY: the path ends with a zero byte.
    unsafe { syscall(abi::SYS_OPENAT, arguments) }.map(|fd| fd as i32)
}

pub fn close(fd: i32) {
    // SAFETY: callers close descriptors that they opened themselves.
    let _ = unsafe { syscall(abi::SYS_CLOSE, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// A copy of the descriptor with a number of at least `lowest`, close-on-exec.
pub fn duplicate_above(fd: i32, lowest: i32) -> Result<i32, Errno> {
    let arguments = [fd as usize, abi::F_DUPFD_CLOEXEC as usize, lowest as usize, 0, 0, 0];
    // SAFETY: takes and returns numbers only.
    unsafe { syscall(abi::SYS_FCNTL, arguments) }.map(|fd| fd as i32)
}

/// Takes the next message from a socket, and the descriptor in it, close-on-exec. Waits for nobody.
pub fn receive_descriptor(socket: i32) -> Result<i32, Errno> {
    let mut byte = 0u8;
    let mut vector = abi::IoVec { start: (&raw mut byte).cast(), len: 1 };
    let mut rights = abi::Rights { len: 0, level: 0, kind: 0, descriptor: -1 };
    let mut message = abi::MsgHdr {
        name: core::ptr::null_mut(),
        name_len: 0,
        vector: &raw mut vector,
        vector_len: 1,
        control: (&raw mut rights).cast(),
        control_len: size_of::<abi::Rights>(),
        flags: 0,
    };
    let flags = abi::MSG_DONTWAIT | abi::MSG_CMSG_CLOEXEC;
    // SAFETY: the structures are locals, and have the kernel's layout and the stated lengths.
    unsafe { syscall(abi::SYS_RECVMSG, [socket as usize, &raw mut message as usize, flags as usize, 0, 0, 0])? };
    let is_one = (rights.level, rights.kind) == (abi::SOL_SOCKET, abi::SCM_RIGHTS);
    // A header with one number behind it.
    let is_whole = rights.len == offset_of!(abi::Rights, descriptor) + size_of::<i32>();
    if is_one && is_whole { Ok(rights.descriptor) } else { Err(Errno(abi::EIO)) }
}

/// What [`status`] tells of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    pub device: u64,
    pub inode: u64,
    pub mode: u32,
}

pub fn status(fd: i32) -> Result<FileStatus, Errno> {
    let mut status = MaybeUninit::<abi::Stat>::zeroed();
    // SAFETY: the kernel fills the structure, whose layout is the kernel's.
    let status = unsafe {
        syscall(abi::SYS_FSTAT, [fd as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0])?;
        status.assume_init()
    };
    Ok(FileStatus { device: status.device, inode: status.inode, mode: status.mode })
}

/// The magic number of the file system that holds the file.
pub fn file_system(fd: i32) -> Result<i64, Errno> {
    let mut status = MaybeUninit::<abi::StatFs>::zeroed();
    // SAFETY: the kernel fills the structure, whose layout is the kernel's.
    unsafe {
        syscall(abi::SYS_FSTATFS, [fd as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0])?;
        Ok(status.assume_init().kind)
    }
}

/// Allocates a range of the file, so that writing to it can't run out of space.
pub fn allocate(fd: i32, offset: u64, len: u64) -> Result<(), Errno> {
    loop {
        // SAFETY: takes numbers only.
        match unsafe { syscall(abi::SYS_FALLOCATE, [fd as usize, 0, offset as usize, len as usize, 0, 0]) } {
            Err(Errno(abi::EINTR)) => {}
            result => return result.map(drop),
        }
    }
}

/// Writes all of `bytes` at `offset`.
pub fn write_at(fd: i32, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let arguments = [fd as usize, rest.as_ptr() as usize, rest.len(), offset as usize + done, 0, 0];
        // SAFETY: pointer and length are those of a slice.
        match unsafe { syscall(abi::SYS_PWRITE64, arguments) } {
            Err(Errno(abi::EINTR)) => {}
            Ok(0) => return Err(Errno(abi::EIO)),
            Ok(written) => done += written,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes to standard error; nobody is told when it fails.
pub fn write_to_stderr(bytes: &[u8]) {
    // SAFETY: pointer and length are those of a slice.
    let _ = unsafe { syscall(abi::SYS_WRITE, [2, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) };
}

/// Reads up to `buf.len()` bytes at `offset`.
pub fn read_at(fd: i32, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let arguments = [fd as usize, buf.as_mut_ptr() as usize, buf.len(), offset as usize, 0, 0];
    // SAFETY: pointer and length are those of a slice.
    unsafe { syscall(abi::SYS_PREAD64, arguments) }
}

/// The target of a symbolic link, cut off at the buffer's length.
pub fn read_link<'a>(path: &CStr, buf: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let arguments = [path.as_ptr() as usize, buf.as_mut_ptr() as usize, buf.len(), 0, 0, 0];
    // SAFETY: the path ends with a zero byte; pointer and length are those of a slice.
    let len = unsafe { syscall(abi::SYS_READLINK, arguments)? };
    Ok(buf.get(..len).unwrap_or(&[]))
}

/// The soft RLIMIT_FSIZE in bytes: going past it would raise SIGXFSZ.
pub fn file_size_limit() -> u64 {
    let mut limit = abi::RLimit64 { current: 0, max: 0 };
    let arguments = [0, abi::RLIMIT_FSIZE as usize, 0, &raw mut limit as usize, 0, 0];
    // SAFETY: the kernel fills the structure, whose layout is the kernel's.
    match unsafe { syscall(abi::SYS_PRLIMIT64, arguments) } {
        Ok(_) => limit.current,
        Err(_) => u64::MAX,
    }
}

pub fn pid() -> u32 {
    // SAFETY: takes nothing, returns a number.
    unsafe { syscall(abi::SYS_GETPID, [0; 6]) }.unwrap_or(0) as u32
}

pub fn tid() -> u32 {
    // SAFETY: takes nothing, returns a number.
    unsafe { syscall(abi::SYS_GETTID, [0; 6]) }.unwrap_or(0) as u32
}

/// Whether a thread of this process is gone for good.
pub fn is_thread_gone(pid: u32, tid: u32) -> bool {
    // SAFETY: signal 0 is none; only the look-up happens.
    let result = unsafe { syscall(abi::SYS_TGKILL, [pid as usize, tid as usize, 0, 0, 0, 0]) };
    result == Err(Errno(abi::ESRCH))
}

/// The addresses of this thread's alternate signal stack, when it runs there.
pub fn signal_stack_in_use() -> Option<Range<usize>> {
    let mut stack = MaybeUninit::<abi::SigStack>::zeroed();
    // SAFETY: with no new stack given the kernel only fills the structure.
    let stack = unsafe {
        syscall(abi::SYS_SIGALTSTACK, [0, stack.as_mut_ptr() as usize, 0, 0, 0, 0]).ok()?;
        stack.assume_init()
    };
    let start = stack.start as usize;
    (stack.flags & abi::SS_ONSTACK != 0).then(|| start..start.saturating_add(stack.size))
}

/// Reads a word of this process that may not be there.
pub fn read_word(address: usize) -> Option<usize> {
    let mut word = 0usize;
    let local = abi::IoVec { start: (&raw mut word).cast(), len: size_of::<usize>() };
    let remote = abi::IoVec { start: address as *mut _, len: size_of::<usize>() };
    let arguments = [pid() as usize, &raw const local as usize, 1, &raw const remote as usize, 1, 0];
    // SAFETY: the kernel checks the remote address and answers EFAULT for a bad one.
    match unsafe { syscall(abi::SYS_PROCESS_VM_READV, arguments) } {
        Ok(len) if len == size_of::<usize>() => Some(word),
        _ => None,
    }
}

/// Announces later use of [`barrier_in_all_threads`] (Linux 4.14), which is quick in a process with one thread.
pub fn register_barrier() -> bool {
    membarrier(abi::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

/// Every thread of the process passes a full memory barrier. `false` when the kernel can't do that.
pub fn barrier_in_all_threads() -> bool {
    let pass = || membarrier(abi::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    // Not announced yet, it fails.
    pass() || register_barrier() && pass()
}

fn membarrier(command: usize) -> bool {
    // SAFETY: takes numbers only.
    unsafe { syscall(abi::SYS_MEMBARRIER, [command, 0, 0, 0, 0, 0]) }.is_ok()
}

/// What a clock says, in nanoseconds.
pub fn nanos(clock: i32) -> u64 {
    let mut time = abi::TimeSpec { seconds: 0, nanos: 0 };
    // SAFETY: the kernel fills the structure, whose layout is the kernel's.
    let _ = unsafe { syscall(abi::SYS_CLOCK_GETTIME, [clock as usize, &raw mut time as usize, 0, 0, 0, 0]) };
    (time.seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(time.nanos as u64)
}

/// Lets other threads run.
pub fn yield_now() {
    // SAFETY: takes nothing.
    let _ = unsafe { syscall(abi::SYS_SCHED_YIELD, [0; 6]) };
}

/// Lets other threads run, also those of lower priority.
pub fn sleep_briefly() {
    let time = abi::TimeSpec { seconds: 0, nanos: 50_000 };
    // SAFETY: the kernel reads the structure, whose layout is the kernel's.
    let _ = unsafe { syscall(abi::SYS_NANOSLEEP, [&raw const time as usize, 0, 0, 0, 0, 0]) };
}

/// Ends the process as `abort` does.
pub fn abort() -> ! {
    loop {
        let arguments = [pid() as usize, tid() as usize, abi::SIGABRT as usize, 0, 0, 0];
        // SAFETY: a signal to ourselves; when it is caught or blocked, the illegal instruction ends us.
        unsafe {
            let _ = syscall(abi::SYS_TGKILL, arguments);
            asm!("ud2");
        }
    }
}
