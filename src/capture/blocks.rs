//! Finding the blocks of a log. A block whose header is damaged costs itself: the search goes on at the next multiple
//! of `PACKED_ALIGN`. Called by the reader, and by the launcher while it puts a log in order.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;

use anyhow::Result;
use memtrace_format::turn::Turn;
use memtrace_format::{
    BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, FileHeader, HEADER_LEN, MAX_COMPRESSED_RAW_LEN, PACKED_ALIGN,
    block_kind, block_state, codec,
};
use nix::unistd::{Whence, lseek};
use zerocopy::{FromZeros, IntoBytes};

use super::file::read_at;
use crate::model::Facts;

/// A block as it was when the scan passed it.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub kind: u8,
    /// One of [`codec`].
    pub codec: u8,
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
    /// Bytes of records in a compressed payload.
    pub raw_len: u32,
    /// Allocations, frees and mappings, once its writer has gone on to another block.
    pub n_events: Option<u32>,
    /// Blocks of its lane right before it that are there and not wanted.
    pub n_left_out: u32,
}

/// What tells lanes apart: image, kind and number.
pub type LaneKey = (u16, u8, u32);

impl Block {
    /// Whether its records belong into the stream of events.
    pub fn has_events(&self) -> bool {
        matches!(self.kind, block_kind::EVENTS | block_kind::LAUNCHER)
    }

    pub fn is_of_same_lane(&self, other: &Block) -> bool {
        self.lane() == other.lane()
    }

    /// Bytes of records in it so far.
    pub fn raw_len(&self) -> usize {
        if self.codec == codec::RAW { self.payload_len as usize } else { self.raw_len as usize }
    }

    pub fn lane(&self) -> LaneKey {
        (self.image, self.kind, self.lane)
    }

    /// Its place among all records.
    fn place(&self) -> (LaneKey, u32) {
        (self.lane(), self.sequence)
    }
}

/// The blocks of each lane, from the first up to one that was there when this was called, or a later one.
pub fn scan_lanes(file: &File, facts: &mut Facts) -> Result<Vec<Block>> {
    let before = scan(file, Some(facts))?;
    let last_by_lane: HashMap<_, _> = before.iter().map(|block| (block.lane(), block.sequence)).collect();
    // While a scan goes on, a lane may use a place again that it has passed, and then go on to one that it comes to. But
    // whatever was begun before it, it finds.
    let mut blocks = scan(file, None)?;
    blocks.retain(|block| last_by_lane.get(&block.lane()).is_some_and(|&last| block.sequence <= last));
    Ok(blocks)
}

/// Looks through the whole file. The blocks of each lane come together and in the order in which they were written: one
/// that was compressed may lie anywhere. Damage is noted in `facts` when they are given.
pub fn scan(file: &File, facts: Option<&mut Facts>) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    walk(file, facts, |_| None, |_, block| blocks.push(block))?;
    Ok(in_order(blocks))
}

