//! All lanes as one stream in the order of turns.
//!
//! The lane with the earliest event runs until another lane has an earlier one. On equal ticks of a shared turn
//! memory is given back before it is handed out; within a lane the order is the lane's own. When an image's first event comes, the image
//! starts and the one before is gone: exec has ended all its threads.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::ops::ControlFlow;

use anyhow::Result;
use memtrace_format::LAUNCHER_IMAGE;

use super::blocks::Block;
use super::lane::{Context, Lane, Moment};
use super::payload::Scratch;
use crate::model::{Action, Event, Model, ThreadKey};

/// Decompressed bytes that lanes may keep, in sum, for each byte of the file…
const KEPT_PER_BYTE: u64 = 64;
/// …and however short it is.
const ALWAYS_KEPT: u64 = 64 << 20;

/// Reads the blocks of all lanes and hands every event to `take`.
pub fn run(
    file: &File,
    blocks: &[Block],
    model: &mut Model,
    take: &mut impl FnMut(&Model, &Event) -> ControlFlow<()>,
) -> Result<()> {
    let mut lanes = lanes(blocks);
    let mut heap: BinaryHeap<Reverse<(Moment, usize)>> = BinaryHeap::new();
    for (index, lane) in lanes.iter().enumerate() {
        heap.extend(lane.next_moment().map(|moment| Reverse((moment, index))));
    }
    let mut images = Images { current: None };
    let file_len = file.metadata()?.len();
    let needed: u64 = lanes.iter().map(Lane::longest_decompressed).sum();
    let keeps_decompressed = needed <= (file_len * KEPT_PER_BYTE).max(ALWAYS_KEPT);
    let mut context = Context { file, model, scratch: Scratch::default(), keeps_decompressed };
    while let Some(Reverse((_, index))) = heap.pop() {
        let limit = heap.peek().map_or((u64::MAX, u64::MAX, true), |Reverse((moment, _))| *moment);
        let flow = lanes[index].run(&mut context, limit, &mut |model, event| images.pass(model, *event, take))?;
        if flow.is_break() {
            break;
        }
        match lanes[index].next_moment() {
            Some(moment) => heap.push(Reverse((moment, index))),
            // Nothing refers to a lane that has ended.
            None => lanes[index] = Lane::new(0, Vec::new()),
        }
    }
    Ok(())
}

/// The lanes that the blocks, as a scan orders them, belong to.
fn lanes(blocks: &[Block]) -> Vec<Lane> {
    let of_one_lane = |a: &Block, b: &Block| (a.image, a.kind, a.lane) == (b.image, b.kind, b.lane);
    let by_lane = blocks.chunk_by(of_one_lane).enumerate();
    by_lane.map(|(number, blocks)| Lane::new(number as u32, blocks.to_vec())).collect()
}

/// Which image the stream has come to.
struct Images {
    current: Option<u16>,
}

impl Images {
    #[inline]
    fn pass(
        &mut self,
        model: &mut Model,
        mut event: Event,
        take: &mut impl FnMut(&Model, &Event) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if event.image != LAUNCHER_IMAGE && self.current != Some(event.image) {
            if self.current.is_some_and(|current| event.image < current) {
                // No thread of an image survives an exec. Its addresses mean nothing now.
                return ControlFlow::Continue(());
            }
            self.current = Some(event.image);
            model.process_mut().facts.image_mut(event.image);
            take(model, &Event { thread: 0, action: Action::ImageStart, ..event })?;
        }
        let this = ThreadKey { image: event.image, number: event.thread };
        match &mut event.action {
            Action::Thread { os_tid, pthread } => model.process_mut().threads.appear(this, *os_tid, *pthread),
            Action::ThreadName { pthread, name, named } => {
                *named = model.process_mut().threads.name(this, *pthread, *name)
            }
            _ => {}
        }
        take(model, &event)
    }
}
