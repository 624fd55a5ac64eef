//! The C functions by which a recording is started and ended in a running process: called by a thread of the program
//! that `memtrace attach` has borrowed, or by the Python package. What they return is in [`memtrace_format::answer`].
//!
//! # Safety
//! Dangerous: the path is a pointer of the caller's. The calling thread may be anywhere where it could call `dlopen`: it
//! holds no lock of the loader's or of the allocator's. It may be inside an allocator that we have wrapped, when that
//! asks the allocator below.

// Exported, and unit tests have no exports.
#![cfg_attr(test, allow(dead_code))]

use core::ffi::{CStr, c_char, c_int};

use memtrace_format::answer::{self, Survivor};
use memtrace_format::options::RecordOptions;

use crate::guard::{self, MappingGuard};
use crate::sink::Log;
use crate::{child, environment, lifecycle, python, recorder, sys};

/// Starts recording into the log at an absolute path, which was made for this process. `options` are
/// [`RecordOptions::to_bits`]; `shim` is where the programs that this one starts find our library, or null.
///
/// # Safety
/// `log` is a C string, and so is `shim`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memtrace_start(log: *const c_char, options: u32, shim: *const c_char) -> c_int {
    if lifecycle::is_recording() {
        return answer::RECORDING;
    }
    let Some(guard) = MappingGuard::enter() else {
        return answer::BUSY;
    };
    // SAFETY: as the caller says.
    let log = unsafe { CStr::from_ptr(log) };
    let mut failure = None;
    let open = || {
        let fd = sys::open_read_write(log).map_err(|errno| failure = Some(errno)).ok()?;
        if !shim.is_null() {
            // SAFETY: as the caller says.
            environment::keep_shim(unsafe { CStr::from_ptr(shim) }.to_bytes());
            child::make_logs();
        }
        python::objects::forget();
        Log::of(&guard, fd, log)
    };
    match lifecycle::begin(&guard, open, RecordOptions::from_bits(options)) {
        true => answer::DONE,
        false => failure.map_or(answer::REFUSED, |errno| answer::NO_LOG | errno.0 << answer::ERRNO_SHIFT),
    }
}

/// Ends the recording. Hooks stay where they are and do nothing.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn memtrace_stop() -> c_int {
    let Some(guard) = MappingGuard::enter() else {
        return answer::BUSY;
    };
    child::make_logs();
    if lifecycle::end(&guard) { answer::DONE } else { answer::NOT_RECORDING }
}

/// Children of the recording that begins next can't make a log: they find one in this socket, which stays the caller's.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn memtrace_take_logs_from(socket: c_int) -> c_int {
    match lifecycle::is_recording() {
        true => answer::RECORDING,
        false if child::take_logs_from(socket) => answer::DONE,
        false => answer::REFUSED,
    }
}

/// Begins to record the lifetimes of Python objects, of a recording that has begun. The calling thread is attached to the
/// interpreter.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn memtrace_begin_objects() -> c_int {
    if python::objects::begin() { answer::DONE } else { answer::REFUSED }
}

/// Ends that, before the recording ends. How many of the objects that were made are alive: each has one more reference,
/// which is the caller's, and `survivors` is where its number in the order of making and its address are, until the next
/// beginning. −1 when nobody knows. The calling thread is attached to the interpreter.
///
/// # Safety
/// `survivors` is a place for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memtrace_end_objects(survivors: *mut *const Survivor) -> isize {
    let Some(entries) = python::objects::end() else {
        return -1;
    };
    // SAFETY: as the caller says.
    unsafe { *survivors = entries.as_ptr() };
    entries.len() as isize
}

/// Nothing that the calling thread does from now on is recorded: it is ours.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn memtrace_ignore_thread() {
    guard::ignore_thread();
}

/// What the program itself calls a thread, by its `pthread_t`: at most so many bytes of a C string are recorded.
///
/// # Safety
/// `name` is a C string.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memtrace_name_thread(thread: usize, name: *const c_char) -> c_int {
    const MAX_LEN: usize = 255;
    let Some(guard) = lifecycle::enter() else {
        return answer::NOT_RECORDING;
    };
    // SAFETY: as the caller says.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    recorder::named(&guard, thread, name.get(..MAX_LEN).unwrap_or(name));
    answer::DONE
}
