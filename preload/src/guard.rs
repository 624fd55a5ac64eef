//! "This thread is inside memtrace", as a value you must hold to record; and the thread's two words of storage.
//! Every hook asks for it; nothing here may allocate, block or fail.
//!
//! # Safety
//! Dangerous: thread-local storage behind the compiler's back. `std`'s thread-locals go through `__tls_get_addr`, where
//! glibc may allocate, so a 16-byte object is declared in assembly and addressed with the initial-exec model: its
//! distance from the thread pointer is a constant of the process. We rely on the ABI of x86-64 ELF thread-local
//! storage, and on the object being zero in every new thread. Callers get a value that only one place of a thread can
//! hold at a time.

use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::ops::Deref;

use crate::lane::Lane;
use crate::{environment, lifecycle, sys};

global_asm!(
    ".pushsection .tbss.memtrace_tls,\"awT\",@nobits",
    ".balign 16",
    ".globl memtrace_tls",
    ".hidden memtrace_tls",
    ".type memtrace_tls,@object",
    ".size memtrace_tls,16",
    "memtrace_tls:",
    ".zero 16",
    ".popsection",
);

/// What a thread has of ours.
struct Local {
    /// 0, or the stack address at which the guard was taken, with [`NOTES`] in its lowest bits.
    holder: Cell<usize>,
    lane: Cell<*mut Lane>,
}

const _: () = assert!(size_of::<Local>() == 16);

/// Set in `holder` while the wrapped allocator runs: what it maps is recorded, what it allocates is not.
const ALLOCATOR: usize = 1;
/// Set in `holder` in a hook of mappings.
const MAPPING: usize = 2;
const NOTES: usize = ALLOCATOR | MAPPING;
/// In `holder` of a thread that is never recorded: no frame stands above it, so nobody takes it for left behind.
const IGNORED: usize = usize::MAX;

#[inline(always)]
fn local() -> *const Local {
    let address: *const Local;
    // SAFETY: reads the thread pointer and a constant of the process; see the module's note.
    unsafe {
        asm!("mov {0}, qword ptr fs:[0]", "add {0}, qword ptr [rip + memtrace_tls@GOTTPOFF]", out(reg) address,
            options(nostack, pure, readonly));
    }
    address
}

