//! Totals of everything that was allocated, of what was never given back, or of what was given back soon: by size, by
//! allocator, by stack.

use hashbrown::HashMap;
use memtrace_format::AllocatorKind;

use super::live::{Change, Live};
use super::mappings::MmapRule;
use super::objects::Objects;
use super::sites::{Detail, SiteId, Sites};
use super::temporary::{Finder, Found};
use crate::model::{Event, Handles, Model, StackId};

pub struct Stats {
    pub counted: Counted,
    live: Live<SiteId>,
    sites: Sites,
    /// When temporary allocations are counted.
    temporary: Option<Finder>,
    pub totals: Totals,
    pub objects: Objects,
    /// Allocations and frees together, whatever is counted.
    pub n_events: u64,
    pub peak_bytes: u64,
    heap_bytes: u64,
    n_missed_frees: u64,
}

/// What was counted.
#[derive(Default)]
pub struct Totals {
    pub n_allocations: u64,
    pub bytes: u64,
    pub by_kind: [u64; AllocatorKind::ALL.len() + 1],
    pub sizes: Sizes,
    by_stack: Vec<(u64, u64)>,
}

/// What the totals are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Every allocation there was.
    Everything,
    /// What was never given back.
    Leaks,
    /// What was given back after at most this many further allocations of its thread.
    Temporary(u64),
}

impl Stats {
    pub fn new(rule: MmapRule, counted: Counted) -> Stats {
        // The allocator of a block is asked for again only when it goes.
        let detail = match counted {
            Counted::Everything | Counted::Temporary(_) => Detail::Stack,
            Counted::Leaks => Detail::Full,
        };
        let temporary = match counted {
            Counted::Temporary(threshold) => Some(Finder::new(threshold, rule, Detail::Full)),
            Counted::Everything | Counted::Leaks => None,
        };
        Stats {
            counted,
            live: Live::new(rule),
            sites: Sites::new(detail),
            temporary,
            totals: Totals::default(),
            objects: Objects::default(),
            n_events: 0,
            peak_bytes: 0,
            heap_bytes: 0,
            n_missed_frees: 0,
        }
    }

    /// Takes events that follow each other; faster than one by one.
    pub fn take_all(&mut self, model: &Model, events: &[Event]) {
        for (index, event) in events.iter().enumerate() {
            self.live.look_ahead(events, index);
            self.take(model, event);
        }
    }

    pub fn take(&mut self, model: &Model, event: &Event) {
        let Stats { counted, live, sites, temporary, totals, objects, n_events, peak_bytes, heap_bytes, .. } = self;
        *n_events += u64::from(event.action.is_of_memory());
        objects.take(event);
        let (is_of_all, is_of_leaks) = (temporary.is_none(), *counted == Counted::Leaks);
        if let Some(finder) = temporary {
            finder.take(model, event, &mut |sites, found| {
                let (Found::Freed(holding) | Found::Restored(holding)) = found;
                let site = sites.get(holding.tag);
                match found {
                    Found::Freed(_) => totals.add(site.stack, site.kind, holding.bytes),
                    Found::Restored(_) => totals.subtract(site.stack, site.kind, holding.bytes),
                }
            });
        }
        let site = sites.of(event);
        live.apply(model, event, site, &mut |change| match change {
            Change::Allocated(holding, kind) => {
                if is_of_all {
                    totals.add(sites.get(holding.tag).stack, kind, holding.bytes);
                }
                *heap_bytes += holding.bytes;
                *peak_bytes = (*peak_bytes).max(*heap_bytes);
            }
            Change::Restored(holding) | Change::Remains(holding) => {
                if is_of_leaks {
                    let site = sites.get(holding.tag);
                    totals.add(site.stack, site.kind, holding.bytes);
                }
                *heap_bytes += holding.bytes;
                *peak_bytes = (*peak_bytes).max(*heap_bytes);
            }
            Change::Freed(holding) | Change::Vanished(holding) => {
                if is_of_leaks {
                    let site = sites.get(holding.tag);
                    totals.subtract(site.stack, site.kind, holding.bytes);
                }
                *heap_bytes -= holding.bytes;
            }
        });
    }

