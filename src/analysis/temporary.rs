//! Temporary allocations: given back by the thread that made them, before it made more than a few others.
//!
//! With threshold N, at most N allocations of the same thread come between the allocation and its free. This is
//! memray's meaning; unlike memray, an address that has meanwhile been another thread's is not mistaken.

use hashbrown::HashMap;

use super::Snapshot;
use super::live::{Change, Holding, Live};
use super::mappings::MmapRule;
use super::sites::{BySite, Detail, SiteId, Sites};
use crate::model::{Action, Event, Model};

/// Sums them up as events come.
pub struct Temporary {
    finder: Finder,
    /// Bytes and allocations by site.
    entries: Vec<(u64, u64)>,
}

impl Temporary {
    pub fn new(threshold: u64, rule: MmapRule, detail: Detail) -> Temporary {
        Temporary { finder: Finder::new(threshold, rule, detail), entries: Vec::new() }
    }

    /// Takes events that follow each other; faster than one by one.
    pub fn take_all(&mut self, model: &Model, events: &[Event]) {
        for (index, event) in events.iter().enumerate() {
            self.finder.live.look_ahead(events, index);
            self.take(model, event);
        }
    }

    pub fn take(&mut self, model: &Model, event: &Event) {
        let Temporary { finder, entries } = self;
        finder.take(model, event, &mut |_, found| match found {
            Found::Freed(holding) => {
                let index = holding.tag.index();
                if index >= entries.len() {
                    entries.resize(index + 1, (0, 0));
                }
                let (bytes, count) = &mut entries[index];
                (*bytes, *count) = (bytes.saturating_add(holding.bytes), *count + 1);
            }
            Found::Restored(holding) => {
                let (bytes, count) = &mut entries[holding.tag.index()];
                (*bytes, *count) = (bytes.saturating_sub(holding.bytes), *count - 1);
            }
        });
    }

    /// All of them, by the stack that allocated.
    pub fn finish(&self) -> Snapshot {
        self.finder.sites.by_stack(&self.entries, None, |&amount| amount)
    }

    /// All of them, by the site that allocated.
    pub fn by_site(&self) -> BySite {
        self.finder.sites.by_site(&self.entries, None, |&amount| amount)
    }
}

/// Finds them as events come.
pub struct Finder {
    threshold: u64,
    live: Live<Origin>,
    sites: Sites,
    /// Allocations so far, by image and thread.
    serials: HashMap<(u16, u32), u64>,
    /// By lane: what was found at its last free or munmap, in case that did not happen.
    last: Vec<Vec<Holding<SiteId>>>,
}

/// What an event tells.
pub enum Found {
    /// The end of a temporary allocation.
    Freed(Holding<SiteId>),
    /// One that was found before is still there.
    Restored(Holding<SiteId>),
}

/// Which allocation of which thread, and its site.
#[derive(Clone, Copy)]
struct Origin {
    thread: u32,
    site: SiteId,
    serial: u64,
}

impl Finder {
    pub fn new(threshold: u64, rule: MmapRule, detail: Detail) -> Finder {
        let (live, sites) = (Live::new(rule), Sites::new(detail));
        Finder { threshold, live, sites, serials: HashMap::new(), last: Vec::new() }
    }

    /// Takes an event; `found` hears what it tells, with the sites that it speaks of.
    pub fn take(&mut self, model: &Model, event: &Event, found: &mut impl FnMut(&Sites, Found)) {
        let Finder { threshold, live, sites, serials, last } = self;
        let serial = serials.entry((event.image, event.thread)).or_default();
        let origin = Origin { thread: event.thread, site: sites.of(event), serial: *serial };
        if event.action == Action::ImageStart {
            last.clear();
        }
        let last = of_lane(last, event.lane);
        match event.action {
            Action::Free { .. } | Action::Munmap { .. } | Action::Mremap { .. } => last.clear(),
            Action::Restore => last.drain(..).for_each(|holding| found(sites, Found::Restored(holding))),
            _ => {}
        }
        // What an mremap moves is not given back.
        let is_remap = matches!(event.action, Action::Munmap { is_remap: true, .. });
        live.apply(model, event, origin, &mut |change| match change {
            Change::Allocated(..) => *serial += 1,
            Change::Freed(Holding { bytes, tag }) if !is_remap => {
                let n_between = serial.saturating_sub(tag.serial + 1);
                if tag.thread == event.thread && n_between <= *threshold {
                    let holding = Holding { bytes, tag: tag.site };
                    last.push(holding);
                    found(sites, Found::Freed(holding));
                }
            }
            _ => {}
        });
    }
}

fn of_lane<T>(lanes: &mut Vec<Vec<T>>, lane: u32) -> &mut Vec<T> {
    let index = lane as usize;
    if index >= lanes.len() {
        lanes.resize_with(index + 1, Vec::new);
    }
    &mut lanes[index]
}
