//! The objects that were made and not destroyed: a set of addresses, each with its place in the order of making. Used by
//! the tracer of objects under its lock; nothing here looks at what is at an address.

use memtrace_format::answer::Survivor as Entry;

use crate::heap::{Array, Plain, spread};

// SAFETY: numbers.
unsafe impl Plain for Entry {}

/// Where there is no object.
const NOTHING: Entry = Entry { number: 0, address: 0 };
/// So many entries at least: a power of two, and a whole number of pages.
const FIRST_LEN: usize = 4096;

/// What was in a set.
pub struct Drained {
    entries: Array<Entry>,
    len: usize,
}

impl Drained {
    pub const NONE: Drained = Drained { entries: Array::new(), len: 0 };

    /// Leaves out those for which `keep` does not say so.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut Entry) -> bool) {
        let mut n_kept = 0;
        for at in 0..self.len {
            if let Some(mut entry) = self.entries.get(at)
                && keep(&mut entry)
            {
                self.entries.set(n_kept, entry);
                n_kept += 1;
            }
        }
        self.len = n_kept;
    }

    pub fn entries(&self) -> &[Entry] {
        self.entries.slice(self.len)
    }

    /// Gives the memory back.
    pub fn release(&mut self) {
        self.entries.release();
        self.len = 0;
    }
}

/// A table in which a key stands at its place or right behind those that have taken it; at most half of it is used.
pub struct Living {
    table: Array<Entry>,
    n_living: usize,
    n_made: u64,
}

impl Living {
    pub const fn new() -> Living {
        Living { table: Array::new(), n_living: 0, n_made: 0 }
    }

    /// `false` when the kernel gives no memory for it.
    pub fn insert(&mut self, address: u64) -> bool {
        if 2 * (self.n_living + 1) > self.table.capacity() && !self.grow() {
            return false;
        }
        self.n_made += 1;
        self.put(Entry { number: self.n_made, address });
        true
    }

    /// An address that is not in the set is of an older object.
    pub fn remove(&mut self, address: u64) {
        let Some(mut hole) = self.find(address) else {
            return;
        };
        if self.table.get(hole).is_none_or(|entry| entry == NOTHING) {
            return;
        }
        self.n_living -= 1;
        // What stands behind moves up, unless it would come before its place.
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask();
            let Some(entry) = self.table.get(at).filter(|entry| *entry != NOTHING) else {
                break;
            };
            let from_place = at.wrapping_sub(self.place(entry.address)) & self.mask();
            if from_place >= at.wrapping_sub(hole) & self.mask() {
                self.table.set(hole, entry);
                hole = at;
            }
        }
        self.table.set(hole, NOTHING);
    }

    /// Those that are living, in any order; the set begins anew.
    pub fn drain(&mut self) -> Drained {
        let entries = core::mem::replace(self, Living::new()).table;
        let mut drained = Drained { len: entries.capacity(), entries };
        drained.retain(|entry| *entry != NOTHING);
        drained
    }

    fn mask(&self) -> usize {
        self.table.capacity().wrapping_sub(1)
    }

    fn place(&self, address: u64) -> usize {
        // Objects lie at multiples of sixteen, or of eight.
        spread(address >> 3) & self.mask()
    }

    /// Where an address stands, or would.
    fn find(&self, address: u64) -> Option<usize> {
        let mut at = self.place(address);
        while !matches!(self.table.get(at)?.address, found if found == 0 || found == address) {
            at = (at + 1) & self.mask();
        }
        Some(at)
    }

    fn put(&mut self, entry: Entry) {
        if let Some(at) = self.find(entry.address)
            && let Some(place) = self.table.get_mut(at)
        {
            self.n_living += usize::from(*place == NOTHING);
            *place = entry;
        }
    }

    #[cold]
    fn grow(&mut self) -> bool {
        let Some(table) = Array::with_capacity(FIRST_LEN.max(2 * self.table.capacity())) else {
            return false;
        };
        let mut old = core::mem::replace(&mut self.table, table);
        self.n_living = 0;
        for entry in old.slice(old.capacity()).iter().filter(|entry| **entry != NOTHING) {
            self.put(*entry);
        }
        old.release();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in the set, in the order of making.
    fn drained(living: &mut Living) -> Vec<u64> {
        let mut drained = living.drain();
        let mut entries = drained.entries().to_vec();
        drained.release();
        entries.sort_by_key(|entry| entry.number);
        entries.iter().map(|entry| entry.address).collect()
    }

    #[test]
    fn what_was_destroyed_is_not_among_the_living() {
        let mut living = Living::new();
        living.remove(16);
        for address in [16, 32, 48, 64] {
            assert!(living.insert(address));
        }
        living.remove(32);
        living.remove(32);
        living.remove(1 << 40);
        assert_eq!(drained(&mut living), [16, 48, 64]);
    }

    #[test]
    fn an_address_that_comes_again_is_the_newer_object() {
        let mut living = Living::new();
        for address in [16, 32, 16] {
            living.insert(address);
        }
        assert_eq!(drained(&mut living), [32, 16]);
    }

    #[test]
    fn a_hundred_thousand_objects_that_come_and_go_are_those_of_a_plain_list() {
        let (mut living, mut expected) = (Living::new(), std::collections::BTreeMap::new());
        let mut random = 1u64;
        for number in 0..300_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Few enough places for many to be taken again, and close enough to meet in the table.
            let address = 0x7f00_0000_0000 + (random >> 33) % 100_000 * 16;
            if random >> 62 == 0 {
                living.remove(address);
                expected.remove(&address);
            } else {
                living.insert(address);
                expected.insert(address, number);
            }
        }
        let mut expected: Vec<(u64, u64)> = expected.into_iter().map(|(address, number)| (number, address)).collect();
        expected.sort();
        assert!(expected.len() > 50_000);
        assert_eq!(drained(&mut living), expected.iter().map(|(_, address)| *address).collect::<Vec<_>>());
        assert_eq!(drained(&mut living), []);
    }
}
