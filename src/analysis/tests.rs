//! The folds beside naive twins: the twins keep everything that ever happened and start over for each answer.

use std::collections::BTreeMap;

use memtrace_format::AllocatorKind;
use proptest::prelude::*;

use super::sites::SizeClass;
use super::stats::Totals;
use super::*;
use crate::model::{Action, Event, Model, ThreadKey};

mod diff;
mod intervals;

const PAGE: u64 = 4096;
const N_STACKS: usize = 6;

/// A model with a few stacks: 1 to 3 one below the other, 4 to 6 beside them.
fn model() -> Model {
    let mut model = Model::default();
    let mut parent = StackId::EMPTY;
    for number in 1..=N_STACKS {
        let frame = model.intern_frame(&format!("f{number}"), "x.py", number as u32);
        let stack = model.extend_stack(if number > 3 { StackId::EMPTY } else { parent }, frame);
        assert_eq!(stack.index(), number);
        parent = stack;
    }
    model
}

/// Few addresses, threads and pages, so that everything meets everything.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let stacks = || (0..=3usize).prop_map(StackId::from_index);
    let mapped_stacks = || (4..=N_STACKS).prop_map(StackId::from_index);
    let ranges = || (0..12u64, 1..6u64);
    let action = prop_oneof![
        8 => (0..8u64, 1..1000u64, stacks()).prop_map(|(address, size, stack)| Action::Alloc {
            kind: AllocatorKind::Malloc,
            address,
            size,
            stack,
        }),
        8 => (0..8u64).prop_map(|address| Action::Free { kind: AllocatorKind::Free, address }),
        1 => Just(Action::Restore),
        // Objects change nothing: their memory is told of by itself.
        1 => (0..8u64, stacks()).prop_map(|(address, stack)| Action::ObjectMade { address, stack }),
        1 => (0..8u64).prop_map(|address| Action::ObjectDestroyed { address }),
        3 => (ranges(), any::<bool>(), mapped_stacks()).prop_map(|((page, n_pages), is_heap, stack)| Action::Mmap {
            address: page * PAGE,
            len: n_pages * PAGE,
            prot: if is_heap { 3 } else { 0 },
            flags: 0x22,
            is_arena: false,
            stack,
        }),
        3 => (ranges(), any::<bool>()).prop_map(|((page, n_pages), is_remap)| Action::Munmap {
            address: page * PAGE,
            len: n_pages * PAGE,
            is_remap,
        }),
    ];
    let event = (0..2u32, action, 0..200u32);
    proptest::collection::vec(event, 0..200).prop_map(|drawn| {
        let mut image = 0;
        let events = drawn.into_iter().enumerate().map(|(index, (lane, action, image_start))| {
            let is_start = image_start == 0;
            image += u16::from(is_start);
            let action = if is_start { Action::ImageStart } else { action };
            Event { turn: index as u64, image, lane, thread: lane + 1, action }
        });
        events.collect()
    })
}

/// What happened, as plain as can be: blocks by address, and every page on its own.
#[derive(Clone, Default)]
struct Naive {
    blocks: BTreeMap<u64, (u64, StackId)>,
    /// By page: its stack and whether it counts.
    pages: BTreeMap<u64, (StackId, bool)>,
    freed: BTreeMap<u32, Freed>,
}

#[derive(Clone)]
enum Freed {
    Block(u64, (u64, StackId)),
    Pages(BTreeMap<u64, (StackId, bool)>),
}

