//! A range of time without the rest: which blocks it takes.
//!
//! Block headers are the index. A block ends where the next one of its lane begins, in turns and in stack nodes; so they
//! say whether it lies in front of the range, and whether anything in it is needed later. A block in front of the range
//! that brings new stacks, or another thread, is decoded and its events are dropped. After a program has warmed up,
//! hardly any block does.

use std::ops::Range;

use super::blocks::Block;

/// The blocks, as a scan orders them, that are needed for these turns.
pub fn within(blocks: &[Block], turns: &Range<u64>) -> Vec<Block> {
    let mut needed = Vec::new();
    for lane in blocks.chunk_by(Block::is_of_same_lane) {
        let mut n_left_out = 0;
        for (index, block) in lane.iter().enumerate() {
            if block.first_turn.number >= turns.end {
                break;
            }
            // The first block says whose lane it is.
            let next = lane.get(index + 1).filter(|_| index > 0);
            if next.is_some_and(|next| is_left_out(block, next, turns)) {
                n_left_out += 1;
                continue;
            }
            needed.push(Block { n_left_out, ..*block });
            n_left_out = 0;
        }
    }
    needed
}

fn is_left_out(block: &Block, next: &Block, turns: &Range<u64>) -> bool {
    let is_before = next.first_turn.number < turns.start;
    let tells_nothing = next.first_node == block.first_node && next.thread == block.thread;
    is_before && tells_nothing && next.sequence == block.sequence.wrapping_add(1)
}
