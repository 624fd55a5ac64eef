//! The merged call tree of a snapshot: every stack with what it and everything it called holds.

use std::cmp::Reverse;

use hashbrown::HashMap;

use super::Snapshot;
use crate::model::{FrameId, Model, StackId};

/// Nodes in depth-first order, the root first, the largest child of a node first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// What makes one node larger than another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    #[default]
    Bytes,
    Count,
}

/// What becomes of a node when a tree is arranged anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Shown,
    /// Its caller takes over what it holds and calls.
    Lifted,
    /// It goes, with everything below it.
    Dropped,
}

/// A node before its place is known: what calls it and what is allocated in it.
struct Part {
    frame: Option<FrameId>,
    parent: usize,
    own_bytes: u64,
    own_count: u64,
}

impl Tree {
    pub fn new(model: &Model, snapshot: &Snapshot) -> Tree {
        let part = |index: usize| {
            let stack = StackId::from_index(index);
            Part { frame: model.leaf(stack), parent: model.parent(stack).index(), own_bytes: 0, own_count: 0 }
        };
        let mut parts: Vec<Part> = (0..model.n_stacks()).map(part).collect();
        for row in &snapshot.rows {
            let part = &mut parts[row.stack.index()];
            (part.own_bytes, part.own_count) = (row.bytes, row.count);
        }
        Tree::of_parts(&parts, Measure::Bytes)
    }

    /// The tree with some frames lifted out or dropped, and in another order. Frames that come to stand beside each
    /// other are one when they are the same.
    pub fn arranged(&self, keep: impl Fn(FrameId) -> Keep, measure: Measure) -> Tree {
        let mut parts: Vec<Part> = Vec::with_capacity(self.nodes.len());
        let mut by_place: HashMap<(usize, Option<FrameId>), usize> = HashMap::new();
        // By node: the part that holds it.
        let mut places: Vec<Option<usize>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let above = places.get(node.parent).copied().unwrap_or(Some(0));
            let place = match (above, node.frame.map_or(Keep::Shown, &keep)) {
                (None, _) | (_, Keep::Dropped) => None,
                (Some(above), Keep::Lifted) => Some(above),
                (Some(parent), Keep::Shown) => Some(*by_place.entry((parent, node.frame)).or_insert_with(|| {
                    parts.push(Part { frame: node.frame, parent, own_bytes: 0, own_count: 0 });
                    parts.len() - 1
                })),
            };
            if let Some(place) = place {
                let part = &mut parts[place];
                part.own_bytes = part.own_bytes.saturating_add(node.own_bytes);
                part.own_count += node.own_count;
            }
            places.push(place);
        }
        Tree::of_parts(&parts, measure)
    }

    /// The first part is the root and its own parent; the others come behind theirs. Parts that hold nothing are left out.
    fn of_parts(parts: &[Part], measure: Measure) -> Tree {
        if parts.is_empty() {
            return Tree::default();
        }
        let mut sums: Vec<(u64, u64)> = parts.iter().map(|part| (part.own_bytes, part.own_count)).collect();
        // From the back every sum is complete when it is passed on.
        for index in (1..parts.len()).rev() {
            let (bytes, count) = sums[index];
            let parent = &mut sums[parts[index].parent];
            parent.0 = parent.0.saturating_add(bytes);
            parent.1 += count;
        }
        let weight = |index: usize| match measure {
            Measure::Bytes => sums[index],
            Measure::Count => (sums[index].1, sums[index].0),
        };
        let mut children: Vec<usize> = (1..parts.len()).filter(|&index| sums[index].1 > 0).collect();
        let parent_of = |index: usize| parts[index].parent;
        children.sort_by_key(|&index| (parent_of(index), weight(index), Reverse(index)));
        let mut nodes: Vec<Node> = Vec::with_capacity(children.len() + 1);
        // Parts to visit, each with the index of its parent's node; the next one last.
        let mut waiting = vec![(0, 0)];
        while let Some((index, parent)) = waiting.pop() {
            let at = nodes.len();
            let depth = nodes.get(parent).map_or(0, |node| node.depth + 1);
            nodes.push(Node {
                frame: parts[index].frame,
                parent,
                depth,
                end: at + 1,
                bytes: sums[index].0,
                count: sums[index].1,
                own_bytes: parts[index].own_bytes,
                own_count: parts[index].own_count,
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

#[cfg(test)]
mod tests {
    use super::super::Row;
    use super::*;

    /// A tree of stacks written as `main>import>work`, each holding that many bytes in one block.
    fn tree(stacks: &[(&str, u64, u64)]) -> (Model, Tree) {
        let mut model = Model::default();
        let mut rows = Vec::new();
        for &(path, bytes, count) in stacks {
            let stack = model.stack_written("app.py", path);
            rows.push(Row { stack, bytes, count });
        }
        rows.sort_by_key(|row| row.stack);
        let tree = Tree::new(&model, &Snapshot::new(rows.into_iter(), None));
        (model, tree)
    }

    fn shown(model: &Model, tree: &Tree) -> Vec<String> {
        let line = |node: &Node| {
            let name = node.frame.map_or("<all>", |id| model.text(model.frame(id).function));
            format!("{}{name} {} {}", " ".repeat(node.depth), node.bytes, node.count)
        };
        tree.nodes.iter().map(line).collect()
    }

    fn check(stacks: &[(&str, u64, u64)], keep: fn(&str) -> Keep, measure: Measure, expected: &[&str]) {
        let (model, tree) = tree(stacks);
        let arranged = tree.arranged(|id| keep(model.text(model.frame(id).function)), measure);
        assert_eq!(shown(&model, &arranged), expected);
    }

    #[test]
    fn nothing_changes_when_everything_is_shown() {
        let (_, tree) = tree(&[("main>a", 5, 1), ("main>b", 3, 9), ("main", 1, 1), ("other>a", 8, 1)]);
        assert_eq!(tree.arranged(|_| Keep::Shown, Measure::Bytes), tree);
    }

    #[test]
    fn what_lifted_frames_called_is_merged_below_their_caller() {
        let keep = |name: &str| if name == "import" { Keep::Lifted } else { Keep::Shown };
        check(
            &[("main>import>a", 5, 1), ("main>a", 3, 1), ("main>import", 2, 1), ("import>import>main", 4, 1)],
            keep,
            Measure::Bytes,
            &["<all> 14 4", " main 14 4", "  a 8 2"],
        );
    }

    #[test]
    fn dropped_frames_take_along_what_they_called() {
        let keep = |name: &str| if name == "import" { Keep::Dropped } else { Keep::Shown };
        check(
            &[("main>import>a", 5, 1), ("main>a", 3, 1), ("import", 2, 1)],
            keep,
            Measure::Bytes,
            &["<all> 3 1", " main 3 1", "  a 3 1"],
        );
        check(&[("import>a", 5, 1)], keep, Measure::Bytes, &["<all> 0 0"]);
    }

    #[test]
    fn the_largest_is_first_in_either_measure() {
        let stacks = [("a", 5, 1), ("b", 3, 9), ("c", 3, 4)];
        check(&stacks, |_| Keep::Shown, Measure::Bytes, &["<all> 11 14", " a 5 1", " b 3 9", " c 3 4"]);
        check(&stacks, |_| Keep::Shown, Measure::Count, &["<all> 11 14", " b 3 9", " c 3 4", " a 5 1"]);
    }
}