impl Naive {
    fn take(&mut self, event: &Event) {
        match event.action {
            Action::Alloc { address, size, stack, .. } => {
                self.blocks.insert(address, (size, stack));
            }
            Action::Free { address, .. } => {
                self.freed.remove(&event.lane);
                if let Some(block) = self.blocks.remove(&address) {
                    self.freed.insert(event.lane, Freed::Block(address, block));
                }
            }
            Action::Restore => match self.freed.remove(&event.lane) {
                Some(Freed::Block(address, block)) => {
                    self.blocks.insert(address, block);
                }
                Some(Freed::Pages(pages)) => self.pages.extend(pages),
                None => {}
            },
            Action::Mmap { address, len, prot, stack, .. } => {
                let counts = prot & 2 != 0;
                self.pages.extend((address / PAGE..(address + len) / PAGE).map(|page| (page, (stack, counts))));
            }
            Action::Munmap { address, len, .. } => {
                let range = address / PAGE..(address + len) / PAGE;
                let taken = range.filter_map(|page| Some((page, self.pages.remove(&page)?))).collect();
                self.freed.insert(event.lane, Freed::Pages(taken));
            }
            Action::ImageStart => *self = Naive::default(),
            _ => {}
        }
    }

    fn bytes(&self) -> u64 {
        let blocks: u64 = self.blocks.values().map(|(size, _)| size).sum();
        blocks + self.pages.values().filter(|(_, counts)| *counts).count() as u64 * PAGE
    }

    /// Bytes by stack, and blocks by stack.
    fn by_stack(&self) -> (Vec<u64>, Vec<u64>) {
        let (mut bytes, mut counts) = (vec![0; N_STACKS + 1], vec![0; N_STACKS + 1]);
        for (size, stack) in self.blocks.values() {
            bytes[stack.index()] += size;
            counts[stack.index()] += 1;
        }
        for (stack, _) in self.pages.values().filter(|(_, counts)| *counts) {
            bytes[stack.index()] += PAGE;
        }
        (bytes, counts)
    }
}

/// The same two columns from a snapshot; how many pieces mappings fall into is not compared.
fn columns(snapshot: &Snapshot) -> (Vec<u64>, Vec<u64>) {
    let (mut bytes, mut counts) = (vec![0; N_STACKS + 1], vec![0; N_STACKS + 1]);
    for row in &snapshot.rows {
        bytes[row.stack.index()] = row.bytes;
        counts[row.stack.index()] = if row.stack.index() > 3 { 0 } else { row.count };
    }
    (bytes, counts)
}

fn adds(action: &Action) -> bool {
    matches!(action, Action::Alloc { .. } | Action::Mmap { .. } | Action::Restore)
}

