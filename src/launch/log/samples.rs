//! Time and memory of the program, and the user's marks, seen from outside: records in blocks that are taken like the
//! recorder takes them.

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;

use memtrace_format::encode::{self, Deltas, HOT_ROOM, MAX_PLAIN_LEN};
use memtrace_format::record::mark;
use memtrace_format::turn::Turn;
use memtrace_format::{BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, Record, block_kind, block_state};
use zerocopy::IntoBytes;

use super::launcher_block;
use crate::launch::sys::SharedHeader;

/// The first block of samples; each further one is twice as long, up to the last.
const FIRST_CAPACITY: usize = BLOCK_ALIGN;
const LARGEST_CAPACITY: usize = 16 * BLOCK_ALIGN;

/// Lane 0 of the launcher.
#[derive(Default)]
pub struct Samples {
    block: Option<Block>,
    n_blocks: u32,
}

struct Block {
    /// Where it starts in the file.
    offset: u64,
    header: BlockHeader,
    deltas: Deltas,
}

impl Samples {
    /// Adds a turn and what happened in it.
    pub fn add(&mut self, file: &File, shared: &SharedHeader, turn: Turn, record: &Record<'_>) -> io::Result<()> {
        if let Some(block) = &mut self.block {
            if block.append(file, turn, record)? {
                return Ok(());
            }
            block.close(file)?;
        }
        let block = self.block.insert(take_block(file, shared, self.n_blocks, turn)?);
        self.n_blocks += 1;
        block.append(file, turn, record)?;
        Ok(())
    }
}

fn take_block(file: &File, shared: &SharedHeader, sequence: u32, turn: Turn) -> io::Result<Block> {
    let capacity = (FIRST_CAPACITY << sequence.min(16)).min(LARGEST_CAPACITY);
    let header = launcher_block(block_kind::LAUNCHER, capacity, sequence, turn);
    let offset = shared.take_block(capacity as u64);
    let mut bytes = vec![0; capacity];
    bytes[..BLOCK_HEADER_LEN].copy_from_slice(header.as_bytes());
    file.write_all_at(&bytes, offset)?;
    Ok(Block { offset, header, deltas: Deltas::at_block_start(turn, 0) })
}

impl Block {
    /// Adds a record; `false` when the block is full.
    fn append(&mut self, file: &File, turn: Turn, record: &Record<'_>) -> io::Result<bool> {
        let room = self.header.capacity as usize - BLOCK_HEADER_LEN - self.header.committed as usize;
        let mut buf = [0; HOT_ROOM + MAX_PLAIN_LEN + mark::MAX_NAME_LEN];
        if room < buf.len() {
            return Ok(false);
        }
        let turn_len = encode::turn(&mut buf, &mut self.deltas, turn).expect("there is room");
        let len = encode::record(&mut buf[turn_len..], &mut self.deltas, 0, record).expect("there is room");
        let len = turn_len + len;
        let place = self.offset + BLOCK_HEADER_LEN as u64 + u64::from(self.header.committed);
        file.write_all_at(&buf[..len], place)?;
        self.header.committed += len as u32;
        file.write_all_at(
            &self.header.committed.to_le_bytes(),
            self.offset + offset_of!(BlockHeader, committed) as u64,
        )?;
        Ok(true)
    }

    fn close(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&block_state::CLOSED.to_le_bytes(), self.offset + offset_of!(BlockHeader, state) as u64)
    }
}
