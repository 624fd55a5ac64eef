//! The tree that turns frames into stack numbers, each node written to the log once. One per lane.
//!
//! The frames of the last event are remembered (`python::Chain`). Those that are the same from the root on keep their
//! nodes, so that an event costs one look-up per *new* frame. Two frames are the same when code address and instruction
//! are; a code address stands for the same code as long as no code object has died in between (`code::epoch`).

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering, compiler_fence};

use memtrace_format::record::Node;

use crate::caller::Caller;
use crate::environment;
use crate::guard::Guard;
use crate::heap::{Array, Plain, spread};
use crate::lifecycle;
use crate::native::Native;
use crate::python::{self, Chain, Chunks, State, code};
use crate::rings::{Key, Rings};
use crate::sink::Writer;

/// A frame as it is read: address of the code object, address of the running instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RawFrame {
    pub code: u64,
    /// With [`RawFrame::GENERATOR`] set when the frame belongs to a generator.
    pub instruction: u64,
}

// SAFETY: two numbers.
unsafe impl Plain for RawFrame {}

impl RawFrame {
    pub const GENERATOR: u64 = 1 << 63;
    /// Leads to the mark where C code entered the interpreter.
    const ENTRY: RawFrame = RawFrame { code: 1, instruction: 0 };

    #[inline(always)]
    fn under(self, epoch: u64) -> Begun {
        Begun { frame: self, epoch }
    }

    /// Of one that is no code object's.
    #[inline(always)]
    fn always(self) -> Begun {
        self.under(0)
    }
}

/// A frame, and the death count under which it leads where it leads.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Begun {
    frame: RawFrame,
    epoch: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Begun {}

impl Key for Begun {
    #[inline(always)]
    fn mixed(self) -> u64 {
        self.frame.code ^ self.frame.instruction
    }
}

/// Frames that were found not to have begun. The last one to come takes a place.
struct NotBegun {
    known: Array<Begun>,
}

impl NotBegun {
    const N_PLACES: usize = 64;

    const fn new() -> NotBegun {
        NotBegun { known: Array::new() }
    }

    fn place(what: Begun) -> usize {
        spread(what.mixed()) % NotBegun::N_PLACES
    }

    fn has(&self, what: Begun) -> bool {
        self.known.get(NotBegun::place(what)) == Some(what)
    }

    fn keep(&mut self, what: Begun) {
        if self.known.grow(NotBegun::N_PLACES) {
            self.known.set(NotBegun::place(what), what);
        }
    }
}

/// What is recorded of a stack.
mod kind {
    pub const PYTHON: u8 = 0;
    pub const PYTHON_AND_NATIVE: u8 = 1;
    /// Nothing any more: the log that the nodes were introduced in has ended. Said by whoever ended it, while the thread
    /// of the lane may be anywhere; so nothing is known to the next log.
    pub const NOTHING: u8 = 2;
}

pub struct Stacks {
    /// One of [`kind`].
    kind: AtomicU8,
    pub chunks: Chunks,
    chain: Chain,
    /// The node of each frame of the chain, root first.
    nodes: Array<u32>,
    /// The node of the top frame.
    top: u32,
    /// The death count of code objects that the nodes were found under.
    epoch: u64,
    rings: Rings<Begun>,
    /// Frames that had not begun: they have no node.
    not_begun: NotBegun,
    tree: Tree,
    /// Set while the interpreter's frames are read; see `python::notice_end`.
    is_reading: AtomicBool,
    self_check: Allowance,
    /// When native stacks are wanted.
    native: Option<Native>,
}

impl Stacks {
    pub const fn new(has_native: bool) -> Stacks {
        Stacks {
            kind: AtomicU8::new(if has_native { kind::PYTHON_AND_NATIVE } else { kind::PYTHON }),
            chunks: Chunks::new(),
            chain: Chain::new(),
            nodes: Array::new(),
            top: 0,
            epoch: 0,
            rings: Rings::new(),
            not_begun: NotBegun::new(),
            tree: Tree::new(),
            is_reading: AtomicBool::new(false),
            self_check: Allowance::new(),
            native: if has_native { Some(Native::new()) } else { None },
        }
    }

    /// The log has ended. Called by any thread.
    pub fn end_log(&self) {
        self.kind.store(kind::NOTHING, Ordering::Release);
    }

    /// Begins anew when the log has ended meanwhile. What is found while there is no other one is introduced nowhere, so
    /// that it does not matter when the next one begins.
    fn see_to_log(&mut self) {
        if self.kind.load(Ordering::Acquire) == kind::NOTHING {
            self.begin_log();
        }
    }