proptest! {
    #[test]
    fn the_heap_is_that_of_its_naive_twin(events in events()) {
        let model = model();
        let (mut heap, mut naive) = (Heap::new(MmapRule::Memory, Detail::Stack), Naive::default());
        let (mut peak, mut peak_bytes) = (Naive::default(), 0);
        for event in &events {
            heap.take(&model, event);
            let before = naive.bytes();
            naive.take(event);
            prop_assert_eq!(heap.bytes(), naive.bytes());
            if adds(&event.action) && naive.bytes() >= peak_bytes && naive.bytes() != before {
                (peak, peak_bytes) = (naive.clone(), naive.bytes());
            }
            prop_assert_eq!(heap.peak_bytes(), peak_bytes);
        }
        prop_assert_eq!(columns(&heap.at_end()), naive.by_stack());
        prop_assert_eq!(heap.at_peak().bytes, peak_bytes);
        prop_assert_eq!(columns(&heap.at_peak()).0.iter().sum::<u64>(), peak.by_stack().0.iter().sum::<u64>());
    }

    #[test]
    fn the_peak_by_stack_is_that_of_its_naive_twin(mut events in events()) {
        // Sizes that are powers of two, each once: totals are then never equal, and the peak is one moment.
        for (index, event) in events.iter_mut().enumerate() {
            match &mut event.action {
                Action::Alloc { size, .. } => *size = 1 << (index % 40),
                Action::Mmap { .. } | Action::Munmap { .. } => event.action = Action::Restore,
                _ => {}
            }
        }
        events.truncate(40);
        let model = model();
        let (mut heap, mut naive) = (Heap::new(MmapRule::Memory, Detail::Stack), Naive::default());
        let (mut peak, mut peak_bytes) = (Naive::default(), 0);
        for event in &events {
            heap.take(&model, event);
            naive.take(event);
            if naive.bytes() > peak_bytes {
                (peak, peak_bytes) = (naive.clone(), naive.bytes());
            }
        }
        prop_assert_eq!(columns(&heap.at_peak()), peak.by_stack());
    }

    #[test]
    fn sites_sum_up_to_stacks(events in events()) {
        let model = model();
        let mut by_stack = Heap::new(MmapRule::Memory, Detail::Stack);
        let mut by_site = Heap::new(MmapRule::Memory, Detail::Full);
        let mut temporary = [Detail::Stack, Detail::Full].map(|detail| Temporary::new(1, MmapRule::Memory, detail));
        for event in &events {
            by_stack.take(&model, event);
            by_site.take(&model, event);
            temporary.iter_mut().for_each(|temporary| temporary.take(&model, event));
        }
        for (plain, detailed, rows) in [
            (by_stack.at_peak(), by_site.at_peak(), by_site.peak_by_site()),
            (by_stack.at_end(), by_site.at_end(), by_site.end_by_site()),
            (by_stack.ever(), by_site.ever(), by_site.ever_by_site()),
            (temporary[0].finish(), temporary[1].finish(), temporary[1].by_site()),
        ] {
            prop_assert_eq!(&plain, &detailed);
            prop_assert_eq!((rows.bytes, rows.count), (plain.bytes, plain.count));
            prop_assert_eq!(plain, rows.by_stack());
        }
    }

    #[test]
    fn what_is_alive_is_counted_at_the_site_that_allocated_it(events in events()) {
        let is_plain = |event: &&Event| matches!(event.action, Action::Alloc { .. } | Action::Free { .. });
        let mut heap = Heap::new(MmapRule::Memory, Detail::Full);
        let mut alive = BTreeMap::new();
        for event in events.iter().filter(is_plain) {
            heap.take(&model(), event);
            match event.action {
                Action::Alloc { kind, address, size, stack } => {
                    let thread = ThreadKey { image: event.image, number: event.thread };
                    let site = Site { stack, process: 0, thread, kind, size_class: SizeClass::of(size) };
                    alive.insert(address, (site, size));
                }
                Action::Free { address, .. } => drop(alive.remove(&address)),
                _ => unreachable!("filtered"),
            }
        }
        let mut expected = BTreeMap::<Site, (u64, u64)>::new();
        for (site, size) in alive.into_values() {
            let sum = expected.entry(site).or_default();
            *sum = (sum.0 + size, sum.1 + 1);
        }
        let rows = heap.end_by_site().rows.into_iter().map(|row| (row.site, (row.bytes, row.count)));
        prop_assert_eq!(rows.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn totals_count_every_allocation_once(events in events()) {
        let model = model();
        let mut stats = Stats::new(MmapRule::All, Counted::Everything);
        let mut heap = Heap::new(MmapRule::All, Detail::Stack);
        let (mut n_allocations, mut bytes) = (0, 0);
        for event in &events {
            stats.take(&model, event);
            heap.take(&model, event);
            match event.action {
                Action::Alloc { size, .. } => (n_allocations, bytes) = (n_allocations + 1, bytes + size),
                Action::Mmap { len, .. } => (n_allocations, bytes) = (n_allocations + 1, bytes + len),
                _ => {}
            }
        }
        prop_assert_eq!((stats.totals.n_allocations, stats.totals.bytes), (n_allocations, bytes));
        let sums = stats.totals.stacks().fold((0, 0), |sums, (_, bytes, count)| (sums.0 + count, sums.1 + bytes));
        prop_assert_eq!(sums, (n_allocations, bytes));
        let n_sizes: u64 = stats.totals.sizes.iter().map(|(_, count)| count).sum();
        prop_assert_eq!(n_sizes, n_allocations);
        prop_assert_eq!((heap.ever().count, heap.ever().bytes), (n_allocations, bytes));
    }

    #[test]
    fn totals_of_temporary_allocations_are_those_of_their_table(events in events(), threshold in 0..4u64) {
        let model = model();
        let mut stats = Stats::new(MmapRule::All, Counted::Temporary(threshold));
        let mut temporary = Temporary::new(threshold, MmapRule::All, Detail::Full);
        let mut everything = Stats::new(MmapRule::All, Counted::Everything);
        for event in &events {
            stats.take(&model, event);
            temporary.take(&model, event);
            everything.take(&model, event);
        }
        check_totals(&stats.totals, &temporary.by_site());
        prop_assert_eq!((stats.n_events, stats.peak_bytes), (everything.n_events, everything.peak_bytes));
    }

    #[test]
    fn totals_of_leaks_are_what_is_left_in_the_heap(events in events()) {
        let model = model();
        let mut stats = Stats::new(MmapRule::All, Counted::Leaks);
        let mut heap = Heap::new(MmapRule::All, Detail::Full);
        for event in &events {
            stats.take(&model, event);
            heap.take(&model, event);
        }
        let left = heap.end_by_site();
        check_totals(&stats.totals, &left);
        // The table adds up to the same, by allocator, and with threads to the same rows again.
        let rows = places::by_place(&model, &left, false);
        prop_assert_eq!(rows.iter().map(|row| row.bytes).sum::<u64>(), left.bytes);
        prop_assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), left.count);
        let mut merged = BTreeMap::<_, (u64, u64)>::new();
        for row in places::by_place(&model, &left, true) {
            let sum = merged.entry((row.place.kind, row.place.frame)).or_default();
            *sum = (sum.0 + row.bytes, sum.1 + row.count);
        }
        let rows: BTreeMap<_, _> =
            rows.into_iter().map(|row| ((row.place.kind, row.place.frame), (row.bytes, row.count))).collect();
        prop_assert_eq!(merged, rows);
    }
}

