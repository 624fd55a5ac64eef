//! The native stack of a thread as a node of its lane's tree.

use core::ops::Range;

use memtrace_format::record::Node;

use crate::caller::Caller;
use crate::environment;
use crate::guard::Guard;
use crate::heap::Array;
use crate::python;
use crate::rings::Rings;
use crate::sink::Writer;
use crate::stacks::{Allowance, Tree};
use crate::unwind::{self, Memo, Registers};

/// What a lane knows of its native stacks.
pub struct Native {
    memo: Memo,
    /// The node of each frame, root first.
    nodes: Array<u32>,
    /// What leads to each frame's node: its address, and whether it is the loop's.
    whats: Array<u64>,
    /// By address of code, with [`LOOP`], or by Python stack, with [`JOINED`].
    rings: Rings<u64>,
    entries: Entries,
    /// Where the thread's own stack is; empty until somebody looked.
    own: Range<u64>,
    /// Whether the nodes are those of the remembered frames.
    is_whole: bool,
    /// What addresses were known under.
    generation: u64,
    self_check: Allowance,
    /// Of the self-check: a fresh walk, and which of its frames are the loop's.
    fresh: Memo,
    are_loops: Array<u32>,
}

/// Added to an address of code: the frame is the interpreter's loop's.
const LOOP: u64 = 1 << 63;
/// Added to the node of a Python stack: a native one is joined with it.
const JOINED: u64 = 1 << 62;

impl Native {
    pub const fn new() -> Native {
        Native {
            memo: Memo::new(),
            nodes: Array::new(),
            whats: Array::new(),
            rings: Rings::new(),
            entries: Entries::new(),
            own: 0..0,
            is_whole: false,
            generation: 0,
            self_check: Allowance::new(),
            fresh: Memo::new(),
            are_loops: Array::new(),
        }
    }

    /// Gives its memory back.
    pub fn release(&mut self) {
        self.memo.release();
        self.nodes.release();
        self.whats.release();
        self.rings.release();
        self.entries.innermost.release();
        self.entries.addresses.release();
        self.fresh.release();
        self.are_loops.release();
    }

    /// Another thread's stack lies elsewhere.
    pub fn begin_thread(&mut self) {
        self.own = 0..0;
        self.memo.forget();
    }

    /// To be told when the interpreter's frames from this level up are others than before.
    #[inline(always)]
    pub fn python_changed(&mut self, level: usize) {
        self.entries.n_known = self.entries.n_known.min(level);
    }

    /// The number of the stack above a hook that was entered like this, with a Python stack; that of the Python stack
    /// alone when the other is not known. `python` are the interpreter's frames, root first.
    #[inline(always)]
    pub fn join(
        &mut self,
        guard: &Guard,
        writer: &mut Writer,
        tree: &mut Tree,
        caller: Caller,
        stack: u32,
        python: &[python::Frame],
    ) -> u32 {
        let native = self.current(guard, writer, tree, caller, python);
        if native == 0 {
            return stack;
        }
        // Beside the native frames that came from there: what was introduced together lies together.
        let what = u64::from(stack) | JOINED;
        if let Some(both) = self.rings.find(native, what) {
            return both;
        }
        let node = Node { parent: stack, code: Node::NO_CODE, offset: native };
        // When the log has run out, half a stack is better than none.
        let Some(both) = tree.child(guard, writer, &node) else { return stack };
        self.rings.keep(native, what, both);
        both
    }