#[inline(always)]
fn stack_pointer() -> usize {
    let address: usize;
    // SAFETY: copies a register.
    unsafe { asm!("mov {}, rsp", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Proof that this thread entered memtrace and has not left. Dropped, it leaves.
pub struct Guard {
    local: *const Local,
}

/// The guard of a hook of mappings.
pub struct MappingGuard {
    guard: ManuallyDrop<Guard>,
    /// What `holder` becomes again: not 0 when an allocator is making the mapping for itself.
    previous: usize,
}

impl Guard {
    /// `None` when this thread is inside memtrace already.
    #[inline(always)]
    pub fn enter() -> Option<Guard> {
        let local = local();
        // SAFETY: the thread's own storage, there as long as the thread runs.
        let holder = unsafe { &(*local).holder };
        let here = stack_pointer();
        let held = holder.get();
        // SAFETY: as above.
        if held != 0 && !unsafe { may_enter_again(&*local, held, here) } {
            return None;
        }
        holder.set(here & !NOTES);
        Some(Guard { local })
    }

    /// Whether the interpreter's allocators may be in the middle of their work.
    pub fn is_for_mapping(&self) -> bool {
        // SAFETY: the thread's own storage.
        unsafe { (*self.local).holder.get() & MAPPING != 0 }
    }

    /// Runs the wrapped allocator under the guard: what it does inside is not recorded, but for mappings.
    #[inline(always)]
    pub fn in_allocator<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: the thread's own storage.
        let holder = unsafe { &(*self.local).holder };
        let held = holder.get();
        holder.set(held | ALLOCATOR);
        let result = work();
        holder.set(held);
        result
    }

    /// The lane of this thread, or null.
    #[inline(always)]
    pub fn lane(&self) -> *mut Lane {
        // SAFETY: the thread's own storage.
        unsafe { (*self.local).lane.get() }
    }

    pub fn set_lane(&self, lane: *mut Lane) {
        // SAFETY: the thread's own storage.
        unsafe { (*self.local).lane.set(lane) }
    }
}

impl Drop for Guard {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the thread's own storage.
        unsafe { (*self.local).holder.set(0) }
    }
}

impl MappingGuard {
    /// Like [`Guard::enter`], but also when the guard is held round a wrapped allocator's own work.
    pub fn enter() -> Option<MappingGuard> {
        let local = local();
        // SAFETY: the thread's own storage.
        let holder = unsafe { &(*local).holder };
        let held = holder.get();
        if held == IGNORED {
            return None;
        }
        let (guard, previous) = if held & ALLOCATOR == 0 || is_stale(held, stack_pointer()) {
            (Guard::enter()?, 0)
        } else {
            holder.set(held & !ALLOCATOR);
            (Guard { local }, held)
        };
        holder.set(holder.get() | MAPPING);
        Some(MappingGuard { guard: ManuallyDrop::new(guard), previous })
    }

    /// Whether an allocator is making the mapping for itself.
    pub fn is_arena(&self) -> bool {
        self.previous != 0
    }
}

impl Deref for MappingGuard {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

impl Drop for MappingGuard {
    fn drop(&mut self) {
        // SAFETY: the thread's own storage.
        unsafe { (*self.guard.local).holder.set(self.previous) }
    }
}

/// This thread counts as inside memtrace from now on, for ever.
pub fn ignore_thread() {
    // SAFETY: the thread's own storage.
    unsafe { (*local()).holder.set(IGNORED) }
}

/// The lane of this thread, or null.
pub fn own_lane() -> *mut Lane {
    // SAFETY: the thread's own storage.
    unsafe { (*local()).lane.get() }
}

/// Whether this thread is inside memtrace.
pub fn is_held() -> bool {
    // SAFETY: the thread's own storage.
    unsafe { (*local()).holder.get() != 0 }
}

/// Whether the guard was left set by a jump that we did not see ([`leave_by_jump`] sees the usual ones): then the frame
/// that took it is gone, and we stand above it on the same stack. A handler on its own signal stack may stand anywhere.
fn is_stale(held: usize, here: usize) -> bool {
    here >= (held & !NOTES) && sys::signal_stack_in_use().is_none()
}

/// Whether a thread that seems to be inside may enter nevertheless.
#[cold]
#[inline(never)]
fn may_enter_again(local: &Local, held: usize, here: usize) -> bool {
    if !is_stale(held, here) {
        if held & ALLOCATOR == 0 && !environment::is_self_check() {
            // A signal handler has interrupted the recorder and allocates.
            lifecycle::count_lost(1);
        }
        return false;
    }
    forget_holder(local, held);
    true
}

/// The program is about to jump to a place where its stack pointer is `target`. A signal handler that does so may have
/// interrupted us: when the jump discards the frame that holds the guard, nobody else will give it back.
///
/// Waiting for the next hook to notice is not enough, because the place that is jumped to may call hooks from deeper
/// frames only, which look like calls from inside.
pub fn leave_by_jump(target: usize) {
    // SAFETY: the thread's own storage.
    let local = unsafe { &*local() };
    let held = local.holder.get();
    if held == 0 {
        return;
    }
    let place = held & !NOTES;
    let is_discarded = match sys::signal_stack_in_use() {
        // A handler on a stack of its own may jump about on it and return to us; or leave it, with us on it or below.
        Some(stack) if stack.contains(&target) => stack.contains(&place) && target > place,
        Some(stack) if stack.contains(&place) => true,
        _ => target > place,
    };
    if is_discarded {
        forget_holder(local, held);
    }
}

/// Sets the thread free of a guard whose holder is gone.
fn forget_holder(local: &Local, held: usize) {
    // Under the real allocator our own structures are whole. Otherwise the holder may have been in the middle of
    // changing its lane: leave that as it is and start with a new one.
    if held & ALLOCATOR == 0 {
        let lane = local.lane.get();
        if !lane.is_null() {
            // SAFETY: lanes are never freed.
            unsafe { (*lane).abandon() };
            local.lane.set(core::ptr::null_mut());
        }
        crate::lock::release_all_of_this_thread();
    }
    local.holder.set(0);
}
