//! Counts what a stream of allocations comes to: how many, how much at the peak, and where that was.
//!
//! Fed once with memtrace's events and once with memray's records of the same program, so that both are counted by the
//! same rules. It must not know which of the two it counts.

use std::collections::{BTreeMap, HashMap};

/// A place where memory is allocated: `function:file:line`. 0 is everywhere else.
pub type Location = usize;

/// The running totals of one recording.
#[derive(Default)]
pub struct Account {
    blocks: HashMap<u64, (u64, Location)>,
    mappings: BTreeMap<u64, (u64, Location)>,
    places: Vec<Place>,
    numbers: HashMap<String, Location>,
    now_bytes: u64,
    peak_bytes: u64,
    /// Raised with every new peak. A place whose `peak_number` is smaller has not changed since the peak, so what it
    /// holds now is what it held then: a new peak costs nothing, however many places there are.
    peak_number: u64,
    count: u64,
}

struct Place {
    name: String,
    count: u64,
    now_bytes: u64,
    peak_bytes: u64,
    peak_number: u64,
}

/// What an [`Account`] came to.
pub struct Totals {
    pub count: u64,
    pub peak_bytes: u64,
    /// Bytes at the peak and allocations in all, by place.
    pub places: BTreeMap<String, (u64, u64)>,
}

impl Account {
    pub fn new() -> Account {
        let mut account = Account::default();
        account.location("");
        account
    }

    /// The number of a place; that of the empty name is 0.
    pub fn location(&mut self, name: &str) -> Location {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.places.len();
        self.numbers.insert(name.to_string(), number);
        self.places.push(Place { name: name.to_string(), count: 0, now_bytes: 0, peak_bytes: 0, peak_number: 0 });
        number
    }

    pub fn allocated(&mut self, address: u64, size: u64, location: Location) {
        self.freed(address);
        self.blocks.insert(address, (size, location));
        self.counted(size, location);
    }

    pub fn freed(&mut self, address: u64) {
        if let Some((size, location)) = self.blocks.remove(&address) {
            self.take(size, location);
        }
    }

    pub fn mapped(&mut self, address: u64, size: u64, location: Location) {
        self.unmapped(address, size);
        self.mappings.insert(address, (size, location));
        self.counted(size, location);
    }

    pub fn unmapped(&mut self, address: u64, size: u64) {
        let end = address + size;
        let from = self.mappings.range(..address).next_back().map_or(address, |(&start, _)| start);
        let touched: Vec<(u64, u64, Location)> =
            self.mappings.range(from..end).map(|(&start, &(size, location))| (start, start + size, location)).collect();
        for (start, stop, location) in touched {
            if stop <= address {
                continue;
            }
            self.mappings.remove(&start);
            if start < address {
                self.mappings.insert(start, (address - start, location));
            }
            if end < stop {
                self.mappings.insert(end, (stop - end, location));
            }
            self.take(stop.min(end) - start.max(address), location);
        }
    }

    pub fn finish(mut self) -> Totals {
        let mut places = BTreeMap::new();
        for number in 1..self.places.len() {
            self.keep_peak(number);
            let place = &self.places[number];
            places.insert(place.name.clone(), (place.peak_bytes, place.count));
        }
        Totals { count: self.count, peak_bytes: self.peak_bytes, places }
    }

    fn counted(&mut self, size: u64, location: Location) {
        if location == 0 {
            return;
        }
        self.keep_peak(location);
        self.places[location].now_bytes += size;
        self.places[location].count += 1;
        self.count += 1;
        self.now_bytes += size;
        if self.now_bytes > self.peak_bytes {
            self.peak_bytes = self.now_bytes;
            self.peak_number += 1;
        }
    }

    fn take(&mut self, size: u64, location: Location) {
        if location == 0 {
            return;
        }
        self.keep_peak(location);
        self.places[location].now_bytes -= size;
        self.now_bytes -= size;
    }

    /// Before a place changes, what it held at the last peak is put down.
    fn keep_peak(&mut self, location: Location) {
        let place = &mut self.places[location];
        if place.peak_number < self.peak_number {
            place.peak_number = self.peak_number;
            place.peak_bytes = place.now_bytes;
        }
    }
}

#[test]
fn the_peak_is_that_of_the_chosen_places_and_each_is_counted_as_it_was_then() {
    let mut account = Account::new();
    let (a, b) = (account.location("a"), account.location("b"));
    account.allocated(16, 100, a);
    account.allocated(32, 1000, 0);
    account.allocated(48, 10, b);
    account.freed(16);
    account.allocated(64, 5, b);
    account.mapped(4096, 50, a);
    account.unmapped(4096 + 10, 10);
    let totals = account.finish();
    assert_eq!((totals.count, totals.peak_bytes), (4, 110));
    assert_eq!(totals.places, BTreeMap::from([("a".into(), (100, 2)), ("b".into(), (10, 2))]));
}

#[test]
fn a_mapping_can_end_in_parts() {
    let mut account = Account::new();
    let a = account.location("a");
    account.mapped(4096, 300, a);
    account.unmapped(4196, 100);
    account.unmapped(4096, 300);
    account.mapped(0, 301, a);
    assert_eq!(account.finish().peak_bytes, 301);
}