    #[cold]
    fn begin_log(&mut self) {
        let has_native = lifecycle::has_native_stacks();
        // First: if this log ends as well before the rest is done, that is to be seen.
        self.kind.store(if has_native { kind::PYTHON_AND_NATIVE } else { kind::PYTHON }, Ordering::Release);
        // Of no epoch, so that every frame is looked up.
        self.epoch = u64::MAX;
        self.rings.release();
        self.not_begun.known.release();
        self.tree.release();
        // While nothing was recorded, nobody said which mappings came and went.
        self.chunks = Chunks::new();
        self.chain.forget();
        if let Some(native) = &mut self.native {
            native.release();
        }
        self.native = if has_native { Some(Native::new()) } else { None };
    }

    /// The lane has a new thread.
    pub fn begin_thread(&mut self) {
        if let Some(native) = &mut self.native {
            native.begin_thread();
        }
    }

    /// Whether there are no native stacks, nor anything else to see to.
    #[inline(always)]
    pub fn are_pythons_alone(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == kind::PYTHON
    }

    /// Whether there are native stacks, and nothing else to see to.
    #[inline(always)]
    pub fn have_native(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == kind::PYTHON_AND_NATIVE
    }

    /// Whether the lane's thread is just reading the interpreter's frames.
    pub fn is_reading(&self) -> bool {
        self.is_reading.load(Ordering::Acquire)
    }

    /// The thread has given a mapping up.
    pub fn unmapped(&mut self, address: usize) {
        self.chunks.unmapped(address);
        self.chain.forget_floor();
    }

    /// The number of this thread's Python stack now, 0 when it has none; `None` in unusual cases, which are for
    /// [`Stacks::current`].
    #[inline(always)]
    pub fn at_hand(&mut self) -> Option<u32> {
        if self.are_pythons_alone() { self.python_at_hand() } else { None }
    }

    /// The same with the native stack, when that is wanted.
    pub fn both_at_hand(&mut self, guard: &Guard, writer: &mut Writer, caller: Caller) -> Option<u32> {
        let python = if python::is_there() { self.python_at_hand()? } else { 0 };
        self.joined(guard, writer, caller, python)
    }

    #[inline(always)]
    fn python_at_hand(&mut self) -> Option<u32> {
        self.begin_reading();
        let node = self.compare_at_hand();
        self.end_reading();
        node
    }

    #[inline(always)]
    fn compare_at_hand(&mut self) -> Option<u32> {
        self.compare(&python::state_at_hand()?, code::epoch_at_hand()?)
    }

    /// The number of this thread's stack now, with its native one when that is wanted; 0 when it has none.
    pub fn current(&mut self, guard: &Guard, writer: &mut Writer, caller: Caller) -> u32 {
        self.see_to_log();
        writer.see_to_log(guard);
        let python = self.current_python(guard, writer);
        self.joined(guard, writer, caller, python).unwrap_or(python)
    }

    /// A Python stack with the native one; `None` when that is not wanted.
    #[inline(never)]
    fn joined(&mut self, guard: &Guard, writer: &mut Writer, caller: Caller, python: u32) -> Option<u32> {
        let Stacks { native, tree, chain, .. } = self;
        let frames = if python == 0 { &[] } else { chain.frames() };
        Some(native.as_mut()?.join(guard, writer, tree, caller, python, frames))
    }

    fn current_python(&mut self, guard: &Guard, writer: &mut Writer) -> u32 {
        self.begin_reading();
        let state = python::state(guard);
        let node = self.compare(&state, code::epoch()).or_else(|| self.read(guard, writer, &state));
        if environment::is_self_check() && !state.is_none() && self.self_check.allows(self.chain.frames().len()) {
            python::self_check(guard, &state, &self.chain);
            self.compare_with_slow_twin(guard, writer);
        }
        self.end_reading();
        node.unwrap_or(0)
    }

