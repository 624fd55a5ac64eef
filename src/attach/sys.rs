//! The calls of ptrace and of descriptors in other processes that have no safe form elsewhere.
//!
//! # Safety
//!
//! Pointers handed to the kernel point to locals or to borrowed buffers of the stated length and are not kept by it. What
//! is written into the traced process is for the callers to answer for. A copy of this process is made while that has one
//! thread, and nothing is dropped there that the original has.

#![allow(unsafe_code)]

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::time::TimeSpec;
use nix::unistd::{ForkResult, Pid};

/// A copy of this process; `None` in it.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: no other thread holds a lock that the copy could want.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// In the copy: closes all descriptors that it has from the original, but for the standard streams.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) {
    let all = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let all: Vec<i32> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in all.into_iter().filter(|fd| *fd > 2 && kept.iter().all(|kept| kept.as_raw_fd() != *fd)) {
        // SAFETY: whatever owns it is the original's, and is neither used nor dropped here.
        unsafe { libc::close(fd) };
    }
}

/// In the copy: ends it, without what the original does at its end.
pub fn end() -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(0) }
}

/// A change of a traced thread.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub tid: Pid,
    status: i32,
}

/// What has become of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is no more.
    Ended,
    /// It stands before a signal that it is to get.
    Signal(i32),
    /// It stands because of a `PTRACE_EVENT_*` other than the next.
    Event(i32),
    /// It stands because it was told to, or is new; or with its whole process because of a stopping signal.
    Stopped { with_process: bool },
}

impl Change {
    pub fn state(self) -> State {
        if !libc::WIFSTOPPED(self.status) {
            return State::Ended;
        }
        let signal = libc::WSTOPSIG(self.status);
        match self.status >> 16 {
            0 => State::Signal(signal),
            libc::PTRACE_EVENT_STOP => State::Stopped { with_process: signal != libc::SIGTRAP },
            event => State::Event(event),
        }
    }
}

/// The next change of a traced thread, if there is one. (nix's form knows no real-time signals.)
pub fn next_change() -> Option<Change> {
    let mut status = 0;
    // SAFETY: the kernel writes one number.
    let tid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::WNOHANG) };
    (tid > 0).then(|| Change { tid: Pid::from_raw(tid), status })
}

/// From now on changes of traced threads are signals that wait for [`wait_for_change`].
pub fn announce_changes() -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    SigSet::from(Signal::SIGCHLD).thread_block()
}

/// Until there may be changes that were not seen yet, or the time is over. Once they are announced.
pub fn wait_for_change(longest: Duration) {
    let changes = SigSet::from(Signal::SIGCHLD);
    let time = TimeSpec::from_duration(longest);
    // SAFETY: the kernel reads the set and the time.
    unsafe { libc::sigtimedwait(changes.as_ref(), ptr::null_mut(), time.as_ref()) };
}

/// Lets a thread of a stopped process stand as it would without us.
pub fn listen(tid: Pid) {
    ptrace(libc::PTRACE_LISTEN, tid, 0, 0).ok();
}

/// Lets a thread go on with a signal, or without.
pub fn go_on(tid: Pid, signal: i32) -> io::Result<()> {
    ptrace(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Has a thread run as soon as it is ready, as far as we may have that; how it was scheduled before. `None` when nothing
/// was changed, as of real-time threads.
pub fn hurry(tid: Pid) -> Option<libc::sched_attr> {
    /// From Linux 6.12 on: who asks for less time at once need not wait until others have had theirs.
    const SHORT_SLICE: Duration = Duration::from_micros(100);
    let before = scheduling(tid).filter(|before| before.sched_policy == libc::SCHED_OTHER as u32)?;
    let first = libc::sched_attr { sched_nice: -20, sched_runtime: SHORT_SLICE.as_nanos() as u64, ..before };
    // Only root may take precedence.
    let as_before = libc::sched_attr { sched_nice: before.sched_nice, ..first };
    [first, as_before].iter().any(|wanted| set_scheduling(tid, wanted)).then_some(before)
}

fn scheduling(tid: Pid) -> Option<libc::sched_attr> {
    // SAFETY: a structure of numbers.
    let mut found = unsafe { std::mem::zeroed::<libc::sched_attr>() };
    let len = size_of_val(&found);
    // SAFETY: the kernel writes so many bytes at most.
    let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, tid.as_raw(), &raw mut found, len, 0) };
    (answer == 0).then_some(found)
}

pub fn set_scheduling(tid: Pid, wanted: &libc::sched_attr) -> bool {
    // SAFETY: the kernel reads the structure, which says how long it is.
    unsafe { libc::syscall(libc::SYS_sched_setattr, tid.as_raw(), &raw const *wanted, 0) == 0 }
}

pub fn signal_mask(tid: Pid) -> io::Result<u64> {
    let mut mask = 0u64;
    ptrace(libc::PTRACE_GETSIGMASK, tid, size_of::<u64>(), &raw mut mask as usize)?;
    Ok(mask)
}

pub fn set_signal_mask(tid: Pid, mask: u64) -> io::Result<()> {
    ptrace(libc::PTRACE_SETSIGMASK, tid, size_of::<u64>(), &raw const mask as usize).map(drop)
}

/// Instructions of a filter of system calls: operation, jumps, operand.
pub type Instruction = (u16, u8, u8, u32);

/// A filter of a stopped thread, the newest first; `None` when there are no more. Takes CAP_SYS_ADMIN.
pub fn seccomp_filter(tid: Pid, index: usize) -> io::Result<Option<Vec<Instruction>>> {
    /// `linux/ptrace.h`, which nothing binds.
    const GET_FILTER: libc::c_uint = 0x420c;
    // Without a buffer the kernel only tells the number of instructions.
    let len = match ptrace(GET_FILTER, tid, index, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        len => len?,
    };
    let mut filter = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; len as usize];
    ptrace(GET_FILTER, tid, index, filter.as_mut_ptr() as usize)?;
    Ok(Some(filter.iter().map(|it| (it.code, it.jt, it.jf, it.k)).collect()))
}

/// `linux/elf.h`
const NT_X86_XSTATE: usize = 0x202;

/// Floating-point and vector registers, whatever this processor has of them.
pub fn extended_state(tid: Pid) -> io::Result<Vec<u8>> {
    let mut state = vec![0u8; 16 * 1024];
    let mut place = libc::iovec { iov_base: state.as_mut_ptr().cast(), iov_len: state.len() };
    ptrace(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, &raw mut place as usize)?;
    state.truncate(place.iov_len);
    Ok(state)
}

pub fn set_extended_state(tid: Pid, state: &[u8]) -> io::Result<()> {
    let place = libc::iovec { iov_base: state.as_ptr().cast_mut().cast(), iov_len: state.len() };
    ptrace(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, &raw const place as usize).map(drop)
}

fn ptrace(request: libc::c_uint, tid: Pid, address: usize, data: usize) -> io::Result<libc::c_long> {
    // SAFETY: each caller above passes what its request takes.
    match unsafe { libc::ptrace(request, tid.as_raw(), address, data) } {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

/// A copy of a descriptor of another process (Linux 5.6).
pub fn copy_descriptor(process: BorrowedFd<'_>, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, returns a new descriptor.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made it for us.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }) }
}

/// Sends descriptors, or none, through a socket, with a message.
pub fn send_descriptors(socket: BorrowedFd<'_>, message: &[u8], descriptors: &[i32]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights };
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(message)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}
