//! Which chunk of the interpreter's data stack a thread is in, and whether it is still the same one. From 3.11 on frames
//! lie in chunks that the interpreter maps one by one; the first frame of a chunk is the last to go, and the chunk is
//! unmapped with it (`push_chunk` and `_PyThreadState_PopFrame` in `Python/pystate.c`).
//!
//! So as long as the chunk was not unmapped, its first frame is the same call. And what is below that call in the chain
//! is suspended in it: those frames can't have run, and need not be looked at. That bounds the cost of a deep stack by the
//! frames of one chunk, some hundred.
//!
//! It must not be believed of a chunk that we did not see being mapped (a replaced arena allocator may take chunks from
//! elsewhere and give them back unseen), nor while a trace function runs, which may set the line of a frame below it.
//!
//! # Safety
//! Dangerous: reads the head of a chunk, while the thread is in it.

use super::walk::word;

/// The last mappings that a thread made.
pub struct Chunks {
    mapped: [usize; 8],
    n_mapped: usize,
}

/// Where the thread's frames are being put.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

impl Place {
    /// Nothing can be told from it.
    pub const NONE: Place = Place(0);
    /// No chunk is there.
    pub const NOWHERE: Place = Place(usize::MAX);

    /// In the chunk at this address.
    #[inline(always)]
    pub const fn in_chunk(address: usize) -> Place {
        Place(address)
    }

    /// The address of the chunk's first frame.
    pub fn first_frame(self) -> usize {
        /// `offsetof(_PyStackChunk, data)` in 3.11 to 3.14.
        const DATA: usize = 24;
        self.0.wrapping_add(DATA)
    }

    /// Whether it is the thread's first chunk, which has no frames below it.
    ///
    /// # Safety
    /// The running thread is at this place.
    pub unsafe fn is_in_first_chunk(self) -> bool {
        // SAFETY: the chunk is in use; it begins with the address of the one before it.
        self != Place::NONE && unsafe { word(self.0) } == 0
    }
}

impl Chunks {
    pub const fn new() -> Chunks {
        Chunks { mapped: [0; 8], n_mapped: 0 }
    }

    /// The thread has made a mapping.
    pub fn mapped(&mut self, address: usize) {
        if let Some(place) = self.mapped.get_mut(self.n_mapped % 8) {
            *place = address;
        }
        self.n_mapped = self.n_mapped.wrapping_add(1);
    }

    /// The thread gives a mapping up.
    pub fn unmapped(&mut self, address: usize) {
        self.mapped.iter_mut().filter(|mapped| **mapped == address).for_each(|mapped| *mapped = 0);
    }

    /// Whether the thread was seen to map the chunk.
    pub fn has_mapped(&self, place: Place) -> bool {
        place != Place::NONE && self.mapped.contains(&place.0)
    }
}
