//! The two fixed structures of a log: the file header and the block header.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::turn::TurnWord;

/// The first bytes of every log.
pub const MAGIC: [u8; 8] = *b"MEMTRACE";
/// The version of the log described by this crate. Readers accept this one and older ones that a release wrote.
pub const VERSION: u32 = 1;
/// The page that writers map: the file header and the capture's description. The first blocks may begin in it.
pub const HEADER_LEN: usize = 4096;
/// Blocks that are mapped while they are written start at multiples of this, and their lengths are multiples of it.
pub const BLOCK_ALIGN: usize = 4096;
/// Where the recorder's first block goes, when blocks are packed while they are written: in front of it there is a hole for
/// the first of those. That is as long as the first of them is at least, and becomes shorter.
pub const FIRST_BLOCK: u64 = HEADER_LEN as u64 + 260 * 1024;
/// Every block starts at a multiple of this, and its length is one: finished blocks are packed closely.
pub const PACKED_ALIGN: usize = 64;
/// The first bytes of every block.
pub const BLOCK_MAGIC: [u8; 4] = *b"MTBK";
/// Time stamp counter cycles per tick.
pub const TICK_DIVISOR: u64 = 16;
/// The image number of blocks that the launcher writes.
pub const LAUNCHER_IMAGE: u16 = u16::MAX;

/// File systems on which allocated space of a shared mapping can be written without fail
/// (`linux/magic.h`: ext2–4, XFS, Btrfs, tmpfs, overlayfs, F2FS). On others the recorder writes blocks when they are
/// full, so what stands in a header may be there before its payload.
pub const MAPPABLE_FILE_SYSTEMS: [i64; 6] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794c_7630, 0xF2F5_2010];

/// What the ticks of shared turns count ([`FileHeader::clock`]).
pub mod clock {
    /// The invariant time stamp counter, divided by [`TICK_DIVISOR`](super::TICK_DIVISOR).
    pub const TSC: u32 = 0;
    /// [`FileHeader::counter`](super::FileHeader::counter), advanced by one for each event of any thread.
    pub const COUNTER: u32 = 1;
}

/// What the recorder is doing ([`FileHeader::state`]).
pub mod state {
    /// Created by the launcher; no program has started to record yet.
    pub const CREATED: u32 = 0;
    /// A program records.
    pub const RECORDING: u32 = 1;
    /// The recorder gave up before the program ended; `stop_reason` says why.
    pub const STOPPED: u32 = 2;
    /// The program has ended and the launcher has put the log in order.
    pub const ENDED: u32 = 3;
}

/// Why recording ended early ([`FileHeader::stop_reason`]), each told to the user as one sentence.
pub mod stop_reason {
    pub const NONE: u32 = 0;
    /// No space left on the device (ENOSPC, EDQUOT).
    pub const DISK_FULL: u32 = 1;
    /// The next block would exceed RLIMIT_FSIZE.
    pub const FILE_SIZE_LIMIT: u32 = 2;
    /// The log's descriptor was closed and the file can't be opened again.
    pub const DESCRIPTOR_LOST: u32 = 3;
    /// The kernel gave no memory for the recorder's own tables or windows.
    pub const NO_MEMORY: u32 = 4;
    /// Writing failed with another error.
    pub const IO_ERROR: u32 = 5;
    /// The program restricted its system calls (seccomp): the recorder's own might kill it.
    pub const SECCOMP: u32 = 6;
    /// The file system can't hold a shared mapping of the log's first page.
    pub const NO_SHARED_MAPPING: u32 = 7;
    /// The kernel has no wipe-on-fork pages (before Linux 4.14), without which a fork can't be noticed in time.
    pub const OLD_KERNEL: u32 = 8;
    /// `MEMTRACE_SELF_CHECK` found a stack that differs from the interpreter's own account.
    pub const SELF_CHECK_FAILED: u32 = 9;
}

