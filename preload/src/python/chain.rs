//! A thread's frames as they were at its last event, checked instead of read again.
//!
//! The frames are remembered with their addresses. When the top frame's address is a remembered one, that frame is
//! compared with what it was; when it has the same predecessor, so is the next; and so on to the root. The addresses
//! are known beforehand, so the processor loads ahead, where following the chain waits for each link. Nothing is read at
//! a remembered address before the chain was seen to lead there: by induction from the top every frame that is read is a
//! live one.
//!
//! Frames on top that are not remembered are read until one is. A frame that has changed is taken over; when its
//! predecessor has changed, the search for a remembered one goes on from there.
//!
//! Below the first frame of a chunk of the interpreter's data stack nothing changes as long as the chunk is there: see
//! `chunks`.
//!
//! # Safety
//! Dangerous: as in `walk`. Callers hand in the top frame of the running thread, or 0.

use super::chunks::{Chunks, Place};
use super::offsets::Layout;
use super::walk::{Frame, MAX_DEPTH};
use crate::heap::{Array, spread};

pub struct Chain {
    /// Root first.
    frames: Array<Frame>,
    depth: usize,
    /// Frames that are not in their place yet, leaf first.
    fresh: Array<Frame>,
    /// By address: a level where that frame may be remembered.
    levels: Array<u32>,
    floor: Floor,
    /// How many frames, from the root on, are what they were when this was last set to all of them.
    n_unchanged: usize,
}

/// What need not be looked at.
struct Floor {
    /// Where the thread was when this was found out.
    place: Place,
    /// The frames below this level are what they were as long as the thread is at that place.
    level: usize,
}

impl Floor {
    const UNKNOWN: Floor = Floor { place: Place::NOWHERE, level: 0 };
}

/// Places in the table of levels. Those who share one are found again by walking on.
const N_LEVELS: usize = 1024;

impl Chain {
    pub const fn new() -> Chain {
        Chain {
            frames: Array::new(),
            depth: 0,
            fresh: Array::new(),
            levels: Array::new(),
            floor: Floor::UNKNOWN,
            n_unchanged: 0,
        }
    }

    /// All frames, root first.
    #[inline(always)]
    pub fn frames(&self) -> &[Frame] {
        // SAFETY: there is room for as many as there are.
        unsafe { self.frames.first(self.depth) }
    }

    /// How many frames, from the root on, are what they were at the last [`Chain::accept`].
    #[inline(always)]
    pub fn n_unchanged(&self) -> usize {
        self.n_unchanged
    }

    /// The caller knows the first `n` frames now.
    #[inline(always)]
    pub fn accept(&mut self, n: usize) {
        self.n_unchanged = n;
    }

    /// Brings the memory up to date when the frames lie where they lay; `false` in other cases, which are for
    /// [`Chain::refresh`].
    ///
    /// # Safety
    /// `top` is 0 or the top frame of the running thread, and `place` where its data stack is.
    #[inline(always)]
    pub unsafe fn compare(&mut self, layout: &Layout, top: usize, place: Place) -> bool {
        let is_there = self.frames().last().is_some_and(|last| last.address == top) && place == self.floor.place;
        // SAFETY: as the caller says.
        is_there && unsafe { self.compare_down(layout, self.depth, self.floor.level) }.is_none()
    }

    /// Compares the frames from below level `end` down to level `floor`, and takes over what they run. Ends at the first
    /// that is linked to another one than before, and says its level.
    ///
    /// # Safety
    /// The chain leads to the frame below `end`, and there are as many frames.
    #[inline(always)]
    unsafe fn compare_down(&mut self, layout: &Layout, end: usize, floor: usize) -> Option<usize> {
        // SAFETY: as the caller says.
        match layout.instruction_unit {
            None => unsafe { self.compare_run::<false>(layout, end, floor) },
            Some(_) => unsafe { self.compare_run::<true>(layout, end, floor) },
        }
    }

