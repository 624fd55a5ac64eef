//! A log made from the outside, record by record, when nobody writes to it any more: blocks compressed and packed closely,
//! as the launcher leaves them. It must never hold more than the last block of each lane uncompressed.

use std::collections::BTreeMap;
use std::io;

use memtrace_format::encode::{self, Deltas};
use memtrace_format::turn::Turn;
use memtrace_format::{
    BLOCK_HEADER_LEN, BlockHeader, FileHeader, HEADER_LEN, LAUNCHER_IMAGE, PACKED_ALIGN, Record, block_kind,
    block_state, codec, state,
};
use zerocopy::IntoBytes;
use zstd::bulk::Compressor;

use crate::capture::info::{self, CaptureEnd, CaptureInfo};

/// A block has so many bytes of records, and no more than a record beyond them.
const FULL: usize = 256 * 1024;
/// Room for the longest record. A longer one is left out.
const LONGEST_RECORD: usize = 512 * 1024;
/// These logs are written once and kept: a level that is worth its time, as for code objects in others.
const LEVEL: i32 = 6;

/// Kind of block, image, number.
pub type LaneKey = (u8, u16, u32);

pub struct Writer {
    lanes: BTreeMap<LaneKey, Lane>,
    blocks: Vec<u8>,
    compressor: Compressor<'static>,
    buf: Vec<u8>,
}

/// A lane and its open block.
struct Lane {
    payload: Vec<u8>,
    deltas: Deltas,
    first_turn: Turn,
    first_node: u32,
    sequence: u32,
    n_events: u32,
}

impl Writer {
    pub fn new() -> io::Result<Writer> {
        let compressor = Compressor::new(LEVEL)?;
        Ok(Writer { lanes: BTreeMap::new(), blocks: Vec::new(), compressor, buf: vec![0; LONGEST_RECORD] })
    }

    /// Adds a record to a lane, under the turn of that number.
    pub fn put(&mut self, key: LaneKey, turn: u64, record: &Record<'_>) -> io::Result<()> {
        let turn = Turn { number: turn, is_shared: false };
        let lane = self.lanes.entry(key).or_insert_with(|| Lane::begin(turn, 0, 0));
        if lane.deltas.turn != turn {
            lane.add(&mut self.buf, &Record::Turn(turn));
        }
        lane.add(&mut self.buf, record);
        if lane.payload.len() >= FULL {
            let next = Lane::begin(turn, lane.deltas.node, lane.sequence + 1);
            let full = std::mem::replace(lane, next);
            self.close(key, &full)?;
        }
        Ok(())
    }

    /// The file.
    pub fn finish(mut self, header: &FileHeader, info: &CaptureInfo, end: Option<&CaptureEnd>) -> io::Result<Vec<u8>> {
        for (key, lane) in std::mem::take(&mut self.lanes) {
            self.close(key, &lane)?;
        }
        if let Some(end) = end {
            let header = BlockHeader { kind: block_kind::END, image: LAUNCHER_IMAGE, lane: 1, ..BlockHeader::OPEN };
            self.append(header, &info::to_bytes(end));
        }
        let info = info.to_fitting_bytes();
        let header_len = (size_of::<FileHeader>() + info.len()).next_multiple_of(PACKED_ALIGN);
        let len = (header_len + self.blocks.len()).max(HEADER_LEN);
        let header = FileHeader {
            header_len: header_len as u32,
            state: state::ENDED,
            next_offset: len as u64,
            info_len: info.len() as u32,
            info_crc: memtrace_format::crc32c(&info),
            ..*header
        };
        let mut file = header.as_bytes().to_vec();
        file.extend(info);
        file.resize(header_len, 0);
        file.append(&mut self.blocks);
        file.resize(len, 0);
        Ok(file)
    }

    fn close(&mut self, (kind, image, lane): LaneKey, written: &Lane) -> io::Result<()> {
        let header = BlockHeader {
            kind,
            codec: codec::ZSTD,
            image,
            lane,
            sequence: written.sequence,
            thread: lane,
            first_turn: written.first_turn.to_bits(),
            first_node: written.first_node,
            raw_len: written.payload.len() as u32,
            n_events: written.n_events,
            ..BlockHeader::OPEN
        };
        let compressed = self.compressor.compress(&written.payload)?;
        self.append(header, &compressed);
        Ok(())
    }

    fn append(&mut self, header: BlockHeader, payload: &[u8]) {
        let start = self.blocks.len();
        let end = (start + BLOCK_HEADER_LEN + payload.len()).next_multiple_of(PACKED_ALIGN);
        let header = BlockHeader {
            capacity: (end - start) as u32,
            committed: payload.len() as u32,
            state: block_state::SEALED,
            payload_crc: crc32c::crc32c(payload),
            ..header
        };
        self.blocks.extend(header.checked().as_bytes());
        self.blocks.extend(payload);
        self.blocks.resize(end, 0);
    }
}

impl Lane {
    fn begin(first_turn: Turn, first_node: u32, sequence: u32) -> Lane {
        let deltas = Deltas::at_block_start(first_turn, first_node);
        Lane { payload: Vec::new(), deltas, first_turn, first_node, sequence, n_events: 0 }
    }

    fn add(&mut self, buf: &mut [u8], record: &Record<'_>) {
        if let Some(len) = encode::record(buf, &mut self.deltas, 0, record) {
            self.payload.extend_from_slice(&buf[..len]);
            self.n_events += u32::from(record.is_counted());
        }
    }
}
