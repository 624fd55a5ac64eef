//! The heap by stack: at its highest, and at the end.
//!
//! The peak is known only afterwards, and saving all stacks at each new maximum would cost stacks times maxima. So
//! maxima are counted, and an entry saves its value when it is first changed after the latest of them: at the end it
//! knows what it was at the last maximum, after one pass.

use super::live::{Change, Live};
use super::mappings::{Class, MmapRule};
use super::{Row, Snapshot};
use crate::model::{Event, Model, StackId};

/// Follows the heap from event to event.
pub struct Heap {
    live: Live<()>,
    sums: Sums,
}

/// By stack, and in total.
#[derive(Default)]
struct Sums {
    entries: Vec<Entry>,
    bytes: u64,
    peak_bytes: u64,
    peak_turn: u64,
    /// Maxima so far.
    n_peaks: u64,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    now: Amount,
    at_peak: Amount,
    /// `at_peak` is the value at this maximum; at later ones it was what it is now.
    saved_at: u64,
}

#[derive(Clone, Copy, Default)]
struct Amount {
    bytes: u64,
    count: u64,
}

impl Heap {
    pub fn new(rule: MmapRule) -> Heap {
        Heap { live: Live::new(rule), sums: Sums::default() }
    }

    #[inline]
    pub fn take(&mut self, model: &Model, event: &Event) {
        let sums = &mut self.sums;
        self.live.apply(model, event, (), &mut |change| match change {
            Change::Allocated(holding, _) | Change::Restored(holding) | Change::Remains(holding) => {
                sums.add(holding.stack, holding.bytes, event.turn);
            }
            Change::Freed(holding) | Change::Vanished(holding) => sums.subtract(holding.stack, holding.bytes),
        });
    }

    pub fn peak_bytes(&self) -> u64 {
        self.sums.peak_bytes
    }

    pub fn bytes(&self) -> u64 {
        self.sums.bytes
    }

    /// Bytes of mappings outside the heap at the moment.
    pub fn mapped_bytes(&self, class: Class) -> u64 {
        self.live.mapped_bytes(class)
    }

    /// Allocations at an address that was alive already: frees that were missed.
    pub fn n_missed_frees(&self) -> u64 {
        self.live.n_replaced
    }

    /// What was alive when the heap was largest; the last time when it was as large more than once.
    pub fn at_peak(&self) -> Snapshot {
        let turn = (self.sums.n_peaks > 0).then_some(self.sums.peak_turn);
        self.snapshot(turn, |entry| if entry.saved_at == self.sums.n_peaks { entry.at_peak } else { entry.now })
    }

    /// What is alive now: after the last event, what was never given back.
    pub fn at_end(&self) -> Snapshot {
        self.snapshot(None, |entry| entry.now)
    }

    fn snapshot(&self, turn: Option<u64>, value: impl Fn(&Entry) -> Amount) -> Snapshot {
        let rows = self.sums.entries.iter().enumerate().map(|(index, entry)| {
            let Amount { bytes, count } = value(entry);
            Row { stack: StackId::from_index(index), bytes, count }
        });
        Snapshot::new(rows, turn)
    }
}

impl Sums {
    #[inline]
    fn entry(&mut self, stack: StackId) -> &mut Entry {
        if stack.index() >= self.entries.len() {
            self.entries.resize(stack.index() + 1, Entry::default());
        }
        let entry = &mut self.entries[stack.index()];
        if entry.saved_at != self.n_peaks {
            entry.saved_at = self.n_peaks;
            entry.at_peak = entry.now;
        }
        entry
    }

    #[inline]
    fn add(&mut self, stack: StackId, bytes: u64, turn: u64) {
        let entry = self.entry(stack);
        entry.now.bytes += bytes;
        entry.now.count += 1;
        self.bytes += bytes;
        if self.bytes >= self.peak_bytes {
            self.peak_bytes = self.bytes;
            self.peak_turn = turn;
            self.n_peaks += 1;
        }
    }

    #[inline]
    fn subtract(&mut self, stack: StackId, bytes: u64) {
        let entry = self.entry(stack);
        entry.now.bytes -= bytes;
        entry.now.count -= 1;
        self.bytes -= bytes;
    }
}