    /// # Safety
    /// As for `compare_down`.
    #[inline(always)]
    unsafe fn compare_run<const WITH_CODE: bool>(
        &mut self,
        layout: &Layout,
        end: usize,
        floor: usize,
    ) -> Option<usize> {
        // SAFETY: as the caller says.
        let frames = unsafe { self.frames.first_mut(end) }.as_mut_ptr_range();
        let floor = frames.start.wrapping_add(floor);
        let (mut frame, mut lowest) = (frames.end, frames.end);
        let mut is_linked = true;
        // SAFETY: the chain leads to the last frame, and each that is linked as before leads to the next.
        unsafe {
            while frame > floor {
                // Four at a time: of a deep stack, most of what an event costs.
                let is_same = |nth| (*frame.sub(nth)).is_unchanged::<WITH_CODE>(layout);
                if frame >= floor.wrapping_add(4) && is_same(1) && is_same(2) && is_same(3) && is_same(4) {
                    frame = frame.sub(4);
                    continue;
                }
                frame = frame.sub(1);
                if !(*frame).is_linked_as_before(layout) {
                    is_linked = false;
                    break;
                }
                if !(*frame).runs_as_before::<WITH_CODE>(layout) {
                    (*frame).read_again(layout);
                    lowest = frame;
                }
            }
            if lowest < frames.end {
                self.n_unchanged = self.n_unchanged.min(lowest.offset_from_unsigned(frames.start));
            }
        }
        // SAFETY: it lies among the frames.
        if is_linked { None } else { Some(unsafe { frame.offset_from_unsigned(frames.start) }) }
    }

    /// Brings the memory up to date in any case. `false` when there is no memory.
    ///
    /// # Safety
    /// As for [`Chain::compare`].
    pub unsafe fn refresh(&mut self, layout: &Layout, top: usize, place: Place, chunks: &Chunks) -> bool {
        let is_place_known = place == self.floor.place;
        let floor = if is_place_known { self.floor.level } else { 0 };
        // SAFETY: as the caller says.
        let n_kept = unsafe { self.follow(layout, top, floor) };
        self.n_unchanged = self.n_unchanged.min(n_kept.unwrap_or(0));
        if !is_place_known {
            // SAFETY: as the caller says.
            unsafe { self.find_floor(place, chunks) };
        }
        n_kept.is_some()
    }

    /// Nothing is remembered any more.
    pub fn forget(&mut self) {
        (self.depth, self.n_unchanged, self.floor) = (0, 0, Floor::UNKNOWN);
    }

    /// To be told when the thread has given a mapping up: a chunk of its data stack may be gone.
    pub fn forget_floor(&mut self) {
        self.floor = Floor::UNKNOWN;
    }

    /// # Safety
    /// `place` is the running thread's.
    unsafe fn find_floor(&mut self, place: Place, chunks: &Chunks) {
        let level = self.level_of(place.first_frame(), self.depth);
        // SAFETY: as the caller says.
        let is_trusted = chunks.has_mapped(place) && !unsafe { place.is_in_first_chunk() };
        self.floor = match (is_trusted, level) {
            (true, Some(level)) => Floor { place, level },
            // The chunk's first frame is not linked yet: asked again at the next event.
            (true, None) => Floor::UNKNOWN,
            (false, _) => Floor { place, level: 0 },
        };
    }

    /// Follows the chain from the top until it comes to frames that are remembered. How many of those stay where they are,
    /// from the root on; `None` when there is no memory.
    ///
    /// # Safety
    /// As for `refresh`.
    unsafe fn follow(&mut self, layout: &Layout, top: usize, floor: usize) -> Option<usize> {
        let mut known = self.depth;
        let mut n_fresh = 0;
        let mut next = top;
        // Until the new ones are in their place, nothing is known.
        self.depth = 0;
        let n_kept = loop {
            if next == 0 || n_fresh >= MAX_DEPTH {
                break 0;
            }
            let Some(level) = self.level_of(next, known) else {
                // SAFETY: the chain leads there.
                let frame = unsafe { Frame::read(layout, next) };
                self.push_fresh(&mut n_fresh, frame)?;
                next = frame.previous;
                continue;
            };
            // SAFETY: the chain leads there.
            match unsafe { self.compare_down(layout, level + 1, if level >= floor { floor } else { 0 }) } {
                None => break level + 1,
                Some(at) => {
                    // SAFETY: and from there to this one.
                    unsafe { self.frames.get_mut(at)?.read_again(layout) };
                    for level in (at..=level).rev() {
                        let frame = self.frames.get(level)?;
                        self.push_fresh(&mut n_fresh, frame)?;
                        next = frame.previous;
                    }
                    known = at;
                }
            }
        };
        if floor > 0 && n_kept <= floor {
            self.floor = Floor::UNKNOWN;
        }
        let depth = n_kept + n_fresh;
        if !self.frames.grow(depth) || self.levels.capacity() == 0 && !self.levels.grow(N_LEVELS) {
            return None;
        }
        for index in 0..n_fresh {
            let (level, frame) = (n_kept + index, self.fresh.get(n_fresh - 1 - index)?);
            self.frames.set(level, frame);
            self.levels.set(place(frame.address), level as u32);
        }
        self.depth = depth;
        Some(n_kept)
    }