    /// The number of the native stack; 0 when it is not known. Where an interpreter's frame without code lies, the
    /// interpreter's loop has its frame, and a mark follows that.
    #[inline(always)]
    fn current(
        &mut self,
        guard: &Guard,
        writer: &mut Writer,
        tree: &mut Tree,
        caller: Caller,
        python: &[python::Frame],
    ) -> u32 {
        if !caller.is_above_us() {
            return 0;
        }
        if self.own.is_empty() {
            self.own = unwind::own_stack();
        }
        let generation = unwind::generation();
        if generation != self.generation {
            self.generation = generation;
            self.memo.forget();
            self.rings.release();
        }
        let top = Registers::of_caller(caller);
        if !self.memo.refresh(top, &self.own, |address| unwind::rule(guard, address, generation)) {
            return 0;
        }
        let Some(highest) = self.entries.learn(python) else { return 0 };
        let frames = self.memo.frames();
        let n_frames = frames.len();
        let mut known = if self.is_whole { self.memo.n_unchanged() } else { 0 };
        // The same frame, as far as registers and words tell, that is the loop's no more, or is only now.
        while known > 0 && frames.get(known - 1).is_some_and(|frame| frame.start() <= highest) {
            known -= 1;
        }
        if known < n_frames && !self.extend(guard, writer, tree, known, python) {
            return 0;
        }
        if environment::is_self_check() && self.self_check.allows(n_frames.max(python.len())) {
            self.compare_with_slow_twin(guard, writer, tree, top, python);
        }
        n_frames.checked_sub(1).and_then(|top| self.nodes.get(top)).unwrap_or(0)
    }

    /// Finds the nodes of the frames from `known` up. `false` when memory or the log has run out.
    #[inline(always)]
    fn extend(
        &mut self,
        guard: &Guard,
        writer: &mut Writer,
        tree: &mut Tree,
        known: usize,
        python: &[python::Frame],
    ) -> bool {
        // Again when everything below is done.
        self.is_whole = false;
        let Native { memo, nodes, whats, rings, entries, generation, .. } = self;
        let frames = memo.frames();
        if !nodes.grow(frames.len()) || !whats.grow(frames.len()) {
            return false;
        }
        let mut entry = entries.innermost(python.len());
        let mut level = frames.len();
        while level > known {
            level -= 1;
            let Some(frame) = frames.get(level) else { return false };
            while entry.is_some_and(|entry| address(python, entry) < frame.start()) {
                entry = entry.and_then(|entry| entries.innermost(entry));
            }
            let caller = level.checked_sub(1).and_then(|below| frames.get(below));
            let end = caller.map_or(u64::MAX, |caller| caller.start());
            let is_loop = entry.is_some_and(|entry| address(python, entry) < end);
            whats.set(level, frame.code_address() | if is_loop { LOOP } else { 0 });
        }
        let mut node = match known.checked_sub(1) {
            Some(below) => nodes.get(below).unwrap_or(0),
            None => {
                let Some(first) = first(guard, writer, tree, frames) else { return false };
                first
            }
        };
        while level < frames.len() {
            let what = whats.get(level).unwrap_or(0);
            node = match rings.find(node, what) {
                Some(child) => child,
                None => {
                    let Some(child) = child(guard, writer, tree, node, what, *generation) else { return false };
                    if child != node {
                        rings.keep(node, what, child);
                    }
                    child
                }
            };
            nodes.set(level, node);
            level += 1;
        }
        self.is_whole = true;
        true
    }

    /// Unwinds everything anew and looks each frame up again, and ends the program when that leads elsewhere.
    #[cold]
    #[inline(never)]
    fn compare_with_slow_twin(
        &mut self,
        guard: &Guard,
        writer: &mut Writer,
        tree: &mut Tree,
        top: Registers,
        python: &[python::Frame],
    ) {
        let Native { generation, own, nodes, fresh, are_loops, .. } = self;
        let generation = *generation;
        fresh.forget();
        if !fresh.refresh(top, own, |address| unwind::rule(guard, address, generation)) {
            return;
        }
        let frames = fresh.frames();
        if !are_loops.grow(frames.len()) {
            return;
        }
        let mut entries = python.iter().rev().filter(|frame| python::shown(frame).is_none());
        let mut entry = entries.next();
        let mut end = frames.len();
        while let Some((frame, callers)) = frames.get(..end).and_then(<[_]>::split_last) {
            end = callers.len();
            while entry.is_some_and(|entry| (entry.address as u64) < frame.start()) {
                entry = entries.next();
            }
            let above = callers.last().map_or(u64::MAX, |caller| caller.start());
            are_loops.set(end, entry.is_some_and(|entry| (entry.address as u64) < above) as u32);
        }
        let mut node = first(guard, writer, tree, frames);
        for (level, frame) in frames.iter().enumerate() {
            let mark = if are_loops.get(level) == Some(1) { LOOP } else { 0 };
            node = node.and_then(|node| child(guard, writer, tree, node, frame.code_address() | mark, generation));
        }
        let remembered = frames.len().checked_sub(1).and_then(|top| nodes.get(top));
        if remembered != node && node.is_some() && unwind::generation() == generation {
            python::fail_self_check(
                guard,
                b"memtrace: self-check: the remembered native stack is not the current one\n",
            );
        }
    }
}

