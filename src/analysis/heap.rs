//! The heap by site: at its highest, at the end, and all that was ever in it.
//!
//! The peak is known only afterwards, and saving all sites at each new maximum would cost sites times maxima. So
//! maxima are counted, and an entry saves its value when it is first changed after the latest of them: at the end it
//! knows what it was at the last maximum, after one pass.

use super::Snapshot;
use super::live::{Change, Live};
use super::mappings::{Class, MmapRule};
use super::sites::{BySite, Detail, SiteId, Sites};
use crate::model::{Event, Model};

/// Follows the heap from event to event.
pub struct Heap {
    live: Live<SiteId>,
    sites: Sites,
    sums: Sums,
}

/// By site, and in total.
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
    ever: Amount,
    /// `at_peak` is the value at this maximum; at later ones it was what it is now.
    saved_at: u64,
}

#[derive(Clone, Copy, Default)]
struct Amount {
    bytes: u64,
    count: u64,
}

impl Heap {
    pub fn new(rule: MmapRule, detail: Detail) -> Heap {
        Heap { live: Live::new(rule), sites: Sites::new(detail), sums: Sums::default() }
    }

    /// Takes events that follow each other; faster than one by one.
    pub fn take_all(&mut self, model: &Model, events: &[Event]) {
        for (index, event) in events.iter().enumerate() {
            self.live.look_ahead(events, index);
            self.take(model, event);
        }
    }

    #[inline]
    pub fn take(&mut self, model: &Model, event: &Event) {
        let sums = &mut self.sums;
        let site = self.sites.of(event);
        self.live.apply(model, event, site, &mut |change| match change {
            Change::Allocated(holding, _) => sums.allocate(holding.tag, holding.bytes, event.turn),
            Change::Restored(holding) | Change::Remains(holding) => sums.add(holding.tag, holding.bytes, event.turn),
            Change::Freed(holding) => {
                sums.subtract(holding.tag, holding.bytes);
                // An empty block has gone, and the heap is as high as before.
                if holding.bytes == 0 {
                    sums.look_for_peak(event.turn);
                }
            }
            Change::Vanished(holding) => sums.subtract(holding.tag, holding.bytes),
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

    /// What was alive when the heap was largest, at the last moment when it was that large.
    pub fn at_peak(&self) -> Snapshot {
        self.sites.by_stack(&self.sums.entries, self.peak_turn(), |entry| self.sums.at_peak(entry).pair())
    }

    /// What is alive now: after the last event, what was never given back.
    pub fn at_end(&self) -> Snapshot {
        self.sites.by_stack(&self.sums.entries, None, |entry| entry.now.pair())
    }

    /// Everything that was ever allocated.
    pub fn ever(&self) -> Snapshot {
        self.sites.by_stack(&self.sums.entries, None, |entry| entry.ever.pair())
    }

    /// [`at_peak`](Heap::at_peak) by site.
    pub fn peak_by_site(&self) -> BySite {
        self.sites.by_site(&self.sums.entries, self.peak_turn(), |entry| self.sums.at_peak(entry).pair())
    }

    /// [`at_end`](Heap::at_end) by site.
    pub fn end_by_site(&self) -> BySite {
        self.sites.by_site(&self.sums.entries, None, |entry| entry.now.pair())
    }

    /// [`ever`](Heap::ever) by site.
    pub fn ever_by_site(&self) -> BySite {
        self.sites.by_site(&self.sums.entries, None, |entry| entry.ever.pair())
    }

    fn peak_turn(&self) -> Option<u64> {
        (self.sums.n_peaks > 0).then_some(self.sums.peak_turn)
    }
}

impl Amount {
    fn pair(self) -> (u64, u64) {
        (self.bytes, self.count)
    }
}

impl Sums {
    #[inline]
    fn entry(&mut self, site: SiteId) -> &mut Entry {
        if site.index() >= self.entries.len() {
            self.entries.resize(site.index() + 1, Entry::default());
        }
        let entry = &mut self.entries[site.index()];
        if entry.saved_at != self.n_peaks {
            entry.saved_at = self.n_peaks;
            entry.at_peak = entry.now;
        }
        entry
    }

    fn at_peak(&self, entry: &Entry) -> Amount {
        if entry.saved_at == self.n_peaks { entry.at_peak } else { entry.now }
    }

    #[inline]
    fn allocate(&mut self, site: SiteId, bytes: u64, turn: u64) {
        self.add(site, bytes, turn);
        let ever = &mut self.entries[site.index()].ever;
        ever.bytes = ever.bytes.saturating_add(bytes);
        ever.count += 1;
    }

    #[inline]
    fn add(&mut self, site: SiteId, bytes: u64, turn: u64) {
        let entry = self.entry(site);
        entry.now.bytes += bytes;
        entry.now.count += 1;
        self.bytes += bytes;
        self.look_for_peak(turn);
    }

    #[inline]
    fn subtract(&mut self, site: SiteId, bytes: u64) {
        let entry = self.entry(site);
        entry.now.bytes -= bytes;
        entry.now.count -= 1;
        self.bytes -= bytes;
    }

    #[inline]
    fn look_for_peak(&mut self, turn: u64) {
        if self.bytes >= self.peak_bytes {
            self.peak_bytes = self.bytes;
            self.peak_turn = turn;
            self.n_peaks += 1;
        }
    }
}
