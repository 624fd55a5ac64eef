//! Batches of records as events: what was a number of the log becomes a handle of the model here.
//!
//! When an image's first event comes, the image starts and the one before is gone: exec has ended all its threads.

use std::ops::{ControlFlow, Range};

use memtrace_format::decode::BlockEvent;
use memtrace_format::{LAUNCHER_IMAGE, record};

use super::batch::{Batch, Step};
use crate::model::native::{Level, NativeStacks, NodeStack};
use crate::model::{Action, Event, MarkKind, Model, StringId, ThreadKey};

/// How many events are handed over at a time: so many that a fold can look ahead, and few enough for the nearest cache.
const N_AT_A_TIME: usize = 512;

/// Fills the model, and hands the events on.
pub struct Events<'m, 'n, T> {
    pub model: &'m mut Model,
    take: T,
    /// Others are not told.
    turns: Range<u64>,
    native: NativeStacks<'n>,
    events: Vec<Event>,
    lanes: Vec<Lane>,
    current: usize,
    /// Which image the stream has come to.
    image: Option<u16>,
}

/// Where a stream of batches was left.
#[derive(Default)]
pub struct Standing {
    lanes: Vec<Lane>,
    image: Option<u16>,
}

/// What is known of a lane where it was left.
#[derive(Default)]
struct Lane {
    image: u16,
    thread: u32,
    turn: u64,
    nodes: Nodes,
}

impl<'m, 'n, T: FnMut(&Model, &[Event]) -> ControlFlow<()>> Events<'m, 'n, T> {
    pub fn new(model: &'m mut Model, turns: Range<u64>, native: NativeStacks<'n>, take: T) -> Events<'m, 'n, T> {
        Events::resumed(model, turns, native, Standing::default(), take)
    }

    /// Goes on where a stream was left; each batch has to say first which lane it is about.
    pub fn resumed(
        model: &'m mut Model,
        turns: Range<u64>,
        native: NativeStacks<'n>,
        Standing { mut lanes, image }: Standing,
        take: T,
    ) -> Events<'m, 'n, T> {
        if lanes.is_empty() {
            lanes.push(Lane::default());
        }
        Events { model, take, turns, native, events: Vec::with_capacity(N_AT_A_TIME), lanes, current: 0, image }
    }

    pub fn suspended(self) -> (Standing, NativeStacks<'n>) {
        (Standing { lanes: self.lanes, image: self.image }, self.native)
    }

    /// Hands over what a batch holds, for as long as it is wanted.
    pub fn tell(&mut self, batch: &Batch) -> ControlFlow<()> {
        let mut told = 0;
        for (at, step) in &batch.steps {
            self.blocks(batch.blocks.get(told..*at).unwrap_or(&[]))?;
            told = *at;
            self.step(step)?;
        }
        self.blocks(batch.blocks.get(told..).unwrap_or(&[]))?;
        self.flush()
    }