/// The start of the file. Written by the launcher, mapped by the recorder; the fields marked *shared* are changed
/// atomically while the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FileHeader {
    /// [`MAGIC`]
    pub magic: [u8; 8],
    /// [`VERSION`]
    pub version: u32,
    /// Bytes in front of the first block, at most [`HEADER_LEN`] and a multiple of [`PACKED_ALIGN`].
    pub header_len: u32,
    /// One of [`clock`].
    pub clock: u32,
    /// The process that is recorded.
    pub pid: u32,
    /// *Shared.* One of [`state`].
    pub state: u32,
    /// *Shared.* One of [`stop_reason`].
    pub stop_reason: u32,
    /// *Shared.* Where the next block goes.
    pub next_offset: u64,
    /// *Shared.* The clock of [`clock::COUNTER`].
    pub counter: u64,
    /// *Shared.* Events that happened and could not be recorded.
    pub lost_events: u64,
    /// *Shared.* Images started so far: the number of the next one.
    pub n_images: u32,
    /// *Shared.* The errno behind `stop_reason`, or 0.
    pub stop_errno: u32,
    /// *Shared.* Whose turn it is ([`TurnWord`](crate::turn::TurnWord)). Every event looks at it: its cache line holds nothing else that
    /// changes while events are recorded.
    pub turn: u64,
    /// *Shared.* Stacks compared by `MEMTRACE_SELF_CHECK`.
    pub n_self_checked: u64,
    /// Wall clock at the start, nanoseconds since 1970.
    pub start_unix_nanos: u64,
    /// CLOCK_MONOTONIC at the start, in nanoseconds: the time of turn 0.
    pub start_mono_nanos: u64,
    /// Bytes of the capture's description behind this header.
    pub info_len: u32,
    /// CRC-32C of those bytes.
    pub info_crc: u32,
    /// Not 0 when the launcher packs blocks while the program runs, and releases the windows that were kept for that.
    pub releases_windows: u32,
    /// *Shared.* Not 0 while allocations and mappings are left out. Whoever changes it takes a turn then, so that every
    /// lane looks at it before its next event.
    pub is_paused: u32,
    /// The nearest recorded ancestor of a child that has made its log itself; 0 in a log that was made from outside.
    pub parent_pid: u32,
    /// *Shared.* Children that have made a log beside this one, or tried to.
    pub n_children: u32,
    /// In which namespace a child's process id is a number (the inode of `/proc/self/ns/pid`); 0 in a log that was made
    /// from outside.
    pub pid_namespace: u32,
    /// *Shared.* Not 0 in the log of the program that it began with when no more children are to be recorded. Whoever says
    /// so reads `n_children` afterwards; a child counts itself, looks here, and then takes itself out again.
    pub refuses_children: u32,
}

impl FileHeader {
    /// Of a log that nobody has written to yet, and whose first block goes to `next_offset`. The rest is zero.
    pub fn begin(pid: u32, next_offset: u64) -> FileHeader {
        FileHeader {
            magic: MAGIC,
            version: VERSION,
            pid,
            state: state::CREATED,
            next_offset,
            turn: TurnWord::START.0,
            ..FileHeader::new_zeroed()
        }
    }
}

const _: () = assert!(size_of::<FileHeader>() == 128);
const _: () = assert!(core::mem::offset_of!(FileHeader, turn) == 64);

/// What a block holds ([`BlockHeader::kind`]).
pub mod block_kind {
    /// Records of a lane.
    pub const EVENTS: u8 = 1;
    /// Code objects, notices, images.
    pub const META: u8 = 2;
    /// Samples taken by the launcher.
    pub const LAUNCHER: u8 = 3;
    /// The end of the capture, as told by the launcher.
    pub const END: u8 = 4;
}

/// How far a block has come ([`BlockHeader::state`]).
pub mod block_state {
    /// Its writer may add to it.
    pub const OPEN: u32 = 0;
    /// Its writer has gone on to the next block.
    pub const CLOSED: u32 = 1;
    /// Closed, and `payload_crc` is valid.
    pub const SEALED: u32 = 2;
    /// Closed, and its writer waits for the launcher to release the place.
    pub const KEPT: u32 = 3;
    /// No block any more: its records are elsewhere, and the writer that kept the place may begin another block there.
    /// Until it has, only the capacity means something.
    pub const RELEASED: u32 = 4;
}

/// The encoding of a block's payload ([`BlockHeader::codec`]).
pub mod codec {
    /// Records as they were written.
    pub const RAW: u8 = 0;
    /// One Zstandard frame (RFC 8878), which gives [`raw_len`](super::BlockHeader::raw_len) bytes of records.
    pub const ZSTD: u8 = 1;
}

