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

/// A frame. Half a cache line: what an event looks at of a deep stack should leave room for what the program does.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    pc: u64,
    sp: u64,
    bp: u64,
    notes: u32,
    /// How many words led from here to the root. Of a frame that has no place yet, where its caller's `rbp` lies, counted
    /// from that caller's stack pointer; 0 when it stayed in the register.
    n_words: u32,
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
// SAFETY: numbers.
unsafe impl Plain for Word {}

/// `pc` is where a signal came in.
const INTERRUPTED: u32 = At::Interruption as u32;
/// The caller, or one of those below it, depends on `bp`.
const NEEDS_BP: u32 = 2;
/// The caller was found in another way than by the return address and a saved `rbp`: it has to be found again.
const IS_ODD: u32 = 4;
/// This frame or one below it is odd, or not on the thread's own stack.
const DOUBTFUL: u32 = 8;
/// It has a caller that can't be found.
const IS_CUT: u32 = 16;

pub struct Memo {
    /// Root first.
    frames: Array<Frame>,
    len: usize,
    /// The words that led from frame to frame, root first: return addresses, and saved `rbp`s that somebody below depends
    /// on. Those of odd frames are not among them.
    words: Array<Word>,
    n_unchanged: usize,
    /// What is new, top first.
    new: Array<Frame>,
}

impl Frame {
    const NONE: Frame = Frame { pc: 0, sp: 0, bp: 0, notes: 0, n_words: 0 };

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
        Frame { pc, sp, bp, notes: at as u32 | if is_own { 0 } else { DOUBTFUL }, n_words: 0 }
    }

    /// One whose caller was found by a rule.
    #[inline(always)]
    fn called(registers: &Registers, rule: Packed, caller: &Registers, is_own: bool) -> Frame {
        let offset = rule.rbp_offset();
        let return_address = caller.sp.wrapping_sub(8);
        let saved = if offset == 0 { return_address } else { caller.sp.wrapping_add_signed(offset) };
        let is_plain = rule.is_plain() && return_address >= registers.sp && saved >= registers.sp;
        let mut frame = Frame::outermost(registers, is_own);
        frame.notes |= if is_plain { 0 } else { IS_ODD };
        frame.notes |= if rule.is_on_rbp() { NEEDS_BP } else { 0 };
        Frame { n_words: offset as u32, ..frame }
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
}

impl Word {
    /// The bits in which it is not what it was.
    ///
    /// # Safety
    /// It lies in this thread's stack.
    #[inline(always)]
    unsafe fn changes(&self) -> u64 {
        // SAFETY: as the caller says.
        unsafe { *(self.place as *const u64) ^ self.value }
    }
}

impl Memo {
    pub const fn new() -> Memo {
        Memo { frames: Array::new(), len: 0, words: Array::new(), n_unchanged: 0, new: Array::new() }
    }

    /// Gives its memory back.
    pub fn release(&mut self) {
        self.frames.release();
        self.words.release();
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
        let (mut current, mut n_new) = (top, 0);
        // Until the new ones are in their place, nothing is known.
        let len = core::mem::take(&mut self.len);
        // SAFETY: there are `len`.
        let mut known = unsafe { self.frames.first(len) };
        let kept = loop {
            while let Some((frame, callers)) = known.split_last()
                && frame.sp < current.sp
            {
                known = callers;
            }
            if let Some(frame) = known.last()
                && frame.agrees(&current)
            {
                match first_changed(known, &self.words, own, &rule) {
                    None => break known.len(),
                    // Those above it are not on the way to what is known.
                    Some(changed) => known = known.get(..changed).unwrap_or(&[]),
                }
            }
            if !self.new.grow(n_new + 1) {
                return false;
            }
            let found = rule(current.code_address());
            match current.step(found, &stack) {
                Step::Caller(caller) => {
                    self.new.set(n_new, Frame::called(&current, found, &caller, stack.is_own()));
                    n_new += 1;
                    if !stack.has(caller.sp) {
                        stack = Stack::at(caller.sp, own);
                    }
                    current = caller;
                }
                end @ (Step::End | Step::Cut) => {
                    let mut frame = Frame::outermost(&current, stack.is_own());
                    // A rule that found nothing may find something next time.
                    frame.notes |= if matches!(found.unpack(), Rule::End | Rule::Unknown) { 0 } else { IS_ODD };
                    frame.notes |= if matches!(end, Step::Cut) { IS_CUT } else { 0 };
                    self.new.set(n_new, frame);
                    n_new += 1;
                    break 0;
                }
            }
        };
        if !self.settle(kept, n_new) {
            return false;
        }
        (self.len, self.n_unchanged) = (kept + n_new, kept);
        true
    }

