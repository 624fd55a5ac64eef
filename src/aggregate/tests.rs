//! Whatever a program does, its aggregated log answers as the whole one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use memtrace_format::LAUNCHER_IMAGE;
use memtrace_format::record::*;
use proptest::prelude::*;

use super::*;
use crate::analysis::Intervals;
use crate::model::Process;
use crate::model::threads::Thread as Known;
use crate::testlog::Log;

/// A file that goes with its test.
struct Saved(PathBuf);

impl Saved {
    fn new(bytes: &[u8]) -> Saved {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("memtrace-aggregate-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Saved(path)
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Stack, thread, allocator, class of sizes. A mapping that was cut has the class of what it was.
type Site = (String, (u16, u32), AllocatorKind, Option<usize>);
type Table = BTreeMap<Site, (u64, u64)>;

/// What both logs have to agree on.
#[derive(Debug, PartialEq)]
struct Answers {
    peak_bytes: u64,
    /// Since the capture began, in nanoseconds.
    peak_at: Option<u64>,
    peak: Table,
    leaks: Table,
    /// Sampled: the clock, the resident set, the heap.
    samples: Vec<(u64, u64, u64)>,
    marks: Vec<(u64, String)>,
    objects: Vec<(u64, String)>,
    notices: usize,
    threads: Vec<(u32, String)>,
}

fn answers(capture: &Capture) -> Answers {
    let mut course = Course::default();
    let read = capture.read_recorded(|model, events| {
        course.take_all(model, events);
        ControlFlow::Continue(())
    });
    let model = read.unwrap();
    let Process { facts, clock, threads } = model.process();
    let (peak, leaks) = (course.heap.peak_by_site(), course.heap.end_by_site());
    let samples = course.moments.moments.iter().filter_map(|moment| match moment.event.action {
        Action::Rss { mono_nanos, bytes } => Some((mono_nanos, bytes, moment.heap_bytes)),
        _ => None,
    });
    let mut told: Vec<ThreadKey> = peak.rows.iter().chain(&leaks.rows).map(|row| row.site.thread).collect();
    told.sort_unstable();
    told.dedup();
    let name = |thread: Known| thread.name.map_or(String::new(), |name| model.text(name).to_string());
    Answers {
        peak_bytes: course.heap.peak_bytes(),
        peak_at: peak.turn.map(|turn| clock.nanos_since_start(turn)),
        peak: table(&model, &peak),
        leaks: table(&model, &leaks),
        samples: samples.collect(),
        marks: facts.marks.iter().map(|mark| (mark.nanos, mark.name.clone())).collect(),
        objects: course.objects.in_order().iter().map(|it| (it.address, stack(&model, it.made_by))).collect(),
        notices: facts.notices.len(),
        threads: told.iter().map(|key| (threads.get(*key).os_tid, name(threads.get(*key)))).collect(),
    }
}

fn table(model: &Model, table: &BySite) -> Table {
    let mut named = Table::new();
    for SiteRow { site, bytes, count } in &table.rows {
        let class = (site.kind != AllocatorKind::Mmap).then_some(site.size_class.index());
        let key = (stack(model, site.stack), (site.thread.image, site.thread.number), site.kind, class);
        let sum = named.entry(key).or_default();
        *sum = (sum.0 + bytes, sum.1 + count);
    }
    named
}

/// As it was recorded, in words.
fn stack(model: &Model, stack: StackId) -> String {
    let mut words = Vec::new();
    let mut at = stack;
    while let Some((parent, level)) = model.level_of(at) {
        words.push(match level {
            Level::Python(frame) => model.location(model.frame(frame)),
            Level::Native(place) => {
                let place = model.native_place(place);
                format!("{}+{:#x}", model.native_modules()[place.module as usize].path, place.address)
            }
            Level::Entry => "|".to_string(),
            Level::Joint(native) => format!("<{}>", self::stack(model, native)),
        });
        at = parent;
    }
    words.join(" ")
}

/// Compares a log with what becomes of it; the aggregated one.
fn check(log: &Log) -> Vec<u8> {
    let whole = Saved::new(&log.bytes());
    let capture = Capture::open(&whole.0).unwrap();
    let expected = answers(&capture);
    let bytes = aggregated(&capture).unwrap();
    let small = Saved::new(&bytes);
    let capture = Capture::open(&small.0).unwrap();
    assert_eq!(answers(&capture), expected);
    let facts = capture.described().unwrap();
    assert!(facts.aggregated.is_some() && facts.damage.is_empty(), "{:?}", facts.damage);
    // What it became stays what it is.
    let again = aggregated(&capture).unwrap();
    let again = Saved::new(&again);
    assert_eq!(answers(&Capture::open(&again.0).unwrap()), expected);
    bytes
}

/// What a program does in one step, of which the log tells.
#[derive(Clone, Debug)]
enum Did {
    Alloc { lane: u32, kind: usize, place: u64, size: u64, stack: u32 },
    Free { lane: u32, place: u64 },
    Map { lane: u32, page: u64, n_pages: u64, is_reserved: bool, stack: u32 },
    Unmap { lane: u32, page: u64, n_pages: u64 },
    Make { lane: u32, place: u64, stack: u32 },
    Destroy { lane: u32, place: u64 },
    Sample,
    Mark,
    Become,
}

const KINDS: [AllocatorKind; 4] =
    [AllocatorKind::Malloc, AllocatorKind::PymallocMalloc, AllocatorKind::Realloc, AllocatorKind::Calloc];

fn did() -> impl Strategy<Value = Did> {
    let (lane, stack, place, page) = (0..3u32, 0..4u32, 0..12u64, 0..20u64);
    // Small numbers, so that sums are equal now and then.
    let size = prop_oneof![Just(0u64), 1..4u64, 15..40u64, Just(1000)];
    prop_oneof![
        8 => (lane.clone(), 0..4usize, place.clone(), size, stack.clone())
            .prop_map(|(lane, kind, place, size, stack)| Did::Alloc { lane, kind, place, size, stack }),
        5 => (lane.clone(), place.clone()).prop_map(|(lane, place)| Did::Free { lane, place }),
        2 => (lane.clone(), page.clone(), 1..4u64, any::<bool>(), stack.clone())
            .prop_map(|(lane, page, n_pages, is_reserved, stack)| Did::Map { lane, page, n_pages, is_reserved, stack }),
        1 => (lane.clone(), page, 1..4u64).prop_map(|(lane, page, n_pages)| Did::Unmap { lane, page, n_pages }),
        1 => (lane.clone(), place.clone(), stack).prop_map(|(lane, place, stack)| Did::Make { lane, place, stack }),
        1 => (lane, place).prop_map(|(lane, place)| Did::Destroy { lane, place }),
        3 => Just(Did::Sample),
        1 => Just(Did::Mark),
        1 => Just(Did::Become),
    ]
}

/// A log of three threads, with four stacks each.
fn log(steps: &[Did], may_become: bool) -> Log {
    let mut log = Log::new();
    log.python();
    log.meta(Record::Notice(Notice { code: notice::DEEPBIND, text: b"libx.so" }));
    log.code(1, "main", "app.py", 10);
    log.code(2, "wörk", "лib.py", 20);
    let mut image = 0;
    let mut turn = 0;
    let begin = |log: &mut Log, image: u16, turn: &mut u64| {
        for lane in 0..3 {
            *turn += 1;
            let pthread = u64::from(lane) + 100;
            let mut put = |record: &Record<'_>| log.put_at(block_kind::EVENTS, image, lane, *turn, record);
            put(&Record::Thread(Thread { thread: lane + 1, os_tid: 4711 + lane, pthread }));
            put(&Record::ThreadName(ThreadName { pthread, name: b"worker" }));
            for (parent, code, offset) in [(0, 1, 0), (1, 2, 4), (2, 2, Node::NOT_BEGUN)] {
                put(&Record::Node(Node { parent, code, offset }));
            }
        }
    };
    begin(&mut log, image, &mut turn);
    // A heap of empty blocks alone is as high at any time.
    log.alloc(0, turn, 0x100, 1, 1);
    for step in steps {
        turn += 1;
        let mono_nanos = 5_000_000_000 + turn * 1_000_003;
        let address = |place: u64| 0x5000 + place * 16;
        match *step {
            Did::Alloc { lane, kind, place, size, stack } => {
                let record = Alloc { kind: KINDS[kind], address: address(place), size, stack };
                log.put_at(block_kind::EVENTS, image, lane, turn, &Record::Alloc(record));
            }
            Did::Free { lane, place } => {
                let record = Free { kind: AllocatorKind::Free, address: address(place) };
                log.put_at(block_kind::EVENTS, image, lane, turn, &Record::Free(record));
            }
            Did::Map { lane, page, n_pages, is_reserved, stack } => {
                let flags = if is_reserved { 0x4022 } else { 0x22 };
                // The end of a mapping need not be one of a page.
                let (address, len) = ((page + 1000) * PAGE, n_pages * PAGE - 5);
                let record = Mmap { address, len, prot: 3, flags, is_arena: false, stack };
                log.put_at(block_kind::EVENTS, image, lane, turn, &Record::Mmap(record));
            }
            Did::Unmap { lane, page, n_pages } => {
                let record = Munmap { address: (page + 1000) * PAGE, len: n_pages * PAGE, is_remap: false };
                log.put_at(block_kind::EVENTS, image, lane, turn, &Record::Munmap(record));
            }
            Did::Make { lane, place, stack } => {
                let record = record::Object { address: address(place), made_by: Some(stack) };
                log.put_at(block_kind::EVENTS, image, lane, turn, &Record::Object(record));
            }
            Did::Destroy { lane, place } => {
                let record = record::Object { address: address(place), made_by: None };
                log.put_at(block_kind::EVENTS, image, lane, turn, &Record::Object(record));
            }
            Did::Sample => log.launcher(turn, Record::Rss(Rss { mono_nanos, bytes: turn << 12 })),
            Did::Mark => {
                log.launcher(turn, Record::Mark(Mark { mono_nanos, what: mark::NAMED, name: "jetzt".as_bytes() }))
            }
            Did::Become if may_become => {
                image += 1;
                begin(&mut log, image, &mut turn);
            }
            Did::Become => {}
        }
    }
    log.end();
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn an_aggregated_log_has_the_same_peak_and_the_same_leaks(steps in prop::collection::vec(did(), 0..80)) {
        check(&log(&steps, false));
    }

    #[test]
    fn it_has_them_of_a_process_that_becomes_other_programs(steps in prop::collection::vec(did(), 0..60)) {
        check(&log(&steps, true));
    }
}

#[test]
fn native_stacks_and_marks_in_them_are_kept() {
    let mut log = log(&[], false);
    for (id, path) in [(7, "/bin/program"), (8, "/lib/libc.so.6")] {
        log.meta(Record::Module(Module { id, bias: 0, path: path.as_bytes(), build_id: b"\x01\x02" }));
    }
    // Of lane 0: nodes 4 and 5 are a native stack whose beginning is lost, 6 a Python stack that C code entered, and 7 both.
    log.node(0, 0, Node::NO_CODE, 0);
    log.node(0, 4, 7, 0x1234);
    log.node(0, 2, Node::NO_CODE, 0);
    log.node(0, 6, Node::NO_CODE, 5);
    log.node(0, 0, 8, 0x77);
    log.node(0, 0, Node::NO_CODE, 8);
    for (turn, stack) in [(100, 7), (101, 9), (102, 3), (103, 0)] {
        log.alloc(0, turn, turn * 16, turn, stack);
    }
    log.free(0, 104, 100 * 16);
    check(&log);
}

#[test]
fn between_two_samples_the_heap_does_not_fall_to_nothing() {
    let mut log = log(&[], false);
    let mut turn = 1000;
    for sample in 1..60u64 {
        turn += 10;
        let mono_nanos = 5_000_000_000 + sample * 166_000_000;
        log.launcher(turn, Record::Rss(Rss { mono_nanos, bytes: 1 }));
        // Of three threads, more and more, and after half of the time less.
        let lane = (sample % 3) as u32;
        match sample {
            ..30 => log.alloc(lane, turn + 5, sample * 16, 10_000, 1),
            _ => log.free(lane, turn + 5, (60 - sample) * 16),
        }
    }
    let bytes = check(&log);
    let lowest = |bytes: &[u8]| {
        let saved = Saved::new(bytes);
        let mut intervals = Intervals::new(MmapRule::Memory, 0);
        let capture = Capture::open(&saved.0).unwrap();
        let model = capture.read_batches(
            |_| {},
            |model, events| {
                intervals.take_all(model, events);
                ControlFlow::Continue(())
            },
        );
        let buckets = intervals.finish(&model.unwrap()).buckets;
        buckets[buckets.len() / 4..buckets.len() * 3 / 4].iter().map(|bucket| bucket.end_bytes).min().unwrap()
    };
    assert!(lowest(&log.bytes()) > 90_000);
    assert!(lowest(&bytes) > 90_000, "{}", lowest(&bytes));
}

#[test]
fn it_is_as_long_as_its_stacks_and_not_as_its_blocks() {
    let mut log = log(&[], false);
    for block in 0..200_000u64 {
        log.alloc(0, 100, 0x10_0000 + block * 48, 40 + block % 3, 1 + (block % 3) as u32);
    }
    let len = check(&log).len();
    assert!(len < 16 * 1024, "{len} bytes");
}

#[test]
fn samples_of_a_long_recording_are_thinned_out_and_marks_are_not() {
    let mut moments = Moments::default();
    let event = |turn: u64, action| Event { turn, image: LAUNCHER_IMAGE, lane: 0, thread: 0, action };
    for turn in 0..1_000_000u64 {
        let action = match turn % 1000 {
            0 => Action::Mark { mono_nanos: turn, kind: MarkKind::Named, name: Model::default().intern("x") },
            _ => Action::Rss { mono_nanos: turn, bytes: turn },
        };
        moments.add(Moment { event: event(turn, action), heap_bytes: 0, image: 0 });
    }
    let n_marks = moments.moments.iter().filter(|it| matches!(it.event.action, Action::Mark { .. })).count();
    let n_samples = moments.moments.len() - n_marks;
    assert_eq!(n_marks, 1000);
    assert!((MAX_SAMPLES / 2..=MAX_SAMPLES).contains(&n_samples), "{n_samples}");
    assert!(moments.moments.is_sorted_by_key(|it| it.event.turn));
}
