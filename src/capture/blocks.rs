//! Finding the blocks of a log. A block whose header is damaged costs itself: the search goes on at the next multiple
//! of `BLOCK_ALIGN`.

use std::fs::File;

use anyhow::Result;
use memtrace_format::turn::Turn;
use memtrace_format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, HEADER_LEN, block_kind, block_state, codec,
};
use zerocopy::FromBytes;

use super::file::read_at;
use crate::model::Facts;

/// A block as it was when the scan passed it.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub kind: u8,
    pub image: u16,
    pub lane: u32,
    pub sequence: u32,
    pub thread: u32,
    pub first_turn: Turn,
    pub first_node: u32,
    /// Where the payload starts in the file.
    pub payload_offset: u64,
    /// Committed bytes of it that are in the file.
    pub payload_len: u64,
    /// The checksum of the payload, once the block is sealed.
    pub payload_crc: Option<u32>,
}

impl Block {
    /// Whether its records belong into the stream of events.
    pub fn has_events(&self) -> bool {
        matches!(self.kind, block_kind::EVENTS | block_kind::LAUNCHER)
    }
}

/// Looks through the whole file. Damage is noted in `facts` when they are given.
pub fn scan(file: &File, mut facts: Option<&mut Facts>) -> Result<Vec<Block>> {
    let file_len = file.metadata()?.len();
    let mut blocks = Vec::new();
    let mut offset = HEADER_LEN as u64;
    // Where a stretch without blocks began, and whether it holds anything at all.
    let mut gap: Option<(u64, bool)> = None;
    let mut lost = |start: u64, end: u64, what: &str| {
        if let Some(facts) = facts.as_deref_mut() {
            facts.add_damage(start, end - start, what);
        }
    };
    while offset < file_len {
        let mut bytes = [0; BLOCK_HEADER_LEN];
        let n_read = read_at(file, &mut bytes, offset)?;
        let header =
            BlockHeader::read_from_bytes(&bytes).ok().filter(|header| n_read == BLOCK_HEADER_LEN && is_whole(header));
        let Some(header) = header else {
            // Zeros are a block that was taken and not begun, or the file grown ahead of the writers.
            let holds = holds_anything(file, offset)?;
            let (start, held) = gap.unwrap_or((offset, false));
            gap = Some((start, held || holds));
            offset += BLOCK_ALIGN as u64;
            continue;
        };
        if let Some((start, true)) = gap.take() {
            lost(start, offset, "a block is damaged");
        }
        let payload_offset = offset + BLOCK_HEADER_LEN as u64;
        let end = offset + header.capacity as u64;
        let committed = header.committed as u64;
        let payload_len = committed.min(end - payload_offset).min(file_len.saturating_sub(payload_offset));
        if payload_len < committed {
            lost(payload_offset + payload_len, payload_offset + committed, "a block is cut off");
        }
        let is_sealed = header.state == block_state::SEALED && payload_len == committed;
        if header.codec == codec::RAW {
            blocks.push(Block {
                kind: header.kind,
                image: header.image,
                lane: header.lane,
                sequence: header.sequence,
                thread: header.thread,
                first_turn: Turn::from_bits(header.first_turn),
                first_node: header.first_node,
                payload_offset,
                payload_len,
                payload_crc: is_sealed.then_some(header.payload_crc),
            });
        } else {
            lost(payload_offset, payload_offset + payload_len, "a block has an unknown encoding");
        }
        offset = end;
    }
    if let Some((start, true)) = gap {
        lost(start, file_len, "a block is damaged");
    }
    Ok(blocks)
}

fn is_whole(header: &BlockHeader) -> bool {
    header.magic == BLOCK_MAGIC
        && header.header_crc == header.computed_crc()
        && header.capacity as usize >= BLOCK_ALIGN
        && header.capacity.is_multiple_of(BLOCK_ALIGN as u32)
}

fn holds_anything(file: &File, offset: u64) -> Result<bool> {
    let mut page = [0; BLOCK_ALIGN];
    let n_read = read_at(file, &mut page, offset)?;
    Ok(page[..n_read].iter().any(|&byte| byte != 0))
}
