//! A lane: what one thread at a time writes with, its place in the log and its memory of stacks. Taken at a thread's
//! first event; when the thread is gone the next new thread takes it over, so that 100 000 short threads leave as many
//! lanes as were alive at once. Lanes are never freed: a thread may still allocate in its last destructors.
//!
//! # Safety
//! Dangerous: lanes are raw memory, reached from thread-local storage. A lane has one user at a time: the thread whose
//! id it carries, and a thread takes a lane over only after the kernel said that its owner is gone.

use core::sync::atomic::{AtomicU32, Ordering};

use memtrace_format::turn::MAX_LANES;
use memtrace_format::{block_kind, stop_reason};

use crate::caller::Caller;
use crate::guard::{self, Guard};
use crate::heap::Array;
use crate::lock::Lock;
use crate::sink::{self, Log, Writer};
use crate::stacks::Stacks;
use crate::{lifecycle, sys};

#[repr(C)]
pub struct Lane {
    /// Of the hook that the thread entered last; the first field, for assembly.
    pub caller: Caller,
    pub writer: Writer,
    pub stacks: Stacks,
    /// The frame of the `dlclose` that the thread is in, 0 outside. Kept with native stacks.
    pub unloading: usize,
    /// For the environments of what its children of vfork become.
    pub request: Array<u8>,
    /// The kernel's id of the thread that uses it, or [`ABANDONED`].
    owner: AtomicU32,
    next: *mut Lane,
}

/// The owner of a lane that nobody may use again.
const ABANDONED: u32 = u32::MAX;
/// How many lanes a new thread looks at for one that is free.
const MAX_PROBES: u32 = 16;

pub struct Lanes {
    first: *mut Lane,
    /// Where the next search goes on.
    probe: *mut Lane,
    n_lanes: u32,
    n_threads: u32,
}

pub static LANES: Lock<Lanes> = Lock::new(Lanes::NONE);

impl Lane {
    /// The kernel's id of the thread that uses it.
    pub fn thread(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Leaves the lane as it is, for good. This thread was thrown out of what it did with it.
    pub fn abandon(&self) {
        // SAFETY: the lane is alive.
        unsafe { Writer::release_lock_if_mine(&raw const self.writer) };
        self.owner.store(ABANDONED, Ordering::Release);
    }
}

/// The lane that this thread has.
#[inline(always)]
pub fn at_hand(guard: &Guard) -> Option<&'static mut Lane> {
    let lane = guard.lane();
    // SAFETY: the lane of this thread has one user, and the guard proves that this is it.
    if lane.is_null() { None } else { Some(unsafe { &mut *lane }) }
}

/// The lane of this thread, a new one if it has none; `None` when there is no memory for it.
pub fn of_this_thread(guard: &Guard) -> Option<&'static mut Lane> {
    at_hand(guard).or_else(|| take(guard))
}

#[cold]
#[inline(never)]
fn take(guard: &Guard) -> Option<&'static mut Lane> {
    let pid = sys::pid();
    // A child of vfork runs on its parent's thread: a lane taken here would name a thread that ends soon.
    if pid != lifecycle::pid() {
        lifecycle::count_lost(1);
        return None;
    }
    let tid = sys::tid();
    let mut lanes = LANES.lock(guard);
    let lane = match find_free(&mut lanes, pid, tid) {
        Some(lane) => lane,
        None => create(&mut lanes)?,
    };
    lanes.n_threads += 1;
    let thread = lanes.n_threads;
    // SAFETY: its owner is gone, or it is new; the lock keeps others from taking it.
    let taken = unsafe { &mut *lane };
    taken.owner.store(tid, Ordering::Release);
    drop(lanes);
    guard.set_lane(lane);
    taken.stacks.begin_thread();
    taken.unloading = 0;
    taken.writer.begin_thread(guard, thread);
    Some(taken)
}

fn find_free(lanes: &mut Lanes, pid: u32, tid: u32) -> Option<*mut Lane> {
    for _ in 0..MAX_PROBES.min(lanes.n_lanes) {
        if lanes.probe.is_null() {
            lanes.probe = lanes.first;
        }
        let lane = lanes.probe;
        // SAFETY: lanes are never freed, and `next` does not change after a lane was linked.
        let (owner, next) = unsafe { ((*lane).owner.load(Ordering::Acquire), (*lane).next) };
        lanes.probe = next;
        // A lane that carries our own id belonged to an earlier thread of that number.
        if owner != ABANDONED && (owner == tid || sys::is_thread_gone(pid, owner)) {
            return Some(lane);
        }
    }
    None
}

