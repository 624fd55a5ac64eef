//! The thread state that belongs to this thread: what `PyGILState_GetThisThreadState` returns. Up to 3.13 it is kept
//! under a key of `pthread_setspecific`, and we read it where glibc keeps it, which saves two calls per event. Once that
//! was seen to differ from what the function says, the function is called.
//!
//! # Safety
//! Dangerous: reads glibc's thread control block. We rely on its address being the thread pointer, on it being longer
//! than the places read, and on the place of its first table of values, which has been the same in every x86-64 glibc from
//! 2.28 on (`struct pthread`, `specific_1stblock`, in `nptl/descr.h`) and is checked before it is used.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use super::walk::word;
use super::{Interpreter, call};

/// Whether glibc's table was compared with the function.
static TABLE: AtomicU32 = AtomicU32::new(UNKNOWN);
const UNKNOWN: u32 = 0;
const USABLE: u32 = 1;
const UNUSABLE: u32 = 2;

/// The thread state of this thread, 0 when it has none.
#[inline(always)]
pub fn own(interpreter: &Interpreter) -> usize {
    match interpreter.layout.runtime_tss_key {
        // SAFETY: `Py_tss_t` in the runtime's static structure: whether there is a key, and behind it the key.
        Some(offset) if TABLE.load(Ordering::Relaxed) == USABLE => {
            match unsafe { word(interpreter.runtime + offset) } {
                key if key as u32 == 0 => 0,
                key if key >> 32 < N_KEYS => value(key >> 32),
                _ => ask(interpreter),
            }
        }
        _ => ask(interpreter),
    }
}

#[inline(never)]
fn ask(interpreter: &Interpreter) -> usize {
    let state = by_function(interpreter);
    if let Some(offset) = interpreter.layout.runtime_tss_key
        && state != 0
        && TABLE.load(Ordering::Relaxed) == UNKNOWN
    {
        // SAFETY: as in `own`.
        let key = unsafe { word(interpreter.runtime + offset) };
        let is_there = key as u32 != 0 && key >> 32 < N_KEYS && value(key >> 32) == state;
        TABLE.store(if is_there { USABLE } else { UNUSABLE }, Ordering::Relaxed);
    }
    state
}

/// What the function says: the slow twin, for the self-check.
pub fn by_function(interpreter: &Interpreter) -> usize {
    // SAFETY: the function of this name and type. It reads thread-specific storage and is safe at any time.
    unsafe { call(interpreter.this_thread_state) }
}

/// Keys whose values lie in the thread control block itself.
const N_KEYS: usize = 32;

/// The value of a key in glibc's table: `{ uintptr_t seq; void *data; } specific_1stblock[32]`.
#[inline(always)]
fn value(key: usize) -> usize {
    /// `offsetof(struct pthread, specific_1stblock)`, and of `data` in an entry.
    const DATA: usize = 0x310 + 8;
    let value: usize;
    // SAFETY: see the module's note; the key is one of the table's.
    unsafe {
        asm!("mov {0}, qword ptr fs:[{1} + {DATA}]", out(reg) value, in(reg) key * 16, DATA = const DATA,
            options(nostack, pure, readonly, preserves_flags));
    }
    value
}
