//! The records of one lane, block after block, as far as they come before another lane's.

use std::fs::File;
use std::ops::ControlFlow;

use anyhow::Result;
use memtrace_format::decode::{BlockEvent, Decoder, Problem};
use memtrace_format::encode::Deltas;
use memtrace_format::record::{self, Record};

use super::batch::{Batch, Step};
use super::blocks::Block;
use super::payload::{Payload, Scratch};
use crate::model::Damage;

/// What lanes share while they are read.
pub struct Context<'a> {
    pub file: &'a File,
    pub scratch: Scratch,
    /// Whether lanes keep what they have decompressed while others run. Else each does it anew when its turn comes:
    /// slower, but a small file can't ask for much memory.
    pub keeps_decompressed: bool,
    /// Whether there will be more of each lane.
    pub is_following: bool,
    pub batch: Batch,
    /// The lane that the batch is about at its end.
    pub current_lane: Option<u32>,
    /// Takes a batch that is full and gives an empty one, or breaks off.
    pub hand_over: &'a mut dyn FnMut(Batch) -> ControlFlow<(), Batch>,
}

impl Context<'_> {
    pub fn pass_on(&mut self) -> ControlFlow<()> {
        self.batch = (self.hand_over)(std::mem::take(&mut self.batch))?;
        ControlFlow::Continue(())
    }

    fn damage(&mut self, offset: u64, bytes: u64, what: impl Into<String>) {
        self.batch.push(Step::Damage(Damage { offset, bytes, what: what.into() }));
    }
}

/// A lane and how far it was read.
pub struct Lane {
    /// Counted over all images.
    number: u32,
    image: u16,
    /// The blocks not begun yet, the next one last.
    blocks: Vec<Block>,
    next_sequence: u32,
    payload: Option<Payload>,
    /// Decoded, but later than what another lane has to tell.
    pending: Option<(Moment, Decoded)>,
    /// How far the last block was decoded that is not being decoded now.
    at: Option<Position>,
    /// Whether a block was missing that should be there the next time.
    is_waiting: bool,
}

/// A place in the records of a lane.
pub struct Position {
    pub sequence: u32,
    /// In bytes of records, which do not move when a block is compressed.
    pub offset: usize,
    pub deltas: Deltas,
}

/// Where the reading of a lane was left.
#[derive(Default)]
pub struct Left {
    image: u16,
    next_sequence: u32,
    pending: Option<(Moment, Decoded)>,
    at: Option<Position>,
    is_waiting: bool,
}

impl Left {
    /// Whether all of a block was read.
    pub fn is_past(&self, block: &Block) -> bool {
        block.sequence < self.next_sequence && !is_begun(self.at.as_ref(), block)
    }
}

/// Whether a block was read in part.
fn is_begun(at: Option<&Position>, block: &Block) -> bool {
    at.is_some_and(|at| at.sequence == block.sequence && at.offset < block.raw_len())
}

/// When an event comes: its turn, in a shared turn its ticks, then gifts back before allocations.
pub type Moment = (u64, u64, bool);

enum Decoded {
    Block(BlockEvent),
    Step(Step),
}

impl Lane {
    /// Over the blocks of one lane, in the order of their sequence numbers.
    pub fn new(number: u32, mut blocks: Vec<Block>) -> Lane {
        blocks.reverse();
        let image = blocks.last().map_or(0, |block| block.image);
        Lane { number, image, blocks, next_sequence: 0, payload: None, pending: None, at: None, is_waiting: false }
    }

    /// Goes on where a reading was left, with all blocks of the lane that there are now.
    pub fn resumed(number: u32, left: Left, blocks: &[Block]) -> Lane {
        let Left { image, next_sequence, pending, at, is_waiting } = left;
        let image = blocks.first().map_or(image, |block| block.image);
        let mut lane =
            Lane { number, image, blocks: Vec::new(), next_sequence, payload: None, pending, at, is_waiting };
        lane.add(blocks);
        lane
    }

