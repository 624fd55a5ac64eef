//! The merged call tree of a snapshot: every stack with what it and everything it called holds.

use crate::model::{FrameId, Model, StackId};

use super::Snapshot;

/// Nodes in depth-first order, the root first, the largest child of a node first.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// `None` for the root.
    pub frame: Option<FrameId>,
    /// Index of the parent; the root's is its own.
    pub parent: usize,
    /// Distance from the root.
    pub depth: usize,
    /// Index of the first node behind this one's descendants.
    pub end: usize,
    pub bytes: u64,
    pub count: u64,
    /// Allocated in this very frame.
    pub own_bytes: u64,
    pub own_count: u64,
}

impl Tree {
    pub fn new(model: &Model, snapshot: &Snapshot) -> Tree {
        let n_stacks = model.n_stacks();
        let mut sums = vec![(0u64, 0u64); n_stacks];
        let mut own = vec![(0u64, 0u64); n_stacks];
        for row in &snapshot.rows {
            own[row.stack.index()] = (row.bytes, row.count);
            sums[row.stack.index()] = (row.bytes, row.count);
        }
        // Parents have smaller numbers, so from the back every sum is complete when it is passed on.
        for index in (1..n_stacks).rev() {
            let (bytes, count) = sums[index];
            let parent = &mut sums[model.parent(StackId::from_index(index)).index()];
            parent.0 = parent.0.saturating_add(bytes);
            parent.1 += count;
        }
        let mut children: Vec<usize> = (1..n_stacks).filter(|&index| sums[index].1 > 0).collect();
        let parent_of = |index: usize| model.parent(StackId::from_index(index)).index();
        children.sort_by_key(|&index| (parent_of(index), sums[index].0, sums[index].1, std::cmp::Reverse(index)));
        let mut nodes: Vec<Node> = Vec::with_capacity(children.len() + 1);
        // Stacks to visit, each with the index of its parent's node; the next one last.
        let mut waiting = vec![(0, 0)];
        while let Some((index, parent)) = waiting.pop() {
            let at = nodes.len();
            let depth = nodes.get(parent).map_or(0, |node| node.depth + 1);
            nodes.push(Node {
                frame: model.leaf(StackId::from_index(index)),
                parent,
                depth,
                end: at + 1,
                bytes: sums[index].0,
                count: sums[index].1,
                own_bytes: own[index].0,
                own_count: own[index].1,
            });
            let start = children.partition_point(|&child| parent_of(child) < index);
            let len = children[start..].partition_point(|&child| parent_of(child) == index);
            waiting.extend(children[start..start + len].iter().map(|&child| (child, at)));
        }
        for index in (1..nodes.len()).rev() {
            let Node { parent, end, .. } = nodes[index];
            nodes[parent].end = nodes[parent].end.max(end);
        }
        Tree { nodes }
    }

    pub fn root(&self) -> Option<&Node> {
        self.nodes.first()
    }

    /// The children of a node, the largest first, with their indexes.
    pub fn children(&self, index: usize) -> impl Iterator<Item = (usize, &Node)> {
        let end = self.nodes.get(index).map_or(0, |node| node.end);
        let mut next = index + 1;
        std::iter::from_fn(move || {
            let at = next;
            let node = self.nodes.get(at).filter(|_| at < end)?;
            next = node.end;
            Some((at, node))
        })
    }
}