/// Looks through the file, and shows each block with its place. Where `pass` names the end of some that are known, it goes
/// on there.
pub(super) fn walk(
    file: &File,
    mut facts: Option<&mut Facts>,
    pass: impl Fn(u64) -> Option<u64>,
    mut show: impl FnMut(Range<u64>, Block),
) -> Result<()> {
    let file_len = file.metadata()?.len();
    let mut offset = first_offset(file)?;
    let mut lost = |start: u64, end: u64, what: &str| {
        if let Some(facts) = facts.as_deref_mut() {
            facts.add_damage(start, end - start, what);
        }
    };
    while offset < file_len {
        let found = find_header(file, offset, file_len)?;
        if found.skips_something {
            lost(offset, found.offset, "a block is damaged");
        }
        let Some(header) = found.header else { break };
        if let Some(end) = pass(found.offset) {
            offset = end;
            continue;
        }
        let payload_offset = found.offset + BLOCK_HEADER_LEN as u64;
        offset = found.offset + u64::from(header.capacity);
        if header.state == block_state::RELEASED {
            continue;
        }
        let committed = u64::from(header.committed);
        let payload_len = committed.min(offset - payload_offset).min(file_len.saturating_sub(payload_offset));
        if payload_len < committed {
            lost(payload_offset + payload_len, payload_offset + committed, "a block is cut off");
        }
        let is_sealed = header.state == block_state::SEALED && payload_len == committed;
        if !is_known(&header) {
            lost(payload_offset, payload_offset + payload_len, "a block has an unknown encoding");
            continue;
        }
        let block = Block {
            kind: header.kind,
            codec: header.codec,
            image: header.image,
            lane: header.lane,
            sequence: header.sequence,
            thread: header.thread,
            first_turn: Turn::from_bits(header.first_turn),
            first_node: header.first_node,
            payload_offset,
            payload_len,
            payload_crc: is_sealed.then_some(header.payload_crc),
            raw_len: if header.codec == codec::RAW { 0 } else { header.raw_len },
            n_events: (header.state != block_state::OPEN).then_some(header.n_events),
            n_left_out: 0,
        };
        show(found.offset..offset, block);
    }
    Ok(())
}

/// Lane by lane, each block once.
pub(super) fn in_order(mut blocks: Vec<Block>) -> Vec<Block> {
    // Of two blocks with the same place the one that is sealed: a launcher that was killed left both.
    blocks.sort_by_key(|block| (block.place(), block.payload_crc.is_none()));
    blocks.dedup_by_key(|block| block.place());
    blocks
}

/// Where the first block may begin.
fn first_offset(file: &File) -> io::Result<u64> {
    let mut header = FileHeader::new_zeroed();
    read_at(file, header.as_mut_bytes(), 0)?;
    Ok((header.header_len as usize).clamp(size_of::<FileHeader>(), HEADER_LEN).next_multiple_of(PACKED_ALIGN) as u64)
}

fn is_known(header: &BlockHeader) -> bool {
    match header.codec {
        codec::RAW => true,
        codec::ZSTD => header.raw_len as usize <= MAX_COMPRESSED_RAW_LEN,
        _ => false,
    }
}

/// What a search for a block came to.
pub struct Found {
    /// Where the block is, or the end of the search.
    pub offset: u64,
    pub header: Option<BlockHeader>,
    /// Whether there is anything but zeros in front of it. Zeros are a block that was taken and not begun, the file
    /// grown ahead of its writers, or a hole.
    pub skips_something: bool,
}

/// Bytes that are searched at a time.
const CHUNK_LEN: usize = 64 * 1024;

/// The first block header at or behind `start`, in front of `end`.
pub fn find_header(file: &File, start: u64, end: u64) -> io::Result<Found> {
    let mut found = search(file, start, end)?;
    // A block that was begun after the search had passed its header, and before it came to the payload, is no damage.
    while found.skips_something {
        let again = search(file, start, found.offset)?;
        if again.offset == found.offset {
            break;
        }
        found = again;
    }
    Ok(found)
}

fn search(file: &File, start: u64, end: u64) -> io::Result<Found> {
    if let Some(header) = read_header(file, start)? {
        return Ok(Found { offset: start, header: Some(header), skips_something: false });
    }
    let mut chunk = vec![0; CHUNK_LEN];
    let mut offset = start;
    let mut skips_something = false;
    while offset < end {
        let wanted = (end - offset).min(CHUNK_LEN as u64) as usize;
        let n_read = read_at(file, &mut chunk[..wanted], offset)?;
        let mut is_empty = true;
        for (index, bytes) in chunk[..n_read].chunks(PACKED_ALIGN).enumerate() {
            let at = offset + (index * PACKED_ALIGN) as u64;
            if bytes.starts_with(&BLOCK_MAGIC)
                && let Some(header) = read_header(file, at)?
            {
                return Ok(Found { offset: at, header: Some(header), skips_something });
            }
            let holds_something = bytes.iter().any(|&byte| byte != 0);
            is_empty &= !holds_something;
            skips_something |= holds_something;
        }
        if n_read < wanted {
            break;
        }
        offset += n_read as u64;
        if is_empty {
            offset = behind_hole(file, offset, end);
        }
    }
    Ok(Found { offset: end, header: None, skips_something })
}

