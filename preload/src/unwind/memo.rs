//! The frames of the last event, remembered. Unwinding is a function of the registers at the top and of the words that
//! were read on the way, so where the registers of some frame are those of last time and the words from there on as well,
//! the rest of the stack is proven to be the same.

use core::ops::Range;

use super::rule::{Cfa, Rule};
use super::stack::Stack;
use super::walk::{Registers, Stack as _, Step};
use crate::heap::{Array, Plain};

/// A frame and what its caller was made of.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    pc: u64,
    sp: u64,
    bp: u64,
    /// Where the caller's `rbp` was read; 0 where it stayed in the register.
    bp_slot: u64,
    notes: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Frame {}

/// `pc` is where a signal came in.
const INTERRUPTED: u64 = 1;
/// The caller depends on `bp`.
const NEEDS_BP: u64 = 2;
/// The caller was found in another way than by the return address and a saved `rbp`: it has to be found again.
const IS_ODD: u64 = 4;
/// The rule says that there is no caller, or none that can be found.
const IS_LAST: u64 = 8;

pub struct Memo {
    /// Root first.
    frames: Array<Frame>,
    len: usize,
    n_unchanged: usize,
    /// What is new, top first.
    new: Array<Frame>,
    /// What rules were known under.
    generation: u64,
}

impl Frame {
    /// The lower end of what it has on the stack.
    pub fn start(&self) -> u64 {
        self.sp
    }

    /// The address by which its code is known.
    pub fn code_address(&self) -> u64 {
        self.registers().code_address()
    }

    fn new(registers: &Registers, rule: Rule) -> Frame {
        let mut notes = if registers.is_interrupted { INTERRUPTED } else { 0 };
        let mut bp_slot = 0;
        match rule {
            Rule::Frame { cfa: Cfa::Rsp(offset), rbp: Some(rbp) } => {
                bp_slot = registers.sp.wrapping_add_signed(i64::from(offset) + i64::from(rbp));
            }
            Rule::Frame { cfa: Cfa::Rbp(offset), rbp: Some(rbp) } => {
                notes |= NEEDS_BP;
                bp_slot = registers.bp.wrapping_add_signed(i64::from(offset) + i64::from(rbp));
            }
            Rule::Frame { cfa: Cfa::Rsp(_) | Cfa::Rbp(_), rbp: None } => notes |= NEEDS_BP,
            Rule::Frame { .. } | Rule::Signal => notes |= NEEDS_BP | IS_ODD,
            Rule::End | Rule::Unknown => notes |= IS_LAST,
        }
        let Registers { pc, sp, bp, .. } = *registers;
        Frame { pc, sp, bp, bp_slot, notes }
    }

    fn registers(&self) -> Registers {
        Registers { pc: self.pc, sp: self.sp, bp: self.bp, is_interrupted: self.notes & INTERRUPTED != 0 }
    }

    /// Whether these registers lead where they led last time, as far as registers say.
    #[inline(always)]
    fn agrees(&self, registers: &Registers) -> bool {
        self.pc == registers.pc
            && self.sp == registers.sp
            && (self.bp == registers.bp || self.notes & NEEDS_BP == 0)
            && (self.notes & INTERRUPTED != 0) == registers.is_interrupted
    }
}

impl Memo {
    pub const fn new() -> Memo {
        Memo { frames: Array::new(), len: 0, n_unchanged: 0, new: Array::new(), generation: 0 }
    }

    /// Gives its memory back.
    pub fn release(&mut self) {
        self.frames.release();
        self.new.release();
        self.len = 0;
    }

    /// Root first.
    pub fn frames(&self) -> &[Frame] {
        self.frames.slice(self.len)
    }

    /// How many frames, from the root on, are those of the last call.
    pub fn n_unchanged(&self) -> usize {
        self.n_unchanged
    }

    /// Finds the frames from these registers on; `own` is where the thread's own stack is. `false` without memory.
    pub fn refresh(&mut self, top: Registers, own: &Range<u64>, generation: u64, rule: impl Fn(u64) -> Rule) -> bool {
        if generation != self.generation {
            (self.generation, self.len) = (generation, 0);
        }
        let mut stack = Stack::at(top.sp, own);
        let (mut current, mut left, mut n_new) = (top, self.len, 0);
        let kept = loop {
            while let Some(frame) = left.checked_sub(1).and_then(|index| self.frames.get(index)) {
                if frame.sp >= current.sp {
                    break;
                }
                left -= 1;
            }
            if let Some(frame) = left.checked_sub(1).and_then(|index| self.frames.get(index))
                && frame.agrees(&current)
                && self.is_unchanged_below(left - 1, &stack, &rule)
            {
                break left;
            }
            let found = rule(current.code_address());
            if !self.new.grow(n_new + 1) {
                self.len = 0;
                return false;
            }
            let mut frame = Frame::new(&current, found);
            match current.step(found, &stack) {
                Step::Caller(caller) => {
                    self.new.set(n_new, frame);
                    if current.is_elsewhere(&caller, own) {
                        stack = Stack::at(caller.sp, own);
                    }
                    current = caller;
                }
                Step::End | Step::Cut => {
                    // A rule that found nothing may find something next time.
                    frame.notes |= if frame.notes & IS_LAST == 0 { IS_ODD } else { 0 };
                    self.new.set(n_new, frame);
                    n_new += 1;
                    break 0;
                }
            }
            n_new += 1;
        };
        if !self.frames.grow(kept + n_new) {
            self.len = 0;
            return false;
        }
        for index in 0..n_new {
            if let Some(frame) = self.new.get(n_new - 1 - index) {
                self.frames.set(kept + index, frame);
            }
        }
        (self.len, self.n_unchanged) = (kept + n_new, kept);
        true
    }

    /// Whether each frame from this one down still has the caller that it had.
    #[inline(always)]
    fn is_unchanged_below(&self, top: usize, stack: &Stack, rule: &impl Fn(u64) -> Rule) -> bool {
        let frames = self.frames.slice(top + 1);
        let is_root_odd = frames.first().is_some_and(|root| root.notes & IS_ODD != 0);
        let is_same = |pair: &[Frame]| {
            let [caller, frame] = pair else { return false };
            if frame.notes & IS_ODD != 0 {
                return is_found_again(frame, caller, stack, rule);
            }
            stack.word(caller.sp.wrapping_sub(8)) == Some(caller.pc)
                && (frame.bp_slot == 0 || stack.word(frame.bp_slot) == Some(caller.bp))
        };
        !is_root_odd && frames.windows(2).rev().all(is_same)
    }
}

#[cold]
#[inline(never)]
fn is_found_again(frame: &Frame, caller: &Frame, stack: &Stack, rule: &impl Fn(u64) -> Rule) -> bool {
    match frame.registers().step(rule(frame.code_address()), stack) {
        Step::Caller(found) => found == caller.registers(),
        Step::End | Step::Cut => false,
    }
}

impl Registers {
    /// Whether the caller is on another stack, as the one that a signal interrupted can be.
    fn is_elsewhere(&self, caller: &Registers, own: &Range<u64>) -> bool {
        caller.sp < self.sp || own.contains(&self.sp) != own.contains(&caller.sp)
    }
}
