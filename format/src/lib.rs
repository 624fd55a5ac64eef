//! The log: what the recorder inside the program writes and the reader outside reads.
//!
//! This crate is the specification. Both halves of memtrace share it and nothing else.
//! It must never allocate or panic on the writing side, and never believe a number on the reading side
//! before it was compared with the bytes that are there.
//!
//! # The file
//!
//! ```text
//! 0          header_len                                                  next_offset
//! ├──────────┼───────────────┬──────────┬───────────────┬────── ─ ─ ─ ──┤
//! │FileHeader│ block         │ block    │ block         │               │
//! │CaptureInfo               │          │               │               │
//! └──────────┴───────────────┴──────────┴───────────────┴────── ─ ─ ─ ──┘
//!             ├─BlockHeader (64 bytes)
//!             └─payload: records, `committed` bytes of them
//! ```
//!
//! A child that is followed makes its own log beside the first one, as a copy of its parent's first page with
//! [`parent_pid`](FileHeader::parent_pid) in it: what the description says of the command is then its parent's, and its
//! [`Image`](Record::Image) records say what it runs. Such a log has no block of the end until somebody outside takes it up.
//!
//! All numbers are little-endian. The first [`header_len`](FileHeader::header_len) bytes, at most a page, hold the
//! [`FileHeader`] and, behind it, the capture's description in postcard encoding (`CaptureInfo` in the reader's
//! `capture::info`; the recorder never touches it). Then come blocks; each says its own length (`capacity`). The place of the next block
//! is [`FileHeader::next_offset`], which every writer advances atomically by the length of the block it takes, a
//! multiple of [`BLOCK_ALIGN`], *before* the file is grown for it. A reader therefore meets blocks that are not there
//! yet (all zero, or past the end of the file), and gaps that finished blocks left behind: knowing that blocks start at
//! multiples of [`PACKED_ALIGN`], it looks for the next block header.
//!
//! # Finished blocks move down
//!
//! While the program runs, the launcher compresses blocks that are closed. It writes the compressed block, whole and
//! sealed, into free space, its header last; then it makes a hole where the old one was, which is free space again. So
//! the file never holds more than one block twice, and whenever the launcher is killed, every block is there at least
//! once: of two blocks with the same place in the same lane a reader takes the one that is sealed.
//! [`BlockHeader::codec`] says how a payload is compressed; `committed` and `payload_crc` then tell of the bytes in the
//! file, and `raw_len` how many they become.
//!
//! A recorder for which each new window costs a page fault per page can keep a few ([`block_state::KEPT`]) when the
//! launcher says that it gives them back ([`FileHeader::releases_windows`]): instead of making a hole it marks the place
//! [`RELEASED`](block_state::RELEASED). Of two processes only one ever leaves each of these states, so neither waits for
//! the other. The next block of the lane may begin there, with the same first 16 bytes: the recorder writes the rest of
//! its header, with 0 committed bytes, and the state last. Until then readers pass by, whatever the rest says; what lies
//! behind `committed` may be of the block before. Space for compressed blocks the launcher takes from `next_offset` then,
//! like the recorder. When the program has ended, all that was released is free space, and the last blocks move there.
//!
//! Blocks only move under an exclusive `flock` on the file, tried without waiting; whoever reads a log that may still
//! be written holds a shared one.
//!
//! # Blocks and lanes
//!
//! A **lane** is a sequence of blocks written by one thread at a time; when a thread ends, another takes its lane over
//! (and says so with a [`Thread`](Record::Thread) record). Blocks of one lane carry increasing `sequence` numbers and
//! turns never decrease along a lane. A lane belongs to one **image**: the first program of the process is image 0,
//! and each `exec` in the same process starts the next one. Addresses and ids of one image mean nothing in another.
//!
//! After every record the writer stores `committed`, so that whatever kills the program, the log holds everything up to
//! its last record: **a prefix of a log is a log**. `state` goes from [`block_state::OPEN`] to
//! [`block_state::CLOSED`] or `KEPT` when the writer takes its next block, and to [`block_state::SEALED`] when the
//! launcher has stored the CRC-32C of the payload. A block whose header or CRC is wrong costs only itself: numbers that records are
//! relative to start anew in each block, and `first_node` says how many stack nodes the lane had before.
//!
//! Kinds of block: [`block_kind::EVENTS`] (records of a lane), [`block_kind::META`] (code objects, notices, images;
//! written before the first event that refers to them, so a reader that notes the committed lengths of all event blocks
//! *before* it reads the metadata finds every id), [`block_kind::LAUNCHER`] (samples taken from outside), [`block_kind::END`] (one
//! `CaptureEnd` in postcard encoding; the first block of the file, empty until the program has ended, so that a full
//! disk can't keep it out). Unknown kinds are skipped.
//!
//! # Records
//!
//! A record starts with a tag byte. With the top bit clear it is a *hot* record of fixed grammar:
//!
//! ```text
//! bit  7  6               5  4     3…0
//!      0  EXPECTED_STACK  address  kind
//!
//! Alloc    tag  [ticks]  [address]  size  [stack:zigzag]
//! Free     tag  [ticks]  [address]
//! Object   tag  [ticks]  [address]  stack:zigzag + 1, or 0
//! Restore  tag  [ticks]
//! Turn     tag  number
//! Node     tag  parent  code:zigzag  offset
//! ```
//!
//! With the top bit set the tag is followed by the length of its body, so that a reader skips kinds it does not know;
//! in a shared turn the body of an [event](Record::is_event) begins with its ticks. Numbers are prefix varints
//! ([`varint`]).
//!
//! * `number`: how much higher the turn is than the one before; the tag says whether it is shared.
//! * `ticks`, only in a shared turn: the difference to the previous ticks of the block (0 at its start).
//! * `address`: as the tag says, the wrapping difference to the previous address of the block (0 at its start), in
//!   bytes or in units of sixteen; or nothing, when it is that address; or the difference to the last address in the
//!   same *region* of 16 KiB, in units, above the seven bits of the region's [`encode::region_place`] in a table of
//!   [`encode::N_REGIONS`]. Reader and writer keep that table in the same way: each address of a hot record, rounded
//!   down to a unit, goes to the place of its region; the table is zero at a block's start.
//! * `parent`: how many nodes of the lane before this one; `code`: the difference to the previous node's (0 at a block's
//!   start); `offset`: rotated by one bit to the right, because instructions are two bytes long.
//! * `stack`: the difference to the previous stack of the block (0 at its start), absent with `EXPECTED_STACK`: then it
//!   is the one that came after that stack the last time. Reader and writer keep a table of [`encode::N_FOLLOWERS`]
//!   places in the same way: each stack of an allocation goes to the place of the stack before it; the table is zero at a
//!   block's start. Of an object that is made it is one more than the difference to that of the last allocation, and 0
//!   says that it is destroyed.
//!
//! # Time and order
//!
//! Events of all lanes are in the order of their **turns** ([`turn`]): one word of the file header says whose turn it
//! is, and an event needs no time stamp as long as its lane has it. Only events of a shared turn carry ticks, of the time
//! stamp counter divided by [`TICK_DIVISOR`], or of a shared counter where the processors' counters can't be compared
//! ([`clock`]); on equal ticks frees come before allocations. A free is recorded before the real call and an allocation
//! after it, so when an address changes hands the order in the log is the order of what happened.
//! The launcher takes a turn for each [`Clock`](Record::Clock), [`Rss`](Record::Rss) and [`Mark`](Record::Mark) record, which so map turns to
//! time.
//!
//! # Marks and pauses
//!
//! A [`Mark`](Record::Mark) of the launcher's gives a moment a name, or says that the recording was paused or resumed.
//! Between the two, [`FileHeader::is_paused`] is not 0, and lanes leave out allocations and mappings. What is given back
//! is recorded as ever, so that nothing recorded before is taken for alive; what a mapping covers counts as given back.
//!
//! # Stacks
//!
//! A stack is a node of a per-lane tree: [`Node`](Record::Node) number *n* (counted from 1 in each lane; 0 is the
//! empty stack) extends its parent by one frame, a code object and the byte offset of the running instruction in it.
//! Code objects are numbered by the recorder, over the life of an image, and never reused. Names, files and line
//! tables travel once ([`Code`](Record::Code)), without columns ([`locations`]); lines are computed by the reader.
//!
//! With native stacks a node's code may be a loaded object ([`Module`](Record::Module)), of the same numbers as code
//! objects, and its offset the address of a call in that file. [`NO_CODE`](record::Node::NO_CODE) marks where C code
//! entered the interpreter, in Python stacks, and which frame is that of the interpreter's loop, in native ones, where in
//! front of all frames it says that the caller of the first one could not be found; and it joins the two stacks of an
//! event.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod answer;
pub mod decode;
pub mod encode;
pub mod header;
pub mod locations;
pub mod options;
pub mod record;
pub mod turn;
pub mod varint;

pub use header::*;
pub use record::{AllocatorKind, Record};
