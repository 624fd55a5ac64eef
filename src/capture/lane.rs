//! The records of one lane, block after block, as events.

use std::fs::File;
use std::ops::ControlFlow;

use anyhow::Result;
use memtrace_format::Record;
use memtrace_format::decode::{Decoder, Problem};

use super::blocks::Block;
use super::payload::{Payload, Scratch};
use crate::model::{Action, Event, Model, StackId};

/// What lanes share while they are read.
pub struct Context<'a> {
    pub file: &'a File,
    pub model: &'a mut Model,
    pub scratch: Scratch,
    /// Whether lanes keep what they have decompressed while others run. Else each does it anew when its turn comes:
    /// slower, but a small file can't ask for much memory.
    pub keeps_decompressed: bool,
}

/// A lane and how far it was read.
pub struct Lane {
    /// Counted over all images.
    number: u32,
    image: u16,
    thread: u32,
    /// The blocks not begun yet, the next one last.
    blocks: Vec<Block>,
    next_sequence: u32,
    payload: Option<Payload>,
    nodes: Nodes,
    /// Decoded, but later than what another lane has to tell.
    pending: Option<(Moment, Event)>,
}

/// When an event comes: its turn, in a shared turn its ticks, then gifts back before allocations.
pub type Moment = (u64, u64, bool);

