//! The frames of the last event, remembered. Unwinding is a function of the registers at the top and of the words that
//! were read on the way, so where the registers of some frame are those of last time and the words from there on as well,
//! the rest of the stack is proven to be the same.
//!
//! # Safety
//! Dangerous: reads words of the thread's own stack where they lay last time. They lie above the running function and
//! below the stack's end, and whoever hands a lane to another thread has its frames forgotten.

use core::ops::Range;

use super::rule::{Packed, Rule};
use super::stack::Stack;
use super::walk::{At, Registers, Stack as _, Step};
use crate::heap::{Array, Plain};

/// A frame and what its caller was made of.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    pc: u64,
    sp: u64,
    bp: u64,
    notes: u64,
    /// The words that led to its caller: the return address and the saved `rbp`; the first one twice when `rbp` stayed in
    /// the register. Only of frames that are not doubtful.
    links: [Word; 2],
}

/// A word of the stack, and where it lay.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Word {
    place: u64,
    value: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Frame {}

/// `pc` is where a signal came in.
const INTERRUPTED: u64 = At::Interruption as u64;
/// The caller depends on `bp`.
const NEEDS_BP: u64 = 2;
/// The caller was found in another way than by the return address and a saved `rbp`: it has to be found again.
const IS_ODD: u64 = 4;
/// This frame or one below it is odd, or not on the thread's own stack.
const DOUBTFUL: u64 = 8;
/// It has a caller that can't be found.
const IS_CUT: u64 = 16;

pub struct Memo {
    /// Root first.
    frames: Array<Frame>,
    len: usize,
    n_unchanged: usize,
    /// What is new, top first.
    new: Array<Frame>,
}

impl Frame {
    const EMPTY: Frame = Frame { pc: 0, sp: 0, bp: 0, notes: 0, links: [Word { place: 0, value: 0 }; 2] };

    /// The lower end of what it has on the stack.
    #[inline(always)]
    pub fn start(&self) -> u64 {
        self.sp
    }

    /// The address by which its code is known.
    #[inline(always)]
    pub fn code_address(&self) -> u64 {
        self.registers().code_address()
    }

    /// Whether it is the first one only because its caller can't be found.
    #[inline(always)]
    pub fn is_cut(&self) -> bool {
        self.notes & IS_CUT != 0
    }

    /// One that has no caller, or none that can be found.
    #[inline(always)]
    fn outermost(registers: &Registers, is_own: bool) -> Frame {
        let Registers { pc, sp, bp, at } = *registers;
        Frame { pc, sp, bp, notes: at as u64 | if is_own { 0 } else { DOUBTFUL }, ..Frame::EMPTY }
    }

    /// One whose caller was found by a rule.
    #[inline(always)]
    fn new(registers: &Registers, rule: Packed, caller: &Registers, is_own: bool) -> Frame {
        let mut frame = Frame::outermost(registers, is_own);
        let return_address = Word { place: caller.sp.wrapping_sub(8), value: caller.pc };
        let offset = rule.rbp_offset();
        let saved = Word { place: caller.sp.wrapping_add_signed(offset), value: caller.bp };
        let (is_plain, is_saved) = (rule.is_plain(), rule.is_plain() && offset != 0);
        let second = if is_saved { saved } else { return_address };
        frame.notes |= if is_saved && !rule.is_on_rbp() { 0 } else { NEEDS_BP };
        frame.notes |= if is_plain && second.place >= frame.sp { 0 } else { IS_ODD };
        frame.links = [return_address, second];
        frame
    }

    #[inline(always)]
    fn at(&self) -> At {
        if self.notes & INTERRUPTED != 0 { At::Interruption } else { At::Return }
    }

    #[inline(always)]
    fn registers(&self) -> Registers {
        Registers { pc: self.pc, sp: self.sp, bp: self.bp, at: self.at() }
    }

    /// Whether these registers lead where they led last time, as far as registers say.
    #[inline(always)]
    fn agrees(&self, registers: &Registers) -> bool {
        self.pc == registers.pc
            && self.sp == registers.sp
            && (self.bp == registers.bp || self.notes & NEEDS_BP == 0)
            && self.at() == registers.at
    }

    /// The bits in which its links are not what they were.
    ///
    /// # Safety
    /// It is not doubtful, and nothing has run above it that is not running now.
    #[inline(always)]
    unsafe fn changes(&self) -> u64 {
        // SAFETY: they lie in this thread's own stack.
        let change = |link: &Word| unsafe { *(link.place as *const u64) } ^ link.value;
        change(&self.links[0]) | change(&self.links[1])
    }
}

impl Memo {
    pub const fn new() -> Memo {
        Memo { frames: Array::new(), len: 0, n_unchanged: 0, new: Array::new() }
    }

    /// Gives its memory back.
    pub fn release(&mut self) {
        self.frames.release();
        self.new.release();
        self.len = 0;
    }

    /// Nothing is remembered any more.
    pub fn forget(&mut self) {
        self.len = 0;
    }

    /// Root first.
    #[inline(always)]
    pub fn frames(&self) -> &[Frame] {
        // SAFETY: there is room for as many as there are.
        unsafe { self.frames.first(self.len) }
    }

