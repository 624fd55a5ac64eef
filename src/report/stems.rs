//! How a tree is drawn with lines: who stands below whom, and what stands in front of a line.
//!
//! A frame that calls only one other stands directly above it, so that deep stacks stay narrow: only where a path
//! branches, what follows is indented.

use crate::analysis::Tree;

/// The place of each node of a tree.
pub struct Stems {
    stems: Vec<Stem>,
}

/// A run of lines one below the other.
#[derive(Clone, Copy)]
struct Stem {
    /// Branchings above it.
    level: usize,
    /// The node that it branches off from.
    above: usize,
    /// No sibling comes below it.
    is_last: bool,
    /// Whether this very node is where it begins.
    is_start: bool,
}

/// What stands in front of a line, one for each branching above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guide {
    /// `├─` before a node that has a sibling below.
    Branch,
    /// `└─` before the last of them.
    LastBranch,
    /// `│` beside what hangs on a node with a sibling below.
    Beside,
    /// Nothing: what stood here is above.
    Below,
}

impl Stems {
    pub fn new(tree: &Tree) -> Stems {
        let mut stems: Vec<Stem> = Vec::with_capacity(tree.nodes.len());
        for (index, node) in tree.nodes.iter().enumerate() {
            let is_branch = index > 0 && tree.children(node.parent).nth(1).is_some();
            let is_last = index > 0 && tree.nodes[node.parent].end == node.end;
            let root = Stem { level: 0, above: 0, is_last: true, is_start: true };
            let parent = stems.get(node.parent).map_or(root, |stem| *stem);
            stems.push(match is_branch {
                false => Stem { is_start: index == 0, ..parent },
                true => Stem { level: parent.level + 1, above: node.parent, is_last, is_start: true },
            });
        }
        Stems { stems }
    }

    /// What stands in front of a node, from left to right.
    pub fn guides(&self, node: usize) -> Vec<Guide> {
        let own = self.stems[node];
        let mut guides = Vec::with_capacity(own.level);
        let mut stem = own;
        while stem.level > 0 {
            let is_own = stem.level == own.level;
            guides.push(match (is_own && own.is_start, stem.is_last) {
                (true, true) => Guide::LastBranch,
                (true, false) => Guide::Branch,
                (false, true) => Guide::Below,
                (false, false) => Guide::Beside,
            });
            stem = self.stems[stem.above];
        }
        guides.reverse();
        guides
    }
}