    #[inline(always)]
    fn begin_reading(&self) {
        self.is_reading.store(true, Ordering::Relaxed);
        // Whoever wants to know passes a barrier in all threads first, so the compiler's order is enough here.
        compiler_fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn end_reading(&self) {
        self.is_reading.store(false, Ordering::Release);
    }

    /// The node of a stack whose frames lie where they lay, and run what they ran or something that is known here;
    /// otherwise `None`.
    #[inline(always)]
    fn compare(&mut self, state: &State, epoch: u64) -> Option<u32> {
        if state.is_none() {
            return Some(0);
        }
        if epoch != self.epoch || !python::compare(state, &mut self.chain) {
            return None;
        }
        let known = self.chain.n_unchanged();
        if known < self.chain.frames().len() { self.extend_nearby(known, epoch) } else { Some(self.top) }
    }

    /// Finds the nodes of the frames from `known` up, if they are near.
    #[inline(always)]
    fn extend_nearby(&mut self, known: usize, epoch: u64) -> Option<u32> {
        let mut node = self.node_below(known);
        let depth = self.chain.frames().len();
        if let Some(native) = &mut self.native {
            native.python_changed(known);
        }
        for level in known..depth {
            let Some(child) = self.find_nearby(node, level, epoch) else {
                self.chain.accept(level);
                return None;
            };
            node = child;
            self.nodes.set(level, node);
        }
        self.chain.accept(depth);
        self.top = node;
        Some(node)
    }

    /// The node that the frame at a level leads to, if it is near.
    #[inline(always)]
    fn find_nearby(&mut self, mut node: u32, level: usize, epoch: u64) -> Option<u32> {
        let frame = self.chain.frames().get(level)?;
        if self.native.is_some() && python::is_entry(frame) {
            node = self.rings.find(node, RawFrame::ENTRY.always())?;
        }
        let Some(shown) = python::shown(frame) else { return Some(node) };
        let what = shown.under(epoch);
        self.rings.find(node, what).or_else(|| self.not_begun.has(what).then_some(node))
    }

    /// The node of the frame below this level.
    #[inline(always)]
    fn node_below(&self, level: usize) -> u32 {
        level.checked_sub(1).and_then(|below| self.nodes.get(below)).unwrap_or(0)
    }

    /// Reads the frames, and finds the nodes of those that are new. `None` when memory or the log has run out.
    fn read(&mut self, guard: &Guard, writer: &mut Writer, state: &State) -> Option<u32> {
        let epoch = code::epoch();
        if !python::refresh(state, &mut self.chain, &self.chunks) {
            return None;
        }
        let depth = self.chain.frames().len();
        let known = if epoch == self.epoch { self.chain.n_unchanged() } else { 0 };
        if (known < depth || epoch != self.epoch) && !self.extend(guard, writer, known, epoch) {
            return None;
        }
        self.chain.accept(depth);
        self.top = self.node_below(depth);
        Some(self.top)
    }

    /// Finds the nodes of the frames from `known` up. `false` when memory or the log has run out.
    fn extend(&mut self, guard: &Guard, writer: &mut Writer, known: usize, epoch: u64) -> bool {
        // Holds when everything below is done.
        self.epoch = u64::MAX;
        if !self.nodes.grow(self.chain.frames().len()) {
            return false;
        }
        if let Some(native) = &mut self.native {
            native.python_changed(known);
        }
        let mut node = self.node_below(known);
        for (level, frame) in self.chain.frames().iter().enumerate().skip(known) {
            if self.native.is_some() && python::is_entry(frame) {
                node = match self.rings.find(node, RawFrame::ENTRY.always()) {
                    Some(mark) => mark,
                    None => {
                        let Some(mark) = self.tree.mark(guard, writer, node) else { return false };
                        self.rings.keep(node, RawFrame::ENTRY.always(), mark);
                        mark
                    }
                };
            }
            if let Some(shown) = python::shown(frame) {
                match self.rings.find(node, shown.under(epoch)) {
                    Some(child) => node = child,
                    None => {
                        let Some(child) = self.tree.node_of(guard, writer, node, shown) else {
                            return false;
                        };
                        match child == node {
                            true => self.not_begun.keep(shown.under(epoch)),
                            false => self.rings.keep(node, shown.under(epoch), child),
                        }
                        node = child;
                    }
                }
            }
            self.nodes.set(level, node);
        }
        self.epoch = epoch;
        true
    }

    /// Looks every frame up again, from the root, and ends the program when that leads to another node.
    #[cold]
    fn compare_with_slow_twin(&mut self, guard: &Guard, writer: &mut Writer) {
        let mut node = Some(0);
        for (level, frame) in self.chain.frames().iter().enumerate() {
            if self.native.is_some() && python::is_entry(frame) {
                node = node.and_then(|node| self.tree.mark(guard, writer, node));
            }
            if let Some(shown) = python::shown(frame) {
                node = node.and_then(|node| self.tree.node_of(guard, writer, node, shown));
            }
            if node.is_some() && node != self.nodes.get(level) {
                python::fail_self_check(guard, b"memtrace: self-check: the remembered stack is not the current one\n");
            }
        }
    }
}

/// How many frames the self-check may compare and has not. It compares a stack as long as it has to look at 500 frames an
/// event, on average since the last one: a recursion of a hundred thousand would take hours otherwise.
pub struct Allowance {
    n_frames: usize,
}

impl Allowance {
    pub const fn new() -> Allowance {
        Allowance { n_frames: 0 }
    }

