//! The thread state that belongs to this thread: what `PyGILState_GetThisThreadState` returns. We read it where it lies,
//! which saves two calls per event: up to 3.14 under a key of `pthread_setspecific`, where glibc keeps its values; in 3.15
//! in a thread-local of the interpreter's, whose place the function's own code tells. As long as the place was not seen to
//! hold what the function says, the function is called.
//!
//! # Safety
//! Dangerous: reads glibc's thread control block. We rely on its address being the thread pointer, on it being longer
//! than the places read, and on the place of its first table of values, which has been the same in every x86-64 glibc from
//! 2.28 on (`struct pthread`, `specific_1stblock`, in `nptl/descr.h`) and is checked before it is used. Thread-locals at a
//! constant distance from the thread pointer are there in every thread.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::walk::word;
use super::{Interpreter, NOTHING, call};

/// Where the runtime keeps its key (`Py_tss_t`: whether there is one, and behind that the key), once that was seen to lead
/// to the state; nothing, when the state is in a thread-local. And what was there then: no key has the bits that are
/// here at first.
static KEY_PLACE: AtomicPtr<usize> = AtomicPtr::new(NOTHING.as_ptr().cast_mut());
static KEY: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The distance of the state from the thread pointer, under that key.
static DISTANCE: AtomicUsize = AtomicUsize::new(0);

/// The thread state of this thread, 0 when it has none; `None` when it must be asked for.
#[inline(always)]
pub fn own_at_hand() -> Option<usize> {
    // SAFETY: a word of the runtime's static structure, or of nothing.
    let key = unsafe { *KEY_PLACE.load(Ordering::Acquire) };
    // SAFETY: the distance of that key.
    (key == KEY.load(Ordering::Acquire)).then(|| unsafe { at(DISTANCE.load(Ordering::Relaxed)) })
}

/// The thread state of this thread, 0 when it has none.
pub fn own(interpreter: &Interpreter) -> usize {
    own_at_hand().unwrap_or_else(|| ask(interpreter))
}

fn ask(interpreter: &Interpreter) -> usize {
    let state = by_function(interpreter);
    let (place, distance) = match interpreter.layout.runtime_tss_key {
        Some(offset) => {
            let place = interpreter.runtime + offset;
            // SAFETY: as in `own_at_hand`.
            let key = unsafe { word(place) };
            let is_there = key as u32 != 0 && key >> 32 < N_KEYS;
            (place as *const usize, is_there.then(|| distance_of_key(key >> 32)))
        }
        // SAFETY: a function has more bytes than that, or others follow it.
        None => (NOTHING.as_ptr(), unsafe { distance_in_code(&*(interpreter.this_thread_state as *const _)) }),
    };
    // SAFETY: the place of a key's value, or of a thread-local.
    if let Some(distance) = distance.filter(|&distance| state != 0 && unsafe { at(distance) } == state) {
        DISTANCE.store(distance, Ordering::Release);
        // SAFETY: as in `own_at_hand`.
        KEY.store(unsafe { *place }, Ordering::Release);
        KEY_PLACE.store(place.cast_mut(), Ordering::Release);
    }
    state
}

/// The distance from the thread pointer that a function's code names, if that is all there is in it:
/// `mov rax, fs:[DISTANCE]; ret`, perhaps behind `endbr64`.
fn distance_in_code(code: &[u8; 16]) -> Option<usize> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    const MOV_RAX_FS: [u8; 5] = [0x64, 0x48, 0x8b, 0x04, 0x25];
    const RET: u8 = 0xc3;
    let body = code.strip_prefix(&ENDBR64).unwrap_or(code);
    let (distance, rest) = body.strip_prefix(&MOV_RAX_FS)?.split_first_chunk::<4>()?;
    (rest.first() == Some(&RET)).then(|| i32::from_le_bytes(*distance) as usize)
}

/// What the function says: the slow twin, for the self-check.
pub fn by_function(interpreter: &Interpreter) -> usize {
    // SAFETY: the function of this name and type. It reads thread-specific storage and is safe at any time.
    unsafe { call(interpreter.this_thread_state) }
}

/// Keys whose values lie in the thread control block itself.
const N_KEYS: usize = 32;

/// Of the value of a key in glibc's table: `{ uintptr_t seq; void *data; } specific_1stblock[32]`.
fn distance_of_key(key: usize) -> usize {
    /// `offsetof(struct pthread, specific_1stblock)`, and of `data` in an entry.
    const DATA: usize = 0x310 + 8;
    key * 16 + DATA
}

/// The word at a distance from the thread pointer.
///
/// # Safety
/// Each thread has one there.
#[inline(always)]
unsafe fn at(distance: usize) -> usize {
    let value: usize;
    // SAFETY: as the caller says.
    unsafe {
        asm!("mov {0}, qword ptr fs:[{1}]", out(reg) value, in(reg) distance,
            options(nostack, pure, readonly, preserves_flags));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_only_reads_a_thread_local_tells_where_that_is() {
        let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x64, 0x48, 0x8b, 0x04, 0x25, 0xd8, 0xff, 0xff, 0xff, 0xc3, 0x66, 0x90];
        assert_eq!(distance_in_code(&code), Some(0x28_usize.wrapping_neg()));
        let mut without_endbr = [0x90; 16];
        without_endbr[..12].copy_from_slice(&code[4..]);
        assert_eq!(distance_in_code(&without_endbr), Some(0x28_usize.wrapping_neg()));
        for place in [0, 4, 6, 13] {
            let mut other = code;
            other[place] ^= 1;
            assert_eq!(distance_in_code(&other), None, "byte {place}");
        }
    }
}