/// Totals by stack, by size and by allocator are those of a table.
#[track_caller]
fn check_totals(totals: &Totals, table: &BySite) {
    assert_eq!((totals.n_allocations, totals.bytes), (table.count, table.bytes));
    let stacks: Vec<Row> = totals.stacks().map(|(stack, bytes, count)| Row { stack, bytes, count }).collect();
    assert_eq!(stacks, table.by_stack().rows);
    let (n_sizes, bytes) = totals.sizes.iter().fold((0, 0), |sum, (size, count)| (sum.0 + count, sum.1 + size * count));
    assert_eq!((n_sizes, bytes), (table.count, table.bytes));
    for kind in AllocatorKind::ALL {
        let of_kind = table.rows.iter().filter(|row| row.site.kind == kind).map(|row| row.count).sum::<u64>();
        assert_eq!(totals.by_kind[kind as usize], of_kind);
    }
}

proptest! {
    // This twin starts over for every free.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn temporary_allocations_are_those_of_their_naive_twin(events in events(), threshold in 0..4u64) {
        let events: Vec<Event> = events
            .into_iter()
            .filter(|event| !matches!(event.action, Action::Mmap { .. } | Action::Munmap { .. }))
            .collect();
        let model = model();
        let mut temporary = Temporary::new(threshold, MmapRule::Memory, Detail::Stack);
        let (mut bytes, mut counts) = (vec![0i64; N_STACKS + 1], vec![0i64; N_STACKS + 1]);
        for (index, event) in events.iter().enumerate() {
            temporary.take(&model, event);
            // A restore is looked at from its free: one that did not happen does not count.
            let Action::Free { address, .. } = event.action else { continue };
            let later = &events[index + 1..];
            let fate = later.iter().find(|later| {
                later.action == Action::ImageStart
                    || later.lane == event.lane && matches!(later.action, Action::Free { .. } | Action::Restore)
            });
            let is_restored = fate.is_some_and(|fate| fate.action == Action::Restore);
            let mut twin = Naive::default();
            let mut origins = BTreeMap::new();
            for (at, earlier) in events[..index].iter().enumerate() {
                twin.take(earlier);
                if let Action::Alloc { address, .. } = earlier.action {
                    origins.insert(address, at);
                }
            }
            let Some(&(size, stack)) = twin.blocks.get(&address) else { continue };
            // A restored block has its old age; an address that was used meanwhile has the later one's.
            let start = restored_origin(&events[..index], address).unwrap_or(origins[&address]);
            let by_thread = |other: &&Event| {
                other.thread == event.thread && other.image == event.image && matches!(other.action, Action::Alloc { .. })
            };
            let n_between = events[start + 1..index].iter().filter(by_thread).count() as u64;
            if events[start].thread != event.thread || n_between > threshold {
                continue;
            }
            if !is_restored {
                bytes[stack.index()] += size as i64;
                counts[stack.index()] += 1;
            }
        }
        let (found_bytes, found_counts) = columns(&temporary.finish());
        prop_assert_eq!(found_bytes, bytes.iter().map(|&bytes| bytes as u64).collect::<Vec<_>>());
        prop_assert_eq!(found_counts, counts.iter().map(|&count| count as u64).collect::<Vec<_>>());
    }
}

