//! The words of the stack on which a thread is running, and of no other memory.
//!
//! # Safety
//! Dangerous: reads a thread's stack where it lies. We rely on its own stack being mapped from the stack pointer up to
//! the end that the loader or the thread library gave it. Any other stack, of a coroutine or a signal handler, is read
//! through the kernel, which knows what is there.

use core::ops::Range;

use super::maps::Maps;
use super::walk;
use crate::{elf, lane, sys};

/// The kernel leaves so much below the start of the main thread's stack (`MIN_GAP` in `mm/util.c`).
const MAIN_STACK_ROOM: u64 = 128 << 20;

/// A stack, from the stack pointer up.
#[derive(Clone, Copy)]
pub struct Stack {
    start: u64,
    /// 0 for one that is read through the kernel.
    end: u64,
}

impl Stack {
    /// The stack that this stack pointer is in; `own` is the thread's.
    #[inline(always)]
    pub fn at(sp: u64, own: &Range<u64>) -> Stack {
        Stack { start: sp, end: if own.contains(&sp) { own.end } else { 0 } }
    }

    /// Whether it is the thread's own.
    #[inline(always)]
    pub fn is_own(&self) -> bool {
        self.end != 0
    }

    /// Whether this stack pointer is in it as well. Another stack is looked at anew at each of its frames: only the kernel
    /// knows where it ends.
    #[inline(always)]
    pub fn has(&self, sp: u64) -> bool {
        (self.start..self.end).contains(&sp)
    }
}

/// Where this thread's own stack is; empty when nobody knows.
#[cold]
pub fn own_stack() -> Range<u64> {
    if sys::tid() == sys::pid() {
        let end = elf::main_stack_end() as u64;
        return end.saturating_sub(MAIN_STACK_ROOM)..end;
    }
    // glibc puts a thread's control block at the upper end of its stack.
    let end = lane::thread_pointer() as u64;
    let maps = Maps::read();
    let found = maps.as_ref().and_then(|maps| maps.at(end));
    found.map_or(0..0, |line| line.start..end)
}

impl walk::Stack for Stack {
    #[inline(always)]
    fn word(&self, address: u64) -> Option<u64> {
        if address & 7 != 0 || address < self.start {
            return None;
        }
        if self.end == 0 {
            return sys::read_word(address as usize).map(|word| word as u64);
        }
        // SAFETY: between the stack pointer and the stack's end.
        (address < self.end.wrapping_sub(7)).then(|| unsafe { *(address as *const u64) })
    }
}
