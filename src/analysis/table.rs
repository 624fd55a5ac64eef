//! Live blocks by address, in as little memory as they need: a program has tens of millions of them, and nearly every
//! event looks one up.
//!
//! Three blocks share a line of the processor's cache, so that a look-up waits for memory once. An address belongs to the
//! line that a hash with a secret says, so no log can choose addresses that collide; when that is full, it goes to the
//! next one that is not, and each line counts who has passed it: where nobody has, a search ends. What is taken out
//! leaves nothing behind, so nothing slows down with the number of events. The table is cut into shards that grow one at
//! a time: of a large one there are never two copies. A line has 32 bits for a size; what does not fit is kept aside.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashMap;

use super::live::Holding;
use super::prefetch::prefetch;

pub struct Table<T> {
    shards: Box<[Shard<T>; N_SHARDS]>,
    /// What does not fit into a slot.
    odd: HashMap<u64, Holding<T>>,
    secret: u64,
}

struct Shard<T> {
    /// At least a third of the slots is free.
    lines: Vec<Line<T>>,
    n_used: usize,
}

/// 64 bytes with tags of up to 8.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line<T> {
    addresses: [u64; N_SLOTS],
    tags: [T; N_SLOTS],
    bytes: [u32; N_SLOTS],
    /// Blocks that stand further on, although this line or one before it is theirs.
    n_passed: u32,
}

const N_SLOTS: usize = 3;
const SHARD_BITS: u32 = 6;
const N_SHARDS: usize = 1 << SHARD_BITS;
const FIRST_LEN: usize = 4;
/// The address of a free slot. A block there, in a damaged log, is odd.
const FREE: u64 = u64::MAX;
/// From so many lines in a shard on, all of them are more than the processor's caches have.
const LARGE_SHARD: usize = 128;

impl<T: Copy> Table<T> {
    pub fn new() -> Table<T> {
        let shards = Box::new(std::array::from_fn(|_| Shard { lines: Vec::new(), n_used: 0 }));
        Table { shards, odd: HashMap::new(), secret: RandomState::new().hash_one(0u64) }
    }

    /// Puts a block there; the one that was there before.
    #[inline]
    pub fn insert(&mut self, address: u64, holding: Holding<T>) -> Option<Holding<T>> {
        let bytes = u32::try_from(holding.bytes).ok().filter(|_| address != FREE);
        let Some(bytes) = bytes else { return self.insert_odd(address, holding) };
        let before = if self.odd.is_empty() { None } else { self.odd.remove(&address) };
        let hash = hash(self.secret, address);
        let shard = &mut self.shards[hash.shard()];
        if shard.n_used >= 2 * shard.lines.len() {
            shard.grow(self.secret, holding.tag);
        }
        before.or(shard.insert(hash, address, bytes, holding.tag))
    }

    #[inline]
    pub fn remove(&mut self, address: u64) -> Option<Holding<T>> {
        let hash = hash(self.secret, address);
        let found = self.shards[hash.shard()].remove(hash, address);
        if found.is_some() || self.odd.is_empty() { found } else { self.odd.remove(&address) }
    }

    /// Whether it pays to [`prefetch`](Table::prefetch).
    pub fn is_large(&self) -> bool {
        self.shards[0].lines.len() >= LARGE_SHARD
    }

    /// Has the processor fetch the line of an address, which is needed soon.
    #[inline]
    pub fn prefetch(&self, address: u64) {
        let hash = hash(self.secret, address);
        let lines = &self.shards[hash.shard()].lines;
        if let Some(line) = lines.get(hash.line(lines.len())) {
            prefetch(line);
        }
    }

    pub fn for_each(&self, take: &mut impl FnMut(&Holding<T>)) {
        for line in self.shards.iter().flat_map(|shard| &shard.lines) {
            line.used().for_each(|slot| take(&line.holding(slot)));
        }
        self.odd.values().for_each(take);
    }

    pub fn retag(&mut self, new: &mut impl FnMut(T) -> T) {
        for line in self.shards.iter_mut().flat_map(|shard| &mut shard.lines) {
            let Line { addresses, tags, .. } = line;
            let used = addresses.iter().zip(tags).filter(|(address, _)| **address != FREE);
            used.for_each(|(_, tag)| *tag = new(*tag));
        }
        self.odd.values_mut().for_each(|holding| holding.tag = new(holding.tag));
    }

    #[cold]
    fn insert_odd(&mut self, address: u64, holding: Holding<T>) -> Option<Holding<T>> {
        let before = self.remove(address);
        self.odd.insert(address, holding);
        before
    }
}

/// The upper half says the shard, the lower one the line in it.
#[derive(Clone, Copy)]
struct Hash(u64);

#[inline(always)]
fn hash(secret: u64, address: u64) -> Hash {
    let product = u128::from(address ^ secret) * 0x9e37_79b9_7f4a_7c15;
    Hash(product as u64 ^ (product >> 64) as u64)
}

impl Hash {
    #[inline(always)]
    fn shard(self) -> usize {
        (self.0 >> (64 - SHARD_BITS)) as usize
    }

    /// Among so many lines, which need not be a power of two.
    #[inline(always)]
    fn line(self, n_lines: usize) -> usize {
        (((self.0 & 0xffff_ffff) * n_lines as u64) >> 32) as usize
    }
}

