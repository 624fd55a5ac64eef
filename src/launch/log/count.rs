//! How many events a log has, for the last line of `run`. Counting costs 5 ns an event, as much as recording does, so
//! of a large log only the beginning of each block is counted.

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
const COUNTED_LEN: u64 = 1 << 20;
/// …and behind them this part of each block.
const PART: usize = 8;

/// Allocations, frees and mappings in the blocks that pass by.
#[derive(Debug, Default)]
pub struct Counter {
    n_events: u64,
    counted_len: u64,
    /// Bytes of events that were not looked at.
    guessed_len: u64,
}

impl Counter {
    pub fn add(&mut self, block: &BlockHeader, payload: &[u8]) {
        if block.kind != block_kind::EVENTS {
            return;
        }
        let wanted = if self.counted_len < COUNTED_LEN { payload.len() } else { payload.len() / PART };
        let (n_events, len) = count_events(payload, block.first_turn, wanted);
        self.n_events += n_events;
        self.counted_len += len as u64;
        self.guessed_len += (payload.len() - len) as u64;
    }

    /// A block whose payload nobody has read.
    pub fn pass_over(&mut self, block: &BlockHeader) {
        if block.kind == block_kind::EVENTS {
            self.guessed_len += u64::from(block.committed);
        }
    }

    pub fn finish(&self) -> EventCount {
        let guessed = self.n_events as f64 / self.counted_len.max(1) as f64 * self.guessed_len as f64;
        EventCount { n_events: self.n_events + guessed as u64, is_estimate: self.guessed_len > 0 }
    }
}

/// The events up to the record that ends at or behind the byte `wanted`, and where that is.
fn count_events(payload: &[u8], first_turn: u64, wanted: usize) -> (u64, usize) {
    let mut deltas = Deltas::at_block_start(Turn::from_bits(first_turn));
    let mut decoder = Decoder::new(payload, &mut deltas);
    let mut n_events = 0;
    while decoder.offset() < wanted
        && let Ok(Some(record)) = decoder.next()
    {
        n_events += match record {
            Record::Alloc(_) | Record::Free(_) | Record::Mmap(_) | Record::Munmap(_) | Record::Mremap(_) => 1,
            _ => 0,
        };
    }
    (n_events, decoder.offset())
}
