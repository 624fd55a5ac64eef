//! A block and where it is in the file: what is done to one at a time. Called by the compactor; it must never take what
//! somebody else has put there for the block.

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;

use memtrace_format::{BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, PACKED_ALIGN, block_state};
use nix::fcntl::{FallocateFlags, fallocate};
use zerocopy::IntoBytes;

use crate::capture::blocks::read_header;

/// A block as it was found.
#[derive(Clone, Copy)]
pub struct Place {
    pub offset: u64,
    pub header: BlockHeader,
}

impl Place {
    /// With its header as it is now; `None` when the program has destroyed it.
    pub fn now(&self, file: &File) -> io::Result<Option<Place>> {
        let file_len = file.metadata()?.len();
        let is_same = |header: &BlockHeader| {
            let payload = self.offset + BLOCK_HEADER_LEN as u64..self.end().min(file_len);
            header.header_crc == self.header.header_crc && payload.start + u64::from(header.committed) <= payload.end
        };
        let header = read_header(file, self.offset)?.filter(is_same);
        Ok(header.map(|header| Place { header, ..*self }))
    }

    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.header.capacity)
    }

    /// Reads its payload into `payload`, as far as it is committed.
    pub fn read(&self, file: &File, payload: &mut Vec<u8>) -> io::Result<()> {
        payload.resize(self.header.committed as usize, 0);
        file.read_exact_at(payload, self.offset + BLOCK_HEADER_LEN as u64)
    }

    /// Puts a block where nothing is. The header comes last: until it is there, readers pass by.
    pub fn write(&self, file: &File, payload: &[u8]) -> io::Result<()> {
        let empty = BlockHeader { state: block_state::RELEASED, ..self.header };
        file.write_all_at(empty.as_bytes(), self.offset)?;
        file.write_all_at(payload, self.offset + BLOCK_HEADER_LEN as u64)?;
        file.write_all_at(self.header.as_bytes(), self.offset)
    }

    /// Tells its writer that it may begin another block there.
    pub fn release(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&block_state::RELEASED.to_le_bytes(), self.offset + offset_of!(BlockHeader, state) as u64)
    }

    /// Has it hold zeros, if possible without taking space.
    pub fn clear(&self, file: &File) -> io::Result<()> {
        clear(file, self.offset, u64::from(self.header.capacity))
    }

    /// Gives its unused part back to the file system.
    pub fn trim(&self, file: &File) {
        let used = self.offset + self.used_len();
        if used < self.end() {
            // Where there are no holes, what is there stays: it is inside the block.
            let _ = punch_hole(file, used, self.end() - used);
        }
    }

    /// The least capacity that holds what was committed.
    pub fn used_len(&self) -> u64 {
        let len = BLOCK_HEADER_LEN as u64 + u64::from(self.header.committed);
        len.next_multiple_of(BLOCK_ALIGN as u64).min(u64::from(self.header.capacity))
    }
}

/// The capacity of a packed block.
pub fn packed_len(committed: usize) -> u64 {
    (BLOCK_HEADER_LEN + committed).next_multiple_of(PACKED_ALIGN) as u64
}

/// Has a range of the file hold zeros, if possible without taking space.
fn clear(file: &File, offset: u64, len: u64) -> io::Result<()> {
    punch_hole(file, offset, len).or_else(|_| {
        // A file system without holes.
        let zeros = [0; BLOCK_ALIGN];
        let end = (offset + len).min(file.metadata()?.len());
        let mut offset = offset;
        while offset < end {
            let n = (end - offset).min(zeros.len() as u64) as usize;
            file.write_all_at(&zeros[..n], offset)?;
            offset += n as u64;
        }
        Ok(())
    })
}

fn punch_hole(file: &File, offset: u64, len: u64) -> nix::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, offset as i64, len as i64)
}
