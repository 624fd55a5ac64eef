//! How many events a block has whose writer did not say so, because it never went on to another block.

use memtrace_format::decode::Decoder;
use memtrace_format::encode::Deltas;
use memtrace_format::turn::Turn;
use memtrace_format::{BlockHeader, block_kind};

/// The allocations, frees and mappings in the payload of a block of events, as far as it can be read.
pub fn events(block: &BlockHeader, payload: &[u8]) -> u32 {
    if block.kind != block_kind::EVENTS {
        return 0;
    }
    events_from(Turn::from_bits(block.first_turn), block.first_node, payload)
}

/// The same, of a payload that begins like this.
pub fn events_from(first_turn: Turn, first_node: u32, payload: &[u8]) -> u32 {
    let mut deltas = Deltas::at_block_start(first_turn, first_node);
    let mut decoder = Decoder::new(payload, &mut deltas);
    let mut n_events = 0;
    while let Ok(Some(record)) = decoder.next() {
        n_events += u32::from(record.is_counted());
    }
    n_events
}
