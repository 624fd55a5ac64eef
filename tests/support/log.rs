//! Writes logs record by record, for tests of the reader. Shared by the unit tests and the tests of the program.

// Each user compiles its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;

use memtrace::capture::info::{self, CaptureEnd, CaptureInfo, Exit};
use memtrace_format::encode::{self, Deltas};
use memtrace_format::record::*;
use memtrace_format::turn::TurnWord;
use memtrace_format::*;
use zerocopy::IntoBytes;

/// A log in the making. Each lane has blocks of its own; metadata comes first in the file.
pub struct Log {
    pub header: FileHeader,
    pub info: CaptureInfo,
    /// Length of blocks in the file.
    pub capacity: u32,
    /// Whether blocks end with their checksum, as after the end of a program.
    pub is_sealed: bool,
    /// Whether blocks are compressed and packed closely, as the launcher leaves them.
    pub is_compressed: bool,
    blocks: Vec<(BlockHeader, Vec<u8>)>,
    /// By image and lane: the open block, its deltas, the nodes of the lane.
    lanes: BTreeMap<(u8, u16, u32), Lane>,
    /// Room for one record.
    buf: Vec<u8>,
}

#[derive(Clone)]
struct Lane {
    block: usize,
    deltas: Deltas,
    n_nodes: u32,
    sequence: u32,
    thread: u32,
}

impl Log {
    pub fn new() -> Log {
        let header = FileHeader {
            magic: MAGIC,
            version: VERSION,
            header_len: HEADER_LEN as u32,
            clock: clock::TSC,
            pid: 4711,
            state: state::ENDED,
            stop_reason: stop_reason::NONE,
            next_offset: 0,
            counter: 0,
            lost_events: 0,
            n_images: 1,
            stop_errno: 0,
            turn: TurnWord::START.0,
            n_self_checked: 0,
            start_unix_nanos: 1_700_000_000_000_000_000,
            start_mono_nanos: 5_000_000_000,
            info_len: 0,
            info_crc: 0,
            releases_windows: 0,
            is_paused: 0,
            parent_pid: 0,
            n_children: 0,
            pid_namespace: 0,
            refuses_children: 0,
        };
        let info = CaptureInfo {
            memtrace_version: "0.1.0".into(),
            command_line: vec!["app.py".into(), "--port".into(), "80".into()],
            argv: vec!["/usr/bin/python3".into(), "app.py".into(), "--port".into(), "80".into()],
            cwd: "/srv".into(),
            python_allocators: true,
            script: Some("app.py".into()),
            tracked: None,
            aggregated: None,
        };
        Log {
            header,
            info,
            capacity: 4096,
            is_sealed: true,
            is_compressed: false,
            blocks: Vec::new(),
            lanes: BTreeMap::new(),
            buf: vec![0; 256 * 1024],
        }
    }

    /// Adds a record of some moment to a block of this kind, under the turn of that number.
    pub fn put_at(&mut self, kind: u8, image: u16, lane: u32, at: u64, record: &Record<'_>) {
        let turn = Turn { number: at, is_shared: false };
        if self.lanes.get(&(kind, image, lane)).is_none_or(|lane| lane.deltas.turn != turn) {
            self.put(kind, image, lane, &Record::Turn(turn));
        }
        self.put(kind, image, lane, record);
    }

    /// Adds a record to a block of this kind.
    pub fn put(&mut self, kind: u8, image: u16, lane: u32, record: &Record<'_>) {
        self.put_now(kind, image, lane, 0, record);
    }

    /// Adds a record to a block of this kind; in a shared turn it happened at these ticks.
    pub fn put_now(&mut self, kind: u8, image: u16, lane: u32, now: u64, record: &Record<'_>) {
        let room = self.capacity as usize - BLOCK_HEADER_LEN;
        loop {
            let key = (kind, image, lane);
            let Some(open) = self.lanes.get_mut(&key) else {
                self.begin_block(kind, image, lane);
                continue;
            };
            let mut deltas = open.deltas.clone();
            let len = encode::record(&mut self.buf, &mut deltas, now, record).expect("the record fits into 256 KiB");
            let payload = &mut self.blocks[open.block].1;
            if payload.len() + len > room {
                assert!(!payload.is_empty(), "the record is longer than a block");
                self.begin_block(kind, image, lane);
                continue;
            }
            payload.extend_from_slice(&self.buf[..len]);
            open.deltas = deltas;
            match record {
                Record::Node(_) => open.n_nodes += 1,
                Record::Thread(it) => open.thread = it.thread,
                _ => {}
            }
            return;
        }
    }

