//! Captures that are cut off, damaged, growing or made up: whatever the bytes are, the reader ends, without a panic
//! and in bounded memory, and what was whole is there.

#[path = "support/consume.rs"]
mod consume;
#[path = "support/sample.rs"]
mod sample;
#[path = "support/log.rs"]
mod testlog;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use consume::{Consumed, consume, consume_with_all_reports};
use memtrace::capture::Capture;
use memtrace_format::record::*;
use memtrace_format::*;
use sample::sample;
use testlog::Log;

/// Memory in use and its maximum since the last reset, of all tests that run at the time.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came; only sizes are counted besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is the one that the system asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What no reading of a file of a few kilobytes may take, all tests of this program together.
const MEMORY_CAP: usize = 256 << 20;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Scratch(path)
    }

    fn file(&self) -> File {
        OpenOptions::new().write(true).open(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where the header and the blocks have something in them.
fn used(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len())
        .filter(|&at| bytes[at.saturating_sub(8)..bytes.len().min(at + 8)].iter().any(|&b| b != 0))
        .collect()
}

#[test]
fn every_flipped_bit_is_survived() {
    check_flips(&sample().bytes());
}

#[test]
fn every_flipped_bit_of_a_compressed_capture_is_survived() {
    let mut log = sample();
    log.is_compressed = true;
    check_flips(&log.bytes());
    // Without checksums the decompressor sees the nonsense itself.
    log.is_sealed = false;
    check_flips(&log.bytes());
}

fn check_flips(bytes: &[u8]) {
    let scratch = Scratch::new(&format!("flips-{}", bytes.len()), bytes);
    let (file, whole) = (scratch.file(), consume(&scratch.0).unwrap());
    assert!(whole.n_events > 50 && whole.n_damaged == 0, "{whole:?}");
    for at in used(bytes) {
        for bit in 0..8 {
            file.write_all_at(&[bytes[at] ^ 1 << bit], at as u64).unwrap();
            let _ = consume_by_turns(&scratch.0, 8 * at + bit);
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert_eq!(consume_with_all_reports(&scratch.0), Ok(whole));
    assert!(MOST.load(Ordering::Relaxed) < MEMORY_CAP, "{} bytes", MOST.load(Ordering::Relaxed));
}

/// All reports of some of very many captures, and of the others those that are made fast.
fn consume_by_turns(path: &Path, number: usize) -> Result<Consumed, String> {
    if number.is_multiple_of(29) { consume_with_all_reports(path) } else { consume(path) }
}

#[test]
fn a_flipped_bit_in_a_block_that_is_open_is_survived() {
    // Without checksums the decoder sees the nonsense itself.
    let mut log = sample();
    log.is_sealed = false;
    let bytes = log.bytes();
    let scratch = Scratch::new("open-flips", &bytes);
    let file = scratch.file();
    for at in used(&bytes).into_iter().filter(|&at| at >= HEADER_LEN) {
        for bit in 0..8 {
            file.write_all_at(&[bytes[at] ^ 1 << bit], at as u64).unwrap();
            let _ = consume_by_turns(&scratch.0, 8 * at + bit);
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert!(MOST.load(Ordering::Relaxed) < MEMORY_CAP, "{} bytes", MOST.load(Ordering::Relaxed));
}

#[test]
fn every_length_is_read_as_far_as_it_goes() {
    let mut log = sample();
    log.is_sealed = false;
    let bytes = log.bytes();
    let scratch = Scratch::new("lengths", &bytes);
    let file = scratch.file();
    let mut n_before = consume(&scratch.0).unwrap().n_events;
    for len in used(&bytes).into_iter().rev() {
        file.set_len(len as u64).unwrap();
        match consume(&scratch.0) {
            Ok(consumed) => {
                assert!(consumed.n_events <= n_before, "{len} bytes give {consumed:?} after {n_before}");
                n_before = consumed.n_events;
            }
            Err(sentence) => assert!(len < HEADER_LEN, "{len} bytes: {sentence}"),
        }
    }
}

#[test]
fn a_file_that_is_cut_in_a_block_says_where() {
    let mut log = Log::new();
    log.is_sealed = false;
    for number in 0..20 {
        log.alloc(0, number, 0x1000 * (number + 1), 1, 0);
    }
    let scratch = Scratch::new("cut", &log.bytes());
    let cut = (HEADER_LEN + BLOCK_HEADER_LEN + 30) as u64;
    scratch.file().set_len(cut).unwrap();
    let model = Capture::open(&scratch.0).unwrap().read(|_, _| {}).unwrap();
    let damage: Vec<_> =
        model.process().facts.damage.iter().map(|damage| (damage.offset, damage.what.as_str())).collect();
    // The missing bytes, and the record that lost its end with them.
    assert_eq!(damage[0], (cut, "a block is cut off"));
    assert!(damage.len() <= 2, "{damage:?}");
    let n_events = consume(&scratch.0).unwrap().n_events;
    assert!((4..20).contains(&n_events), "{n_events} events");
}

#[test]
fn numbers_that_ask_for_memory_get_none() {
    let mut log = Log::new();
    log.code(u32::MAX, "f", "x.py", u32::MAX);
    log.python();
    let lane = u32::MAX;
    log.event(lane, 1, Record::Thread(Thread { thread: u32::MAX, os_tid: u32::MAX, pthread: u64::MAX }));
    log.node(lane, u32::MAX, u32::MAX, u32::MAX);
    log.alloc(lane, 2, u64::MAX, u64::MAX, u32::MAX);
    log.event(
        lane,
        3,
        Record::Mmap(Mmap {
            address: u64::MAX,
            len: u64::MAX,
            prot: u32::MAX,
            flags: u32::MAX,
            is_arena: true,
            stack: u32::MAX,
        }),
    );
    log.event(lane, 4, Record::Munmap(Munmap { address: 0, len: u64::MAX, is_remap: true }));
    log.event(
        lane,
        5,
        Record::Mremap(Mremap {
            old_address: 1,
            address: u64::MAX - 1,
            len: u64::MAX,
            flags: 5,
            is_arena: false,
            stack: u32::MAX,
        }),
    );
    log.event(lane, u64::MAX >> 1, Record::Restore(Restore));
    log.put(block_kind::META, u16::MAX - 1, 0, &Record::Image(Image { turn: u64::MAX, exe: b"", arguments: b"\0\0" }));
    log.launcher(u64::MAX >> 1, Record::Clock(Clock { mono_nanos: u64::MAX }));
    log.launcher(u64::MAX >> 1, Record::Rss(Rss { mono_nanos: 0, bytes: u64::MAX }));
    let mut bytes = log.bytes();
    // A block that claims to come after four billion nodes, written by nobody, in a lane of its own.
    for at in (HEADER_LEN..bytes.len()).step_by(BLOCK_ALIGN) {
        bytes[at + 32..at + 36].copy_from_slice(&u32::MAX.to_le_bytes());
        let crc = crc32c(&bytes[at..at + BLOCK_HEADER_CRC_LEN]);
        bytes[at + 36..at + 40].copy_from_slice(&crc.to_le_bytes());
    }
    let scratch = Scratch::new("numbers", &bytes);
    let consumed = consume(&scratch.0).unwrap();
    assert!(consumed.n_events > 5, "{consumed:?}");
    assert!(MOST.load(Ordering::Relaxed) < MEMORY_CAP, "{} bytes", MOST.load(Ordering::Relaxed));
}

#[test]
fn a_clock_that_is_wrong_by_centuries_keeps_nobody_busy() {
    for nanos in [1 << 61, 1 << 63, u64::MAX] {
        let mut log = sample();
        log.launcher(5000, Record::Clock(Clock { mono_nanos: nanos }));
        for at in [4000, 5000, 5001, 6000] {
            log.alloc(0, at, 0x10_0000 + at, 8, 1);
        }
        let scratch = Scratch::new("clock", &log.bytes());
        consume_with_all_reports(&scratch.0).unwrap();
    }
}

#[test]
fn compressed_blocks_that_become_long_take_little_memory() {
    let mut log = Log::new();
    (log.is_compressed, log.capacity) = (true, 1 << 20);
    // Each of many lanes begins before any of them goes on.
    let long = vec![0; 1000];
    for lane in 0..500 {
        log.alloc(lane, 1, 0x1000 * u64::from(lane), 1, 0);
        for _ in 0..1000 {
            log.event(lane, 2, Record::ThreadName(ThreadName { pthread: 0, name: &long }));
        }
        log.alloc(lane, 3, 0x1000 * u64::from(lane) + 8, 1, 0);
    }
    let bytes = log.bytes();
    drop(log);
    assert!(bytes.len() < 500_000, "{} bytes", bytes.len());
    let scratch = Scratch::new("bombs", &bytes);
    let before = IN_USE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let mut n_events = 0;
    Capture::open(&scratch.0).unwrap().read(|_, _| n_events += 1).unwrap();
    assert_eq!(n_events, 1 + 500 * 1002);
    let most = MOST.load(Ordering::Relaxed) - before;
    assert!(most < 80 << 20, "{most} bytes");
}

#[test]
fn a_capture_can_be_read_while_it_grows() {
    let mut log = Log::new();
    (log.is_sealed, log.header.state) = (false, state::RECORDING);
    log.capacity = 64 * 1024;
    log.code(1, "f", "x.py", 7);
    log.node(0, 0, 1, 0);
    for number in 0..2000 {
        log.alloc(0, number, 0x1000 * (number + 1), 8, 1);
    }
    let bytes = log.bytes();
    let block = (HEADER_LEN..bytes.len()).step_by(BLOCK_ALIGN).find(|&at| bytes[at + 4] == block_kind::EVENTS).unwrap();
    let committed_at = block + 40;
    let committed = u32::from_le_bytes(bytes[committed_at..committed_at + 4].try_into().unwrap());
    let scratch = Scratch::new("growing", &bytes);
    let file = scratch.file();
    let mut n_before = 0;
    // Space behind what is committed holds rubbish of the moment.
    file.write_all_at(&[0xff; 16], block as u64 + (BLOCK_HEADER_LEN as u64) + committed as u64).unwrap();
    for share in [0, 1, 10, 50, 99, 100] {
        // Writers store the length after each record, so any end of a record is one that a reader may see.
        let mut deltas = encode::Deltas::at_block_start(turn::Turn::default(), 0);
        let mut decoder = decode::Decoder::new(&bytes[block + BLOCK_HEADER_LEN..][..committed as usize], &mut deltas);
        while decoder.offset() < committed as usize * share / 100 {
            decoder.next().unwrap();
        }
        file.write_all_at(&(decoder.offset() as u32).to_le_bytes(), committed_at as u64).unwrap();
        let mut n_events = 0;
        let model = Capture::open(&scratch.0).unwrap().read(|model, _| {
            n_events += 1;
            assert_eq!(model.n_stacks(), 2);
        });
        assert_eq!(model.unwrap().process().facts.damage, []);
        assert!(n_events >= n_before);
        n_before = n_events;
    }
    assert_eq!(n_before, 2001, "2000 allocations and the start of the image");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_gives_what_was_there() {
    let mut log = Log::new();
    log.is_sealed = false;
    for number in 0..100_000 {
        log.alloc(0, number, 0x1000 * (number + 1), 8, 0);
    }
    let bytes = log.bytes();
    let scratch = Scratch::new("shrinking", &bytes);
    let file = scratch.file();
    let mut n_events = 0;
    let model = Capture::open(&scratch.0).unwrap().read(|_, _| {
        n_events += 1;
        if n_events == 1000 {
            file.set_len(bytes.len() as u64 / 2).unwrap();
        }
    });
    let model = model.unwrap();
    let facts = &model.process().facts;
    assert!((1000..100_000).contains(&n_events), "{n_events} events");
    assert!(facts.damage.iter().any(|damage| damage.what == "the file ends inside a block"), "{:?}", facts.damage);
}

#[test]
fn random_bytes_behind_a_good_header_are_damage() {
    let mut bytes = Log::new().bytes();
    let mut random = 88172645463325252u64;
    for _ in 0..20_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        bytes.write_all(&random.to_le_bytes()).unwrap();
    }
    let scratch = Scratch::new("random", &bytes);
    let consumed = consume(&scratch.0).unwrap();
    assert_eq!((consumed.n_events, consumed.n_damaged), (0, 1));
}
