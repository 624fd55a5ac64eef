//! Generated logs: whatever lanes, turns, blocks and threads there are, events come as they happened.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use memtrace_format::turn;
use proptest::prelude::*;

use super::super::ahead;
use super::super::file::ALWAYS;
use super::*;
use crate::model::native::NativeStacks;

#[derive(Clone, Debug)]
pub struct Drawn {
    lane: u32,
    what: What,
    /// Whether a turn begins with it anyhow, and of which sort it is then.
    begins: Option<bool>,
    ticks: u64,
    begins_block: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Alloc { address: u64, size: u64, stack: u32 },
    Free { address: u64 },
    Mmap { stack: u32 },
    Restore,
    Node { parent: u32, code: u32 },
}

pub fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let addresses = || prop_oneof![3 => (0..500u64).prop_map(|n| 0x7f00_0000_0000 + n * 48), 1 => any::<u64>()];
    let what = prop_oneof![
        6 => (addresses(), any::<u64>(), any::<u32>()).prop_map(|(address, size, stack)| What::Alloc { address, size, stack }),
        6 => addresses().prop_map(|address| What::Free { address }),
        1 => any::<u32>().prop_map(|stack| What::Mmap { stack }),
        1 => Just(What::Restore),
        2 => (any::<u32>(), 1..4u32).prop_map(|(parent, code)| What::Node { parent, code }),
    ];
    let begins = prop_oneof![6 => Just(None), 1 => any::<bool>().prop_map(Some)];
    let one = (0..4u32, what, begins, 1..1000u64, 0..20u32);
    let one = one.prop_map(|(lane, what, begins, ticks, block)| Drawn {
        lane,
        what,
        begins,
        ticks,
        begins_block: block == 0,
    });
    proptest::collection::vec(one, 1..400)
}

/// The log, and its events as one would tell them.
pub fn written(drawn: &[Drawn]) -> (Log, Vec<String>) {
    let mut log = Log::new();
    for code in 1..4 {
        log.code(code, &format!("f{code}"), "x.py", 1);
    }
    let mut told = Vec::new();
    let (mut turn, mut holder, mut now) = (turn::Turn { number: 1, is_shared: true }, 0, 0);
    let mut turns: BTreeMap<u32, turn::Turn> = BTreeMap::new();
    let mut stacks: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for Drawn { lane, what, begins, ticks, begins_block } in drawn.iter().cloned() {
        if begins.is_some() || (!turn.is_shared && holder != lane) {
            turn = turn::Turn { number: turn.number + ticks, is_shared: begins.unwrap_or(false) };
            holder = lane;
        }
        now += ticks;
        let mut put = |record: Record<'_>| {
            if begins_block {
                log.begin_block(block_kind::EVENTS, 0, lane);
            }
            if turns.insert(lane, turn) != Some(turn) {
                log.put_now(
                    block_kind::EVENTS,
                    0,
                    lane,
                    0,
                    &Record::Turn(Turn { number: turn.number, is_shared: turn.is_shared }),
                );
            }
            log.put_now(block_kind::EVENTS, 0, lane, now, &record);
        };
        let stacks = stacks.entry(lane).or_insert_with(|| vec![String::new()]);
        let known = |number: u32| number % stacks.len() as u32;
        let thread = lane + 1;
        match what {
            What::Node { parent, code } => {
                let parent = known(parent);
                put(Record::Node(Node { parent, code, offset: 0 }));
                stacks.push(format!("f{code} {}", stacks[parent as usize]));
            }
            What::Alloc { address, size, stack } => {
                let stack = known(stack);
                put(Record::Alloc(Alloc { kind: AllocatorKind::Calloc, address, size, stack }));
                told.push(format!("{} {thread} alloc {address} {size} {}", turn.number, stacks[stack as usize]));
            }
            What::Free { address } => {
                put(Record::Free(Free { kind: AllocatorKind::Free, address }));
                told.push(format!("{} {thread} free {address}", turn.number));
            }
            What::Mmap { stack } => {
                let stack = known(stack);
                put(Record::Mmap(Mmap { address: 1 << 30, len: 4096, prot: 3, flags: 0x22, is_arena: false, stack }));
                told.push(format!("{} {thread} mmap {}", turn.number, stacks[stack as usize]));
            }
            What::Restore => {
                put(Record::Restore(Restore));
                told.push(format!("{} {thread} restore", turn.number));
            }
        }
    }
    (log, told)
}

fn names(model: &Model, stack: crate::model::StackId) -> String {
    model.frames_from_leaf(stack).map(|frame| format!("{} ", model.text(frame.function))).collect()
}

