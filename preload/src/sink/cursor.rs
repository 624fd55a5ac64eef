//! Where a writer's next record goes, as pointers: what an event costs is a comparison of two of them, and a store.
//!
//! # Safety
//! Dangerous: the pointers lead into the writer's window and to the log's first page. The writer makes a cursor of the
//! window that it keeps, and drops it before the window; the first page stays mapped.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use memtrace_format::encode::HOT_ROOM;
use memtrace_format::{BLOCK_HEADER_LEN, BlockHeader};

use super::file::{LogHeader, Window};
use super::shared_u32;

pub struct Cursor {
    next: *mut u8,
    /// The last place with room for a hot record; in front of `next` when there is none.
    last: *mut u8,
    /// Where the block starts.
    block: *mut u8,
    turn: *const AtomicU64,
}

impl Cursor {
    /// In no window: at the end of an empty block.
    pub const NOWHERE: Cursor = Cursor {
        next: core::ptr::without_provenance_mut(BLOCK_HEADER_LEN),
        last: core::ptr::without_provenance_mut(BLOCK_HEADER_LEN - HOT_ROOM),
        block: core::ptr::null_mut(),
        turn: core::ptr::null(),
    };

    /// At the start of an empty window's payload.
    pub fn of(window: &mut Window, log: &LogHeader) -> Cursor {
        let block = window.start();
        let payload = window.payload();
        let last = payload.len().saturating_sub(HOT_ROOM);
        let next = payload.as_mut_ptr();
        Cursor { next, last: next.wrapping_add(last), block, turn: log.turn() }
    }

    /// The word that says whose turn it is; `None` in no window.
    #[inline(always)]
    pub fn turn(&self) -> Option<&AtomicU64> {
        // SAFETY: null, or in the first page of the window's log.
        unsafe { self.turn.as_ref() }
    }

    /// The word that says whose turn it is, when there is room for a hot record.
    #[inline(always)]
    pub fn hot_turn(&self) -> Option<&AtomicU64> {
        // SAFETY: there is a window, and so a first page.
        if self.next > self.last { None } else { Some(unsafe { &*self.turn }) }
    }

    /// Room for a hot record.
    ///
    /// # Safety
    /// [`Cursor::hot_turn`] has just said that there is.
    #[inline(always)]
    pub unsafe fn hot_room(&mut self) -> &mut [u8; HOT_ROOM] {
        // SAFETY: up to `last` there is a window, with that much room.
        unsafe { &mut *self.next.cast() }
    }

    /// All the room there is.
    pub fn room(&mut self) -> &mut [u8] {
        let end = self.last.wrapping_add(HOT_ROOM);
        // SAFETY: `next` never passes the end of the payload.
        unsafe { core::slice::from_raw_parts_mut(self.next, end.addr() - self.next.addr()) }
    }

    /// Bytes of payload that are whole.
    #[inline(always)]
    pub fn committed(&self) -> usize {
        self.next.addr() - self.block.addr() - BLOCK_HEADER_LEN
    }

    /// Makes `len` bytes, which were written to the room, part of the log.
    #[inline(always)]
    pub fn commit(&mut self, len: usize) {
        self.next = self.next.wrapping_add(len);
        let committed = self.committed();
        // SAFETY: something was written, so there is a block; the field is changed by atomics only.
        let place = unsafe { shared_u32(self.block.add(offset_of!(BlockHeader, committed))) };
        place.store(committed as u32, Ordering::Release);
    }
}