/// Longer payloads are never compressed.
pub const MAX_COMPRESSED_RAW_LEN: usize = 1024 * 1024;

/// The start of a block. Everything down to `header_crc` is written once for each block, but for the `capacity` of the
/// last one, which the launcher shortens when it cuts the unused end of a finished log off; the rest is *shared* until
/// the block is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockHeader {
    /// [`BLOCK_MAGIC`]
    pub magic: [u8; 4],
    /// One of [`block_kind`].
    pub kind: u8,
    /// One of [`codec`].
    pub codec: u8,
    /// The image (program since the last exec) that wrote it, or [`LAUNCHER_IMAGE`].
    pub image: u16,
    /// Length of the whole block in the file, this header included, in bytes.
    pub capacity: u32,
    pub lane: u32,
    /// Position of the block in its lane, from 0.
    pub sequence: u32,
    /// The thread that writes when the block starts: a number given in order of first appearance, from 1.
    pub thread: u32,
    /// The turn that the block starts under ([`Turn::to_bits`](crate::turn::Turn::to_bits)).
    pub first_turn: u64,
    /// Stack nodes that earlier blocks of the lane introduced.
    pub first_node: u32,
    /// CRC-32C of the 36 bytes before this field.
    pub header_crc: u32,
    /// Bytes of payload that are whole, as they stand in the file.
    pub committed: u32,
    /// One of [`block_state`].
    pub state: u32,
    /// CRC-32C of the committed payload, valid when `state` is sealed.
    pub payload_crc: u32,
    /// Bytes of records in a payload that is compressed, at most [`MAX_COMPRESSED_RAW_LEN`].
    pub raw_len: u32,
    /// Events that count ([`Record::is_counted`](crate::Record::is_counted)), valid when `state` is not open.
    pub n_events: u32,
    /// CRC-32C of the first 16 bytes, which stay as they are when a place is used again.
    pub place_crc: u32,
}

/// Bytes in front of a block's payload.
pub const BLOCK_HEADER_LEN: usize = 64;
/// How many of its bytes `header_crc` covers.
pub const BLOCK_HEADER_CRC_LEN: usize = 36;
/// How many of its bytes `place_crc` covers.
pub const BLOCK_PLACE_CRC_LEN: usize = 16;

const _: () = assert!(size_of::<BlockHeader>() == BLOCK_HEADER_LEN);
const _: () = assert!(core::mem::offset_of!(BlockHeader, header_crc) == BLOCK_HEADER_CRC_LEN);
const _: () = assert!(core::mem::offset_of!(BlockHeader, sequence) == BLOCK_PLACE_CRC_LEN);

impl BlockHeader {
    /// A block that nobody has written to yet; its writer says the rest, and then the checksums.
    pub const OPEN: BlockHeader = BlockHeader {
        magic: BLOCK_MAGIC,
        kind: 0,
        codec: codec::RAW,
        image: 0,
        capacity: 0,
        lane: 0,
        sequence: 0,
        thread: 0,
        first_turn: 0,
        first_node: 0,
        header_crc: 0,
        committed: 0,
        state: block_state::OPEN,
        payload_crc: 0,
        raw_len: 0,
        n_events: 0,
        place_crc: 0,
    };

    /// The same, with the checksums that belong to it.
    pub fn checked(self) -> BlockHeader {
        BlockHeader { header_crc: self.crc(BLOCK_HEADER_CRC_LEN), place_crc: self.crc(BLOCK_PLACE_CRC_LEN), ..self }
    }

    /// Whether it is as its writer left it, or, when the place was released, as far as it means something.
    pub fn is_whole(&self) -> bool {
        self.magic == BLOCK_MAGIC
            && self.capacity as usize >= BLOCK_HEADER_LEN
            && self.capacity.is_multiple_of(PACKED_ALIGN as u32)
            && match self.state {
                block_state::RELEASED => self.place_crc == self.crc(BLOCK_PLACE_CRC_LEN),
                _ => self.header_crc == self.crc(BLOCK_HEADER_CRC_LEN),
            }
    }

    fn crc(&self, len: usize) -> u32 {
        crc32c(self.as_bytes().get(..len).unwrap_or(&[]))
    }
}

/// CRC-32C (Castagnoli), bit by bit: for headers, where speed does not matter and size does.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= byte as u32;
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0u8; 32]), 0x8a91_36aa);
    }
}