    /// Starts the next block of a lane.
    pub fn begin_block(&mut self, kind: u8, image: u16, lane: u32) {
        let before = self.lanes.get(&(kind, image, lane));
        let (turn, n_nodes, sequence, thread) = before.map_or((Turn::default(), 0, 0, lane.wrapping_add(1)), |it| {
            (it.deltas.turn, it.n_nodes, it.sequence + 1, it.thread)
        });
        let header = BlockHeader {
            kind,
            image,
            capacity: self.capacity,
            lane,
            sequence,
            thread,
            first_turn: turn.to_bits(),
            first_node: n_nodes,
            state: block_state::SEALED,
            ..BlockHeader::OPEN
        };
        self.blocks.push((header, Vec::new()));
        let deltas = Deltas::at_block_start(turn, n_nodes);
        self.lanes
            .insert((kind, image, lane), Lane { block: self.blocks.len() - 1, deltas, n_nodes, sequence, thread });
    }

    /// The word of turns when the last event was written.
    pub fn last_word(&self) -> TurnWord {
        let (lane, turn) =
            self.lanes.iter().map(|(key, lane)| (key.2, lane.deltas.turn)).max_by_key(|it| it.1).unwrap_or_default();
        let before = TurnWord(turn.number.saturating_sub(1) << 20);
        if turn.is_shared { before.next_shared() } else { before.next_of(lane) }
    }

    /// An event of image 0, under the turn of that number.
    pub fn event(&mut self, lane: u32, at: u64, record: Record<'_>) {
        self.put_at(block_kind::EVENTS, 0, lane, at, &record);
    }

    pub fn alloc(&mut self, lane: u32, at: u64, address: u64, size: u64, stack: u32) {
        self.event(lane, at, Record::Alloc(Alloc { kind: AllocatorKind::Malloc, address, size, stack }));
    }

    pub fn free(&mut self, lane: u32, at: u64, address: u64) {
        self.event(lane, at, Record::Free(Free { kind: AllocatorKind::Free, address }));
    }

    pub fn node(&mut self, lane: u32, parent: u32, code: u32, offset: u32) {
        self.put(block_kind::EVENTS, 0, lane, &Record::Node(Node { parent, code, offset }));
    }

    /// A code object of image 0 whose instruction at byte offset `2 * n` is on line `first_line + n`, up to 8.
    pub fn code(&mut self, id: u32, name: &str, file: &str, first_line: u32) {
        // Form 10 + 1: one line further; the first entry stays on the line.
        let mut table = vec![0x80 | 10 << 3, 0, 0];
        for _ in 0..8 {
            table.extend([0x80 | 11 << 3, 0, 0]);
        }
        let name = PyStr { width: 1, bytes: name.as_bytes() };
        let file = PyStr { width: 1, bytes: file.as_bytes() };
        self.meta(Record::Code(Code { id, first_line, name, file, line_table: &table }));
    }

    pub fn meta(&mut self, record: Record<'_>) {
        self.put(block_kind::META, 0, 0, &record);
    }

    /// A sample, under the turn of that number.
    pub fn launcher(&mut self, at: u64, record: Record<'_>) {
        self.put_at(block_kind::LAUNCHER, LAUNCHER_IMAGE, 0, at, &record);
    }

    /// CPython 3.11.7 whose objects are recorded.
    pub fn python(&mut self) {
        self.meta(Record::Python(Python { version: 0x030b07f0, allocator: b"pymalloc", has_stacks: true }));
    }

    pub fn end(&mut self) {
        let end = CaptureEnd {
            unix_nanos: 1_700_000_010_000_000_000,
            mono_nanos: 15_000_000_000,
            exit: Exit::Code(0),
            peak_rss_bytes: 50_000_000,
        };
        self.begin_block(block_kind::END, LAUNCHER_IMAGE, 0);
        let (_, payload) = self.blocks.last_mut().unwrap();
        *payload = info::to_bytes(&end);
    }

    /// The file as it is on disk.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = self.header;
        let info = self.info.to_bytes();
        header.info_len = info.len() as u32;
        header.info_crc = crc32c(&info);
        header.next_offset = HEADER_LEN as u64 + self.blocks.len() as u64 * self.capacity as u64;
        let mut file = header.as_bytes().to_vec();
        file.extend(info);
        file.resize(HEADER_LEN, 0);
        for (block, payload) in &self.blocks {
            let mut block = *block;
            let mut payload = payload.clone();
            if self.is_compressed && block.kind != block_kind::END {
                block.raw_len = payload.len() as u32;
                block.codec = codec::ZSTD;
                payload = zstd::bulk::compress(&payload, 1).unwrap();
                block.capacity = (BLOCK_HEADER_LEN + payload.len()).next_multiple_of(PACKED_ALIGN) as u32;
            }
            block.committed = payload.len() as u32;
            if self.is_sealed {
                block.payload_crc = crc32c(&payload);
            } else {
                block.state = block_state::OPEN;
            }
            block = block.checked();
            let start = file.len();
            file.extend(block.as_bytes());
            file.extend(&payload);
            file.resize(start + block.capacity as usize, 0);
        }
        file
    }

    pub fn save(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

impl Default for Log {
    fn default() -> Log {
        Log::new()
    }
}
