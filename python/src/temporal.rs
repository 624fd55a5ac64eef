//! Questions that need a reading of their own: temporary allocations, and what sites held over time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Result;
use hashbrown::HashMap;
use memtrace::analysis::intervals::{Amount, IntervalRow};
use memtrace::analysis::{BySite, Detail, Intervals, MmapRule, Temporary};
use memtrace::capture::Capture;
use memtrace::model::{StackId, ThreadKey};
use memtrace_format::AllocatorKind;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::names::Names;
use crate::record::{Interval, Origin, TemporalAllocationRecord};
use crate::rows::tid;

/// What was given back after at most `threshold` further allocations of its thread.
pub fn temporary(capture: &Capture, threshold: u64) -> Result<BySite> {
    let mut fold = Temporary::new(threshold, MmapRule::Memory, Detail::Full);
    capture.read_recorded(|model, events| {
        fold.take_all(model, events);
        ControlFlow::Continue(())
    })?;
    Ok(fold.by_site())
}

/// What is asked of the time line.
#[derive(Clone, Copy)]
pub struct Question {
    pub about: About,
    pub merges_threads: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Between which snapshots was what was allocated given back?
    Lifetimes,
    /// How much did it hold at the highest moment before each snapshot?
    Peaks,
}

pub struct Answer {
    pub records: Vec<OverTime>,
    /// The highest heap before each snapshot, and after the last.
    pub peak_bytes: Vec<u64>,
}

/// One site's intervals.
pub struct OverTime {
    tid: i64,
    kind: AllocatorKind,
    stack: StackId,
    intervals: Vec<(usize, Option<usize>, Amount)>,
}

/// From, until, how much.
type Sums = BTreeMap<(usize, Option<usize>), Amount>;

/// Reads the capture with every `stride`-th sample of the resident set as a snapshot.
pub fn over_time(capture: &Capture, stride: usize, question: Question) -> Result<Answer> {
    let mut fold = Intervals::between_samples(MmapRule::Memory, stride);
    let model = capture.read_recorded(|model, events| {
        fold.take_all(model, events);
        ControlFlow::Continue(())
    })?;
    let line = fold.finish(&model);
    let mut known: HashMap<(StackId, AllocatorKind, Option<ThreadKey>), usize> = HashMap::new();
    let mut sums: Vec<(OverTime, Sums)> = Vec::new();
    for row in &line.rows {
        let Some(span) = span(row, question.about) else { continue };
        let site = line.sites[row.site as usize];
        let key = (site.stack, site.kind, (!question.merges_threads).then_some(site.thread));
        let index = *known.entry(key).or_insert_with(|| {
            // As memray numbers the thread that stands for all.
            let tid = if question.merges_threads { 0 } else { tid(site.thread) };
            let record = OverTime { tid, kind: site.kind, stack: site.stack, intervals: Vec::new() };
            sums.push((record, Sums::new()));
            sums.len() - 1
        });
        *sums[index].1.entry(span).or_default() += row.amount;
    }
    let last = line.buckets.len();
    let finish = |(mut record, sums): (OverTime, Sums)| {
        record.intervals = match question.about {
            About::Lifetimes => sums.into_iter().map(|((from, until), amount)| (from, until, amount)).collect(),
            About::Peaks => steps(&sums, last),
        };
        record
    };
    let mut records: Vec<OverTime> = sums.into_iter().map(finish).collect();
    records.retain(|record| !record.intervals.is_empty());
    Ok(Answer { records, peak_bytes: line.buckets.iter().map(|bucket| bucket.peak_bytes).collect() })
}

/// From which snapshot on and until which one the blocks of a row are seen; `None` when they never are.
fn span(row: &IntervalRow, about: About) -> Option<(usize, Option<usize>)> {
    // Segments 2b and 2b + 1 are bucket b up to its highest moment, and after it.
    let snapshot = |segment: usize| match about {
        About::Lifetimes => segment / 2,
        About::Peaks => segment.div_ceil(2),
    };
    let from = snapshot(row.born.into());
    let until = (row.died != 0).then(|| snapshot(usize::from(row.died) - 1));
    (until != Some(from)).then_some((from, until))
}

/// The sum of all spans at each snapshot, as intervals in which it does not change. The last bucket is `last - 1`; what
/// was never given back is seen from there on, and whatever was after its peak from `last` on.
fn steps(sums: &Sums, last: usize) -> Vec<(usize, Option<usize>, Amount)> {
    let mut changes: BTreeMap<usize, Amount> = BTreeMap::new();
    for (&(from, until), &amount) in sums {
        *changes.entry(from).or_default() += amount;
        // What has gone after the last peak is not there at the end.
        let until = until.map(|until| until.min(last));
        if let Some(until) = until {
            *changes.entry(until).or_default() += Amount { bytes: -amount.bytes, count: -amount.count };
        }
    }
    let mut intervals: Vec<(usize, Option<usize>, Amount)> = Vec::new();
    let mut now = Amount::default();
    for (at, change) in changes {
        if change == Amount::default() {
            continue;
        }
        if let Some((_, until @ None, _)) = intervals.last_mut() {
            *until = Some(at);
        }
        now += change;
        if now != Amount::default() {
            intervals.push((at, None, now));
        }
    }
    intervals
}

impl OverTime {
    pub fn into_python(self, py: Python<'_>, names: &Arc<Names>) -> PyResult<TemporalAllocationRecord> {
        let intervals = self.intervals.into_iter().map(|(from, until, amount)| {
            Py::new(py, Interval::new(from, until, amount.count.max(0) as u64, amount.bytes.max(0) as u64))
        });
        let intervals = PyList::new(py, intervals.collect::<PyResult<Vec<_>>>()?)?.into_any().unbind();
        let origin = Origin { names: Arc::clone(names), stack: self.stack.index() as u32 };
        Ok(TemporalAllocationRecord::new(self.tid, self.kind as i32, origin, intervals))
    }
}
