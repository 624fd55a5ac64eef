//! Words by address of code, shared by all threads without a lock: the last one to write a place wins.
//!
//! An entry is two words, and the first is the key mixed with the second: a pair that two threads have written half each
//! belongs to no key.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::heap::spread;

const N_PLACES: usize = 1 << 14;

pub struct Table([Entry; N_PLACES]);

struct Entry {
    key: AtomicU64,
    word: AtomicU64,
}

impl Table {
    pub const fn new() -> Table {
        Table([const { Entry { key: AtomicU64::new(0), word: AtomicU64::new(0) } }; N_PLACES])
    }

    /// The word of a key, which is not 0.
    #[inline(always)]
    pub fn get(&self, key: u64) -> Option<u64> {
        let entry = self.entry(key);
        let word = entry.word.load(Ordering::Relaxed);
        (entry.key.load(Ordering::Relaxed) ^ word == key).then_some(word)
    }

    pub fn set(&self, key: u64, word: u64) {
        let entry = self.entry(key);
        entry.word.store(word, Ordering::Relaxed);
        entry.key.store(key ^ word, Ordering::Relaxed);
    }

    pub fn clear(&self) {
        for entry in &self.0 {
            entry.key.store(0, Ordering::Relaxed);
            entry.word.store(0, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn entry(&self, key: u64) -> &Entry {
        &self.0[spread(key) & (N_PLACES - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_that_of_its_key_or_none() {
        static TABLE: Table = Table::new();
        for key in 1..100_000 {
            TABLE.set(key << 4, key);
        }
        let found: Vec<u64> = (1..100_000).filter_map(|key| TABLE.get(key << 4).map(|word| word - key)).collect();
        assert!(found.len() > N_PLACES / 2 && found.iter().all(|difference| *difference == 0), "{}", found.len());
        TABLE.clear();
        assert!((1..100_000).all(|key| TABLE.get(key << 4).is_none()));
    }
}
