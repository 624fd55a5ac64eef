//! The thread state that belongs to this thread: what `PyGILState_GetThisThreadState` returns. Up to 3.13 it is kept
//! under a key of `pthread_setspecific`, and we read it where glibc keeps it, which saves two calls per event. As long as
//! that was not seen to agree with what the function says, the function is called.
//!
//! # Safety
//! Dangerous: reads glibc's thread control block. We rely on its address being the thread pointer, on it being longer
//! than the places read, and on the place of its first table of values, which has been the same in every x86-64 glibc from
//! 2.28 on (`struct pthread`, `specific_1stblock`, in `nptl/descr.h`) and is checked before it is used.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::walk::word;
use super::{Interpreter, NOTHING, call};

/// Where the runtime keeps its key (`Py_tss_t`: whether there is one, and behind that the key), once glibc's table was
/// seen to agree with the function; and what was there then. No key has the bits that are here at first.
static KEY_PLACE: AtomicPtr<usize> = AtomicPtr::new(NOTHING.as_ptr().cast_mut());
static KEY: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The thread state of this thread, 0 when it has none; `None` when it must be asked for.
#[inline(always)]
pub fn own_at_hand() -> Option<usize> {
    // SAFETY: a word of the runtime's static structure, or of nothing.
    let key = unsafe { *KEY_PLACE.load(Ordering::Acquire) };
    (key == KEY.load(Ordering::Relaxed)).then(|| value(key >> 32))
}

/// The thread state of this thread, 0 when it has none.
pub fn own(interpreter: &Interpreter) -> usize {
    own_at_hand().unwrap_or_else(|| ask(interpreter))
}

fn ask(interpreter: &Interpreter) -> usize {
    let state = by_function(interpreter);
    if let Some(offset) = interpreter.layout.runtime_tss_key
        && state != 0
    {
        let place = interpreter.runtime + offset;
        // SAFETY: as in `own_at_hand`.
        let key = unsafe { word(place) };
        if key as u32 != 0 && key >> 32 < N_KEYS && value(key >> 32) == state {
            KEY.store(key, Ordering::Relaxed);
            KEY_PLACE.store(place as *mut usize, Ordering::Release);
        }
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
