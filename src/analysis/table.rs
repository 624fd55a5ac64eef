//! Live blocks by address, in as little memory as they need: a program has tens of millions of them, and nearly every
//! event looks one up.
//!
//! A slot has 32 bits for the size and stands in an array without pointers; what does not fit there is kept aside. The
//! place of an address is a hash with a secret, so no log can choose addresses that collide. Next to an occupied place
//! comes the next one, and what is taken out is closed up, so nothing slows down with the number of events. The table
//! is cut into shards that grow one at a time: of a large one there are never two copies.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashMap;

use super::live::Holding;

pub struct Table<T> {
    shards: Box<[Shard<T>; N_SHARDS]>,
    /// What does not fit into a slot.
    odd: HashMap<u64, Holding<T>>,
    secret: u64,
}

struct Shard<T> {
    /// None, or a power of two of which at least a quarter is free.
    slots: Vec<Slot<T>>,
    n_used: usize,
}

#[derive(Clone, Copy)]
struct Slot<T> {
    address: u64,
    bytes: u32,
    tag: T,
}

const SHARD_BITS: u32 = 6;
const N_SHARDS: usize = 1 << SHARD_BITS;
const FIRST_LEN: usize = 16;
/// The address of a free slot. A block there, in a damaged log, is odd.
const FREE: u64 = u64::MAX;
/// From so many slots in a shard on, all of them are more than the processor's caches have.
const LARGE_SHARD: usize = 512;

impl<T: Copy> Table<T> {
    pub fn new() -> Table<T> {
        let shards = Box::new(std::array::from_fn(|_| Shard { slots: Vec::new(), n_used: 0 }));
        Table { shards, odd: HashMap::new(), secret: RandomState::new().hash_one(0u64) }
    }

    /// Puts a block there; the one that was there before.
    #[inline]
    pub fn insert(&mut self, address: u64, holding: Holding<T>) -> Option<Holding<T>> {
        let bytes = u32::try_from(holding.bytes).ok().filter(|_| address != FREE);
        let Some(bytes) = bytes else { return self.insert_odd(address, holding) };
        let before = if self.odd.is_empty() { None } else { self.odd.remove(&address) };
        let secret = self.secret;
        let hash = hash(secret, address);
        let slot = Slot { address, bytes, tag: holding.tag };
        let replaced = self.shards[hash.shard()].insert(secret, hash, slot);
        before.or(replaced.map(Slot::holding))
    }

    #[inline]
    pub fn remove(&mut self, address: u64) -> Option<Holding<T>> {
        let secret = self.secret;
        let hash = hash(secret, address);
        let found = self.shards[hash.shard()].remove(secret, hash, address).map(Slot::holding);
        if found.is_some() || self.odd.is_empty() { found } else { self.odd.remove(&address) }
    }

    /// Whether it pays to [`touch`](Table::touch) addresses before they are needed.
    pub fn is_large(&self) -> bool {
        self.shards[0].slots.len() >= LARGE_SHARD
    }

    /// Has the processor fetch the place of an address. One look-up waits for memory; many that don't wait for each
    /// other take hardly longer. The value means nothing, but has to be used.
    #[inline]
    pub fn touch(&self, address: u64) -> u64 {
        let hash = hash(self.secret, address);
        let slots = &self.shards[hash.shard()].slots;
        slots.get(hash.place(slots.len())).map_or(0, |slot| slot.address)
    }

    pub fn for_each(&self, take: &mut impl FnMut(&Holding<T>)) {
        let used = self.shards.iter().flat_map(|shard| &shard.slots).filter(|slot| slot.address != FREE);
        used.for_each(|slot| take(&slot.holding()));
        self.odd.values().for_each(take);
    }

    pub fn retag(&mut self, new: &mut impl FnMut(T) -> T) {
        let used = self.shards.iter_mut().flat_map(|shard| &mut shard.slots).filter(|slot| slot.address != FREE);
        used.for_each(|slot| slot.tag = new(slot.tag));
        self.odd.values_mut().for_each(|holding| holding.tag = new(holding.tag));
    }

    #[cold]
    fn insert_odd(&mut self, address: u64, holding: Holding<T>) -> Option<Holding<T>> {
        let before = self.remove(address);
        self.odd.insert(address, holding);
        before
    }
}

/// The upper bits say the shard, those below them the place in it.
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

    /// Among so many places.
    #[inline(always)]
    fn place(self, n_places: usize) -> usize {
        self.0 as usize & n_places.wrapping_sub(1)
    }
}

impl<T: Copy> Slot<T> {
    #[inline(always)]
    fn holding(self) -> Holding<T> {
        Holding { bytes: self.bytes.into(), tag: self.tag }
    }
}

impl<T: Copy> Shard<T> {
    #[inline]
    fn insert(&mut self, secret: u64, hash: Hash, slot: Slot<T>) -> Option<Slot<T>> {
        if (self.n_used + 1) * 4 > self.slots.len() * 3 {
            self.grow(secret, slot);
        }
        let mask = self.slots.len() - 1;
        let mut place = hash.place(self.slots.len());
        loop {
            let found = &mut self.slots[place];
            if found.address == FREE {
                *found = slot;
                self.n_used += 1;
                return None;
            }
            if found.address == slot.address {
                return Some(std::mem::replace(found, slot));
            }
            place = (place + 1) & mask;
        }
    }

    #[inline]
    fn remove(&mut self, secret: u64, hash: Hash, address: u64) -> Option<Slot<T>> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut place = hash.place(self.slots.len());
        loop {
            let found = *self.slots.get(place)?;
            if found.address == address && address != FREE {
                self.close_up(secret, place, mask);
                self.n_used -= 1;
                return Some(found);
            }
            if found.address == FREE {
                return None;
            }
            place = (place + 1) & mask;
        }
    }

    /// Frees a place, and moves what follows it nearer to where it belongs.
    #[inline]
    fn close_up(&mut self, secret: u64, mut free: usize, mask: usize) {
        let n_places = self.slots.len();
        let mut place = free;
        loop {
            place = (place + 1) & mask;
            let slot = self.slots[place];
            if slot.address == FREE {
                self.slots[free].address = FREE;
                return;
            }
            let wanted = hash(secret, slot.address).place(n_places);
            if (place.wrapping_sub(wanted) & mask) >= (place.wrapping_sub(free) & mask) {
                self.slots[free] = slot;
                free = place;
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, secret: u64, like: Slot<T>) {
        let len = (self.slots.len() * 2).max(FIRST_LEN);
        let free = Slot { address: FREE, ..like };
        let old = std::mem::replace(&mut self.slots, vec![free; len]);
        for slot in old.into_iter().filter(|slot| slot.address != FREE) {
            let mut place = hash(secret, slot.address).place(len);
            while self.slots[place].address != FREE {
                place = (place + 1) & (len - 1);
            }
            self.slots[place] = slot;
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
        let bytes: usize = table.shards.iter().map(|shard| shard.slots.capacity() * size_of::<Slot<u32>>()).sum();
        assert!(bytes <= 48 * 1_000_000, "{bytes} bytes");
    }
}