impl Lane {
    /// Over the blocks of one lane, in the order of their sequence numbers.
    pub fn new(number: u32, mut blocks: Vec<Block>) -> Lane {
        blocks.reverse();
        let image = blocks.last().map_or(0, |block| block.image);
        Lane {
            number,
            image,
            thread: 0,
            blocks,
            next_sequence: 0,
            payload: None,
            nodes: Nodes::default(),
            pending: None,
        }
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

    /// Hands over the events up to `limit`, that moment included; breaks off when `take` does.
    pub fn run(
        &mut self,
        context: &mut Context<'_>,
        limit: Moment,
        take: &mut impl FnMut(&mut Model, &Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        if let Some((moment, event)) = self.pending {
            if moment > limit {
                return Ok(ControlFlow::Continue(()));
            }
            self.pending = None;
            if take(context.model, &event).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        loop {
            match &mut self.payload {
                None => match self.blocks.pop() {
                    Some(block) => self.begin_block(context, &block)?,
                    None => return Ok(ControlFlow::Continue(())),
                },
                Some(payload) if payload.is_done() => self.payload = None,
                Some(_) => {
                    if let Some(flow) = self.run_window(context, limit, take)? {
                        return Ok(flow);
                    }
                }
            }
        }
    }

    fn begin_block(&mut self, context: &mut Context<'_>, block: &Block) -> Result<()> {
        if block.sequence != self.next_sequence {
            let what = format!(
                "blocks {} to {} of lane {} are missing in front of the one",
                self.next_sequence,
                block.sequence.wrapping_sub(1),
                block.lane
            );
            context.model.process_mut().facts.add_damage(block.payload_offset, 0, what);
        }
        self.next_sequence = block.sequence.wrapping_add(1);
        self.thread = block.thread;
        self.nodes.begin_block(block.first_node);
        match Payload::open(context.file, block, &mut context.scratch)? {
            Ok(payload) => self.payload = Some(payload),
            Err(what) => context.model.process_mut().facts.add_damage(block.payload_offset, block.payload_len, what),
        }
        Ok(())
    }

    /// Decodes what the window holds; `Some` when the next event is later than `limit`, or `take` broke off.
    fn run_window(
        &mut self,
        context: &mut Context<'_>,
        limit: Moment,
        take: &mut impl FnMut(&mut Model, &Event) -> ControlFlow<()>,
    ) -> Result<Option<ControlFlow<()>>> {
        let Some(payload) = &mut self.payload else { return Ok(None) };
        if let Err(what) = payload.restore(context.file, &mut context.scratch)? {
            let (offset, bytes) = payload.rest();
            context.model.process_mut().facts.add_damage(offset, bytes, what);
            self.payload = None;
            return Ok(None);
        }
        let start = payload.start;
        let mut decoder = Decoder::new(payload.bytes.get(start..).unwrap_or(&[]), &mut payload.deltas);
        let problem = loop {
            let record = match decoder.next() {
                Ok(Some(record)) => record,
                Ok(None) => break None,
                Err(error) => break Some(error.problem),
            };
            let action = match record {
                Record::Alloc(it) => Action::Alloc {
                    kind: it.kind,
                    address: it.address,
                    size: it.size,
                    stack: self.nodes.stack(it.stack, context.model),
                },
                Record::Free(it) => Action::Free { kind: it.kind, address: it.address },
                Record::Turn(_) => continue,
                Record::Node(it) => {
                    let parent = self.nodes.stack(it.parent, context.model);
                    let frame = context.model.frame_at(self.image, it.code, it.offset);
                    self.nodes.push(context.model.extend_stack(parent, frame));
                    continue;
                }
                other => match rare(&other, &mut self.thread, &self.nodes, context.model) {
                    Some(action) => action,
                    None => continue,
                },
            };
            let turn = decoder.deltas().turn;
            let event = Event { turn: turn.number, image: self.image, lane: self.number, thread: self.thread, action };
            // Of a turn that is not shared, all is the lane's.
            let ticks = if turn.is_shared { decoder.deltas().ticks } else { 0 };
            let moment = (turn.number, ticks, !event.action.comes_first());
            if moment > limit {
                payload.start += decoder.offset();
                if !context.keeps_decompressed {
                    payload.release();
                }
                self.pending = Some((moment, event));
                return Ok(Some(ControlFlow::Continue(())));
            }
            if take(context.model, &event).is_break() {
                return Ok(Some(ControlFlow::Break(())));
            }
        };
        payload.start += decoder.offset();
        match problem {
            // The window ends inside a record, or with one.
            None | Some(Problem::CutOff) if payload.has_more() => {
                payload.fill(context.file, &mut context.model.process_mut().facts)?;
            }
            None => {}
            Some(_) => {
                let (offset, bytes) = payload.rest();
                context.model.process_mut().facts.add_damage(offset, bytes, "a record is damaged");
                self.payload = None;
            }
        }
        Ok(None)
    }
}

/// The events that are not allocations and frees.
fn rare(record: &Record<'_>, thread: &mut u32, nodes: &Nodes, model: &mut Model) -> Option<Action> {
    Some(match *record {
        Record::Restore(_) => Action::Restore,
        Record::Mmap(it) => Action::Mmap {
            address: it.address,
            len: it.len,
            prot: it.prot,
            flags: it.flags,
            is_arena: it.is_arena,
            stack: nodes.stack(it.stack, model),
        },
        Record::Munmap(it) => Action::Munmap { address: it.address, len: it.len, is_remap: it.is_remap },
        Record::Mremap(it) => Action::Mremap {
            old_address: it.old_address,
            address: it.address,
            len: it.len,
            flags: it.flags,
            is_arena: it.is_arena,
            stack: nodes.stack(it.stack, model),
        },
        Record::Thread(it) => {
            *thread = it.thread;
            Action::Thread { os_tid: it.os_tid, pthread: it.pthread }
        }
        Record::ThreadName(it) => {
            let name = model.intern(&String::from_utf8_lossy(it.name));
            Action::ThreadName { pthread: it.pthread, name, named: None }
        }
        Record::Lost(it) => Action::Lost { count: it.count },
        Record::Clock(it) => Action::Clock { mono_nanos: it.mono_nanos },
        Record::Rss(it) => Action::Rss { mono_nanos: it.mono_nanos, bytes: it.bytes },
        Record::Unknown(tag) => Action::Unknown { tag },
        // Metadata has blocks of its own; hot records are handled by the caller.
        _ => return None,
    })
}

/// A lane's nodes as stacks of the model. Runs of nodes in lost blocks are gaps between segments.
#[derive(Default)]
struct Nodes {
    segments: Vec<Segment>,
}

struct Segment {
    /// Number of its first node.
    first: u32,
    stacks: Vec<StackId>,
}

impl Nodes {
    /// `n_before` nodes were introduced by earlier blocks, whether we have seen them or not.
    fn begin_block(&mut self, n_before: u32) {
        let first = n_before.saturating_add(1);
        // Numbers are not given twice: a block that claims less than we saw replaces what it contradicts.
        while let Some(last) = self.segments.last_mut() {
            if last.first >= first {
                self.segments.pop();
                continue;
            }
            last.stacks.truncate((first - last.first) as usize);
            if last.first as u64 + last.stacks.len() as u64 == first as u64 {
                return;
            }
            break;
        }
        self.segments.push(Segment { first, stacks: Vec::new() });
    }

    fn push(&mut self, stack: StackId) {
        match self.segments.last_mut() {
            Some(last) => last.stacks.push(stack),
            None => self.segments.push(Segment { first: 1, stacks: vec![stack] }),
        }
    }

    #[inline]
    fn stack(&self, node: u32, model: &mut Model) -> StackId {
        if node == 0 {
            return StackId::EMPTY;
        }
        for segment in self.segments.iter().rev() {
            if let Some(index) = node.checked_sub(segment.first) {
                match segment.stacks.get(index as usize) {
                    Some(&stack) => return stack,
                    None => break,
                }
            }
        }
        model.lost_stack()
    }
}