    /// How many frames, from the root on, are those of the last call.
    #[inline(always)]
    pub fn n_unchanged(&self) -> usize {
        self.n_unchanged
    }

    /// Finds the frames from these registers on; `own` is where the thread's own stack is. `false` without memory.
    #[inline(always)]
    pub fn refresh(&mut self, top: Registers, own: &Range<u64>, rule: impl Fn(u64) -> Packed) -> bool {
        let mut stack = Stack::at(top.sp, own);
        let (mut current, mut left, mut n_new) = (top, self.len, 0);
        // Until the new ones are in their place, nothing is known.
        let len = core::mem::take(&mut self.len);
        let kept = loop {
            // SAFETY: there are `len`.
            let frames = unsafe { self.frames.first(len) };
            while left > 0 && frames.get(left - 1).is_some_and(|frame| frame.sp < current.sp) {
                left -= 1;
            }
            if left > 0 && frames.get(left - 1).is_some_and(|frame| frame.agrees(&current)) {
                match first_changed(&frames[..left], own, &rule) {
                    None => break left,
                    // Those above it are not on the way to what is known.
                    Some(changed) => left = changed,
                }
            }
            if !self.new.grow(n_new + 1) {
                return false;
            }
            let found = rule(current.code_address());
            let is_own = own.contains(&current.sp);
            match current.step(found, &stack) {
                Step::Caller(caller) => {
                    self.new.set(n_new, Frame::new(&current, found, &caller, is_own));
                    n_new += 1;
                    if current.is_elsewhere(&caller, own) {
                        stack = Stack::at(caller.sp, own);
                    }
                    current = caller;
                }
                end @ (Step::End | Step::Cut) => {
                    let mut frame = Frame::outermost(&current, is_own);
                    // A rule that found nothing may find something next time.
                    frame.notes |= if matches!(found.unpack(), Rule::End | Rule::Unknown) { 0 } else { IS_ODD };
                    frame.notes |= if matches!(end, Step::Cut) { IS_CUT } else { 0 };
                    self.new.set(n_new, frame);
                    n_new += 1;
                    break 0;
                }
            }
        };
        if !self.frames.grow(kept + n_new) {
            return false;
        }
        let mut doubt = kept.checked_sub(1).and_then(|below| self.frames.get(below)).map_or(0, |below| below.notes);
        for index in 0..n_new {
            if let Some(mut frame) = self.new.get(n_new - 1 - index) {
                frame.notes |= if (doubt | frame.notes) & (DOUBTFUL | IS_ODD) != 0 { DOUBTFUL } else { 0 };
                doubt = frame.notes;
                self.frames.set(kept + index, frame);
            }
        }
        (self.len, self.n_unchanged) = (kept + n_new, kept);
        true
    }
}

/// The topmost of these frames that has another caller than it had; 0 when it is the outermost one that has to be looked
/// at again.
#[inline(always)]
fn first_changed(frames: &[Frame], own: &Range<u64>, rule: &impl Fn(u64) -> Packed) -> Option<usize> {
    let (top, callers) = (frames.last()?, frames.get(1..)?);
    if top.notes & DOUBTFUL != 0 {
        return first_changed_of_doubtful(frames, own, rule);
    }
    // Four at a time: of a deep stack, most of what an event costs.
    let mut left = callers;
    // SAFETY: what is below a frame that is not doubtful is not either, and the top one's place on the stack is in use.
    let changes = |frame: &Frame| unsafe { frame.changes() };
    while let Some((rest, [a, b, c, d])) = left.split_last_chunk::<4>() {
        if changes(a) | changes(b) | changes(c) | changes(d) != 0 {
            break;
        }
        left = rest;
    }
    left.iter().rposition(|frame| changes(frame) != 0).map(|index| index + 1)
}

#[cold]
#[inline(never)]
fn first_changed_of_doubtful(frames: &[Frame], own: &Range<u64>, rule: &impl Fn(u64) -> Packed) -> Option<usize> {
    let is_same = |pair: &[Frame]| {
        let [caller, frame] = pair else { return false };
        let stack = Stack::at(frame.sp, own);
        if frame.notes & IS_ODD != 0 {
            return is_found_again(frame, caller, &stack, rule);
        }
        frame.links.iter().all(|link| stack.word(link.place) == Some(link.value))
    };
    let changed = frames.windows(2).rposition(|pair| !is_same(pair)).map(|index| index + 1);
    let is_root_odd = frames.first().is_some_and(|root| root.notes & IS_ODD != 0);
    changed.or(is_root_odd.then_some(0))
}

fn is_found_again(frame: &Frame, caller: &Frame, stack: &Stack, rule: &impl Fn(u64) -> Packed) -> bool {
    match frame.registers().step(rule(frame.code_address()), stack) {
        Step::Caller(found) => found == caller.registers(),
        Step::End | Step::Cut => false,
    }
}

impl Registers {
    /// Whether the caller is on another stack, as the one that a signal interrupted can be.
    #[inline(always)]
    fn is_elsewhere(&self, caller: &Registers, own: &Range<u64>) -> bool {
        caller.sp < self.sp || own.contains(&self.sp) != own.contains(&caller.sp)
    }
}
