//! Follows the chain of interpreter frames: bounded, without a call into the interpreter. The chain of a thread is only
//! changed by that thread, so it is stable at every event of its own, with or without the GIL.
//!
//! # Safety
//! Dangerous: reads the interpreter's memory at offsets of a table. We rely on the chain being whole whenever native
//! code runs on its thread: a frame is linked after it is filled, and unlinked before it is cleared.

use super::offsets::Layout;
use crate::heap::Array;
use crate::stacks::RawFrame;

/// Deeper stacks are cut off; Python's own limit is far below.
const MAX_DEPTH: usize = 1 << 24;

/// The frames of a thread state, leaf first: all that have code, also those that CPython calls incomplete. Their
/// number; 0 when there is no memory for them.
#[inline(always)]
pub fn frames(layout: &Layout, state: usize, frames: &mut Array<RawFrame>) -> usize {
    // SAFETY: see the module's note; the state is the running thread's.
    unsafe {
        let mut frame = top(layout, state);
        let mut depth = 0;
        while frame != 0 && depth < MAX_DEPTH {
            let owner = byte(frame + layout.frame_owner);
            if owner != layout.owner_c_stack {
                if depth >= frames.capacity() && !frames.grow(depth + 64) {
                    return 0;
                }
                let generator = if owner == layout.owner_generator { RawFrame::GENERATOR } else { 0 };
                let code = word(frame + layout.frame_code) as u64;
                let instruction = word(frame + layout.frame_instruction) as u64 | generator;
                frames.set(depth, RawFrame { code, instruction });
                depth += 1;
            }
            frame = word(frame + layout.frame_previous);
        }
        depth
    }
}

#[inline(always)]
unsafe fn top(layout: &Layout, state: usize) -> usize {
    // SAFETY: as in `frames`.
    unsafe {
        let first = word(state + layout.state_frame);
        match layout.c_frame_current {
            Some(_) if first == 0 => 0,
            Some(offset) => word(first + offset),
            None => first,
        }
    }
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
