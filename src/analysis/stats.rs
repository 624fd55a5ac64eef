//! Totals of everything that was allocated: by size, by allocator, by stack.

use hashbrown::HashMap;
use memtrace_format::AllocatorKind;

use super::live::{Change, Live};
use super::mappings::MmapRule;
use crate::model::{Action, Event, Handles, Model, StackId};

pub struct Stats {
    live: Live<StackId>,
    pub n_allocations: u64,
    pub bytes: u64,
    /// Allocations and frees together.
    pub n_events: u64,
    pub peak_bytes: u64,
    heap_bytes: u64,
    pub by_kind: [u64; AllocatorKind::ALL.len() + 1],
    pub sizes: Sizes,
    by_stack: Vec<(u64, u64)>,
    n_missed_frees: u64,
}

impl Stats {
    pub fn new(rule: MmapRule) -> Stats {
        Stats {
            live: Live::new(rule),
            n_allocations: 0,
            bytes: 0,
            n_events: 0,
            peak_bytes: 0,
            heap_bytes: 0,
            by_kind: Default::default(),
            sizes: Sizes::default(),
            by_stack: Vec::new(),
            n_missed_frees: 0,
        }
    }

    /// Takes events that follow each other; faster than one by one.
    pub fn take_all(&mut self, model: &Model, events: &[Event]) {
        self.live.look_ahead(events);
        events.iter().for_each(|event| self.take(model, event));
    }

    pub fn take(&mut self, model: &Model, event: &Event) {
        let Stats { live, n_allocations, bytes, n_events, peak_bytes, heap_bytes, by_kind, sizes, by_stack, .. } = self;
        match event.action {
            Action::Alloc { .. } | Action::Free { .. } => *n_events += 1,
            Action::Mmap { .. } | Action::Munmap { .. } | Action::Mremap { .. } => *n_events += 1,
            _ => {}
        }
        let stack = event.action.stack().unwrap_or(StackId::EMPTY);
        live.apply(model, event, stack, &mut |change| match change {
            Change::Allocated(holding, kind) => {
                *n_allocations += 1;
                *bytes = bytes.saturating_add(holding.bytes);
                by_kind[kind as usize] += 1;
                sizes.add(holding.bytes, 1);
                add(by_stack, holding.tag, holding.bytes, 1);
                *heap_bytes += holding.bytes;
                *peak_bytes = (*peak_bytes).max(*heap_bytes);
            }
            Change::Restored(holding) | Change::Remains(holding) => {
                *heap_bytes += holding.bytes;
                *peak_bytes = (*peak_bytes).max(*heap_bytes);
            }
            Change::Freed(holding) | Change::Vanished(holding) => *heap_bytes -= holding.bytes,
        });
    }

    /// Allocations at an address that was alive already: frees that were missed.
    pub fn n_missed_frees(&self) -> u64 {
        self.n_missed_frees + self.live.n_replaced
    }

    /// Adds the totals of another capture, of whose handles `handles` says what became. The peak is the sum of both:
    /// each is at its own.
    pub fn absorb(&mut self, other: &Stats, handles: &Handles) {
        self.n_allocations += other.n_allocations;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.n_events += other.n_events;
        self.peak_bytes = self.peak_bytes.saturating_add(other.peak_bytes);
        self.n_missed_frees += other.n_missed_frees();
        self.by_kind.iter_mut().zip(other.by_kind).for_each(|(sum, count)| *sum += count);
        for (size, count) in other.sizes.iter() {
            self.sizes.add(size, count);
        }
        for (stack, bytes, count) in other.stacks() {
            add(&mut self.by_stack, handles.stack(stack), bytes, count);
        }
    }

    /// Stacks that allocated: bytes and allocations in total.
    pub fn stacks(&self) -> impl Iterator<Item = (StackId, u64, u64)> + '_ {
        let all = self.by_stack.iter().enumerate();
        let all = all.map(|(index, &(bytes, count))| (StackId::from_index(index), bytes, count));
        all.filter(|&(_, _, count)| count > 0)
    }
}

fn add(by_stack: &mut Vec<(u64, u64)>, stack: StackId, bytes: u64, count: u64) {
    let index = stack.index();
    if index >= by_stack.len() {
        by_stack.resize(index + 1, (0, 0));
    }
    by_stack[index].0 = by_stack[index].0.saturating_add(bytes);
    by_stack[index].1 += count;
}

/// How often each size was asked for.
#[derive(Default)]
pub struct Sizes {
    counts: HashMap<u64, u64>,
    pub smallest: Option<u64>,
    pub largest: Option<u64>,
}

/// From so many distinct sizes on, further ones are rounded down to twelve binary digits, so that memory stays
/// bounded; a histogram does not show the difference.
const MAX_SIZES: usize = 1 << 20;

impl Sizes {
    fn add(&mut self, size: u64, n_times: u64) {
        self.smallest = Some(self.smallest.map_or(size, |smallest| smallest.min(size)));
        self.largest = Some(self.largest.map_or(size, |largest| largest.max(size)));
        if let Some(count) = self.counts.get_mut(&size) {
            *count += n_times;
            return;
        }
        let mut key = size;
        if self.counts.len() >= MAX_SIZES {
            let n_digits = u64::BITS - size.leading_zeros();
            key &= u64::MAX << n_digits.saturating_sub(12);
        }
        *self.counts.entry(key).or_default() += n_times;
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().map(|(&size, &count)| (size, count))
    }
}
