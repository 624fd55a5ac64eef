//! Folds: events in, values out. Each answers one question in one pass over the events, with memory in proportion to
//! what is alive at a time and to the distinct stacks. None knows files, clocks or output.

pub mod diff;
pub mod heap;
pub mod intervals;
pub mod live;
mod mappings;
mod objects;
pub mod places;
mod prefetch;
pub mod sites;
pub mod stats;
pub mod summary;
mod table;
pub mod temporary;
pub mod tree;

pub use diff::{Diff, DiffOptions};
pub use heap::Heap;
pub use intervals::{Intervals, Temporal};
pub use live::Live;
pub use mappings::{Class, MmapRule};
pub use objects::Objects;
pub use sites::{BySite, Detail, Site, SiteId, SiteRow, Sites};
pub use stats::{Counted, Stats};
pub use temporary::Temporary;
pub use tree::{Keep, Measure, Tree};

use crate::model::{Handles, StackId};

/// Who knows of which stacks it has something to say. A stack may come more than once.
pub trait OfStacks {
    fn stacks(&self) -> impl Iterator<Item = StackId>;
}

impl<T: OfStacks, const N: usize> OfStacks for [T; N] {
    fn stacks(&self) -> impl Iterator<Item = StackId> {
        self.iter().flat_map(T::stacks)
    }
}

impl OfStacks for Snapshot {
    fn stacks(&self) -> impl Iterator<Item = StackId> {
        self.rows.iter().map(|row| row.stack)
    }
}

impl OfStacks for BySite {
    fn stacks(&self) -> impl Iterator<Item = StackId> {
        self.rows.iter().map(|row| row.site.stack)
    }
}

impl OfStacks for Temporal {
    fn stacks(&self) -> impl Iterator<Item = StackId> {
        self.sites.iter().map(|site| site.stack)
    }
}

impl OfStacks for Stats {
    fn stacks(&self) -> impl Iterator<Item = StackId> {
        self.totals.stacks().map(|(stack, _, _)| stack)
    }
}

/// Bytes and allocations by stack: what a report is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order of stack numbers; stacks without an allocation are left out.
    pub rows: Vec<Row>,
    pub bytes: u64,
    pub count: u64,
    /// The moment it shows, when it shows one.
    pub turn: Option<u64>,
}

/// What one stack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub stack: StackId,
    pub bytes: u64,
    /// Blocks (and pieces of mappings).
    pub count: u64,
}

impl Snapshot {
    /// Of rows in any order, those of a stack summed up.
    pub fn summed(mut rows: Vec<Row>, turn: Option<u64>) -> Snapshot {
        rows.sort_unstable_by_key(|row| row.stack);
        rows.dedup_by(|row, sum| {
            let is_same = row.stack == sum.stack;
            if is_same {
                sum.bytes = sum.bytes.saturating_add(row.bytes);
                sum.count += row.count;
            }
            is_same
        });
        Snapshot::new(rows.into_iter(), turn)
    }

    /// Without the rows that hold nothing.
    pub fn new(rows: impl Iterator<Item = Row>, turn: Option<u64>) -> Snapshot {
        let rows: Vec<Row> = rows.filter(|row| row.count > 0).collect();
        let bytes = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.bytes));
        let count = rows.iter().map(|row| row.count).sum();
        Snapshot { rows, bytes, count, turn }
    }

    /// The same of a model that has absorbed the one it was made with.
    pub fn moved(mut self, handles: &Handles) -> Snapshot {
        self.rows.iter_mut().for_each(|row| row.stack = handles.stack(row.stack));
        self.rows.sort_by_key(|row| row.stack);
        self
    }

    /// Several snapshots of one model as one. A moment has only the sum of one.
    pub fn sum(parts: Vec<Snapshot>) -> Snapshot {
        let turn = if let [only] = parts.as_slice() { only.turn } else { None };
        Snapshot::summed(parts.into_iter().flat_map(|part| part.rows).collect(), turn)
    }
}

#[cfg(test)]
mod tests;