/// Bytes and allocations by the functions of a stack, outermost first.
fn by_functions(model: &Model, snapshot: &Snapshot) -> BTreeMap<Vec<String>, (u64, u64)> {
    let named = snapshot.rows.iter().map(|row| {
        let mut names: Vec<_> =
            model.frames_from_leaf(row.stack).map(|frame| model.text(frame.function).to_owned()).collect();
        names.reverse();
        (names, (row.bytes, row.count))
    });
    named.collect()
}

proptest! {
    #[test]
    fn a_merged_report_is_the_sum_of_its_parts(processes in proptest::collection::vec((events(), any::<bool>()), 1..4)) {
        let mut expected: BTreeMap<Vec<String>, (u64, u64)> = BTreeMap::new();
        let mut totals = (0, 0, 0);
        let mut merged = Model::default();
        let mut sum = Stats::new(MmapRule::Memory, Counted::Everything);
        let mut snapshots = Vec::new();
        for (events, is_numbered_otherwise) in &processes {
            let mut model = model();
            let mut events = events.clone();
            if *is_numbered_otherwise {
                number_otherwise(&mut model, &mut events);
            }
            let mut heap = Heap::new(MmapRule::Memory, Detail::Stack);
            let mut stats = Stats::new(MmapRule::Memory, Counted::Everything);
            for event in &events {
                heap.take(&model, event);
                stats.take(&model, event);
            }
            for (names, (bytes, count)) in by_functions(&model, &heap.at_peak()) {
                let entry = expected.entry(names).or_default();
                *entry = (entry.0 + bytes, entry.1 + count);
            }
            totals = (totals.0 + stats.totals.bytes, totals.1 + stats.totals.n_allocations, totals.2 + heap.peak_bytes());
            let handles = merged.absorb(model);
            sum.absorb(&stats, &handles);
            snapshots.push(heap.at_peak().moved(&handles));
        }
        let snapshot = Snapshot::sum(snapshots);
        prop_assert_eq!(by_functions(&merged, &snapshot), expected);
        prop_assert_eq!((sum.totals.bytes, sum.totals.n_allocations, sum.peak_bytes), totals);
        prop_assert_eq!(snapshot.bytes, totals.2);
        prop_assert_eq!(sum.totals.stacks().map(|(_, bytes, _)| bytes).sum::<u64>(), totals.0);
        prop_assert_eq!(Tree::new(&merged, &snapshot).nodes.first().map_or(0, |root| root.bytes), totals.2);
    }
}