    /// Where it can be resumed.
    pub fn left(self) -> Left {
        let Lane { image, next_sequence, pending, at, is_waiting, payload, .. } = self;
        let now = payload.map(|payload| Position {
            sequence: next_sequence.wrapping_sub(1),
            offset: payload.position(),
            deltas: payload.deltas,
        });
        Left { image, next_sequence, pending, at: now.or(at), is_waiting }
    }

    /// Takes what is new in the blocks, as far as none is missing. One that is missing was begun before the next one, so
    /// the next search finds it; what is missing then is lost.
    fn add(&mut self, blocks: &[Block]) {
        let mut wanted = self.next_sequence;
        for block in blocks {
            let is_begun = is_begun(self.at.as_ref(), block);
            if !is_begun && block.sequence < self.next_sequence {
                continue;
            }
            if !is_begun && block.sequence != wanted {
                let was_waiting = std::mem::replace(&mut self.is_waiting, true);
                if !was_waiting || !self.blocks.is_empty() {
                    break;
                }
            }
            self.is_waiting = false;
            wanted = block.sequence.wrapping_add(1);
            self.blocks.push(*block);
        }
        self.blocks.reverse();
    }

    /// A moment not later than the lane's next event; `None` at its end.
    pub fn next_moment(&self) -> Option<Moment> {
        match (&self.pending, &self.payload) {
            (Some((moment, _)), _) => Some(*moment),
            (None, Some(payload)) => Some((payload.deltas.turn.number, payload.ticks(), false)),
            (None, None) => self.blocks.last().map(|block| (block.first_turn.number, 0, false)),
        }
    }