    /// The level below `known` at which a frame is remembered.
    #[inline(always)]
    fn level_of(&self, address: usize, known: usize) -> Option<usize> {
        let level = self.levels.get(place(address))? as usize;
        (level < known && self.frames.get(level)?.address == address).then_some(level)
    }

    fn push_fresh(&mut self, n_fresh: &mut usize, frame: Frame) -> Option<()> {
        if *n_fresh >= self.fresh.capacity() && !self.fresh.grow(*n_fresh + 64) {
            return None;
        }
        self.fresh.set(*n_fresh, frame);
        *n_fresh += 1;
        Some(())
    }
}

#[inline(always)]
fn place(address: usize) -> usize {
    spread(address as u64 >> 3) % N_LEVELS
}

#[cfg(test)]
mod tests {
    use super::super::{offsets, walk};
    use super::*;

    const LEN: usize = 16;

    /// Frames in memory, laid out as CPython's: a slot each, linked through `previous`.
    struct Memory {
        words: Vec<usize>,
        layout: Layout,
        random: u64,
    }

    impl Memory {
        fn new(n_slots: usize) -> Memory {
            Memory { words: vec![0; n_slots * LEN], layout: offsets::NONE, random: 7 }
        }

        fn address(&self, slot: usize) -> usize {
            &raw const self.words[slot * LEN] as usize
        }

        fn word(&mut self, slot: usize, offset: usize) -> &mut usize {
            &mut self.words[slot * LEN + offset / 8]
        }

        fn below(&mut self, bound: usize) -> usize {
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (self.random >> 33) as usize % bound
        }

        /// Links the slots, root first, without changing what is in them; the top frame.
        fn link(&mut self, stack: &[usize]) -> usize {
            let mut previous = 0;
            for &slot in stack {
                let offset = self.layout.frame_previous;
                *self.word(slot, offset) = previous;
                previous = self.address(slot);
            }
            previous
        }

        fn change(&mut self, slot: usize) {
            // Instructions lie in their code.
            let code = 0x1000 * (1 + self.below(3));
            let instruction = code + 2 * self.below(4);
            let layout = self.layout;
            *self.word(slot, layout.frame_code) = code;
            *self.word(slot, layout.frame_instruction) = instruction;
        }
    }

    /// What an event does; how many frames are what they were.
    ///
    /// # Safety
    /// The frames lie in `memory`.
    unsafe fn go_on(chain: &mut Chain, memory: &Memory, top: usize, place: Place, chunks: &Chunks) -> usize {
        // SAFETY: as the caller says.
        let is_done =
            unsafe { chain.compare(&memory.layout, top, place) || chain.refresh(&memory.layout, top, place, chunks) };
        assert!(is_done);
        let unchanged = chain.n_unchanged();
        chain.accept(chain.frames().len());
        unchanged
    }

    /// Refreshes, and compares with a walk and with what was there before.
    fn check(chain: &mut Chain, memory: &Memory, top: usize) {
        check_in(chain, memory, top, Place::NONE, &Chunks::new());
    }

    fn check_in(chain: &mut Chain, memory: &Memory, top: usize, place: Place, chunks: &Chunks) {
        let before = chain.frames().to_vec();
        // SAFETY: the frames lie in `memory`.
        let unchanged = unsafe { go_on(chain, memory, top, place, chunks) };
        // SAFETY: as above.
        let walked: Vec<_> = unsafe { walk::frames(&memory.layout, top) }.collect();
        let seen: Vec<_> = chain.frames().iter().rev().filter_map(|frame| frame.raw(&memory.layout)).collect();
        assert_eq!(seen, walked);
        assert!(unchanged <= chain.frames().len());
        assert_eq!(chain.frames().get(..unchanged), before.get(..unchanged));
    }

