//! All lanes as one stream in the order of turns.
//!
//! The lane with the earliest event runs until another lane has an earlier one. On equal ticks of a shared turn
//! memory is given back before it is handed out; within a lane the order is the lane's own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::ops::ControlFlow;

use anyhow::Result;

use super::batch::Batch;
use super::blocks::Block;
use super::lane::{Context, Lane, Moment};
use super::payload::Scratch;

/// Decompressed bytes that lanes may keep, in sum, for each byte of the file…
const KEPT_PER_BYTE: u64 = 64;
/// …and however short it is.
const ALWAYS_KEPT: u64 = 64 << 20;

/// Reads the blocks of all lanes and hands over one batch of records after the other; each time it gets an empty one
/// back, or is told to stop.
pub fn run(file: &File, blocks: &[Block], hand_over: &mut dyn FnMut(Batch) -> ControlFlow<(), Batch>) -> Result<()> {
    merge(file, &mut lanes(blocks), END_OF_TIME, false, hand_over)
}

/// The same of lanes that grow, up to a moment. What comes after a break stays in them.
pub fn follow(
    file: &File,
    lanes: &mut [Lane],
    horizon: Moment,
    hand_over: &mut dyn FnMut(Batch) -> ControlFlow<(), Batch>,
) -> Result<()> {
    merge(file, lanes, horizon, true, hand_over)
}

const END_OF_TIME: Moment = (u64::MAX, u64::MAX, true);

fn merge(
    file: &File,
    lanes: &mut [Lane],
    horizon: Moment,
    is_following: bool,
    hand_over: &mut dyn FnMut(Batch) -> ControlFlow<(), Batch>,
) -> Result<()> {
    let mut heap: BinaryHeap<Reverse<(Moment, usize)>> = BinaryHeap::new();
    for (index, lane) in lanes.iter().enumerate() {
        heap.extend(lane.next_moment().map(|moment| Reverse((moment, index))));
    }
    let file_len = file.metadata()?.len();
    let needed: u64 = lanes.iter().map(Lane::longest_decompressed).sum();
    let keeps_decompressed = needed <= (file_len * KEPT_PER_BYTE).max(ALWAYS_KEPT);
    let (scratch, batch) = (Scratch::default(), Batch::default());
    let current_lane = None;
    let mut context = Context { file, scratch, keeps_decompressed, is_following, batch, current_lane, hand_over };
    while let Some(Reverse((moment, index))) = heap.pop() {
        if moment > horizon {
            break;
        }
        let limit = heap.peek().map_or(horizon, |Reverse((moment, _))| horizon.min(*moment));
        if lanes[index].run(&mut context, limit)?.is_break() {
            return Ok(());
        }
        match lanes[index].next_moment() {
            Some(moment) => heap.push(Reverse((moment, index))),
            None if is_following => {}
            // Nothing refers to a lane that has ended.
            None => lanes[index] = Lane::new(0, Vec::new()),
        }
    }
    // Whether more would be wanted makes no difference.
    let _ = context.pass_on();
    Ok(())
}

/// The lanes that the blocks, as a scan orders them, belong to.
fn lanes(blocks: &[Block]) -> Vec<Lane> {
    let by_lane = blocks.chunk_by(Block::is_of_same_lane).enumerate();
    by_lane.map(|(number, blocks)| Lane::new(number as u32, blocks.to_vec())).collect()
}
