//! Reads one interpreter frame, and follows the chain of them from the top: bounded, without a call into the interpreter.
//! The chain of a thread is only changed by that thread, so it is stable at every event of its own, with or without the
//! GIL.
//!
//! # Safety
//! Dangerous: reads the interpreter's memory at offsets of a table. We rely on the chain being whole whenever native
//! code runs on its thread: a frame is linked after it is filled, and unlinked before it is cleared.

use super::offsets::Layout;
use crate::heap::Plain;
use crate::stacks::RawFrame;

/// Deeper stacks are cut off; Python's own limit is far below.
pub const MAX_DEPTH: usize = 1 << 24;

/// A frame as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    pub address: usize,
    pub previous: usize,
    pub code: u64,
    pub instruction: u64,
    pub owner: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Frame {}

impl Frame {
    /// # Safety
    /// A frame of the running thread lies at `address`.
    #[inline(always)]
    pub unsafe fn read(layout: &Layout, address: usize) -> Frame {
        // SAFETY: as the caller says.
        unsafe {
            Frame {
                address,
                previous: word(address + layout.frame_previous),
                code: word(address + layout.frame_code) as u64,
                instruction: word(address + layout.frame_instruction) as u64,
                owner: byte(address + layout.frame_owner) as u64,
            }
        }
    }

    /// # Safety
    /// As for [`Frame::read`], with the frame's own address.
    // Not inlined: what compares frames in a loop keeps its registers.
    #[inline(never)]
    pub unsafe fn read_again(&mut self, layout: &Layout) {
        // SAFETY: as the caller says.
        *self = unsafe { Frame::read(layout, self.address) };
    }

    /// Whether the frame is as it was.
    ///
    /// # Safety
    /// As for [`Frame::read`], with the frame's own address.
    #[inline(always)]
    pub unsafe fn is_unchanged<const WITH_CODE: bool>(&self, layout: &Layout) -> bool {
        // SAFETY: as the caller says.
        unsafe { self.is_linked_as_before(layout) && self.runs_as_before::<WITH_CODE>(layout) }
    }

    /// Whether it is the same frame as before, and where it was.
    ///
    /// Who owns it can't have changed: a frame never moves, and one that a generator owns does not lie where the thread's
    /// own ones do. Nor can its code, when the instruction is an address: instructions lie in their code object, or in a
    /// copy that belongs to one. When it is counted from the start of the code, `WITH_CODE` says that code is compared too.
    ///
    /// # Safety
    /// As for [`Frame::is_unchanged`].
    #[inline(always)]
    pub unsafe fn runs_as_before<const WITH_CODE: bool>(&self, layout: &Layout) -> bool {
        // SAFETY: as the caller says.
        unsafe {
            word(self.address + layout.frame_instruction) == self.instruction as usize
                && (!WITH_CODE || word(self.address + layout.frame_code) == self.code as usize)
        }
    }

    /// Whether the frame below is the one that it was.
    ///
    /// # Safety
    /// As for [`Frame::is_unchanged`].
    #[inline(always)]
    pub unsafe fn is_linked_as_before(&self, layout: &Layout) -> bool {
        // SAFETY: as the caller says.
        unsafe { word(self.address + layout.frame_previous) == self.previous }
    }

    /// Whether C code entered the interpreter here. Up to 3.10 each call does; later those of Python functions don't.
    #[inline(always)]
    pub fn is_entry(&self, layout: &Layout) -> bool {
        match layout.frame_is_entry {
            // SAFETY: the frame is on its thread's stack now.
            Some(offset) => unsafe { byte(self.address + offset) != 0 },
            None => layout.instruction_unit.is_some() || self.raw(layout).is_none(),
        }
    }

    /// What the log says of it; `None` for an entry frame of the interpreter, which has no code.
    #[inline(always)]
    pub fn raw(&self, layout: &Layout) -> Option<RawFrame> {
        let generator = if self.owner == layout.owner_generator as u64 { RawFrame::GENERATOR } else { 0 };
        let is_shown = self.owner < layout.owner_without_code as u64;
        is_shown.then_some(RawFrame { code: self.code, instruction: self.instruction | generator })
    }
}

/// The frame on top of a thread state; 0 when it runs no Python.
///
/// # Safety
/// `state` is the running thread's state.
#[inline(always)]
pub unsafe fn top(layout: &Layout, state: usize) -> usize {
    // SAFETY: as the caller says.
    unsafe {
        let first = word(state + layout.state_frame);
        match layout.c_frame_current {
            Some(_) if first == 0 => 0,
            Some(offset) => word(first + offset),
            None => first,
        }
    }
}

/// The frames from the top on, leaf first: all that have code, also those that CPython calls incomplete. The slow twin of
/// `chain`, for the self-check.
///
/// # Safety
/// `top` is 0 or a frame of the running thread, which stays as it is while the frames are taken.
pub unsafe fn frames(layout: &Layout, top: usize) -> impl Iterator<Item = RawFrame> {
    // SAFETY: the chain is whole.
    let read = move |address| (address != 0).then(|| unsafe { Frame::read(layout, address) });
    core::iter::successors(read(top), move |frame| read(frame.previous)).take(MAX_DEPTH).filter_map(|it| it.raw(layout))
}

/// # Safety
/// A word lies at `address`.
#[inline(always)]
pub unsafe fn word(address: usize) -> usize {
    // SAFETY: as the caller says.
    unsafe { *(address as *const usize) }
}

/// # Safety
/// A byte lies at `address`.
#[inline(always)]
unsafe fn byte(address: usize) -> u8 {
    // SAFETY: as the caller says.
    unsafe { *(address as *const u8) }
}
