//! The tree that turns frames into stack numbers, each node written to the log once. One per lane.
//!
//! The frames of the last event are remembered (`python::Chain`). Those that are the same from the root on keep their
//! nodes, so that an event costs one look-up per *new* frame. Two frames are the same when code address and instruction
//! are; a code address stands for the same code as long as no code object has died in between (`code::epoch`).

use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};

use memtrace_format::record::Node;

use crate::environment;
use crate::guard::Guard;
use crate::heap::{Array, Plain, spread};
use crate::python::{self, Chain, Chunks, Frame, code};
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
}

pub struct Stacks {
    pub chunks: Chunks,
    chain: Chain,
    /// The node of each frame of the chain, root first.
    nodes: Array<u32>,
    /// The death count of code objects that the nodes were found under.
    epoch: u64,
    memo: Memo,
    tree: Tree,
    /// Set while the interpreter's frames are read; see `python::notice_end`.
    is_reading: AtomicBool,
}

impl Stacks {
    pub const fn new() -> Stacks {
        Stacks {
            chunks: Chunks::new(),
            chain: Chain::new(),
            nodes: Array::new(),
            epoch: 0,
            memo: Memo { entries: Array::new() },
            tree: Tree::new(),
            is_reading: AtomicBool::new(false),
        }
    }

    /// Whether the lane's thread is just reading the interpreter's frames.
    pub fn is_reading(&self) -> bool {
        self.is_reading.load(Ordering::Acquire)
    }

    /// The number of this thread's Python stack now; 0 when it has none.
    #[inline(always)]
    pub fn current(&mut self, guard: &Guard, writer: &mut Writer) -> u32 {
        self.is_reading.store(true, Ordering::Relaxed);
        // Whoever wants to know passes a barrier in all threads first, so the compiler's order is enough here.
        compiler_fence(Ordering::SeqCst);
        let node = self.read(guard, writer);
        self.is_reading.store(false, Ordering::Release);
        node
    }

    #[inline(always)]
    fn read(&mut self, guard: &Guard, writer: &mut Writer) -> u32 {
        let epoch = code::epoch();
        let Some(unchanged) = python::refresh(guard, &mut self.chain, &self.chunks) else {
            return 0;
        };
        let depth = self.chain.frames().len();
        if (unchanged < depth || epoch != self.epoch) && !self.extend(guard, writer, unchanged, epoch) {
            return 0;
        }
        if environment::is_self_check() {
            self.compare_with_slow_twin(guard, writer);
        }
        self.nodes.get(depth.wrapping_sub(1)).unwrap_or(0)
    }

