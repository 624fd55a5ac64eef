//! Temporary allocations: given back by the thread that made them, before it made more than a few others.
//!
//! With threshold N, at most N allocations of the same thread come between the allocation and its free. This is
//! memray's meaning; unlike memray, an address that has meanwhile been another thread's is not mistaken.

use hashbrown::HashMap;

use super::Snapshot;
use super::live::{Change, Live};
use super::mappings::MmapRule;
use super::sites::{BySite, Detail, SiteId, Sites};
use crate::model::{Action, Event, Model};

/// Finds them as events come.
pub struct Temporary {
    threshold: u64,
    live: Live<Origin>,
    sites: Sites,
    /// Allocations so far, by image and thread.
    serials: HashMap<(u16, u32), u64>,
    /// Bytes and allocations by site.
    entries: Vec<(u64, u64)>,
}

/// Which allocation of which thread, and its site.
#[derive(Clone, Copy)]
struct Origin {
    thread: u32,
    site: SiteId,
    serial: u64,
}

impl Temporary {
    pub fn new(threshold: u64, rule: MmapRule, detail: Detail) -> Temporary {
        let (live, sites) = (Live::new(rule), Sites::new(detail));
        Temporary { threshold, live, sites, serials: HashMap::new(), entries: Vec::new() }
    }

    /// Takes events that follow each other; faster than one by one.
    pub fn take_all(&mut self, model: &Model, events: &[Event]) {
        for (index, event) in events.iter().enumerate() {
            self.live.look_ahead(events, index);
            self.take(model, event);
        }
    }

    pub fn take(&mut self, model: &Model, event: &Event) {
        let Temporary { threshold, live, sites, serials, entries } = self;
        let serial = serials.entry((event.image, event.thread)).or_default();
        let origin = Origin { thread: event.thread, site: sites.of(event), serial: *serial };
        // What an mremap moves is not given back.
        let is_remap = matches!(event.action, Action::Munmap { is_remap: true, .. });
        live.apply(model, event, origin, &mut |change| {
            let is_temporary = |origin: Origin, serial: u64| {
                origin.thread == event.thread && serial - origin.serial.min(serial) <= *threshold + 1
            };
            match change {
                Change::Allocated(..) => *serial += 1,
                Change::Freed(holding) if !is_remap && is_temporary(holding.tag, *serial) => {
                    let index = holding.tag.site.index();
                    if index >= entries.len() {
                        entries.resize(index + 1, (0, 0));
                    }
                    entries[index].0 += holding.bytes;
                    entries[index].1 += 1;
                }
                // A restore follows its free without an allocation of the thread between them, so the same is true.
                Change::Restored(holding) if is_temporary(holding.tag, *serial) => {
                    let index = holding.tag.site.index();
                    if let Some((bytes, count)) = entries.get_mut(index) {
                        *bytes = bytes.saturating_sub(holding.bytes);
                        *count = count.saturating_sub(1);
                    }
                }
                _ => {}
            }
        });
    }

    /// All of them, by the stack that allocated.
    pub fn finish(&self) -> Snapshot {
        self.sites.by_stack(&self.entries, None, |&amount| amount)
    }

    /// All of them, by the site that allocated.
    pub fn by_site(&self) -> BySite {
        self.sites.by_site(&self.entries, None, |&amount| amount)
    }
}
