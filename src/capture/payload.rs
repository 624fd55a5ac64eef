//! The committed bytes of a block, read in windows: a block may be as long as the file, memory is not.

use std::fs::File;

use anyhow::Result;
use memtrace_format::encode::Deltas;

use super::blocks::Block;
use super::file::read_at;
use crate::model::Facts;

/// Bytes of a payload that are held at a time, unless one record is longer.
const WINDOW_LEN: usize = 64 * 1024;

/// The committed bytes of a block, a window at a time.
pub struct Payload {
    pub bytes: Vec<u8>,
    /// Decoded up to here.
    pub start: usize,
    /// Where in the file `bytes` ends.
    file_offset: u64,
    /// Bytes of the payload behind that.
    unread: u64,
    pub deltas: Deltas,
}

impl Payload {
    pub fn new(block: &Block) -> Payload {
        Payload {
            bytes: Vec::new(),
            start: 0,
            file_offset: block.payload_offset,
            unread: block.payload_len,
            deltas: Deltas::at_block_start(block.first_turn),
        }
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

    /// Where the undecoded part is in the file, and its length.
    pub fn rest(&self) -> (u64, u64) {
        let held = (self.bytes.len() - self.start) as u64;
        (self.file_offset - held, held + self.unread)
    }

    /// Drops what is decoded and reads on. When the file has shrunk meanwhile, whatever is whole can still be decoded.
    pub fn fill(&mut self, file: &File, facts: &mut Facts) -> Result<()> {
        self.bytes.drain(..self.start);
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
        if n_read < wanted {
            facts.add_damage(self.file_offset, self.unread, "the file ends inside a block");
            self.unread = 0;
        }
        Ok(())
    }
}

/// Whether a sealed block holds what its writer left there. Blocks that are not sealed yet have nothing to compare.
pub fn passes_checksum(file: &File, block: &Block, scratch: &mut Vec<u8>) -> Result<bool> {
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
