//! Frames and stacks. A stack is a node of one tree over all lanes: its parent and its innermost frame.
//!
//! A frame is a function, a file and a line. Code objects that agree in these three are one frame, and so the tree is
//! the merged call tree that reports show.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::strings::StringId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    pub function: StringId,
    pub file: StringId,
    /// From 1; 0 when the instruction has no line.
    pub line: u32,
    /// Whether it is of C, C++, Rust, Cython and not of Python.
    pub is_native: bool,
}

impl Frame {
    /// `path:line`, and the path alone where there is no line.
    pub fn place(&self, path: &str) -> String {
        match self.line {
            0 => path.to_string(),
            line => format!("{path}:{line}"),
        }
    }
}

/// A frame of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(u32);

impl FrameId {
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The frame with this number, which must be below `n_frames()` of its model.
    pub fn from_index(index: usize) -> FrameId {
        FrameId(u32::try_from(index).expect("frames are numbered with 32 bits"))
    }
}

/// A stack of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(u32);

impl StackId {
    pub const EMPTY: StackId = StackId(0);

    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The stack with this number, which must be below `n_stacks()` of its model.
    pub fn from_index(index: usize) -> StackId {
        StackId(u32::try_from(index).expect("stacks are numbered with 32 bits"))
    }
}

#[derive(Default)]
pub struct Frames {
    frames: Vec<Frame>,
    table: HashTable<u32>,
}

impl Frames {
    pub fn count(&self) -> usize {
        self.frames.len()
    }

    pub fn get(&self, id: FrameId) -> Frame {
        self.frames[id.index()]
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Frame> + '_ {
        self.frames.iter().copied()
    }

    pub fn intern(&mut self, frame: Frame) -> FrameId {
        let Frames { frames, table } = self;
        let hash = hash_of(frame);
        if let Some(&known) = table.find(hash, |&id| frames[id as usize] == frame) {
            return FrameId(known);
        }
        let id = u32::try_from(frames.len()).expect("fewer than 2^32 distinct frames fit in memory");
        frames.push(frame);
        table.insert_unique(hash, id, |&id| hash_of(frames[id as usize]));
        FrameId(id)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Node<F> {
    parent: StackId,
    frame: F,
}

/// Node 0 is the empty stack and has no entry: stack `n` is `nodes[n - 1]`.
pub struct Stacks<F = FrameId> {
    nodes: Vec<Node<F>>,
    table: HashTable<u32>,
}

impl<F> Default for Stacks<F> {
    fn default() -> Stacks<F> {
        Stacks { nodes: Vec::new(), table: HashTable::new() }
    }
}

impl<F: Copy + Eq + Hash> Stacks<F> {
    /// The empty stack counts.
    pub fn count(&self) -> usize {
        self.nodes.len() + 1
    }

    pub fn parent(&self, stack: StackId) -> StackId {
        if stack == StackId::EMPTY { stack } else { self.nodes[stack.index() - 1].parent }
    }

    pub fn frame(&self, stack: StackId) -> Option<F> {
        if stack == StackId::EMPTY { None } else { Some(self.nodes[stack.index() - 1].frame) }
    }

    pub fn from_leaf(&self, stack: StackId) -> impl Iterator<Item = F> + '_ {
        let mut stack = stack;
        std::iter::from_fn(move || {
            let frame = self.frame(stack)?;
            stack = self.parent(stack);
            Some(frame)
        })
    }

    /// Parent and innermost frame of every stack but the empty one, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (StackId, F)> + '_ {
        self.nodes.iter().map(|node| (node.parent, node.frame))
    }

    pub fn extend(&mut self, parent: StackId, frame: F) -> StackId {
        let Stacks { nodes, table } = self;
        let node = Node { parent, frame };
        let hash = hash_of(node);
        if let Some(&known) = table.find(hash, |&id| nodes[id as usize - 1] == node) {
            return StackId(known);
        }
        nodes.push(node);
        let id = u32::try_from(nodes.len()).expect("fewer than 2^32 distinct stacks fit in memory");
        table.insert_unique(hash, id, |&id| hash_of(nodes[id as usize - 1]));
        StackId(id)
    }
}

/// The same value for the same key in this process.
pub fn hash_of(value: impl Hash) -> u64 {
    static BUILDER: std::sync::LazyLock<DefaultHashBuilder> = std::sync::LazyLock::new(Default::default);
    BUILDER.hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::*;

    #[test]
    fn stacks_with_the_same_frames_are_the_same_stack() {
        let mut model = Model::default();
        let main = model.intern_frame("main", "app.py", 1);
        let work = model.intern_frame("work", "app.py", 7);
        let in_main = model.extend_stack(StackId::EMPTY, main);
        let in_work = model.extend_stack(in_main, work);
        assert_eq!(model.extend_stack(StackId::EMPTY, main), in_main);
        assert_eq!(model.extend_stack(in_main, work), in_work);
        assert_ne!(model.extend_stack(StackId::EMPTY, work), in_work);
        let shown: Vec<_> = model.frames_from_leaf(in_work).map(|frame| model.location(frame)).collect();
        assert_eq!(shown, ["work:app.py:7", "main:app.py:1"]);
        assert_eq!(model.frames_from_leaf(StackId::EMPTY).count(), 0);
    }
}
