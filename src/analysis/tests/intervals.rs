//! Intervals beside naive twins, with time that jumps and limits so low that buckets are merged again and again.

use super::super::intervals::{LIMITS, Limits, Overhead};
use super::*;
use crate::model::Clock;

/// A clock that is known for the first turns and goes on as it went between the last two.
fn clock() -> impl Strategy<Value = Clock> {
    proptest::collection::vec(0..60u64, 0..20).prop_map(|steps_millis| {
        let mut clock = Clock::new(1_000, 0);
        let mut millis = 0;
        for (number, step) in steps_millis.into_iter().enumerate() {
            millis += step;
            clock.add(10 * (number as u64 + 1), 1_000 + millis * 1_000_000);
        }
        clock
    })
}

fn with_clock(clock: Clock) -> Model {
    let mut model = model();
    model.process_mut().clock = clock;
    model
}

fn limits() -> impl Strategy<Value = Limits> {
    (prop_oneof![Just(2), Just(8), Just(512)], prop_oneof![Just(0), Just(1 << 20)])
        .prop_map(|(buckets, rows)| Limits { buckets, rows })
}

fn temporal(model: &Model, events: &[Event], offset_nanos: u64, limits: Limits) -> Temporal {
    let mut fold = Intervals::with_limits(MmapRule::Memory, offset_nanos, limits);
    events.iter().for_each(|event| fold.take(model, event));
    fold.finish(model)
}

fn bucket_of(model: &Model, event: &Event, offset_nanos: u64, temporal: &Temporal) -> usize {
    ((offset_nanos + model.process().clock.nanos_since_start(event.turn)) / temporal.bucket_nanos) as usize
}

