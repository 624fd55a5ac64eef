//! Whole logs, written by the tests and read back.

use std::path::{Path, PathBuf};

use memtrace_format::record::*;
use memtrace_format::{
    AllocatorKind, BLOCK_HEADER_LEN, FileHeader, HEADER_LEN, LAUNCHER_IMAGE, PACKED_ALIGN, block_kind,
};
use zerocopy::{FromBytes, IntoBytes};

use super::Capture;
use crate::model::facts::Tracked;
use crate::model::{Action, Event, Model};
use crate::testlog::Log;

mod follow;
mod orders;

/// A file that goes with its test.
struct Saved(PathBuf);

impl Saved {
    fn new(name: &str, bytes: &[u8]) -> Saved {
        let path = std::env::temp_dir().join(format!("memtrace-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Saved(path)
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn read(name: &str, bytes: &[u8]) -> (Model, Vec<Event>) {
    let saved = Saved::new(name, bytes);
    let mut events = Vec::new();
    let model = Capture::open(&saved.0).unwrap().read(|_, event| events.push(*event)).unwrap();
    (model, events)
}

/// Each event in a few words, with its stack.
fn shown(model: &Model, events: &[Event]) -> Vec<String> {
    let mut lines = Vec::new();
    for event in events {
        lines.push(match event.action {
            Action::Alloc { size, stack, .. } => {
                let frames: Vec<_> = model.frames_from_leaf(stack).map(|frame| model.location(frame)).collect();
                format!("{} alloc {size} [{}]", event.turn, frames.join(" "))
            }
            Action::Free { address, .. } => format!("{} free {address:#x}", event.turn),
            other => format!("{} {other:?}", event.turn),
        });
    }
    lines
}

fn refused(path: &Path) -> String {
    format!("{:#}", Capture::open(path).err().expect("it is not a capture"))
}

#[test]
fn lanes_are_merged_in_the_order_of_turns() {
    let mut log = Log::new();
    log.alloc(0, 10, 0x1000, 1, 0);
    log.alloc(0, 30, 0x2000, 3, 0);
    log.alloc(1, 20, 0x3000, 2, 0);
    log.free(1, 30, 0x2000);
    log.free(0, 40, 0x1000);
    let (model, events) = read("merge", &log.bytes());
    let expected =
        ["10 ImageStart", "10 alloc 1 []", "20 alloc 2 []", "30 free 0x2000", "30 alloc 3 []", "40 free 0x1000"];
    assert_eq!(shown(&model, &events), expected);
    assert!(model.process().facts.damage.is_empty());
}

#[test]
fn frames_outside_of_what_a_tracker_recorded_are_not_shown() {
    let mut log = Log::new();
    log.info.tracked = Some(Tracked {
        os_tid: 100,
        n_hidden_frames: 1,
        python_allocator: 1,
        object_lifetimes: false,
        native_stacks: false,
    });
    log.python();
    log.code(1, "main", "app.py", 1);
    log.code(2, "work", "app.py", 10);
    for (lane, os_tid) in [(0, 100), (1, 101)] {
        let at = 10 + u64::from(lane);
        log.event(lane, at, Record::Thread(Thread { thread: lane + 1, os_tid, pthread: os_tid.into() }));
        log.node(lane, 0, 1, 0);
        log.node(lane, 1, 2, 0);
        log.alloc(lane, at, 0x1000 * (u64::from(lane) + 1), 1, 2);
        log.alloc(lane, at, 0x10000 * (u64::from(lane) + 1), 2, 1);
    }
    let (model, events) = read("outside", &log.bytes());
    let lines: Vec<String> = shown(&model, &events).into_iter().filter(|line| line.contains("alloc")).collect();
    // The thread that began the recording, in `main`; and another one.
    let both = "work:app.py:10 main:app.py:1";
    let expected =
        ["10 alloc 1 [work:app.py:10]", "10 alloc 2 []", &format!("11 alloc 1 [{both}]"), "11 alloc 2 [main:app.py:1]"];
    assert_eq!(lines, expected);
}

#[test]
fn events_of_a_shared_turn_are_in_the_order_of_ticks_and_frees_come_first() {
    let mut log = Log::new();
    let put = |log: &mut Log, lane, now, record| log.put_now(block_kind::EVENTS, 0, lane, now, &record);
    let alloc = |address, size| Record::Alloc(Alloc { kind: AllocatorKind::Malloc, address, size, stack: 0 });
    let free = |address| Record::Free(Free { kind: AllocatorKind::Free, address });
    for lane in [0, 1] {
        log.alloc(lane, 5 + lane as u64, 0x100 * (lane as u64 + 1), 1 + lane as u64, 0);
        put(&mut log, lane, 0, Record::Turn(Turn { number: 8, is_shared: true }));
    }
    put(&mut log, 0, 1_000, alloc(0x1000, 3));
    put(&mut log, 0, 3_000, alloc(0x2000, 5));
    put(&mut log, 1, 2_000, alloc(0x3000, 4));
    put(&mut log, 1, 3_000, free(0x2000));
    // Blocks start anew, and the turn goes on in them.
    log.begin_block(block_kind::EVENTS, 0, 1);
    put(&mut log, 1, 3_500, free(0x3000));
    put(&mut log, 0, 4_000, free(0x1000));
    // A later turn comes later, whatever its ticks.
    put(&mut log, 1, 0, Record::Turn(Turn { number: 9, is_shared: false }));
    put(&mut log, 1, 0, alloc(0x4000, 6));
    let (model, events) = read("shared", &log.bytes());
    let expected = [
        "5 ImageStart",
        "5 alloc 1 []",
        "6 alloc 2 []",
        "8 alloc 3 []",
        "8 alloc 4 []",
        "8 free 0x2000",
        "8 alloc 5 []",
        "8 free 0x3000",
        "8 free 0x1000",
        "9 alloc 6 []",
    ];
    assert_eq!(shown(&model, &events), expected);
    assert!(model.process().facts.damage.is_empty());
}

#[test]
fn stacks_of_all_lanes_are_nodes_of_one_tree() {
    let mut log = Log::new();
    log.code(1, "main", "app.py", 10);
    log.code(2, "work", "app.py", 20);
    for lane in [0, 1] {
        log.node(lane, 0, 1, 2);
        log.node(lane, 1, 2, 4);
        log.alloc(lane, 10 + lane as u64, 0x1000 * (lane as u64 + 1), 8, 2);
    }
    let (model, events) = read("stacks", &log.bytes());
    let expected = "alloc 8 [work:app.py:22 main:app.py:11]";
    assert_eq!(shown(&model, &events)[1..], [format!("10 {expected}"), format!("11 {expected}")]);
    assert_eq!(model.n_stacks(), 3);
}

#[test]
fn what_was_never_described_is_shown_as_such() {
    let mut log = Log::new();
    log.node(0, 0, 99, 0);
    log.alloc(0, 1, 0x1000, 1, 1);
    log.alloc(0, 2, 0x2000, 1, 77);
    let (model, events) = read("undescribed", &log.bytes());
    let expected = ["1 alloc 1 [<unknown function>:<unknown>]", "2 alloc 1 [<lost stack>:<lost>]"];
    assert_eq!(shown(&model, &events)[1..], expected);
}

#[test]
fn a_damaged_block_costs_only_itself() {
    let mut log = Log::new();
    for number in 0..3 {
        log.begin_block(block_kind::EVENTS, 0, 0);
        log.node(0, 0, number as u32 + 1, 0);
        log.alloc(0, number * 10, 0x1000 * number, number, number as u32 + 1);
        log.code(number as u32 + 1, &format!("f{number}"), "x.py", 1);
    }
    let mut bytes = log.bytes();
    let second =
        (HEADER_LEN..bytes.len()).step_by(4096).filter(|&at| bytes[at + 4] == block_kind::EVENTS).nth(1).unwrap();
    bytes[second + BLOCK_HEADER_LEN + 3] ^= 1;
    let (model, events) = read("damaged", &bytes);
    assert_eq!(shown(&model, &events)[1..], ["0 alloc 0 [f0:x.py:1]", "20 alloc 2 [f2:x.py:1]"]);
    let damage: Vec<_> = model.process().facts.damage.iter().map(ToString::to_string).collect();
    assert_eq!(damage, [format!("a block fails its checksum at byte {} (11 bytes lost)", second + BLOCK_HEADER_LEN)]);

    bytes[second] = b'?';
    let (model, events) = read("damaged", &bytes);
    assert_eq!(shown(&model, &events)[1..], ["0 alloc 0 [f0:x.py:1]", "20 alloc 2 [f2:x.py:1]"]);
    let damage: Vec<_> = model.process().facts.damage.iter().map(ToString::to_string).collect();
    assert_eq!(
        damage,
        [
            format!("a block is damaged at byte {second} (4096 bytes lost)"),
            format!(
                "blocks 1 to 1 of lane 0 are missing in front of the one at byte {} (0 bytes lost)",
                second + 4096 + BLOCK_HEADER_LEN
            ),
        ]
    );
}

#[test]
fn blocks_begin_where_the_header_says() {
    let mut log = Log::new();
    log.alloc(0, 10, 0x1000, 1, 0);
    let bytes = log.bytes();
    let (mut header, behind) = FileHeader::read_from_prefix(&bytes).unwrap();
    let len = (size_of::<FileHeader>() + header.info_len as usize).next_multiple_of(PACKED_ALIGN);
    header.header_len = len as u32;
    let in_front = &behind[..len - size_of::<FileHeader>()];
    let (model, events) = read("first-page", &[header.as_bytes(), in_front, &bytes[HEADER_LEN..]].concat());
    assert_eq!(shown(&model, &events), ["10 ImageStart", "10 alloc 1 []"]);
    assert!(model.process().facts.damage.is_empty());
}

#[test]
fn an_image_ends_the_one_before() {
    let mut log = Log::new();
    log.alloc(0, 10, 0x1000, 1, 0);
    log.put_at(
        block_kind::EVENTS,
        1,
        0,
        20,
        &Record::Alloc(Alloc { kind: AllocatorKind::Malloc, address: 0x1000, size: 2, stack: 0 }),
    );
    log.put(block_kind::META, 1, 0, &Record::Image(Image { turn: 15, exe: b"/bin/ls", arguments: b"ls\0-l\0" }));
    let (model, events) = read("images", &log.bytes());
    assert_eq!(shown(&model, &events), ["10 ImageStart", "10 alloc 1 []", "20 ImageStart", "20 alloc 2 []"]);
    assert_eq!(model.process().facts.image(1).unwrap().arguments, ["ls", "-l"]);
}

#[test]
fn blocks_that_lie_in_another_order_are_read_in_that_of_their_lane() {
    let mut log = Log::new();
    log.code(1, "main", "app.py", 10);
    log.node(0, 0, 1, 2);
    log.alloc(0, 10, 0x1000, 1, 1);
    for (at, nanos, is_second) in [(20, 1_000, false), (40, 9_000, true)] {
        if is_second {
            log.begin_block(block_kind::LAUNCHER, LAUNCHER_IMAGE, 0);
            log.begin_block(block_kind::EVENTS, 0, 0);
        }
        log.launcher(at, Record::Clock(Clock { mono_nanos: log.header.start_mono_nanos + nanos }));
        log.alloc(0, at + 1, 0x1000 * at, 1, 1);
    }
    let bytes = log.bytes();
    let (head, blocks) = bytes.split_at(HEADER_LEN);
    let reversed: Vec<u8> = head.iter().chain(blocks.chunks(log.capacity as usize).rev().flatten()).copied().collect();
    let (expected, expected_events) = read("in-order", &bytes);
    let (model, events) = read("reversed", &reversed);
    assert_eq!(shown(&model, &events), shown(&expected, &expected_events));
    assert_eq!([20, 30, 40].map(|turn| model.process().clock.nanos_since_start(turn)), [1_000, 5_000, 9_000]);
    assert!(model.process().facts.damage.is_empty());
}

#[test]
fn what_is_not_a_capture_is_refused_with_one_sentence() {
    let check = |name: &str, bytes: &[u8], expected: &str| {
        let saved = Saved::new(name, bytes);
        assert_eq!(refused(&saved.0), format!("cannot read {}: {expected}", saved.0.display()));
    };
    let mut newer = Log::new();
    newer.header.version = 2;
    check("empty", b"", "the file is empty");
    check("text", b"hello", "it is not a memtrace capture");
    check("cut", &Log::new().bytes()[..100], "its header is cut off: 100 of 4096 bytes are there");
    check(
        "newer",
        &newer.bytes(),
        "it was recorded by a newer memtrace (log version 2, this one reads up to 1): update memtrace",
    );
    assert_eq!(refused(Path::new("/no/such")), "cannot read /no/such: there is no such file");
    assert_eq!(refused(Path::new("/tmp")), "cannot read /tmp: it is a directory, not a capture");
    assert_eq!(refused(Path::new("/dev/null")), "cannot read /dev/null: it is not a regular file");
}