/// The node below all frames: a mark when the outermost one has a caller that nobody finds. `None` when the log has run
/// out.
#[inline(always)]
fn first(guard: &Guard, writer: &mut Writer, tree: &mut Tree, frames: &[unwind::Frame]) -> Option<u32> {
    if frames.first().is_some_and(unwind::Frame::is_cut) { tree.mark(guard, writer, 0) } else { Some(0) }
}

/// The node that a frame leads to from its caller's: that one itself when nobody knows what its code belongs to. `None`
/// when memory or the log has run out.
#[cold]
#[inline(never)]
fn child(guard: &Guard, writer: &mut Writer, tree: &mut Tree, parent: u32, what: u64, generation: u64) -> Option<u32> {
    let Some((code, offset)) = unwind::place(guard, what & !LOOP, generation) else { return Some(parent) };
    let child = tree.child(guard, writer, &Node { parent, code, offset })?;
    if what & LOOP == 0 { Some(child) } else { tree.mark(guard, writer, child) }
}

fn address(python: &[python::Frame], level: usize) -> u64 {
    python.get(level).map_or(0, |frame| frame.address as u64)
}

/// Where the interpreter's frames without code are: from 3.12 on the loop has one among its own variables.
struct Entries {
    /// For each level one more than that of the innermost such frame up to there, 0 without.
    innermost: Array<u32>,
    /// The address of such a frame at its level, else 0.
    addresses: Array<u64>,
    /// How many levels there are.
    depth: usize,
    /// How many of them have not changed since.
    n_known: usize,
}

impl Entries {
    const fn new() -> Entries {
        Entries { innermost: Array::new(), addresses: Array::new(), depth: 0, n_known: 0 }
    }

    /// Looks at the levels that are new or gone. The highest address at which an entry came or went, 0 when none did;
    /// `None` without memory.
    ///
    /// A greenlet's interpreter frames begin anew above native frames of whoever started it.
    #[inline(always)]
    fn learn(&mut self, python: &[python::Frame]) -> Option<u64> {
        if self.depth == python.len() && self.n_known >= python.len() { Some(0) } else { self.learn_changed(python) }
    }

    fn learn_changed(&mut self, python: &[python::Frame]) -> Option<u64> {
        if !self.innermost.grow(python.len()) || !self.addresses.grow(python.len()) {
            return None;
        }
        let mut highest = 0;
        for level in self.n_known.min(python.len())..python.len().max(self.depth) {
            let before = if level < self.depth { self.addresses.get(level).unwrap_or(0) } else { 0 };
            let entry = python.get(level).filter(|frame| python::shown(frame).is_none());
            let now = entry.map_or(0, |frame| frame.address as u64);
            if now != before {
                highest = highest.max(now).max(before);
            }
            if level < python.len() {
                let below = self.innermost(level).map_or(0, |below| below as u32 + 1);
                self.innermost.set(level, if entry.is_some() { level as u32 + 1 } else { below });
                self.addresses.set(level, now);
            }
        }
        (self.depth, self.n_known) = (python.len(), python.len());
        Some(highest)
    }

    /// The innermost below a level.
    #[inline(always)]
    fn innermost(&self, level: usize) -> Option<usize> {
        (self.innermost.get(level.checked_sub(1)?)? as usize).checked_sub(1)
    }
}