fn create(lanes: &mut Lanes) -> Option<*mut Lane> {
    if lanes.n_lanes >= MAX_LANES {
        lifecycle::count_lost(1);
        return None;
    }
    let memory = match sys::map_anonymous(size_of::<Lane>()) {
        Ok(memory) => memory.cast::<Lane>(),
        Err(errno) => {
            sink::file::stop(stop_reason::NO_MEMORY, errno);
            return None;
        }
    };
    let lane = Lane {
        caller: Caller::default(),
        writer: Writer::new(block_kind::EVENTS, lanes.n_lanes),
        stacks: Stacks::new(lifecycle::has_native_stacks()),
        unloading: 0,
        request: Array::new(),
        owner: AtomicU32::new(ABANDONED),
        next: lanes.first,
    };
    // SAFETY: the memory is new, page-aligned and long enough.
    unsafe { memory.write(lane) };
    lanes.first = memory.as_ptr();
    lanes.n_lanes += 1;
    Some(memory.as_ptr())
}

/// How often [`wait_for_readers`] looks at one lane before it gives up.
const MAX_WAITS: u32 = 10_000;

/// Waits until no other thread is in the middle of reading the interpreter's frames.
pub fn wait_for_readers(guard: &Guard) {
    let lanes = LANES.lock(guard);
    let mut lane = lanes.first;
    while !lane.is_null() {
        // SAFETY: lanes are never freed; what is read of another thread's lane are atomics.
        let (owner, stacks, next) = unsafe { ((*lane).owner.load(Ordering::Acquire), &(*lane).stacks, (*lane).next) };
        let is_other = lane != guard.lane() && owner != ABANDONED;
        for _ in 0..if is_other { MAX_WAITS } else { 0 } {
            if !stacks.is_reading() {
                break;
            }
            sys::yield_now();
        }
        lane = next;
    }
}

impl Lanes {
    const NONE: Lanes = Lanes { first: core::ptr::null_mut(), probe: core::ptr::null_mut(), n_lanes: 0, n_threads: 0 };

    fn each(&self, mut act: impl FnMut(*mut Lane)) {
        let mut lane = self.first;
        while !lane.is_null() {
            act(lane);
            // SAFETY: lanes are never freed, and `next` does not change after a lane was linked.
            lane = unsafe { (*lane).next };
        }
    }
}

/// Writes out what all lanes hold, where the log is written and not mapped.
pub fn flush_all(guard: &Guard, log: &Log) {
    // SAFETY: lanes are never freed.
    LANES.lock(guard).each(|lane| unsafe { Writer::flush(&raw const (*lane).writer, guard, log) });
}

/// Takes the log, which has ended, from all lanes; see [`lifecycle::end`].
pub fn end_log(guard: &Guard) {
    LANES.lock(guard).each(|lane| {
        // SAFETY: lanes are never freed; what is changed of another thread's lane are an atomic, and memory under a lock.
        unsafe {
            let stacks = &(*lane).stacks;
            stacks.end_log();
            Writer::disown(&raw const (*lane).writer, guard);
        }
    });
}

/// Whether any lane is about a log, perhaps one that has ended: then its thread may be in the middle of an event of it.
pub fn is_any_about(guard: &Guard, log: &Log) -> bool {
    let mut is_any = false;
    // SAFETY: lanes are never freed.
    LANES.lock(guard).each(|lane| is_any |= unsafe { Writer::is_about(&raw const (*lane).writer, log) });
    is_any
}

/// In a child of fork: see [`crate::lifecycle::in_child_of_hook`]. Only this thread is there to write to its lane.
pub fn disown_own() {
    let lane = guard::own_lane();
    if !lane.is_null() {
        // SAFETY: lanes are never freed, and there is one thread.
        unsafe { (*lane).writer.disown_in_child() };
    }
}

/// In a child of fork that begins a log of its own: other threads may have been in the middle of changing their lanes,
/// so all lanes stay behind as they are, with the parent's windows.
pub fn forget_all(guard: &Guard) {
    // SAFETY: nobody else is inside memtrace yet.
    unsafe { LANES.reset(Lanes::NONE) };
    guard.set_lane(core::ptr::null_mut());
}

/// The thread pointer, which is glibc's `pthread_t` and, but for the main thread, the upper end of the stack.
pub fn thread_pointer() -> usize {
    let address: usize;
    // SAFETY: the first word of the thread control block is its own address (x86-64 ELF ABI).
    unsafe {
        core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) address, options(nostack, preserves_flags, pure, readonly))
    };
    address
}