    fn blocks(&mut self, mut blocks: &[BlockEvent]) -> ControlFlow<()> {
        if blocks.is_empty() || !self.is_wanted()? {
            return ControlFlow::Continue(());
        }
        while !blocks.is_empty() {
            let (now, later) = blocks.split_at(blocks.len().min(N_AT_A_TIME - self.events.len()));
            let Events { model, native, events, lanes, current, .. } = self;
            let Lane { image, thread, turn, nodes } = &lanes[*current];
            let lane = *current as u32;
            events.extend(now.iter().map(|&BlockEvent { address, size, stack, kind }| {
                let action = match kind.is_free() {
                    true => Action::Free { kind, address },
                    false => Action::Alloc { kind, address, size, stack: nodes.get(stack, model, native).shown },
                };
                Event { turn: *turn, image: *image, lane, thread: *thread, action }
            }));
            self.flush_if_full()?;
            blocks = later;
        }
        ControlFlow::Continue(())
    }

    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        let Events { model, native, lanes, current, .. } = self;
        let lane = &mut lanes[*current];
        let action = match step {
            Step::Lane { number, image } => {
                self.go_to_lane(*number, *image);
                return ControlFlow::Continue(());
            }
            Step::Block { turn, thread, first_node } => {
                (lane.turn, lane.thread) = (*turn, *thread);
                lane.nodes.begin_block(*first_node);
                return ControlFlow::Continue(());
            }
            Step::EndOfLane => {
                lane.nodes = Nodes::default();
                return ControlFlow::Continue(());
            }
            Step::Turn(turn) => {
                lane.turn = *turn;
                return ControlFlow::Continue(());
            }
            Step::Node(node) => {
                let parent = lane.nodes.get(node.parent, model, native);
                let level = match (node.code, node.offset) {
                    (record::Node::NO_CODE, 0) => Level::Entry,
                    (record::Node::NO_CODE, other) => Level::Joint(lane.nodes.get(other, model, native).recorded),
                    (code, offset) => model.level_at(lane.image, code, offset),
                };
                let n_outside = model.n_frames_outside(ThreadKey { image: lane.image, number: lane.thread });
                let outside = native.extend_outside(parent, level, n_outside);
                lane.nodes.push(outside.unwrap_or_else(|| native.extend(model, parent, level)));
                return ControlFlow::Continue(());
            }
            Step::Damage(damage) => {
                model.process_mut().facts.add_damage(damage.offset, damage.bytes, damage.what.as_str());
                return ControlFlow::Continue(());
            }
            Step::Object(record::Object { address, made_by }) => match made_by {
                None => Action::ObjectDestroyed { address: *address },
                Some(stack) => {
                    let stack = lane.nodes.get(*stack, model, native).shown;
                    Action::ObjectMade { address: *address, stack }
                }
            },
            Step::Mmap(record::Mmap { address, len, prot, flags, is_arena, stack }) => {
                let stack = lane.nodes.get(*stack, model, native).shown;
                Action::Mmap { address: *address, len: *len, prot: *prot, flags: *flags, is_arena: *is_arena, stack }
            }
            Step::Mremap(record::Mremap { old_address, address, len, flags, is_arena, stack }) => {
                let stack = lane.nodes.get(*stack, model, native).shown;
                let (old_address, address, len) = (*old_address, *address, *len);
                Action::Mremap { old_address, address, len, flags: *flags, is_arena: *is_arena, stack }
            }
            Step::Thread(it) => {
                lane.thread = it.thread;
                Action::Thread { os_tid: it.os_tid, pthread: it.pthread }
            }
            Step::ThreadName { pthread, name } => {
                let name = name_of_thread(model, lane.image, *pthread, &String::from_utf8_lossy(name));
                Action::ThreadName { pthread: *pthread, name, named: None }
            }
            Step::Mark { mono_nanos, what, name } => {
                let Some(kind) = MarkKind::from_number(*what) else { return ControlFlow::Continue(()) };
                let name = model.intern(&String::from_utf8_lossy(name));
                Action::Mark { mono_nanos: *mono_nanos, kind, name }
            }
            Step::Other(action) => *action,
        };
        self.event(action)
    }

    fn event(&mut self, mut action: Action) -> ControlFlow<()> {
        let Lane { image, thread, turn, .. } = self.lanes[self.current];
        let this = ThreadKey { image, number: thread };
        let threads = &mut self.model.process_mut().threads;
        match &mut action {
            Action::Thread { os_tid, pthread } => threads.appear(this, *os_tid, *pthread),
            Action::ThreadName { pthread, name, named } => *named = threads.name(this, *pthread, *name),
            _ => {}
        }
        if !self.is_wanted()? {
            return ControlFlow::Continue(());
        }
        self.events.push(Event { turn, image, lane: self.current as u32, thread, action });
        self.flush_if_full()
    }

    /// Before an event of the current lane: whether it belongs to the range, and to the image that the stream has come to
    /// or the next one, which starts then. No thread of an image survives an exec, and its addresses mean nothing after it.
    fn is_wanted(&mut self) -> ControlFlow<(), bool> {
        let Lane { image, turn, .. } = self.lanes[self.current];
        if !self.turns.contains(&turn) {
            return ControlFlow::Continue(false);
        }
        if image == LAUNCHER_IMAGE || self.image == Some(image) {
            return ControlFlow::Continue(true);
        }
        if self.image.is_some_and(|current| image < current) {
            return ControlFlow::Continue(false);
        }
        self.image = Some(image);
        self.model.process_mut().facts.image_mut(image);
        let lane = self.current as u32;
        self.events.push(Event { turn, image, lane, thread: 0, action: Action::ImageStart });
        self.flush_if_full()?;
        ControlFlow::Continue(true)
    }

    fn go_to_lane(&mut self, number: u32, image: u16) {
        self.current = number as usize;
        if self.current >= self.lanes.len() {
            self.lanes.resize_with(self.current + 1, Lane::default);
        }
        self.lanes[self.current].image = image;
    }

    fn flush_if_full(&mut self) -> ControlFlow<()> {
        if self.events.len() < N_AT_A_TIME { ControlFlow::Continue(()) } else { self.flush() }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        if self.model.has_recorded_stacks() {
            self.model.count_cut(&self.events);
        }
        let flow =
            if self.events.is_empty() { ControlFlow::Continue(()) } else { (self.take)(self.model, &self.events) };
        self.events.clear();
        flow
    }
}

/// A lane's nodes as stacks of the model. Runs of nodes in lost blocks are gaps between segments.
#[derive(Default)]
struct Nodes {
    segments: Vec<Segment>,
}

struct Segment {
    /// Number of its first node.
    first: u32,
    stacks: Vec<NodeStack>,
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

    fn push(&mut self, stack: NodeStack) {
        match self.segments.last_mut() {
            Some(last) => last.stacks.push(stack),
            None => self.segments.push(Segment { first: 1, stacks: vec![stack] }),
        }
    }

    #[inline]
    fn get(&self, node: u32, model: &mut Model, native: &mut NativeStacks<'_>) -> NodeStack {
        if node == 0 {
            return NodeStack::EMPTY;
        }
        for segment in self.segments.iter().rev() {
            if let Some(index) = node.checked_sub(segment.first) {
                match segment.stacks.get(index as usize) {
                    Some(&stack) => return stack,
                    None => break,
                }
            }
        }
        native.lost(model)
    }
}

/// What a thread is called from now on. Python from 3.14 on gives its own names to the kernel, which keeps 15 bytes.
fn name_of_thread(model: &mut Model, image: u16, pthread: u64, name: &str) -> StringId {
    const KERNEL_LEN: usize = 15;
    let known = model.process().threads.name_of(image, pthread);
    let is_cut = |known: &StringId| name.len() == KERNEL_LEN && model.text(*known).starts_with(name);
    known.filter(is_cut).unwrap_or_else(|| model.intern(name))
}