/// The same stacks under other numbers: behind one that is only here.
fn number_otherwise(model: &mut Model, events: &mut [Event]) {
    let mut renumbered = Model::default();
    let frame = renumbered.intern_frame("only here", "y.py", 1);
    renumbered.extend_stack(StackId::EMPTY, frame);
    let handles = renumbered.absorb(std::mem::take(model));
    *model = renumbered;
    for event in events {
        if let Action::Alloc { stack, .. } | Action::Mmap { stack, .. } = &mut event.action {
            *stack = handles.stack(*stack);
        }
    }
}

/// Where the block that a restore brought back to this address came from, when that was the last thing there.
fn restored_origin(events: &[Event], address: u64) -> Option<usize> {
    let mut freed: BTreeMap<u32, Option<(u64, usize)>> = BTreeMap::new();
    let mut live: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        match event.action {
            Action::Alloc { address, .. } => drop(live.insert(address, at)),
            Action::Free { address, .. } => {
                freed.insert(event.lane, live.remove(&address).map(|origin| (address, origin)));
            }
            Action::Restore => {
                if let Some((address, origin)) = freed.remove(&event.lane).flatten() {
                    live.insert(address, origin);
                }
            }
            Action::ImageStart => (freed, live) = Default::default(),
            _ => {}
        }
    }
    live.get(&address).copied()
}

fn event(turn: u64, action: Action) -> Event {
    Event { turn, image: 0, lane: 0, thread: 1, action }
}

fn alloc(turn: u64, address: u64, size: u64, stack: usize) -> Event {
    let stack = StackId::from_index(stack);
    event(turn, Action::Alloc { kind: AllocatorKind::Malloc, address, size, stack })
}

fn free(turn: u64, address: u64) -> Event {
    event(turn, Action::Free { kind: AllocatorKind::Free, address })
}

fn rows(snapshot: &Snapshot) -> Vec<(usize, u64, u64)> {
    snapshot.rows.iter().map(|row| (row.stack.index(), row.bytes, row.count)).collect()
}

fn heap(events: &[Event]) -> Heap {
    let model = model();
    let mut heap = Heap::new(MmapRule::Memory, Detail::Stack);
    for event in events {
        heap.take(&model, event);
    }
    heap
}

#[test]
fn a_freed_block_does_not_count_towards_the_peak() {
    let heap = heap(&[alloc(1, 1, 100, 1), free(2, 1), alloc(3, 2, 60, 2), alloc(4, 3, 60, 3), free(5, 3)]);
    assert_eq!(rows(&heap.at_peak()), [(2, 60, 1), (3, 60, 1)]);
    assert_eq!((heap.peak_bytes(), heap.at_peak().turn), (120, Some(4)));
    assert_eq!(rows(&heap.at_end()), [(2, 60, 1)]);
}

#[test]
fn the_last_of_equal_peaks_is_shown() {
    let heap = heap(&[alloc(1, 1, 100, 1), free(2, 1), alloc(3, 2, 100, 2)]);
    assert_eq!(rows(&heap.at_peak()), [(2, 100, 1)]);
}

#[test]
fn the_peak_is_the_last_moment_at_its_height() {
    let heap = heap(&[alloc(1, 1, 0, 1), alloc(2, 2, 100, 2), free(3, 1), free(4, 2)]);
    assert_eq!((rows(&heap.at_peak()), heap.at_peak().turn), (vec![(2, 100, 1)], Some(3)));
    assert_eq!(rows(&heap.ever()), [(1, 0, 1), (2, 100, 1)]);
}

#[test]
fn an_address_that_is_handed_out_again_replaces_the_block_there() {
    let heap = heap(&[alloc(1, 1, 100, 1), alloc(2, 1, 30, 2), free(3, 9)]);
    assert_eq!(rows(&heap.at_end()), [(2, 30, 1)]);
    assert_eq!((heap.n_missed_frees(), heap.peak_bytes()), (1, 100));
}