    /// Finds the nodes of the frames from `known` up, or of all when code objects have died. `false` when memory or the
    /// log has run out.
    #[inline(never)]
    fn extend(&mut self, guard: &Guard, writer: &mut Writer, known: usize, epoch: u64) -> bool {
        let mut known = known;
        if epoch != self.epoch {
            self.memo.forget();
            known = 0;
        }
        // Holds when everything below is done.
        self.epoch = u64::MAX;
        if !self.nodes.grow(self.chain.frames().len()) {
            return false;
        }
        let mut node = if known == 0 { 0 } else { self.nodes.get(known - 1).unwrap_or(0) };
        for (level, frame) in self.chain.frames().iter().enumerate().skip(known) {
            match self.memo.find(node, frame) {
                Some(child) => node = child,
                None => {
                    let Some(child) = self.tree.node_of(guard, writer, node, frame) else {
                        return false;
                    };
                    self.memo.keep(node, frame, child);
                    node = child;
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
            node = node.and_then(|node| self.tree.node_of(guard, writer, node, frame));
            if node.is_some() && node != self.nodes.get(level) {
                python::fail_self_check(guard, b"memtrace: self-check: the remembered stack is not the current one\n");
            }
        }
    }
}

/// The child that a frame led to lately, by parent and raw frame: spares the look-ups of code object and node. True as
/// long as no code object dies.
struct Memo {
    entries: Array<MemoEntry>,
}

/// Zero, and so no frame, when it is empty.
#[derive(Clone, Copy, Default)]
struct MemoEntry {
    code: u64,
    instruction: u64,
    /// Parent, and in the upper half the owner of the frame.
    parent: u64,
    child: u32,
}

// SAFETY: numbers.
unsafe impl Plain for MemoEntry {}

impl Memo {
    const LEN: usize = 512;

    #[inline(always)]
    fn place(parent: u32, frame: &Frame) -> usize {
        spread(frame.code ^ frame.instruction.rotate_left(23) ^ parent as u64) % Memo::LEN
    }

    #[inline(always)]
    fn parent_of(parent: u32, frame: &Frame) -> u64 {
        frame.owner << 32 | parent as u64
    }

    #[inline(always)]
    fn find(&self, parent: u32, frame: &Frame) -> Option<u32> {
        let found = self.entries.get(Memo::place(parent, frame))?;
        let is_it = found.code == frame.code
            && found.instruction == frame.instruction
            && found.parent == Memo::parent_of(parent, frame)
            && frame.code != 0;
        is_it.then_some(found.child)
    }

    fn keep(&mut self, parent: u32, frame: &Frame, child: u32) {
        if self.entries.grow(Memo::LEN) {
            let entry = MemoEntry {
                code: frame.code,
                instruction: frame.instruction,
                parent: Memo::parent_of(parent, frame),
                child,
            };
            self.entries.set(Memo::place(parent, frame), entry);
        }
    }

    fn forget(&mut self) {
        self.entries.slice_mut(Memo::LEN).fill(MemoEntry::default());
    }
}

/// Node → number, by open addressing.
struct Tree {
    /// Parent and code of each entry, and offset and number: 0 is an empty place.
    keys: Array<u64>,
    values: Array<u64>,
    len: usize,
}

impl Tree {
    const fn new() -> Tree {
        Tree { keys: Array::new(), values: Array::new(), len: 0 }
    }

    /// The node that a frame leads to from `parent`: `parent` itself when the frame is not shown. `None` when it is new
    /// and can't be introduced.
    fn node_of(&mut self, guard: &Guard, writer: &mut Writer, parent: u32, frame: &Frame) -> Option<u32> {
        match python::shown(frame).and_then(|raw| code::resolve(guard, raw)) {
            None => Some(parent),
            Some((code, offset)) => match self.child(guard, writer, &Node { parent, code, offset }) {
                0 => None,
                child => Some(child),
            },
        }
    }

    /// The number of a node, introducing it if it is new; 0 when it can't be.
    fn child(&mut self, guard: &Guard, writer: &mut Writer, node: &Node) -> u32 {
        if self.len * 2 >= self.keys.capacity() && !self.grow() {
            return 0;
        }
        let key = (node.parent as u64) << 32 | node.code as u64;
        let place = match find(&self.keys, &self.values, key, node.offset) {
            Found::Number(number) => return number,
            Found::Place(place) => place,
        };
        // The number is written before it is known here: a thread thrown out in between only wastes it.
        let number = writer.node(guard, node);
        if number != 0 {
            self.keys.set(place, key);
            self.values.set(place, (node.offset as u64) << 32 | number as u64);
            self.len += 1;
        }
        number
    }

    fn grow(&mut self) -> bool {
        let capacity = (self.keys.capacity() * 2).max(512);
        let (Some(mut keys), Some(mut values)) = (Array::with_capacity(capacity), Array::with_capacity(capacity))
        else {
            return false;
        };
        for index in 0..self.keys.capacity() {
            let (Some(key), Some(value)) = (self.keys.get(index), self.values.get(index)) else {
                break;
            };
            if value != 0
                && let Found::Place(place) = find(&keys, &values, key, (value >> 32) as u32)
            {
                keys.set(place, key);
                values.set(place, value);
            }
        }
        self.keys.release();
        self.values.release();
        (self.keys, self.values) = (keys, values);
        true
    }
}

enum Found {
    Number(u32),
    Place(usize),
}

#[inline(always)]
fn find(keys: &Array<u64>, values: &Array<u64>, key: u64, offset: u32) -> Found {
    let mask = keys.capacity() - 1;
    let mut place = spread(key ^ (offset as u64).rotate_left(40)) & mask;
    loop {
        match (keys.get(place), values.get(place)) {
            (Some(found), Some(value)) if value != 0 => {
                if found == key && (value >> 32) as u32 == offset {
                    return Found::Number(value as u32);
                }
            }
            _ => return Found::Place(place),
        }
        place = (place + 1) & mask;
    }
}