    /// The most bytes that it has decompressed at any time.
    pub fn longest_decompressed(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.raw_len)).max().unwrap_or(0)
    }

    /// Passes on the records up to `limit`, that moment included; breaks off when nobody takes them.
    pub fn run(&mut self, context: &mut Context<'_>, limit: Moment) -> Result<ControlFlow<()>> {
        if self.pending.as_ref().is_some_and(|(moment, _)| *moment > limit) {
            return Ok(ControlFlow::Continue(()));
        }
        if context.current_lane != Some(self.number) {
            context.current_lane = Some(self.number);
            context.batch.push(Step::Lane { number: self.number, image: self.image });
        }
        match self.pending.take() {
            Some((_, Decoded::Block(block))) => context.batch.blocks.push(block),
            Some((_, Decoded::Step(step))) => context.batch.push(step),
            None => {}
        }
        loop {
            if context.batch.is_full() && context.pass_on().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match &mut self.payload {
                None => match self.blocks.pop() {
                    Some(block) => self.begin_block(context, &block)?,
                    None => {
                        if !context.is_following {
                            context.batch.push(Step::EndOfLane);
                        }
                        return Ok(ControlFlow::Continue(()));
                    }
                },
                Some(payload) if payload.is_done() => {
                    let (sequence, offset) = (self.next_sequence.wrapping_sub(1), payload.position());
                    self.at = self.payload.take().map(|Payload { deltas, .. }| Position { sequence, offset, deltas });
                }
                Some(_) => {
                    if let Some(flow) = self.run_window(context, limit)? {
                        return Ok(flow);
                    }
                }
            }
        }
    }

    fn begin_block(&mut self, context: &mut Context<'_>, block: &Block) -> Result<()> {
        if let Some(at) = self.at.take_if(|at| at.sequence == block.sequence) {
            return self.go_on_in_block(context, block, at);
        }
        self.next_sequence = self.next_sequence.wrapping_add(block.n_left_out);
        if block.sequence != self.next_sequence {
            let what = format!(
                "blocks {} to {} of lane {} are missing in front of the one",
                self.next_sequence,
                block.sequence.wrapping_sub(1),
                block.lane
            );
            context.damage(block.payload_offset, 0, what);
        }
        self.next_sequence = block.sequence.wrapping_add(1);
        let (turn, thread, first_node) = (block.first_turn.number, block.thread, block.first_node);
        context.batch.n_bytes += block.payload_len;
        context.batch.push(Step::Block { turn, thread, first_node });
        match Payload::open(context.file, block, &mut context.scratch)? {
            Ok(payload) => self.payload = Some(payload),
            Err(what) => context.damage(block.payload_offset, block.payload_len, what),
        }
        Ok(())
    }

    fn go_on_in_block(&mut self, context: &mut Context<'_>, block: &Block, at: Position) -> Result<()> {
        context.batch.n_bytes += (block.raw_len() - at.offset) as u64;
        match Payload::open(context.file, block, &mut context.scratch)? {
            Ok(mut payload) => {
                payload.go_on(at.offset, at.deltas);
                self.payload = Some(payload);
            }
            Err(what) => context.damage(block.payload_offset, block.payload_len, what),
        }
        Ok(())
    }

    /// Decodes what the window holds; `Some` when the next event is later than `limit`, or nobody takes more.
    fn run_window(&mut self, context: &mut Context<'_>, limit: Moment) -> Result<Option<ControlFlow<()>>> {
        let Some(payload) = &mut self.payload else { return Ok(None) };
        if let Err(what) = payload.restore(context.file, &mut context.scratch)? {
            let (offset, bytes) = payload.rest();
            context.damage(offset, bytes, what);
            self.payload = None;
            return Ok(None);
        }
        let start = payload.start;
        let mut decoder = Decoder::new(payload.bytes.get(start..).unwrap_or(&[]), &mut payload.deltas);
        let mut late = None;
        let problem = loop {
            let (turn, batch) = (decoder.deltas().turn.number, &mut context.batch);
            // Of a turn that is not shared, all is the lane's.
            let is_early = turn < limit.0;
            decoder.blocks(|block, ticks| {
                let moment = (turn, ticks, !block.kind.is_free());
                if !is_early && moment > limit {
                    late = Some((moment, Decoded::Block(block)));
                    return ControlFlow::Break(());
                }
                batch.blocks.push(block);
                if batch.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if late.is_some() {
                break None;
            }
            if context.batch.is_full() && context.pass_on().is_break() {
                payload.start += decoder.offset();
                return Ok(Some(ControlFlow::Break(())));
            }
            let record = match decoder.next() {
                Ok(Some(record)) => record,
                Ok(None) => break None,
                Err(error) => break Some(error.problem),
            };
            let (decoded, hands_out) = match record {
                Record::Alloc(record::Alloc { kind, address, size, stack }) => {
                    (Decoded::Block(BlockEvent { kind, address, size, stack }), true)
                }
                Record::Free(record::Free { kind, address }) => {
                    (Decoded::Block(BlockEvent { kind, address, size: 0, stack: 0 }), false)
                }
                other => match Step::of(&other) {
                    Some(step) => {
                        let hands_out = step.hands_out();
                        (Decoded::Step(step), hands_out)
                    }
                    None => continue,
                },
            };
            let is_event = !matches!(decoded, Decoded::Step(Step::Turn(_) | Step::Node(_)));
            let deltas = decoder.deltas();
            let ticks = if deltas.turn.is_shared { deltas.ticks } else { 0 };
            let moment = (deltas.turn.number, ticks, hands_out);
            if is_event && moment > limit {
                late = Some((moment, decoded));
                break None;
            }
            match decoded {
                Decoded::Block(block) => context.batch.blocks.push(block),
                Decoded::Step(step) => context.batch.push(step),
            }
        };
        payload.start += decoder.offset();
        if late.is_some() {
            if !context.keeps_decompressed {
                payload.release();
            }
            self.pending = late;
            return Ok(Some(ControlFlow::Continue(())));
        }
        match problem {
            // The window ends inside a record, or with one.
            None | Some(Problem::CutOff) if payload.has_more() => {
                if let Some(damage) = payload.fill(context.file)? {
                    context.batch.push(Step::Damage(damage));
                }
            }
            None => {}
            Some(_) => {
                let (offset, bytes) = payload.rest();
                context.damage(offset, bytes, "a record is damaged");
                self.payload = None;
            }
        }
        Ok(None)
    }
}
