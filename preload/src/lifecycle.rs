//! Whether we record: not yet, yes, or no more. Start, end, and what a fork, an exec and an exit mean.
//!
//! ```text
//!            first hook or constructor,                fork (in the child), disk full,
//!            log named in the environment              strict seccomp, failed self-check, …
//!   idle ───────────────────────────────▶ recording ─────────────────────────────────────▶ off
//!     └──────────────────────────────────────────────────────────────────────────────────▶ off
//!            no log named, or it is not ours
//! ```
//!
//! *Recording* is a word in a page that the kernel wipes in children of fork (`MADV_WIPEONFORK`), raw `clone`
//! included: a child finds *off* before it could write anything. A child of vfork shares memory and thread with its
//! waiting parent, so what it records is true of the parent.
//!
//! # Safety
//! Dangerous: the word is reached through a pointer. It points to a static or to a page that is never unmapped.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use memtrace_format::options::{NativeStacks, RecordOptions};
use memtrace_format::{state, stop_reason};

use crate::environment;
use crate::guard::{self, Guard};
use crate::install::got;
use crate::sink::{self, Mode};
use crate::{abi, caller, elf};
use crate::{lane, meta, python, sys};

static OFF: AtomicU32 = AtomicU32::new(0);
static RECORDING: AtomicPtr<AtomicU32> = AtomicPtr::new((&raw const OFF).cast_mut());
static WAS_TRIED: AtomicU32 = AtomicU32::new(0);
static OPTIONS: AtomicU32 = AtomicU32::new(0);
static IMAGE: AtomicU32 = AtomicU32::new(0);
static PID: AtomicU32 = AtomicU32::new(0);

#[inline(always)]
pub fn is_recording() -> bool {
    // SAFETY: see the module's note.
    unsafe { (*RECORDING.load(Ordering::Relaxed)).load(Ordering::Relaxed) != 0 }
}

/// The way into every hook: a guard, when this event is to be recorded.
#[inline(always)]
pub fn enter() -> Option<Guard> {
    if is_recording_or_starts() { Guard::enter() } else { None }
}

#[inline(always)]
pub fn is_recording_or_starts() -> bool {
    is_recording() || start_early()
}

/// How to record.
pub fn options() -> RecordOptions {
    RecordOptions::from_bits(OPTIONS.load(Ordering::Relaxed))
}

/// Whether native stacks are recorded.
pub fn has_native_stacks() -> bool {
    caller::IS_NOTED.load(Ordering::Relaxed)
}

/// The number of this program among those that the process has been.
pub fn image() -> u16 {
    IMAGE.load(Ordering::Relaxed) as u16
}

/// The process that is recorded.
pub fn pid() -> u32 {
    PID.load(Ordering::Relaxed)
}

/// Counts events that can't be recorded.
pub fn count_lost(events: u64) {
    if let Some(header) = sink::header() {
        header.lost_events().fetch_add(events, Ordering::Relaxed);
    }
}

pub fn switch_off() {
    // SAFETY: see the module's note.
    unsafe { (*RECORDING.load(Ordering::Relaxed)).store(0, Ordering::Release) }
}

/// On a libc before 2.34, whose thread library has its constructor called first instead of ours, constructors of
/// libraries may allocate before: the first of them starts the recording, as soon as the environment is there.
#[cold]
fn start_early() -> bool {
    if WAS_TRIED.load(Ordering::Relaxed) != 0 {
        return false;
    }
    let environment = environment::current();
    !environment.is_null() && start(environment)
}

/// Starts recording when the environment names a log. Only the first call does. A library that was loaded late is
/// started by a call (`control`): the environment of a running program may be changing.
pub fn start(environment: *mut *mut c_char) -> bool {
    if WAS_TRIED.swap(1, Ordering::AcqRel) != 0 || elf::is_late() {
        return is_recording();
    }
    let Some(request) = environment::read_request(environment) else {
        return false;
    };
    let Some(guard) = Guard::enter() else {
        return false;
    };
    begin(&guard, request.capture, request.options)
}

/// Records into the log at a path, which was made for this process. `false` when it can't be.
pub fn begin(guard: &Guard, capture: &CStr, options: RecordOptions) -> bool {
    if sink::header().is_some() || !sink::file::open(capture) {
        return false;
    }
    let Some(header) = sink::header() else {
        return false;
    };
    if !matches!(header.state().load(Ordering::Acquire), state::CREATED | state::RECORDING) {
        return false;
    }
    let Ok(page) = sys::map_anonymous(4096) else {
        sink::file::stop(stop_reason::NO_MEMORY, sys::Errno(abi::ENOMEM));
        return false;
    };
    if let Err(errno) = sys::wipe_on_fork(page, 4096) {
        sink::file::stop(stop_reason::OLD_KERNEL, errno);
        return false;
    }
    PID.store(sys::pid(), Ordering::Relaxed);
    OPTIONS.store(options.to_bits(), Ordering::Relaxed);
    IMAGE.store(header.n_images().fetch_add(1, Ordering::AcqRel), Ordering::Relaxed);
    header.state().store(state::RECORDING, Ordering::Release);
    let word = page.cast::<AtomicU32>();
    // SAFETY: the page is new and stays mapped.
    unsafe { word.as_ref().store(1, Ordering::Relaxed) };
    RECORDING.store(word.as_ptr(), Ordering::Release);
    meta::image(guard);
    python::look_for_interpreter_at_start(guard);
    let has_native_stacks = match options.native_stacks {
        NativeStacks::Never => false,
        NativeStacks::WithoutPython => !python::was_found(),
        NativeStacks::Always => true,
    };
    caller::IS_NOTED.store(has_native_stacks, Ordering::Relaxed);
    // Last, so that the first call that comes here finds all as it will stay.
    got::patch_all(guard);
    true
}

/// Records no more. `false` when nothing was recorded.
pub fn end(_: &Guard) -> bool {
    let was_recording = is_recording();
    switch_off();
    was_recording
}

/// What `fork` returned; in a child that will return into a hook, the hook's windows become private memory: it still
/// holds them and would write into the parent's log.
pub fn in_child_of_hook(result: i32) -> i32 {
    if result == 0 && guard::is_held() {
        lane::disown_all();
        sink::file::disown_header();
    }
    result
}

/// The program is about to restrict its system calls: one of ours might kill it.
#[cold]
pub fn stop_for_seccomp() {
    if is_recording() {
        flush();
        sink::file::stop(stop_reason::SECCOMP, sys::Errno(0));
    }
}

/// The program is about to exit, or to be replaced: where the log is written and not mapped, writes out what is left.
pub fn flush() {
    if is_recording()
        && sink::file::mode() == Mode::Buffered
        && let Some(guard) = Guard::enter()
    {
        lane::flush_all(&guard);
        meta::flush(&guard);
    }
}
