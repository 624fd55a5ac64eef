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

    #[inline(always)]
    fn entry(&self, key: u64) -> &Entry {
        &self.0[spread(key) & (N_PLACES - 1)]
    }
}
