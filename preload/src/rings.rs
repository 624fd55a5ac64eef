//! The children of a node that came up before: each node has its own in a ring, in the order in which they came up first.
//! A program that does the same again meets them in the same order: the child that is looked for is mostly the last one
//! that was, or the one behind it, and lies near. Of nodes with many children, those that were too far away the last time
//! are also found by what leads to them. It spares the look-ups of code and of the node in the tree.

use crate::heap::{Array, Plain, spread};

/// What leads to a node from its parent.
pub trait Key: Plain + Eq {
    /// Differs between most keys.
    fn mixed(self) -> u64;
}

impl Key for u64 {
    #[inline(always)]
    fn mixed(self) -> u64 {
        self
    }
}

/// The nodes by number.
pub struct Rings<K: Key> {
    nodes: Array<Node<K>>,
    /// Children that were far away in their rings.
    far: Array<Far>,
    /// Whether the last one that was looked for may be.
    is_far: bool,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Far {
    parent: u32,
    child: u32,
}

// SAFETY: numbers.
unsafe impl Plain for Far {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Node<K> {
    key: K,
    /// The last child that was looked for, and the next one of the same parent; 0 when there is none.
    last_child: u32,
    sibling: u32,
}

// SAFETY: numbers.
unsafe impl<K: Plain> Plain for Node<K> {}

impl<K: Key> Rings<K> {
    /// How many children are looked at.
    const N_LOOKS: usize = 8;
    const N_FAR: usize = 1 << 12;

    pub const fn new() -> Rings<K> {
        Rings { nodes: Array::new(), far: Array::new(), is_far: false }
    }

    /// Forgets everything and gives the memory back.
    pub fn release(&mut self) {
        self.nodes.release();
        self.far.release();
    }

    /// The child of `parent` that `key` leads to, if it is near.
    #[inline(always)]
    pub fn find(&mut self, parent: u32, key: K) -> Option<u32> {
        let start = self.nodes.get(parent as usize)?.last_child;
        let mut child = start;
        for _ in 0..Rings::<K>::N_LOOKS {
            // The keys of a parent without children are those of the root, which nothing leads to.
            let node = self.nodes.get(child as usize)?;
            if node.key == key {
                if child != start {
                    self.nodes.get_mut(parent as usize)?.last_child = child;
                }
                return Some(child);
            }
            child = node.sibling;
            if child == start {
                return None;
            }
        }
        self.find_far(parent, key)
    }

    #[inline(never)]
    fn find_far(&mut self, parent: u32, key: K) -> Option<u32> {
        self.is_far = true;
        let far = self.far.get(place(parent, key))?;
        if far.parent != parent || self.nodes.get(far.child as usize)?.key != key {
            return None;
        }
        self.nodes.get_mut(parent as usize)?.last_child = far.child;
        Some(far.child)
    }

    /// Remembers that `key` leads from `parent` to `child`, which is never another parent's.
    pub fn keep(&mut self, parent: u32, key: K, child: u32) {
        if child == 0 || !self.nodes.grow(child.max(parent) as usize + 1) {
            return;
        }
        if core::mem::take(&mut self.is_far) && self.far.grow(Rings::<K>::N_FAR) {
            self.far.set(place(parent, key), Far { parent, child });
        }
        let last_child = self.nodes.get(parent as usize).map_or(0, |parent| parent.last_child);
        let behind_last = self.nodes.get(last_child as usize).map_or(0, |node| node.sibling);
        if let Some(node) = self.nodes.get_mut(child as usize) {
            let is_new = node.sibling == 0;
            if is_new {
                node.sibling = if last_child == 0 { child } else { behind_last };
            }
            node.key = key;
            if is_new && let Some(last) = self.nodes.get_mut(last_child as usize).filter(|_| last_child != 0) {
                last.sibling = child;
            }
        }
        if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.last_child = child;
        }
    }
}

#[inline(always)]
fn place<K: Key>(parent: u32, key: K) -> usize {
    spread(key.mixed() ^ u64::from(parent) << 32) % Rings::<K>::N_FAR
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_ring_holds_all_children_and_finds_those_that_come_again_in_order() {
        let mut rings = Rings::new();
        let mut known = HashMap::new();
        let (mut random, mut n_found) = (7u64, 0);
        for step in 0..20_000u64 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let parent = (step / 500 % 16) as u32;
            // Mostly one after the other.
            let key = 1 + if random >> 40 & 7 == 0 { random >> 50 & 63 } else { step % 6 };
            let n_known = known.len() as u32;
            let child = *known.entry((parent, key)).or_insert(16 + n_known);
            match rings.find(parent, key) {
                Some(found) => {
                    assert_eq!(found, child);
                    n_found += 1;
                }
                None => rings.keep(parent, key, child),
            }
            assert_eq!(rings.find(parent, key), Some(child));
        }
        // By the ring alone it would be half of that.
        assert!(n_found > 17_000, "{n_found} were found");
        for (parent, key) in known.keys() {
            let first = rings.nodes.get(*parent as usize).unwrap().last_child;
            let ring = std::iter::successors(Some(first), |&child| {
                Some(rings.nodes.get(child as usize).unwrap().sibling).filter(|&next| next != first)
            });
            let n_children = known.keys().filter(|(other, _)| other == parent).count();
            assert_eq!(ring.count(), n_children);
            assert_eq!(rings.find(*parent, key + 1000), None);
        }
    }

    #[test]
    fn a_child_that_something_else_leads_to_now_is_found_by_that_alone() {
        let mut rings = Rings::new();
        rings.keep(0, 7u64, 1);
        rings.keep(0, 8, 2);
        rings.keep(0, 9, 1);
        assert_eq!([7, 8, 9].map(|key| rings.find(0, key)), [None, Some(2), Some(1)]);
        rings.release();
        assert_eq!(rings.find(0, 8), None);
    }
}
