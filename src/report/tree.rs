//! The call tree of the largest allocating stacks, as text.

use std::io::{Result, Write};

use crate::analysis::{Snapshot, Tree};
use crate::model::Model;
use crate::units;

pub struct TreeOptions {
    /// Stacks that are shown, the largest ones.
    pub biggest_allocs: usize,
}

/// What of a snapshot is shown.
pub fn biggest(snapshot: &Snapshot, options: &TreeOptions) -> Snapshot {
    let mut rows = snapshot.rows.clone();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.bytes), std::cmp::Reverse(row.count), row.stack));
    rows.truncate(options.biggest_allocs);
    rows.sort_by_key(|row| row.stack);
    Snapshot::new(rows.into_iter(), snapshot.turn)
}

/// One line a frame. A frame that calls only one other stands directly above it, so that deep stacks stay narrow.
pub fn text(model: &Model, snapshot: &Snapshot, tree: &Tree, n_left_out: usize, out: &mut dyn Write) -> Result<()> {
    let mut stems: Vec<Stem> = Vec::with_capacity(tree.nodes.len());
    for (index, node) in tree.nodes.iter().enumerate() {
        let is_branch = index > 0 && tree.children(node.parent).nth(1).is_some();
        let is_last = index > 0 && tree.nodes[node.parent].end == node.end;
        let parent = stems.get(node.parent).map_or(Stem { level: 0, above: 0, is_last: true }, |stem| *stem);
        let stem = match is_branch {
            false => parent,
            true => Stem { level: parent.level + 1, above: node.parent, is_last },
        };
        let name = match node.frame {
            None => "<all>".to_string(),
            Some(id) => model.location(model.frame(id)),
        };
        let is_start = is_branch || index == 0;
        let prefix = prefix(&stems, stem, is_start);
        let (bytes, share) = (units::bytes(node.bytes), units::share(node.bytes, snapshot.bytes));
        let plural = if node.count == 1 { "" } else { "s" };
        writeln!(out, "{prefix}{bytes} ({share}, {} allocation{plural}) {name}", units::count(node.count))?;
        stems.push(stem);
    }
    if n_left_out > 0 {
        writeln!(out, "({} further stacks with smaller allocations)", units::count(n_left_out as u64))?;
    }
    Ok(())
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
}

fn prefix(stems: &[Stem], stem: Stem, is_start: bool) -> String {
    let mut parts = Vec::with_capacity(stem.level);
    let mut current = stem;
    while current.level > 0 {
        let is_own = current.level == stem.level;
        parts.push(match (is_own && is_start, current.is_last) {
            (true, true) => "└─ ",
            (true, false) => "├─ ",
            (false, true) => "   ",
            (false, false) => "│  ",
        });
        current = stems[current.above];
    }
    parts.reverse();
    parts.concat()
}
