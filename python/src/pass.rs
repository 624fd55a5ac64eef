//! The one reading of a capture from which everything else starts. Made when a capture is opened.

use std::collections::HashSet;
use std::ops::ControlFlow;

use memtrace::analysis::{BySite, Detail, Heap, MmapRule};
use memtrace::capture::Capture;
use memtrace::model::{Action, Event, Model};

use crate::rows::Numbering;

/// What was found.
pub struct Pass {
    pub model: Model,
    pub peak: BySite,
    pub leaks: BySite,
    pub peak_bytes: u64,
    pub snapshots: Vec<Snapshot>,
    /// Of how many samples one is a snapshot.
    pub stride: usize,
    /// Records of allocations and frees, as [`crate::rows`] gives them.
    pub n_records: u64,
    /// Frees that did not happen, by the number of the event.
    pub undone: HashSet<u64>,
}

/// A sample of the resident set.
#[derive(Clone, Copy)]
pub struct Snapshot {
    pub unix_millis: u64,
    pub rss_bytes: u64,
    pub heap_bytes: u64,
}

/// Reads the capture. `go_on` is asked now and then whether anybody still waits for it.
pub fn read(capture: &Capture, max_snapshots: usize, mut go_on: impl FnMut() -> bool) -> anyhow::Result<Pass> {
    let mut heap = Heap::new(MmapRule::Memory, Detail::Full);
    let mut snapshots = Vec::new();
    let mut frees = Frees::default();
    let mut n_arena_records = 0;
    let mut n_memory = 0;
    let mut numbering = Numbering::default();
    let take = |model: &Model, events: &[Event]| {
        if !go_on() {
            return ControlFlow::Break(());
        }
        let mut rest = events;
        while !rest.is_empty() {
            // The heap is asked for at each sample.
            let is_sample = |event: &Event| matches!(event.action, Action::Rss { .. });
            let n_until = rest.iter().position(is_sample).map_or(rest.len(), |at| at + 1);
            let (now, later) = rest.split_at(n_until);
            heap.take_all(model, now);
            if let Some(Event { action: Action::Rss { mono_nanos, bytes }, .. }) = now.last() {
                let process = model.process();
                let unix_nanos = process.facts.start_unix_nanos + process.clock.since_start(*mono_nanos);
                let unix_millis = unix_nanos / 1_000_000;
                snapshots.push(Snapshot { unix_millis, rss_bytes: *bytes, heap_bytes: heap.bytes() });
            }
            rest = later;
        }
        for event in events {
            frees.take(event);
            n_memory += u64::from(event.action.is_of_memory());
            n_arena_records += u64::from(numbering.is_of_arena(model, event));
        }
        ControlFlow::Continue(())
    };
    let model = capture.read_recorded(take)?;
    let stride = snapshots.len().div_ceil(max_snapshots.max(1)).max(1);
    Ok(Pass {
        peak: heap.peak_by_site(),
        leaks: heap.end_by_site(),
        peak_bytes: heap.peak_bytes(),
        snapshots: snapshots.into_iter().step_by(stride).collect(),
        stride,
        n_records: n_memory - frees.undone.len() as u64 - n_arena_records,
        undone: frees.undone,
        model,
    })
}

/// Finds the frees that a later event takes back: those of a `realloc` that failed.
#[derive(Default)]
struct Frees {
    n_events: u64,
    /// By lane.
    last: Vec<Option<u64>>,
    undone: HashSet<u64>,
}

impl Frees {
    #[inline]
    fn take(&mut self, event: &Event) {
        match event.action {
            Action::Free { .. } | Action::Munmap { .. } => {
                let lane = event.lane as usize;
                if lane >= self.last.len() {
                    self.last.resize(lane + 1, None);
                }
                self.last[lane] = Some(self.n_events);
            }
            Action::Restore => {
                self.undone.extend(self.last.get_mut(event.lane as usize).and_then(Option::take));
            }
            _ => {}
        }
        self.n_events += 1;
    }
}
