//! A log that is read while it grows gives what it gives at once, however its blocks move meanwhile.

use proptest::prelude::*;

use super::super::follow::{Follower, Progress};
use super::orders::{drawn, line, written};
use super::*;
use crate::model::native::NativeStacks;
use memtrace_format::state;
use memtrace_format::turn::TurnWord;

/// How the file is found at one step.
#[derive(Clone, Debug)]
struct Found {
    /// Of a hundred parts of the log, how many are there.
    percent: usize,
    is_compressed: bool,
    is_reversed: bool,
    /// After so many batches the step has to end.
    patience: usize,
}

fn found() -> impl Strategy<Value = Vec<Found>> {
    let one = (0..100usize, any::<bool>(), any::<bool>(), 1..20usize);
    let one = one.prop_map(|(percent, is_compressed, is_reversed, patience)| Found {
        percent,
        is_compressed,
        is_reversed,
        patience,
    });
    proptest::collection::vec(one, 1..12).prop_map(|mut found| {
        found.sort_by_key(|found| found.percent);
        found
    })
}

/// The same file with other contents.
fn write(saved: &Saved, log: &Log, is_reversed: bool) {
    let bytes = log.bytes();
    let (head, blocks) = bytes.split_at(HEADER_LEN);
    if !is_reversed || log.is_compressed {
        return std::fs::write(&saved.0, &bytes).unwrap();
    }
    let reversed: Vec<u8> = head.iter().chain(blocks.chunks(log.capacity as usize).rev().flatten()).copied().collect();
    std::fs::write(&saved.0, reversed).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn following_a_log_to_its_end_is_reading_it_at_once(drawn in drawn(), steps in found(), is_last_compressed: bool) {
        let saved = Saved::new(&format!("follow-{}", drawn.len()), &Log::new().bytes());
        let mut follower = Follower::open(&saved.0, NativeStacks::LeftOut).unwrap();
        let mut told = Vec::new();
        for Found { percent, is_compressed, is_reversed, patience } in steps {
            let (mut log, _) = written(&drawn[..drawn.len() * percent / 100]);
            log.header.state = state::RECORDING;
            log.header.turn = log.last_word().0;
            // Here all blocks move between two steps. Sealed ones don't, before the end: `search` relies on it.
            (log.is_compressed, log.is_sealed) = (is_compressed, false);
            write(&saved, &log, is_reversed);
            let mut n_batches = 0;
            let take = |model: &Model, events: &[Event]| told.extend(events.iter().filter_map(|event| line(model, event)));
            let progress = follower.step(take, || { n_batches += 1; n_batches >= patience }).unwrap();
            prop_assert_ne!(progress, Progress::Ended);
        }
        let (mut log, expected) = written(&drawn);
        log.is_compressed = is_last_compressed;
        write(&saved, &log, false);
        let take = |model: &Model, events: &[Event]| told.extend(events.iter().filter_map(|event| line(model, event)));
        prop_assert_eq!(follower.step(take, || false).unwrap(), Progress::Ended);
        prop_assert_eq!(&told, &expected);
        prop_assert_eq!(&follower.model().process().facts.damage, &[]);
    }
}

/// A file as it grows by hand; what each step gives.
struct Growing {
    saved: Saved,
    follower: Follower,
}

impl Growing {
    fn new(name: &str, log: &Log) -> Growing {
        let saved = Saved::new(name, &log.bytes());
        let follower = Follower::open(&saved.0, NativeStacks::LeftOut).unwrap();
        Growing { saved, follower }
    }

    fn step(&mut self, log: &Log) -> Vec<String> {
        std::fs::write(&self.saved.0, log.bytes()).unwrap();
        let mut told = Vec::new();
        let take = |model: &Model, events: &[Event]| told.extend(events.iter().filter_map(|event| line(model, event)));
        self.follower.step(take, || false).unwrap();
        told
    }
}

fn growing_log() -> Log {
    let mut log = Log::new();
    log.header.state = state::RECORDING;
    log.is_sealed = false;
    log
}

#[test]
fn a_turn_is_told_when_somebody_else_has_the_next_one_or_nobody_for_a_whole_step() {
    let mut log = growing_log();
    let mut growing = Growing::new("follow-turns", &log);
    log.alloc(0, 3, 0x1000, 1, 0);
    log.header.turn = TurnWord(3 << 20).0;
    assert_eq!(growing.step(&log), Vec::<String>::new());
    log.alloc(0, 3, 0x2000, 2, 0);
    assert_eq!(growing.step(&log), ["3 1 alloc 4096 1 ", "3 1 alloc 8192 2 "]);
    log.alloc(1, 5, 0x3000, 3, 0);
    log.header.turn = TurnWord(5 << 20 | 1).0;
    // Written behind the place where the last step looked, under a turn that was over.
    log.put(block_kind::EVENTS, 0, 0, &Record::Free(Free { kind: AllocatorKind::Free, address: 0x1000 }));
    assert_eq!(growing.step(&log), ["3 1 free 4096"]);
    log.header.state = state::ENDED;
    assert_eq!(growing.step(&log), ["5 2 alloc 12288 3 "]);
}

#[test]
fn a_block_that_stays_away_is_waited_for_once() {
    let mut log = growing_log();
    log.alloc(0, 1, 0x1000, 1, 0);
    for turn in [2, 3] {
        log.begin_block(block_kind::EVENTS, 0, 0);
        log.alloc(0, turn, 0x1000 * turn, turn, 0);
    }
    log.header.turn = TurnWord(9 << 20).0;
    let mut growing = Growing::new("follow-gap", &log);
    let mut bytes = log.bytes();
    let second = HEADER_LEN + 4096;
    assert_eq!(bytes[second + 4], block_kind::EVENTS);
    bytes[second..second + BLOCK_HEADER_LEN].fill(0);
    let mut step = || {
        std::fs::write(&growing.saved.0, &bytes).unwrap();
        let mut told = Vec::new();
        let take = |model: &Model, events: &[Event]| told.extend(events.iter().filter_map(|event| line(model, event)));
        growing.follower.step(take, || false).unwrap();
        told
    };
    assert_eq!(step(), ["1 1 alloc 4096 1 "]);
    assert_eq!(step(), ["3 1 alloc 12288 3 "]);
    let damage = &growing.follower.model().process().facts.damage;
    assert!(damage[0].what.contains("blocks 1 to 1 of lane 0 are missing"), "{damage:?}");
}

#[test]
fn code_is_known_before_the_events_that_need_it_and_marks_before_the_end() {
    let mut log = growing_log();
    let mut growing = Growing::new("follow-meta", &log);
    for step in 1..6u64 {
        log.code(step as u32, &format!("f{step}"), "x.py", 1);
        log.node(0, 0, step as u32, 0);
        log.alloc(0, step * 10, 0x1000 * step, step, step as u32);
        let mono_nanos = log.header.start_mono_nanos + step;
        log.launcher(step * 10 + 1, Record::Mark(Mark { mono_nanos, what: mark::NAMED, name: b"x" }));
        log.header.turn = TurnWord((step * 10 + 5) << 20).0;
        log.is_compressed = step % 2 == 0;
        let told = growing.step(&log);
        assert_eq!(told[0], format!("{} 1 alloc {} {step} f{step} ", step * 10, 0x1000 * step));
        assert_eq!(growing.follower.model().process().facts.marks.len() as u64, step);
    }
}