#[test]
fn a_failed_realloc_leaves_the_old_block() {
    let heap = heap(&[alloc(1, 1, 100, 1), free(2, 1), event(3, Action::Restore), event(4, Action::Restore)]);
    assert_eq!(rows(&heap.at_end()), [(1, 100, 1)]);
}

#[test]
fn sizes_that_no_memory_holds_are_not_added_up() {
    let heap = heap(&[alloc(1, 1, u64::MAX, 1), alloc(2, 2, 1 << 62, 2), alloc(3, 3, 1, 3)]);
    assert_eq!(rows(&heap.at_end()), [(1, 0, 1), (2, 1 << 62, 1), (3, 0, 1)]);
}

#[test]
fn what_mremap_moves_keeps_its_class_and_takes_the_new_stack() {
    let mmap = |turn, address, prot| {
        let stack = StackId::from_index(1);
        event(turn, Action::Mmap { address, len: PAGE, prot, flags: 0x22, is_arena: false, stack })
    };
    let munmap = |turn, address| event(turn, Action::Munmap { address, len: PAGE, is_remap: true });
    let mremap = |turn, old_address, flags| {
        let stack = StackId::from_index(2);
        let (address, len) = (old_address + (1 << 30), 3 * PAGE);
        event(turn, Action::Mremap { old_address, address, len, flags, is_arena: false, stack })
    };
    let (memory, reserved, kept) = (1 << 20, 2 << 20, 3 << 20);
    let heap = heap(&[
        mmap(1, memory, 3),
        mmap(2, reserved, 0),
        mmap(3, kept, 3),
        munmap(4, memory),
        mremap(5, memory, 1),
        munmap(6, reserved),
        mremap(7, reserved, 1),
        // MREMAP_MAYMOVE and MREMAP_DONTUNMAP
        munmap(8, kept),
        mremap(9, kept, 5),
    ]);
    assert_eq!(rows(&heap.at_end()), [(1, PAGE, 1), (2, 6 * PAGE, 2)]);
    assert_eq!(heap.mapped_bytes(Class::Reserved), 3 * PAGE);
}

#[test]
fn arenas_count_only_where_objects_are_not_recorded() {
    let arena = Action::Mmap {
        address: 1 << 20,
        len: 1 << 20,
        prot: 3,
        flags: 0x22,
        is_arena: true,
        stack: StackId::from_index(1),
    };
    let mut model = model();
    let mut bytes = Vec::new();
    for allocator in ["", "pymalloc"] {
        model.process_mut().facts.python_allocators = true;
        let python = crate::model::facts::Python { version: 0, allocator: allocator.into(), has_stacks: true };
        model.process_mut().facts.image_mut(0).python = Some(python);
        let mut heap = Heap::new(MmapRule::Memory, Detail::Stack);
        heap.take(&model, &event(1, arena));
        bytes.push((heap.bytes(), heap.mapped_bytes(Class::Arena)));
    }
    assert_eq!(bytes, [(1 << 20, 0), (0, 1 << 20)]);
}

#[test]
fn temporary_means_few_allocations_of_the_same_thread_in_between() {
    let events = [
        alloc(1, 1, 10, 1),
        free(2, 1),
        alloc(3, 2, 20, 2),
        alloc(4, 3, 30, 3),
        free(5, 2),
        alloc(6, 4, 40, 3),
        free(7, 3),
        Event { thread: 2, lane: 1, ..free(8, 4) },
    ];
    let model = model();
    let check = |threshold, expected: &[(usize, u64, u64)]| {
        let mut temporary = Temporary::new(threshold, MmapRule::Memory, Detail::Stack);
        events.iter().for_each(|event| temporary.take(&model, event));
        assert_eq!(rows(&temporary.finish()), expected, "threshold {threshold}");
    };
    check(0, &[(1, 10, 1)]);
    check(1, &[(1, 10, 1), (2, 20, 1), (3, 30, 1)]);
}

