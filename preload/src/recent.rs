//! Nodes that came up lately, by parent and by what leads to them: a small table without collisions, whose later entry
//! wins. It spares the look-ups of code and of the node in the tree.

use crate::heap::{Array, Plain, spread};

const N_PLACES: usize = 1 << 12;

pub struct Recent {
    places: Array<Place>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Place {
    what: u64,
    parent: u32,
    child: u32,
}

// SAFETY: numbers.
unsafe impl Plain for Place {}

impl Recent {
    pub const fn new() -> Recent {
        Recent { places: Array::new() }
    }

    /// The node that `what` leads to from `parent`, if it came up lately.
    #[inline(always)]
    pub fn find(&self, parent: u32, what: u64) -> Option<u32> {
        let place = self.places.get(index(parent, what))?;
        (place.what == what && place.parent == parent && place.child != 0).then_some(place.child)
    }

    pub fn keep(&mut self, parent: u32, what: u64, child: u32) {
        if self.places.grow(N_PLACES) {
            self.places.set(index(parent, what), Place { what, parent, child });
        }
    }

    pub fn forget(&mut self) {
        self.places.release();
    }
}

#[inline(always)]
fn index(parent: u32, what: u64) -> usize {
    spread(what ^ u64::from(parent).rotate_left(40)) & (N_PLACES - 1)
}
