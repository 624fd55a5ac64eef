//! How many events a log has, for the last line of `run`. Counting costs 5 ns an event, as much as recording does, so
//! of a large log only a part of the blocks is counted.

use memtrace_format::decode::Decoder;
use memtrace_format::encode::Deltas;
use memtrace_format::turn::Turn;
use memtrace_format::{BlockHeader, Record, block_kind};

/// Events that were counted, or extrapolated from those that were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCount {
    pub n_events: u64,
    pub is_estimate: bool,
}

/// Bytes of events that are counted one by one…
const COUNTED_LEN: u64 = 8 << 20;
/// …and behind them the events of each block of so many.
const EVERY: u64 = 8;

/// Allocations, frees and mappings in the blocks that pass by.
#[derive(Debug, Default)]
pub struct Counter {
    n_counted: u64,
    counted_len: u64,
    n_blocks_behind: u64,
    len_behind: u64,
    n_sampled: u64,
    sampled_len: u64,
}

impl Counter {
    pub fn add(&mut self, block: &BlockHeader, payload: &[u8]) {
        if block.kind != block_kind::EVENTS {
            return;
        }
        let len = payload.len() as u64;
        if self.counted_len < COUNTED_LEN {
            self.n_counted += count_events(payload, block.first_turn);
            self.counted_len += len;
            return;
        }
        if self.n_blocks_behind.is_multiple_of(EVERY) {
            self.n_sampled += count_events(payload, block.first_turn);
            self.sampled_len += len;
        }
        self.n_blocks_behind += 1;
        self.len_behind += len;
    }

    /// A block whose payload nobody has read.
    pub fn pass_over(&mut self, block: &BlockHeader) {
        if block.kind == block_kind::EVENTS {
            self.len_behind += u64::from(block.committed);
        }
    }

    pub fn finish(&self) -> EventCount {
        let share = self.len_behind as f64 / self.sampled_len.max(1) as f64;
        EventCount {
            n_events: self.n_counted + (self.n_sampled as f64 * share) as u64,
            is_estimate: self.sampled_len < self.len_behind,
        }
    }
}

fn count_events(payload: &[u8], first_turn: u64) -> u64 {
    let mut deltas = Deltas::at_block_start(Turn::from_bits(first_turn));
    let mut decoder = Decoder::new(payload, &mut deltas);
    let mut n_events = 0;
    while let Ok(Some(record)) = decoder.next() {
        n_events += match record {
            Record::Alloc(_) | Record::Free(_) | Record::Mmap(_) | Record::Munmap(_) | Record::Mremap(_) => 1,
            _ => 0,
        };
    }
    n_events
}