impl<T: Copy> Line<T> {
    /// Where an address stands, or where the first free slot is.
    #[inline(always)]
    fn find(&self, address: u64) -> Option<usize> {
        // Without a branch for each slot: which one it is can't be predicted.
        let found = (0..N_SLOTS).fold(0u32, |found, slot| found | u32::from(self.addresses[slot] == address) << slot);
        (found != 0).then(|| found.trailing_zeros() as usize % N_SLOTS)
    }

    #[inline(always)]
    fn put(&mut self, slot: usize, address: u64, bytes: u32, tag: T) {
        (self.addresses[slot], self.bytes[slot], self.tags[slot]) = (address, bytes, tag);
    }

    #[inline(always)]
    fn holding(&self, slot: usize) -> Holding<T> {
        Holding { bytes: self.bytes[slot].into(), tag: self.tags[slot] }
    }

    fn used(&self) -> impl Iterator<Item = usize> + '_ {
        (0..N_SLOTS).filter(|&slot| self.addresses[slot] != FREE)
    }
}

impl<T: Copy> Shard<T> {
    /// There is a free slot.
    #[inline]
    fn insert(&mut self, hash: Hash, address: u64, bytes: u32, tag: T) -> Option<Holding<T>> {
        let first = hash.line(self.lines.len());
        let line = &mut self.lines[first];
        match line.find(FREE) {
            Some(slot) if line.n_passed == 0 && line.find(address).is_none() => {
                line.put(slot, address, bytes, tag);
                self.n_used += 1;
                None
            }
            _ => self.insert_anywhere(first, address, bytes, tag),
        }
    }

    #[inline(never)]
    fn insert_anywhere(&mut self, first: usize, address: u64, bytes: u32, tag: T) -> Option<Holding<T>> {
        let mut at = first;
        loop {
            let line = &mut self.lines[at];
            if let Some(slot) = line.find(address) {
                let before = line.holding(slot);
                line.put(slot, address, bytes, tag);
                return Some(before);
            }
            if line.n_passed == 0 {
                break;
            }
            at = self.next(at);
        }
        at = first;
        loop {
            let line = &mut self.lines[at];
            if let Some(slot) = line.find(FREE) {
                line.put(slot, address, bytes, tag);
                self.n_used += 1;
                return None;
            }
            line.n_passed += 1;
            at = self.next(at);
        }
    }

    #[inline]
    fn remove(&mut self, hash: Hash, address: u64) -> Option<Holding<T>> {
        let first = hash.line(self.lines.len());
        let mut at = first;
        let found = loop {
            let line = self.lines.get_mut(at)?;
            if let Some(slot) = line.find(address).filter(|_| address != FREE) {
                line.addresses[slot] = FREE;
                self.n_used -= 1;
                break line.holding(slot);
            }
            if line.n_passed == 0 {
                return None;
            }
            at = self.next(at);
        };
        let mut passed = first;
        while passed != at {
            self.lines[passed].n_passed -= 1;
            passed = self.next(passed);
        }
        Some(found)
    }

    #[inline(always)]
    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }

    /// `tag` fills the slots that are free.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, secret: u64, tag: T) {
        let len = (self.lines.len() + self.lines.len() / 2).max(FIRST_LEN);
        let free = Line { addresses: [FREE; N_SLOTS], tags: [tag; N_SLOTS], bytes: [0; N_SLOTS], n_passed: 0 };
        let old = std::mem::replace(&mut self.lines, vec![free; len]);
        self.n_used = 0;
        for line in old {
            for slot in line.used() {
                let address = line.addresses[slot];
                self.insert(hash(secret, address), address, line.bytes[slot], line.tags[slot]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u64),
        Remove(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let addresses = || prop_oneof![8 => (0..3000u64).prop_map(|n| n * 16), 1 => any::<u64>(), 1 => Just(FREE)];
        let sizes = prop_oneof![4 => 0..1000u64, 1 => Just(u64::from(u32::MAX)), 1 => any::<u64>()];
        let step = prop_oneof![
            3 => (addresses(), sizes).prop_map(|(address, bytes)| Step::Insert(address, bytes)),
            2 => addresses().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..4000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_holds_what_a_plain_map_holds(steps in steps(), secret: u64) {
            let mut table = Table { secret, ..Table::new() };
            let mut plain = std::collections::BTreeMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(address, bytes) => {
                        let holding = Holding { bytes, tag: number };
                        prop_assert_eq!(table.insert(address, holding), plain.insert(address, holding));
                    }
                    Step::Remove(address) => prop_assert_eq!(table.remove(address), plain.remove(&address)),
                }
            }
            table.retag(&mut |tag| tag + 1);
            let mut found = Vec::new();
            table.for_each(&mut |holding| found.push((holding.tag, holding.bytes)));
            found.sort_unstable();
            let mut expected: Vec<_> = plain.values().map(|holding| (holding.tag + 1, holding.bytes)).collect();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_block_takes_few_bytes() {
        let mut table = Table::new();
        for number in 0..1_000_000u64 {
            table.insert(number * 32, Holding { bytes: 32, tag: 7u32 });
        }
        let bytes: usize = table.shards.iter().map(|shard| shard.lines.capacity() * size_of::<Line<u32>>()).sum();
        assert!(bytes <= 48 * 1_000_000, "{bytes} bytes");
    }
}