    /// Whether this event's stack, of so many frames, is compared.
    #[cold]
    pub fn allows(&mut self, n_frames: usize) -> bool {
        const FRAMES_AN_EVENT: usize = 500;
        self.n_frames += FRAMES_AN_EVENT;
        let is_allowed = self.n_frames >= n_frames;
        if is_allowed {
            self.n_frames = 0;
        }
        is_allowed
    }
}

/// Node → number, by open addressing.
pub struct Tree {
    entries: Array<Entry>,
    len: usize,
}

/// A node and its number, 0 in an empty place.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    parent: u32,
    code: u32,
    offset: u32,
    number: u32,
}

// SAFETY: numbers.
unsafe impl Plain for Entry {}

impl Tree {
    const fn new() -> Tree {
        Tree { entries: Array::new(), len: 0 }
    }

    fn release(&mut self) {
        self.entries.release();
        self.len = 0;
    }

    /// The node that a frame leads to from `parent`: `parent` itself when the frame has not begun. `None` when it is new
    /// and can't be introduced.
    fn node_of(&mut self, guard: &Guard, writer: &mut Writer, parent: u32, frame: RawFrame) -> Option<u32> {
        match code::resolve(guard, frame) {
            None => Some(parent),
            Some((code, offset)) => self.child(guard, writer, &Node { parent, code, offset }),
        }
    }

    /// The mark above a node.
    pub fn mark(&mut self, guard: &Guard, writer: &mut Writer, parent: u32) -> Option<u32> {
        self.child(guard, writer, &Node { parent, code: Node::NO_CODE, offset: 0 })
    }

    /// The number of a node, introducing it if it is new; `None` when it can't be.
    pub fn child(&mut self, guard: &Guard, writer: &mut Writer, node: &Node) -> Option<u32> {
        if self.len * 2 >= self.entries.capacity() && !self.grow() {
            return None;
        }
        let place = match find(&self.entries, node) {
            Found::Number(number) => return Some(number),
            Found::Place(place) => place,
        };
        // The number is written before it is known here: a thread thrown out in between only wastes it.
        let number = writer.node(guard, node);
        if number == 0 {
            return None;
        }
        self.entries.set(place, Entry { parent: node.parent, code: node.code, offset: node.offset, number });
        self.len += 1;
        Some(number)
    }

    fn grow(&mut self) -> bool {
        let Some(mut larger) = Array::populated((self.entries.capacity() * 2).max(512)) else {
            return false;
        };
        for entry in self.entries.slice(self.entries.capacity()).iter().filter(|entry| entry.number != 0) {
            let node = Node { parent: entry.parent, code: entry.code, offset: entry.offset };
            if let Found::Place(place) = find(&larger, &node) {
                larger.set(place, *entry);
            }
        }
        self.entries.release();
        self.entries = larger;
        true
    }
}

enum Found {
    Number(u32),
    Place(usize),
}

/// Where a node is, or goes: in the four places of its parent, which share a cache line with those of the nodes that came
/// before and after it, or when they are taken somewhere else. Nothing is ever taken out, so an empty place ends a search.
#[inline(always)]
fn find(entries: &Array<Entry>, node: &Node) -> Found {
    const IN_A_LINE: usize = 4;
    let mask = entries.capacity() - 1;
    let first = (node.parent as usize * IN_A_LINE) & mask;
    for place in first..first + IN_A_LINE {
        if let Some(found) = look(entries, place, node) {
            return found;
        }
    }
    let key = (node.parent as u64) << 32 | node.code as u64;
    let mut place = spread(key ^ (node.offset as u64).rotate_left(40)) & mask;
    loop {
        if let Some(found) = look(entries, place, node) {
            return found;
        }
        place = (place + 1) & mask;
    }
}

/// What a place says of a node; `None` when another one has it.
#[inline(always)]
fn look(entries: &Array<Entry>, place: usize, node: &Node) -> Option<Found> {
    match entries.get(place) {
        Some(found) if found.number != 0 => {
            let is_same = (found.parent, found.code, found.offset) == (node.parent, node.code, node.offset);
            is_same.then_some(Found::Number(found.number))
        }
        _ => Some(Found::Place(place)),
    }
}