    /// Puts the new frames in their place above the first `kept`. `false` without memory.
    #[inline(always)]
    fn settle(&mut self, kept: usize, n_new: usize) -> bool {
        let mut caller = kept.checked_sub(1).and_then(|caller| self.frames.get(caller));
        let mut n_words = caller.map_or(0, |caller| caller.n_words as usize);
        if !self.frames.grow(kept + n_new) || !self.words.grow(n_words + 2 * n_new) {
            return false;
        }
        // SAFETY: there is room for them, and so many are new.
        let (places, new) = unsafe { (self.frames.first_mut(kept + n_new), self.new.first(n_new)) };
        let (Some(places), Some(words)) = (places.get_mut(kept..), self.words.tail_mut(0)) else { return false };
        for (place, new) in places.iter_mut().zip(new.iter().rev()) {
            let (mut notes, offset) = (new.notes, i64::from(new.n_words as i32));
            let Frame { pc, sp, bp, notes: below, .. } = caller.unwrap_or(Frame::NONE);
            let is_doubtful = (below | notes) & (DOUBTFUL | IS_ODD) != 0;
            let needs_below = below & NEEDS_BP != 0;
            notes |= if is_doubtful { DOUBTFUL | NEEDS_BP } else { 0 };
            notes |= if offset == 0 { below & NEEDS_BP } else { 0 };
            if caller.is_some()
                && notes & IS_ODD == 0
                && let Some([return_address, saved]) = words.get_mut(n_words..n_words + 2)
            {
                *return_address = Word { place: sp.wrapping_sub(8), value: pc };
                *saved = Word { place: sp.wrapping_add_signed(offset), value: bp };
                n_words += 1 + usize::from(offset != 0 && (is_doubtful || needs_below));
            }
            *place = Frame { notes, n_words: n_words as u32, ..*new };
            caller = Some(*place);
        }
        true
    }
}

/// The topmost of these frames that has another caller than it had; 0 when it is the outermost one that has to be looked
/// at again.
#[inline(always)]
fn first_changed(
    frames: &[Frame],
    words: &Array<Word>,
    own: &Range<u64>,
    rule: &impl Fn(u64) -> Packed,
) -> Option<usize> {
    let top = frames.last()?;
    // SAFETY: there are as many.
    let words = unsafe { words.first(top.n_words as usize) };
    if top.notes & DOUBTFUL != 0 {
        return first_changed_of_doubtful(frames, words, own, rule);
    }
    // Four at a time: of a deep stack, most of what an event costs.
    let mut left = words;
    // SAFETY: what is below a frame that is not doubtful is not either, and the top one's place on the stack is in use.
    let changes = |word: &Word| unsafe { word.changes() };
    while let Some((rest, [a, b, c, d])) = left.split_last_chunk::<4>() {
        if changes(a) | changes(b) | changes(c) | changes(d) != 0 {
            break;
        }
        left = rest;
    }
    let changed = left.iter().rposition(|word| changes(word) != 0)?;
    Some(frames.partition_point(|frame| frame.n_words as usize <= changed))
}

#[cold]
#[inline(never)]
fn first_changed_of_doubtful(
    frames: &[Frame],
    words: &[Word],
    own: &Range<u64>,
    rule: &impl Fn(u64) -> Packed,
) -> Option<usize> {
    let is_same = |pair: &[Frame]| {
        let [caller, frame] = pair else { return false };
        let stack = Stack::at(frame.sp, own);
        if frame.notes & IS_ODD != 0 {
            return is_found_again(frame, caller, &stack, rule);
        }
        let links = words.get(caller.n_words as usize..frame.n_words as usize);
        links.is_some_and(|links| links.iter().all(|link| stack.word(link.place) == Some(link.value)))
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