proptest! {
    #[test]
    fn each_bucket_has_the_heap_of_its_highest_moment_and_of_its_end(
        events in events(), clock in clock(), limits in limits(), offset_nanos in 0..200_000_000u64,
    ) {
        let model = with_clock(clock);
        let temporal = temporal(&model, &events, offset_nanos, limits);
        prop_assert!(temporal.buckets.len() <= limits.buckets);
        let mut heap = Heap::new(MmapRule::Memory, Detail::Full);
        // What is there before the first event, and after each.
        let mut moments = vec![heap.end_by_site()];
        for event in &events {
            heap.take(&model, event);
            moments.push(heap.end_by_site());
        }
        let mut start = 0;
        for (number, bucket) in temporal.buckets.iter().enumerate() {
            let is_before_end = |event: &&Event| bucket_of(&model, event, offset_nanos, &temporal) <= number;
            let end = events.iter().filter(is_before_end).count();
            let highest = (start..=end).max_by_key(|&moment| moments[moment].bytes).unwrap();
            prop_assert_eq!(&temporal.alive(2 * number).rows, &moments[highest].rows);
            prop_assert_eq!(&temporal.alive(2 * number + 1).rows, &moments[end].rows);
            prop_assert_eq!((bucket.peak_bytes, bucket.end_bytes), (moments[highest].bytes, moments[end].bytes));
            prop_assert!(bucket.peak_nanos < temporal.bucket_nanos);
            start = end;
        }
        prop_assert_eq!(start, events.len());
    }

    #[test]
    fn the_whole_range_is_the_plain_report(events in events(), clock in clock(), limits in limits()) {
        let model = with_clock(clock);
        let temporal = temporal(&model, &events, 0, limits);
        let mut heap = Heap::new(MmapRule::Memory, Detail::Full);
        events.iter().for_each(|event| heap.take(&model, event));
        prop_assert_eq!(temporal.peak(temporal.whole()).rows, heap.peak_by_site().rows);
        prop_assert_eq!(temporal.leaks(temporal.whole()), heap.end_by_site());
        prop_assert_eq!(temporal.churn(temporal.whole()), heap.ever_by_site());
    }

    #[test]
    fn a_range_has_its_own_peak_leaks_and_churn(
        events in events(), clock in clock(), limits in limits(), (a, b) in (0..40usize, 0..40usize),
    ) {
        let is_plain = |event: &Event| !matches!(event.action, Action::Mmap { .. } | Action::Munmap { .. } | Action::Restore);
        let events: Vec<Event> = events.into_iter().filter(is_plain).collect();
        let model = with_clock(clock);
        let temporal = temporal(&model, &events, 0, limits);
        let (a, b) = (a % temporal.buckets.len(), b % temporal.buckets.len());
        let (first, last) = (a.min(b), a.max(b));
        let (mut alive, mut ever) = (BTreeMap::new(), Vec::new());
        let mut heap = Heap::new(MmapRule::Memory, Detail::Full);
        let mut moments = vec![heap.end_by_site()];
        let until = |bucket: usize| {
            events.iter().filter(|event| bucket_of(&model, event, 0, &temporal) < bucket).count()
        };
        for event in &events[..until(last + 1)] {
            heap.take(&model, event);
            moments.push(heap.end_by_site());
            let bucket = bucket_of(&model, event, 0, &temporal);
            match event.action {
                Action::Alloc { kind, address, size, stack } => {
                    let thread = ThreadKey { image: event.image, number: event.thread };
                    let site = Site { stack, process: 0, thread, kind, size_class: SizeClass::of(size) };
                    alive.insert(address, (site, size, bucket));
                    ever.push((site, size, bucket));
                }
                Action::Free { address, .. } => drop(alive.remove(&address)),
                Action::ImageStart => alive.clear(),
                Action::ObjectMade { .. } | Action::ObjectDestroyed { .. } => {}
                _ => unreachable!("filtered"),
            }
        }
        let peak = moments[until(first)..].iter().max_by_key(|moment| moment.bytes).unwrap();
        prop_assert_eq!(&temporal.peak(first..=last).rows, &peak.rows);
        let sum = |blocks: Vec<(Site, u64, usize)>| {
            let mut sums = BTreeMap::<Site, (u64, u64)>::new();
            for (site, size, _) in blocks.into_iter().filter(|&(_, _, born)| born >= first) {
                let sum = sums.entry(site).or_default();
                *sum = (sum.0 + size, sum.1 + 1);
            }
            sums.into_iter().collect::<Vec<_>>()
        };
        let columns = |table: BySite| table.rows.iter().map(|row| (row.site, (row.bytes, row.count))).collect::<Vec<_>>();
        prop_assert_eq!(columns(temporal.leaks(first..=last)), sum(alive.into_values().collect()));
        prop_assert_eq!(columns(temporal.churn(first..=last)), sum(ever));
    }

    #[test]
    fn halving_changes_no_sum(events in events(), clock in clock()) {
        let model = with_clock(clock);
        let mut temporal = temporal(&model, &events, 0, Limits { buckets: 512, rows: 1 << 20 });
        let plain = temporal.clone();
        while temporal.buckets.len() > 1 {
            temporal.halve();
            let whole = |of: fn(&Temporal, std::ops::RangeInclusive<usize>) -> BySite| {
                (of(&temporal, temporal.whole()), of(&plain, plain.whole()))
            };
            for (halved, plain) in [whole(Temporal::peak), whole(Temporal::leaks), whole(Temporal::churn)] {
                prop_assert_eq!(halved, plain);
            }
            prop_assert!(temporal.buckets.len() as u64 * temporal.bucket_nanos >= plain.bucket_nanos);
        }
    }
}

/// Ten milliseconds a turn.
fn steady() -> Model {
    let mut clock = Clock::new(0, 0);
    clock.add(6, 60_000_000);
    with_clock(clock)
}

fn of_events(events: &[Event]) -> Temporal {
    temporal(&steady(), events, 0, Limits { buckets: 512, rows: 1 << 20 })
}