/// The header at an offset; `None` when there is none, or none that is whole.
pub fn read_header(file: &File, offset: u64) -> io::Result<Option<BlockHeader>> {
    let mut header = read_any_header(file, offset)?;
    // Bytes beside the state may be older, those of the block that was there before: of what was read after it, none is.
    if matches!(header.state, block_state::OPEN | block_state::KEPT) && header.magic == BLOCK_MAGIC {
        header = read_any_header(file, offset)?;
    }
    Ok(Some(header).filter(BlockHeader::is_whole))
}

fn read_any_header(file: &File, offset: u64) -> io::Result<BlockHeader> {
    let mut header = BlockHeader::new_zeroed();
    let n_read = read_at(file, header.as_mut_bytes(), offset)?;
    Ok(if n_read == BLOCK_HEADER_LEN { header } else { BlockHeader::new_zeroed() })
}

/// Where the file holds something again, in whole steps of the search.
fn behind_hole(file: &File, offset: u64, end: u64) -> u64 {
    match lseek(file, offset as i64, Whence::SeekData) {
        Ok(data) if data as u64 > offset => (data as u64).min(end) / PACKED_ALIGN as u64 * PACKED_ALIGN as u64,
        // There is nothing but a hole to the end of the file.
        Err(nix::errno::Errno::ENXIO) => end,
        _ => offset,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;
    use std::os::unix::fs::FileExt;

    use super::*;

    const PLACE_LEN: u64 = 128;
    const N_PLACES: u32 = 300;

    /// In which place the block with this number is: neighbours are far from each other, and in no order.
    fn offset(sequence: u32) -> u64 {
        HEADER_LEN as u64 + u64::from(sequence * 7 % N_PLACES) * PLACE_LEN
    }

    fn header(sequence: u32) -> BlockHeader {
        let open = BlockHeader { kind: block_kind::EVENTS, capacity: PLACE_LEN as u32, sequence, ..BlockHeader::OPEN };
        open.checked()
    }

    /// Uses every place again, as a recorder does.
    fn begin_all(file: &File) {
        let place = offset_of!(BlockHeader, sequence);
        let state = offset_of!(BlockHeader, state);
        for sequence in 0..N_PLACES {
            let (offset, bytes) = (offset(sequence), header(sequence));
            file.write_all_at(&bytes.as_bytes()[place..state], offset + place as u64).unwrap();
            file.write_all_at(&bytes.as_bytes()[state..], offset + state as u64).unwrap();
        }
    }

    #[test]
    fn a_lane_has_no_gaps_when_places_are_used_again_during_the_scan() {
        let path = std::env::temp_dir().join(format!("memtrace-blocks-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for _ in 0..20 {
            for place in 0..N_PLACES {
                let released = BlockHeader { state: block_state::RELEASED, header_crc: 0, ..header(place) };
                file.write_all_at(released.as_bytes(), offset(place)).unwrap();
            }
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| begin_all(&file));
                loop {
                    let is_done = writer.is_finished();
                    let mut facts = Facts::default();
                    let blocks = scan_lanes(&file, &mut facts).unwrap();
                    assert_eq!(facts.damage, []);
                    let sequences: Vec<u32> = blocks.iter().map(|block| block.sequence).collect();
                    assert_eq!(sequences, Vec::from_iter(0..blocks.len() as u32));
                    if is_done {
                        break assert_eq!(blocks.len(), N_PLACES as usize);
                    }
                }
            });
        }
    }
}