#[test]
fn no_threshold_is_too_large() {
    let mut temporary = Temporary::new(u64::MAX, MmapRule::Memory, Detail::Stack);
    [alloc(1, 1, 10, 1), alloc(2, 2, 20, 2), free(3, 1)].iter().for_each(|event| temporary.take(&model(), event));
    assert_eq!(rows(&temporary.finish()), [(1, 10, 1)]);
}

#[test]
fn what_a_failed_call_gave_back_is_no_temporary_allocation() {
    let mmap = |turn, address| {
        let stack = StackId::from_index(1);
        event(turn, Action::Mmap { address, len: 4 * PAGE, prot: 3, flags: 0x22, is_arena: false, stack })
    };
    let munmap = |turn, address, n_pages| event(turn, Action::Munmap { address, len: n_pages * PAGE, is_remap: false });
    let mremap = |turn, address| event(turn, Action::Munmap { address, len: 4 * PAGE, is_remap: true });
    let restore = |turn| event(turn, Action::Restore);
    let check = |failed: &[Event]| {
        let mut temporary = Temporary::new(1, MmapRule::Memory, Detail::Stack);
        // Two whole ones of the same stack, and the failed call between their end and the end.
        let before =
            [mmap(1, 1 << 20), munmap(2, 1 << 20, 4), mmap(3, 2 << 20), munmap(4, 2 << 20, 4), mmap(5, 3 << 20)];
        before.iter().chain(failed).for_each(|event| temporary.take(&model(), event));
        assert_eq!(rows(&temporary.finish()), [(1, 8 * PAGE, 2)], "{failed:?}");
    };
    check(&[]);
    check(&[munmap(6, 3 << 20, 4), restore(7)]);
    // A part: nothing of it is counted when it goes.
    check(&[munmap(6, 3 << 20, 1), restore(7)]);
    check(&[mremap(6, 3 << 20), restore(7)]);
}

#[test]
fn a_tree_sums_up_what_was_called() {
    let model = model();
    let heap = heap(&[alloc(1, 1, 100, 1), alloc(2, 2, 30, 3), alloc(3, 3, 500, 5), alloc(4, 4, 7, 0)]);
    let tree = Tree::new(&model, &heap.at_end());
    let shown: Vec<_> = tree
        .nodes
        .iter()
        .map(|node| (node.frame.map_or(0, |id| model.frame(id).line), node.depth, node.end, node.bytes, node.own_bytes))
        .collect();
    assert_eq!(
        shown,
        [(0, 0, 5, 637, 7), (5, 1, 2, 500, 500), (1, 1, 5, 130, 100), (2, 2, 5, 30, 0), (3, 3, 5, 30, 30),]
    );
    assert_eq!(tree.children(0).map(|(index, _)| index).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(tree.children(1).count(), 0);
}

#[test]
fn a_function_that_calls_itself_counts_once() {
    let mut model = Model::default();
    let frame = model.intern_frame("f", "x.py", 1);
    let other_line = model.intern_frame("f", "x.py", 2);
    let outer = model.extend_stack(StackId::EMPTY, frame);
    let inner = model.extend_stack(outer, other_line);
    let mut heap = Heap::new(MmapRule::Memory, Detail::Stack);
    for (address, stack) in [(1, outer), (2, inner), (3, StackId::EMPTY)] {
        heap.take(&model, &alloc(1, address, 10, stack.index()));
    }
    let functions = summary::by_function(&model, &Tree::new(&model, &heap.at_end()));
    let shown: Vec<_> =
        functions.iter().map(|function| (function.total_bytes, function.own_bytes, function.count)).collect();
    assert_eq!(shown, [(20, 20, 2), (10, 10, 1)]);
}