/// An event as [`written`] tells it.
pub fn line(model: &Model, event: &Event) -> Option<String> {
    let Event { turn, thread, .. } = event;
    Some(match event.action {
        Action::Alloc { address, size, stack, .. } => {
            format!("{turn} {thread} alloc {address} {size} {}", names(model, stack))
        }
        Action::Free { address, .. } => format!("{turn} {thread} free {address}"),
        Action::Mmap { stack, .. } => format!("{turn} {thread} mmap {}", names(model, stack)),
        Action::Restore => format!("{turn} {thread} restore"),
        Action::ImageStart | Action::Clock { .. } | Action::Mark { .. } => return None,
        other => format!("{other:?}"),
    })
}

fn read(capture: &Capture, nanos: Range<u64>, is_ahead: bool) -> Vec<String> {
    let mut told = Vec::new();
    let take = |model: &Model, events: &[Event]| {
        told.extend(events.iter().filter_map(|event| line(model, event)));
        ControlFlow::Continue(())
    };
    let file = std::fs::File::open(capture.path()).unwrap();
    let model = capture.read_by(
        nanos,
        NativeStacks::LeftOut,
        |_| {},
        take,
        |blocks, tell| match is_ahead {
            true => ahead::on_two_threads(&file, blocks, tell),
            false => ahead::on_one_thread(&file, blocks, tell),
        },
    );
    assert_eq!(model.unwrap().process().facts.damage, []);
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn events_come_as_they_happened(drawn in drawn(), is_compressed: bool) {
        let (mut log, expected) = written(&drawn);
        log.is_compressed = is_compressed;
        let saved = Saved::new(&format!("orders-{}", drawn.len()), &log.bytes());
        let capture = Capture::open(&saved.0).unwrap();
        prop_assert_eq!(&read(&capture, ALWAYS, false), &expected);
        prop_assert_eq!(&read(&capture, ALWAYS, true), &expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_range_has_the_events_of_its_time(drawn in drawn(), is_compressed: bool, from in 0..60_000u64, len in 0..60_000u64) {
        let (mut log, told) = written(&drawn);
        log.is_compressed = is_compressed;
        // A turn is a microsecond.
        const LAST_TURN: u64 = 1 << 40;
        log.launcher(LAST_TURN, Record::Clock(Clock { mono_nanos: log.header.start_mono_nanos + LAST_TURN * 1000 }));
        let range = from..from + len;
        let turn = |line: &String| line.split(' ').next().unwrap().parse::<u64>().unwrap();
        let expected: Vec<String> = told.into_iter().filter(|line| range.contains(&turn(line))).collect();
        let saved = Saved::new(&format!("range-{}", drawn.len()), &log.bytes());
        let capture = Capture::open(&saved.0).unwrap();
        prop_assert_eq!(read(&capture, range.start * 1000..range.end * 1000, false), expected);
    }
}

#[test]
fn blocks_outside_of_a_range_are_not_even_looked_at() {
    let mut log = Log::new();
    log.code(1, "f", "x.py", 1);
    log.node(0, 0, 1, 0);
    let start = log.header.start_mono_nanos;
    for turn in 0..10 {
        log.begin_block(block_kind::EVENTS, 0, 0);
        log.alloc(0, turn * 10, 0x1000 * turn, turn, 1);
    }
    log.launcher(100, Record::Clock(Clock { mono_nanos: start + 100 }));
    let mut bytes = log.bytes();
    let events = (HEADER_LEN..bytes.len()).step_by(4096).filter(|&at| bytes[at + 4] == block_kind::EVENTS);
    // The first one is needed for its node. Of the others, a block begins in the turn that the one before ends in.
    let events: Vec<usize> = events.collect();
    for (index, at) in events.into_iter().enumerate() {
        if !matches!(index, 0 | 6..=9) {
            bytes[at + BLOCK_HEADER_LEN] ^= 1;
        }
    }
    let saved = Saved::new("outside", &bytes);
    let expected = ["50 1 alloc 20480 5 f ", "60 1 alloc 24576 6 f ", "70 1 alloc 28672 7 f "];
    assert_eq!(read(&Capture::open(&saved.0).unwrap(), 45..75, false), expected);
}

#[test]
fn a_reader_that_has_enough_ends_the_decoding() {
    let mut log = Log::new();
    for number in 0..100_000 {
        log.alloc(0, 1, number * 16, 8, 0);
    }
    let saved = Saved::new("enough", &log.bytes());
    let capture = Capture::open(&saved.0).unwrap();
    let file = std::fs::File::open(&saved.0).unwrap();
    let mut n_taken = 0;
    let take = |_: &Model, events: &[Event]| {
        n_taken += events.len();
        ControlFlow::Break(())
    };
    capture
        .read_by(ALWAYS, NativeStacks::LeftOut, |_| {}, take, |blocks, tell| ahead::on_two_threads(&file, blocks, tell))
        .unwrap();
    assert!((1..1000).contains(&n_taken), "{n_taken}");
}
