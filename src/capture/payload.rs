//! The committed bytes of a block, read in windows: a block may be as long as the file, memory is not. A compressed
//! one is short, and its window is all of it.

use std::fs::File;

use anyhow::Result;
use memtrace_format::codec;
use memtrace_format::encode::Deltas;
use zstd::bulk::Decompressor;

use super::blocks::Block;
use super::file::read_at;
use crate::model::Damage as Lost;

/// Bytes of a payload that are held at a time, unless one record is longer.
const WINDOW_LEN: usize = 64 * 1024;

/// Memory that payloads share.
#[derive(Default)]
pub struct Scratch {
    stored: Vec<u8>,
    decompressor: Option<Decompressor<'static>>,
}

/// The records of a block, a window at a time.
pub struct Payload {
    pub bytes: Vec<u8>,
    /// Decoded up to here.
    pub start: usize,
    /// Bytes of records in front of `bytes`.
    position: usize,
    /// Where in the file `bytes` ends.
    file_offset: u64,
    /// Bytes of the payload behind that.
    unread: u64,
    pub deltas: Deltas,
    /// The block, when it is compressed.
    compressed: Option<Block>,
}

/// What is wrong with a payload.
pub type Damage = &'static str;

impl Payload {
    /// Begins a block whose payload is what its writer left there.
    pub fn open(file: &File, block: &Block, scratch: &mut Scratch) -> Result<Result<Payload, Damage>> {
        let mut payload = Payload {
            bytes: Vec::new(),
            start: 0,
            position: 0,
            file_offset: block.payload_offset,
            unread: block.payload_len,
            deltas: Deltas::at_block_start(block.first_turn, block.first_node),
            compressed: None,
        };
        if block.codec == codec::RAW {
            return Ok(if passes_checksum(file, block, &mut scratch.stored)? { Ok(payload) } else { Err(CHECKSUM) });
        }
        (payload.compressed, payload.unread) = (Some(*block), 0);
        Ok(payload.restore(file, scratch)?.map(|()| payload))
    }

    /// Goes on behind `position` bytes of records that were decoded before; `deltas` are as they were then.
    pub fn go_on(&mut self, position: usize, deltas: Deltas) {
        if self.compressed.is_some() {
            self.start = position.min(self.bytes.len());
        } else {
            let passed = (position as u64).min(self.unread);
            self.file_offset += passed;
            self.unread -= passed;
        }
        self.position = position - self.start;
        self.deltas = deltas;
    }

    /// Bytes of records that were decoded.
    pub fn position(&self) -> usize {
        self.position + self.start
    }

    /// Gives the memory of a compressed block back until [`restore`](Payload::restore).
    pub fn release(&mut self) {
        if self.compressed.is_some() {
            self.bytes = Vec::new();
        }
    }

    /// Decompresses a block that was released, or not begun.
    pub fn restore(&mut self, file: &File, scratch: &mut Scratch) -> Result<Result<(), Damage>> {
        let Some(block) = self.compressed.filter(|_| self.bytes.is_empty()) else { return Ok(Ok(())) };
        let stored = &mut scratch.stored;
        stored.resize(block.payload_len as usize, 0);
        let n_read = read_at(file, stored, block.payload_offset)?;
        if n_read < stored.len() || block.payload_crc.is_some_and(|expected| crc32c::crc32c(stored) != expected) {
            return Ok(Err(CHECKSUM));
        }
        self.bytes.reserve_exact(block.raw_len as usize);
        let decompressor = scratch.decompressor.get_or_insert_default();
        let unpacked = decompressor.decompress_to_buffer(stored, &mut self.bytes);
        let is_whole = unpacked.is_ok_and(|len| len == block.raw_len as usize);
        Ok(if is_whole { Ok(()) } else { Err("a block can't be decompressed") })
    }

    /// Ticks that the next event is not before; 0 when its turn has none.
    pub fn ticks(&self) -> u64 {
        if self.deltas.turn.is_shared { self.deltas.ticks } else { 0 }
    }

    /// Whether a part of the payload was not read yet.
    pub fn has_more(&self) -> bool {
        self.unread > 0
    }

    /// Whether every byte was decoded.
    pub fn is_done(&self) -> bool {
        self.unread == 0 && self.start == self.bytes.len()
    }

    /// Where the undecoded part is in the file, and its length. Of a compressed block, where it begins.
    pub fn rest(&self) -> (u64, u64) {
        let held = (self.bytes.len() - self.start) as u64;
        if self.compressed.is_some() { (self.file_offset, held) } else { (self.file_offset - held, held + self.unread) }
    }

    /// Drops what is decoded and reads on. When the file has shrunk meanwhile, whatever is whole can still be decoded; the
    /// rest is returned.
    pub fn fill(&mut self, file: &File) -> Result<Option<Lost>> {
        self.bytes.drain(..self.start);
        self.position += self.start;
        self.start = 0;
        let held = self.bytes.len();
        // A record longer than the window doubles it, so the work stays in proportion to the bytes that are there.
        let wanted = WINDOW_LEN.max(2 * held) - held;
        let wanted = self.unread.min(wanted as u64) as usize;
        self.bytes.resize(held + wanted, 0);
        let n_read = read_at(file, &mut self.bytes[held..], self.file_offset)?;
        self.bytes.truncate(held + n_read);
        self.file_offset += n_read as u64;
        self.unread -= n_read as u64;
        if n_read == wanted {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut self.unread);
        Ok(Some(Lost { offset: self.file_offset, bytes, what: "the file ends inside a block".into() }))
    }
}

const CHECKSUM: Damage = "a block fails its checksum";

/// Whether a sealed block holds what its writer left there. Blocks that are not sealed yet have nothing to compare.
fn passes_checksum(file: &File, block: &Block, scratch: &mut Vec<u8>) -> Result<bool> {
    let Some(expected) = block.payload_crc else { return Ok(true) };
    let mut crc = 0;
    let mut done = 0;
    scratch.resize(WINDOW_LEN, 0);
    while done < block.payload_len {
        let wanted = (block.payload_len - done).min(WINDOW_LEN as u64) as usize;
        let n_read = read_at(file, &mut scratch[..wanted], block.payload_offset + done)?;
        if n_read == 0 {
            break;
        }
        crc = crc32c::crc32c_append(crc, &scratch[..n_read]);
        done += n_read as u64;
    }
    Ok(crc == expected)
}
