//! The tree that turns frames into stack numbers, each node written to the log once. One per lane.
//!
//! The last stack is kept as raw frames. Frames that are the same from the root on keep their nodes, so that an event
//! costs one look-up per *new* frame. Two raw frames are the same when code address and instruction are; a code
//! address stands for the same code as long as no code object has died in between (`code::epoch`).

use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};

use memtrace_format::record::Node;

use crate::environment;
use crate::guard::Guard;
use crate::heap::Array;
use crate::python::{self, code};
use crate::sink::Writer;

/// A frame as it is read: address of the code object, address of the running instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct RawFrame {
    pub code: u64,
    /// With [`RawFrame::GENERATOR`] set when the frame belongs to a generator.
    pub instruction: u64,
}

impl RawFrame {
    pub const GENERATOR: u64 = 1 << 63;
}

// SAFETY: two numbers.
unsafe impl crate::heap::Plain for RawFrame {}

pub struct Stacks {
    /// The last stack, leaf first, and the buffer for the next one.
    last: Array<RawFrame>,
    next: Array<RawFrame>,
    last_depth: usize,
    /// The nodes of the last stack, root first.
    nodes: Array<u32>,
    /// The death count of code objects that `last` was read under.
    epoch: u64,
    tree: Tree,
    /// Set while the interpreter's frames are read; see `python::notice_end`.
    is_reading: AtomicBool,
}

impl Stacks {
    pub const fn new() -> Stacks {
        Stacks {
            last: Array::new(),
            next: Array::new(),
            last_depth: 0,
            nodes: Array::new(),
            epoch: 0,
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
        let depth = python::frames(guard, &mut self.next);
        if depth == 0 {
            return 0;
        }
        let known = if epoch == self.epoch { self.common_depth(depth) } else { 0 };
        if known < depth && !self.extend(guard, writer, known, depth) {
            self.last_depth = 0;
            return 0;
        }
        if environment::is_self_check() {
            self.compare_with_slow_twin(guard, writer, depth);
        }
        core::mem::swap(&mut self.last, &mut self.next);
        self.last_depth = depth;
        self.epoch = epoch;
        self.nodes.get(depth - 1).unwrap_or(0)
    }

    /// Looks every frame up again, from the root, and ends the program when that leads to another node.
    #[cold]
    fn compare_with_slow_twin(&mut self, guard: &Guard, writer: &mut Writer, depth: usize) {
        let leaf = self.nodes.get(depth - 1);
        if self.extend(guard, writer, 0, depth) && self.nodes.get(depth - 1) != leaf {
            python::fail_self_check(guard, b"memtrace: self-check: the remembered stack is not the current one\n");
        }
    }

    /// How many frames, from the root, the last stack and the next one share.
    #[inline(always)]
    fn common_depth(&self, depth: usize) -> usize {
        let last = self.last.slice(self.last_depth);
        let next = self.next.slice(depth);
        last.iter().rev().zip(next.iter().rev()).take_while(|(last, next)| last == next).count()
    }

    /// Looks the nodes of the frames from `known` up to `depth` up. `false` when memory or the log has run out.
    #[inline(never)]
    fn extend(&mut self, guard: &Guard, writer: &mut Writer, known: usize, depth: usize) -> bool {
        if self.nodes.capacity() < depth && !self.nodes.grow(depth) {
            return false;
        }
        let mut node = if known == 0 { 0 } else { self.nodes.get(known - 1).unwrap_or(0) };
        for level in known..depth {
            let Some(frame) = self.next.get(depth - 1 - level) else {
                return false;
            };
            if let Some((code, offset)) = code::resolve(guard, frame) {
                match self.tree.child(guard, writer, &Node { parent: node, code, offset }) {
                    0 => return false,
                    child => node = child,
                }
            }
            self.nodes.set(level, node);
        }
        true
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
    let mixed = (key ^ (offset as u64).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut place = (mixed >> 32) as usize & mask;
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