    #[test]
    fn whatever_happens_between_two_events_the_frames_are_those_of_a_walk() {
        let mut memory = Memory::new(40);
        let mut chain = Chain::new();
        let mut stack: Vec<usize> = Vec::new();
        for _ in 0..20_000 {
            match memory.below(8) {
                // Calls, into slots in order and out of order, as generators have them.
                0..3 => {
                    let slot = if memory.below(4) == 0 { memory.below(40) } else { stack.len() };
                    if slot < 40 && !stack.contains(&slot) {
                        memory.change(slot);
                        stack.push(slot);
                    }
                }
                3..5 => drop(stack.pop()),
                5 => stack.truncate(stack.len() / 2),
                // A frame goes on.
                6 => {
                    if let Some(&slot) = stack.last() {
                        memory.change(slot);
                    }
                }
                // Another stack of the thread: a greenlet's, or the same frames in another order.
                _ => {
                    let from = memory.below(stack.len() + 1);
                    stack[from..].reverse();
                }
            }
            let top = memory.link(&stack);
            check(&mut chain, &memory, top);
        }
    }

    #[test]
    fn a_frame_far_down_that_has_changed_is_noticed() {
        let mut memory = Memory::new(40);
        let mut chain = Chain::new();
        let stack: Vec<usize> = (0..40).collect();
        stack.iter().for_each(|&slot| memory.change(slot));
        let top = memory.link(&stack);
        check(&mut chain, &memory, top);
        // SAFETY: the frames lie in `memory`.
        let mut refresh = |memory: &Memory| unsafe { go_on(&mut chain, memory, top, Place::NONE, &Chunks::new()) };
        assert_eq!(refresh(&memory), 40);
        *memory.word(3, offsets::NONE.frame_instruction) += 2;
        assert_eq!(refresh(&memory), 3);
        check(&mut chain, &memory, top);
    }

    #[test]
    fn frames_in_older_chunks_are_not_looked_at_until_the_chunk_above_them_goes() {
        /// The first slot of the second chunk.
        const BORDER: usize = 20;
        let mut memory = Memory::new(40);
        // A chunk's first frame lies behind its head, which begins with the address of the chunk before.
        let second = memory.address(BORDER) - Place::NONE.first_frame();
        *memory.word(BORDER - 1, LEN * 8 - Place::NONE.first_frame()) = 4096;
        let (mut chain, mut chunks) = (Chain::new(), Chunks::new());
        let mut stack: Vec<usize> = Vec::new();
        let mut n_skipped = 0;
        for _ in 0..20_000 {
            match memory.below(8) {
                0..4 if stack.len() < 40 => {
                    memory.change(stack.len());
                    stack.push(stack.len());
                    if stack.len() == BORDER + 1 {
                        chunks.mapped(second);
                    }
                }
                4..7 => {
                    for _ in 0..memory.below(4) {
                        if stack.pop() == Some(BORDER) {
                            chunks.unmapped(second);
                            chain.forget_floor();
                        }
                    }
                }
                _ => {}
            }
            if let Some(&slot) = stack.last() {
                memory.change(slot);
            }
            let place = Place::in_chunk(if stack.len() > BORDER { second } else { 4096 });
            n_skipped += chain.floor.level;
            let top = memory.link(&stack);
            check_in(&mut chain, &memory, top, place, &chunks);
        }
        assert!(n_skipped > 20_000, "frames were looked at all the time: {n_skipped}");
    }

    #[test]
    fn a_chunk_that_nobody_was_seen_to_map_is_not_trusted() {
        let mut memory = Memory::new(4);
        let place = Place::in_chunk(memory.address(2) - Place::NONE.first_frame());
        let mut chain = Chain::new();
        let top = memory.link(&[0, 1, 2, 3]);
        check_in(&mut chain, &memory, top, place, &Chunks::new());
        memory.change(0);
        check_in(&mut chain, &memory, top, place, &Chunks::new());
    }
}
