//! What each place in the code holds, by allocator and, on request, by thread.

use std::cmp::Reverse;

use hashbrown::HashMap;
use memtrace_format::AllocatorKind;

use super::BySite;
use crate::model::{FrameId, Model, ThreadKey};

/// What is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The process and its thread; `None` when all are taken together.
    pub thread: Option<(u16, ThreadKey)>,
    pub kind: AllocatorKind,
    /// The frame that allocated; `None` when there was no stack.
    pub frame: Option<FrameId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceRow {
    pub place: Place,
    pub bytes: u64,
    pub count: u64,
}

/// The largest first.
pub fn by_place(model: &Model, answer: &BySite, splits_threads: bool) -> Vec<PlaceRow> {
    let mut sums: HashMap<Place, (u64, u64)> = HashMap::new();
    for row in &answer.rows {
        let site = row.site;
        let thread = splits_threads.then_some((site.process, site.thread));
        let sum = sums.entry(Place { thread, kind: site.kind, frame: model.leaf(site.stack) }).or_default();
        *sum = (sum.0.saturating_add(row.bytes), sum.1 + row.count);
    }
    let rows = sums.into_iter().map(|(place, (bytes, count))| PlaceRow { place, bytes, count });
    let mut rows: Vec<PlaceRow> = rows.collect();
    rows.sort_unstable_by_key(|row| (Reverse(row.bytes), Reverse(row.count), row.place));
    rows
}