/// `born died bytes count` of each row.
fn rows_of(temporal: &Temporal) -> Vec<(u16, u16, i64, i64)> {
    temporal.rows.iter().map(|row| (row.born, row.died, row.amount.bytes, row.amount.count)).collect()
}

#[test]
fn a_block_lives_from_segment_to_segment() {
    // In bucket 1: 100 comes, 7 comes and goes after the peak, 100 goes; in bucket 2 is 30, which stays.
    let temporal = of_events(&[alloc(1, 1, 100, 1), free(1, 1), alloc(1, 2, 7, 2), free(1, 2), alloc(2, 3, 30, 3)]);
    assert_eq!(rows_of(&temporal), [(2, 4, 100, 1), (3, 4, 7, 1), (4, 0, 30, 1)]);
    let peaks: Vec<u64> = temporal.buckets.iter().map(|bucket| bucket.peak_bytes).collect();
    assert_eq!(peaks, [0, 100, 30, 30, 30, 30, 30]);
}

#[test]
fn a_bucket_in_which_memory_only_goes_has_its_peak_at_its_start() {
    let temporal = of_events(&[alloc(0, 1, 100, 1), alloc(0, 2, 10, 1), free(2, 1), alloc(2, 3, 50, 1)]);
    let bucket = temporal.buckets[2];
    assert_eq!((bucket.peak_bytes, bucket.peak_nanos, bucket.end_bytes), (110, 0, 60));
    assert_eq!(temporal.peak(2..=2).bytes, 110);
    assert_eq!(temporal.leaks(2..=2).bytes, 50);
}

#[test]
fn what_allocators_keep_is_told_at_the_end_of_each_bucket() {
    let object = |turn, address, size| {
        let (kind, stack) = (AllocatorKind::PymallocMalloc, StackId::from_index(1));
        event(turn, Action::Alloc { kind, address, size, stack })
    };
    let map = |address, len, prot, flags, is_arena| {
        event(0, Action::Mmap { address, len, prot, flags, is_arena, stack: StackId::EMPTY })
    };
    let mut model = steady();
    model.process_mut().facts.python_allocators = true;
    let python = crate::model::facts::Python { version: 0, allocator: "pymalloc".into(), has_stacks: true };
    model.process_mut().facts.image_mut(0).python = Some(python);
    let rss = |turn, bytes| event(turn, Action::Rss { mono_nanos: 0, bytes });
    let events = [
        map(1 << 20, 1 << 20, 3, 0x22, true),
        map(4 << 20, 5 * PAGE, 1, 2, false),
        map(5 << 20, 7 * PAGE, 0, 0x22, false),
        object(0, 1, 33),
        object(0, 2, 1000),
        rss(0, 500),
        alloc(1, 3, 1, 1),
        rss(1, 300),
        rss(1, 200),
        free(2, 2),
    ];
    let temporal = temporal(&model, &events, 0, Limits { buckets: 512, rows: 1 << 20 });
    let told: Vec<_> = temporal.buckets[..3].iter().map(|bucket| (bucket.rss_bytes, bucket.at_end)).collect();
    let overhead = |slack_bytes| Overhead {
        slack_bytes,
        arena_bytes: (1 << 20) - 48,
        file_bytes: 5 * PAGE,
        reserved_bytes: 7 * PAGE,
    };
    // 33 takes 48; 1000 takes 1008; 1 takes 32.
    assert_eq!(told, [(500, overhead(15 + 8)), (300, overhead(15 + 8 + 31)), (0, overhead(15 + 31))]);
}

#[test]
fn buckets_end_with_the_capture() {
    let mut model = steady();
    let end = crate::model::facts::End { mono_nanos: 10_000_000_000, ..Default::default() };
    model.process_mut().facts.end = Some(end);
    let temporal = temporal(&model, &[alloc(1, 1, 100, 1)], 0, LIMITS);
    assert_eq!((temporal.bucket_nanos, temporal.buckets.len()), (20_000_000, 501));
    assert_eq!(temporal.buckets[500].end_bytes, 100);
}
