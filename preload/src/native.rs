//! The native stack of a thread as a node of its lane's tree.

use core::ops::Range;

use memtrace_format::record::Node;

use crate::caller::Caller;
use crate::environment;
use crate::guard::Guard;
use crate::heap::Array;
use crate::python;
use crate::sink::Writer;
use crate::stacks::Tree;
use crate::unwind::{self, Memo, Registers};

/// What a lane knows of its native stacks.
pub struct Native {
    memo: Memo,
    /// The node of each frame, root first.
    nodes: Array<u32>,
    /// Whether a frame is the interpreter's loop's.
    is_loop: Array<u32>,
    /// Where the thread's own stack is; empty until somebody looked.
    own: Range<u64>,
    /// Whether the nodes are those of the remembered frames.
    is_whole: bool,
}

impl Native {
    pub const fn new() -> Native {
        Native { memo: Memo::new(), nodes: Array::new(), is_loop: Array::new(), own: 0..0, is_whole: false }
    }

    /// Another thread's stack lies elsewhere.
    pub fn begin_thread(&mut self) {
        self.own = 0..0;
    }

    /// The number of the stack above a hook that was entered like this; 0 when it is not known.
    ///
    /// `python` are the interpreter's frames, root first. Where one without code lies, the interpreter's loop has its
    /// frame, and a mark follows that.
    pub fn current(
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
        let top = Registers::of_caller(caller);
        let rule = |address| unwind::rule(guard, address, generation);
        if !self.memo.refresh(top, &self.own, generation, rule) {
            return 0;
        }
        if environment::is_self_check() {
            self.compare_with_slow_twin(guard, top, generation);
        }
        let known = if self.is_whole { self.memo.n_unchanged() } else { 0 };
        // Again when everything below is done.
        self.is_whole = false;
        if !self.nodes.grow(self.memo.frames().len()) || !self.find_loops(known, python) {
            return 0;
        }
        let frames = self.memo.frames();
        let mut node = known.checked_sub(1).and_then(|level| self.nodes.get(level)).unwrap_or(0);
        for (level, frame) in frames.iter().enumerate().skip(known) {
            if let Some((code, offset)) = unwind::place(guard, frame.code_address()) {
                match tree.child(guard, writer, &Node { parent: node, code, offset }) {
                    0 => return 0,
                    child => node = child,
                }
                if self.is_loop.get(level).is_some_and(|is_loop| is_loop != 0) {
                    match tree.child(guard, writer, &Node { parent: node, code: Node::NO_CODE, offset: 0 }) {
                        0 => return 0,
                        child => node = child,
                    }
                }
            }
            self.nodes.set(level, node);
        }
        self.is_whole = true;
        node
    }

    /// Notes which frames from a level up are the interpreter's loop's: from 3.12 on it has a frame without code among its
    /// own variables. `false` without memory.
    fn find_loops(&mut self, known: usize, python: &[python::Frame]) -> bool {
        let frames = self.memo.frames();
        if !self.is_loop.grow(frames.len()) {
            return false;
        }
        let mut entries = python.iter().rev().filter(|frame| python::shown(frame).is_none());
        let mut entry = entries.next();
        for (level, frame) in frames.iter().enumerate().skip(known).rev() {
            while entry.is_some_and(|entry| (entry.address as u64) < frame.start()) {
                entry = entries.next();
            }
            let end =
                level.checked_sub(1).and_then(|below| frames.get(below)).map_or(u64::MAX, |caller| caller.start());
            self.is_loop.set(level, entry.is_some_and(|entry| (entry.address as u64) < end) as u32);
        }
        true
    }

    /// Unwinds everything anew, and ends the program when that leads elsewhere.
    #[cold]
    fn compare_with_slow_twin(&self, guard: &Guard, top: Registers, generation: u64) {
        let mut fresh = Memo::new();
        let is_found = fresh.refresh(top, &self.own, generation, |address| unwind::rule(guard, address, generation));
        let remembered = self.memo.frames().iter().map(|frame| frame.code_address());
        let is_same = fresh.frames().iter().map(|frame| frame.code_address()).eq(remembered);
        if is_found && !is_same && unwind::generation() == generation {
            python::fail_self_check(
                guard,
                b"memtrace: self-check: the remembered native stack is not the current one\n",
            );
        }
        fresh.release();
    }
}