    /// Allocations at an address that was alive already: frees that were missed.
    pub fn n_missed_frees(&self) -> u64 {
        self.n_missed_frees + self.live.n_replaced
    }

    /// Adds the totals of another capture, of whose handles `handles` says what became. The peak is the sum of both:
    /// each is at its own.
    pub fn absorb(&mut self, other: &Stats, handles: &Handles) {
        self.n_events += other.n_events;
        self.objects.absorb(&other.objects);
        self.peak_bytes = self.peak_bytes.saturating_add(other.peak_bytes);
        self.n_missed_frees += other.n_missed_frees();
        let Totals { n_allocations, bytes, by_kind, sizes, .. } = &mut self.totals;
        *n_allocations += other.totals.n_allocations;
        *bytes = bytes.saturating_add(other.totals.bytes);
        by_kind.iter_mut().zip(other.totals.by_kind).for_each(|(sum, count)| *sum += count);
        for (size, count) in other.totals.sizes.iter() {
            sizes.add(size, count);
        }
        for (stack, bytes, count) in other.totals.stacks() {
            let sum = self.totals.of_stack(handles.stack(stack));
            *sum = (sum.0.saturating_add(bytes), sum.1 + count);
        }
    }
}

impl Totals {
    /// Stacks that allocated: bytes and allocations in total.
    pub fn stacks(&self) -> impl Iterator<Item = (StackId, u64, u64)> + '_ {
        let all = self.by_stack.iter().enumerate();
        let all = all.map(|(index, &(bytes, count))| (StackId::from_index(index), bytes, count));
        all.filter(|&(_, _, count)| count > 0)
    }

    fn add(&mut self, stack: StackId, kind: AllocatorKind, bytes: u64) {
        self.n_allocations += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.by_kind[kind as usize] += 1;
        self.sizes.add(bytes, 1);
        let sum = self.of_stack(stack);
        *sum = (sum.0.saturating_add(bytes), sum.1 + 1);
    }

    /// Of what was added before.
    fn subtract(&mut self, stack: StackId, kind: AllocatorKind, bytes: u64) {
        self.n_allocations -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.by_kind[kind as usize] -= 1;
        self.sizes.subtract(bytes);
        let sum = self.of_stack(stack);
        *sum = (sum.0.saturating_sub(bytes), sum.1 - 1);
    }

    fn of_stack(&mut self, stack: StackId) -> &mut (u64, u64) {
        let index = stack.index();
        if index >= self.by_stack.len() {
            self.by_stack.resize(index + 1, (0, 0));
        }
        &mut self.by_stack[index]
    }
}

/// How often each size was asked for.
#[derive(Default)]
pub struct Sizes {
    /// Once there, a size stays, so that it is found under the same key when it goes.
    counts: HashMap<u64, u64>,
}

/// From so many distinct sizes on, further ones are rounded down to twelve binary digits, so that memory stays
/// bounded; a histogram does not show the difference.
const MAX_SIZES: usize = 1 << 20;

impl Sizes {
    fn add(&mut self, size: u64, n_times: u64) {
        if let Some(count) = self.counts.get_mut(&size) {
            *count += n_times;
            return;
        }
        let key = if self.counts.len() >= MAX_SIZES { rounded(size) } else { size };
        *self.counts.entry(key).or_default() += n_times;
    }

    fn subtract(&mut self, size: u64) {
        // A size that came when there were too many, and again when it had a key of its own, can't be: keys only come.
        let key = if self.counts.contains_key(&size) { size } else { rounded(size) };
        if let Some(count) = self.counts.get_mut(&key) {
            *count = count.saturating_sub(1);
        }
    }

    /// Sizes that were counted, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().map(|(&size, &count)| (size, count)).filter(|&(_, count)| count > 0)
    }

    /// The smallest and the largest.
    pub fn extremes(&self) -> Option<(u64, u64)> {
        let sizes = || self.iter().map(|(size, _)| size);
        sizes().min().zip(sizes().max())
    }
}

fn rounded(size: u64) -> u64 {
    let n_digits = u64::BITS - size.leading_zeros();
    size & u64::MAX << n_digits.saturating_sub(12)
}
