//! Free-threaded CPythons from 3.14 on give each thread a copy of its own of a code object's instructions, as it
//! specialises them: which of the copies a frame runs. Called when a frame is resolved.
//!
//! # Safety
//! Dangerous: reads `PyCodeObject.co_tlbc`, an array that other threads replace by a larger one. The old one is freed
//! once every thread attached to the interpreter has reported that it holds nothing on to (`_PyMem_FreeDelayed`), so an
//! attached thread reads it as it is. For one that is not, the kernel reads, and what it read counts when the array is
//! still the same afterwards. The copies that a running thread's frames stand in are its own, and live as long as its
//! thread state does.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::code::CODE_UNIT;
use super::offsets::Layout;
use super::walk::word;
use crate::sys;

/// `_PyCodeArray.entries`, behind its size (`Include/cpython/code.h`).
const ENTRIES: usize = size_of::<usize>();
/// As many threads as there can be; what was freed may hold any number.
const MAX_COPIES: usize = 1 << 22;

/// Where the instructions start among which `instruction` is: the code object's own ones, or a copy. `None` when it is
/// in none of them.
pub fn start(layout: &Layout, code: usize, instruction: usize) -> Option<usize> {
    let own = code + layout.code_instructions;
    let Some(copies) = layout.code_copies else {
        return Some(own);
    };
    // SAFETY: the frame that stands there keeps its code object alive.
    let len = unsafe { word(code + layout.code_len) }.wrapping_mul(CODE_UNIT as usize);
    let is_in = |start: usize| start != 0 && instruction.wrapping_sub(start) < len;
    if is_in(own) {
        Some(own)
    } else if super::is_attached() {
        // SAFETY: see the module's note.
        find(code + copies, |address| Some(unsafe { word(address) }), is_in)
    } else {
        find(code + copies, sys::read_word, is_in)
    }
}

/// The entry that `is_in` picks of the array to which `place` points.
pub fn find(place: usize, read: impl Fn(usize) -> Option<usize>, is_in: impl Fn(usize) -> bool) -> Option<usize> {
    loop {
        let array = read(place)?;
        let len = read(array)?.min(MAX_COPIES);
        let mut entries = (0..len).map_while(|index| read(array + ENTRIES + index * size_of::<usize>()));
        let found = entries.find(|entry| is_in(*entry));
        if read(place)? == array {
            return found;
        }
    }
}

/// Address of the runtime's pointer to the main interpreter, and where in that its count of discards is; or 0.
static MAIN: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Told once where the count is.
pub fn watch_discards(main: usize, count: usize) {
    COUNT.store(count, Ordering::Relaxed);
    MAIN.store(main, Ordering::Release);
}

/// Whether there are copies at all.
#[inline(always)]
pub fn are_watched() -> bool {
    MAIN.load(Ordering::Acquire) != 0
}

/// Grows when copies of threads that have ended are discarded: their addresses may then belong to others.
pub fn discards() -> u64 {
    let main = MAIN.load(Ordering::Acquire);
    if main == 0 {
        return 0;
    }
    // SAFETY: a pointer of the runtime's static structure, null or to the main interpreter, which is a part of that
    // structure; then a 32-bit count.
    unsafe {
        match word(main) {
            0 => 0,
            interpreter => *((interpreter + COUNT.load(Ordering::Relaxed)) as *const u32) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::offsets;

    #[test]
    fn an_instruction_belongs_to_the_copy_that_holds_it() {
        let array = [3, 0x7000, 0, 0x9000usize];
        let place = array.as_ptr() as usize;
        let start_of = |instruction: usize| {
            let is_in = |start: usize| start != 0 && instruction.wrapping_sub(start) < 0x10;
            find(&raw const place as usize, sys::read_word, is_in)
        };
        assert_eq!(start_of(0x7000), Some(0x7000));
        assert_eq!(start_of(0x900e), Some(0x9000));
        assert_eq!(start_of(0x7010), None);
    }

    #[test]
    fn a_code_objects_own_instructions_come_first() {
        // The number of instructions, no copies, two words of instructions.
        let code = [8, 0, 0, 0usize];
        let layout = Layout { code_len: 0, code_copies: Some(8), code_instructions: 16, ..offsets::NONE };
        let address = code.as_ptr() as usize;
        assert_eq!(start(&layout, address, address + 16 + 14), Some(address + 16));
        let without_copies = Layout { code_copies: None, ..layout };
        assert_eq!(start(&without_copies, address, 0), Some(address + 16));
    }
}
