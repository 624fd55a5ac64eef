//! Record → bytes, into a slice the caller owns. Called in the recorder's hot path and by the launcher; it must never
//! allocate, panic or write past the slice.

use core::hint::select_unpredictable;

use crate::record::*;
use crate::turn::Turn;
use crate::varint::{self, unzigzag, zigzag};

/// Room that a hot record is given: more than the most bytes it takes, because numbers are written as whole words.
pub const HOT_ROOM: usize = 64;
/// The most bytes of a record without strings.
pub const MAX_PLAIN_LEN: usize = 5 + 9 * varint::MAX_LEN;
/// Places in the table of regions.
pub const N_REGIONS: usize = 1 << REGION_BITS;
pub const REGION_BITS: u32 = 7;
/// Places in the table of stacks that followed others.
pub const N_FOLLOWERS: usize = 1 << FOLLOWER_BITS;
const FOLLOWER_BITS: u32 = 8;
/// A region is 16 KiB: a pool of pymalloc from CPython 3.10 on, whose blocks are of one size.
const REGION_SHIFT: u32 = 14;
/// Addresses are written in units of this many bytes where they are multiples of it, as nearly all are.
const UNIT_SHIFT: u32 = 4;
const IN_UNIT: u64 = (1 << UNIT_SHIFT) - 1;
/// The bits of addresses that are whole numbers of units. (x86-64 has no program's addresses beyond.)
const WHOLE_UNITS: u64 = ((1 << 56) - 1) & !IN_UNIT;

/// What differences are relative to; starts anew in each block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deltas {
    pub turn: Turn,
    pub ticks: u64,
    pub address: u64,
    pub stack: u32,
    /// The number of the lane's last [`Node`], and its code object.
    pub node: u32,
    pub code: u32,
    /// The last address in the region of each place, a whole number of units.
    regions: [u64; N_REGIONS],
    /// The stack that came after the one of each place.
    followers: [u32; N_FOLLOWERS],
}

impl Deltas {
    /// The state at the start of a block that says so in its header.
    pub const fn at_block_start(first_turn: Turn, first_node: u32) -> Deltas {
        let (regions, followers) = ([0; N_REGIONS], [0; N_FOLLOWERS]);
        Deltas { turn: first_turn, ticks: 0, address: 0, stack: 0, node: first_node, code: 0, regions, followers }
    }

    /// The address that a number with [`hot::REGION`] stands for.
    #[inline(always)]
    pub fn in_region(&self, number: u64) -> u64 {
        let place = number as usize % N_REGIONS;
        let last = self.regions.get(place).copied().unwrap_or(0);
        last.wrapping_add((unzigzag(number >> REGION_BITS) << UNIT_SHIFT) as u64)
    }

    /// Remembers the address of a hot record; the one before it at the place of its region.
    #[inline(always)]
    pub fn touch(&mut self, address: u64) -> u64 {
        self.address = address;
        match self.regions.get_mut(region_place(address) as usize) {
            Some(place) => core::mem::replace(place, address & !IN_UNIT),
            None => 0,
        }
    }

    /// The stack that is expected next: a program that does the same again meets its stacks in the same order.
    #[inline(always)]
    pub fn follower(&self) -> u32 {
        self.followers.get(follower_place(self.stack)).copied().unwrap_or(0)
    }

    /// Remembers the stack of an allocation.
    #[inline(always)]
    pub fn follow(&mut self, stack: u32) {
        if let Some(place) = self.followers.get_mut(follower_place(self.stack)) {
            *place = stack;
        }
        self.stack = stack;
    }

    /// Moves the clock of a shared turn on; by how many ticks. A clock that steps back would break the order along the
    /// lane: it stands still instead.
    #[inline(always)]
    fn advance(&mut self, now: u64) -> u64 {
        let difference = now.saturating_sub(self.ticks);
        self.ticks += difference;
        difference
    }
}

/// The place of an address's region in the table.
#[inline(always)]
pub const fn region_place(address: u64) -> u64 {
    ((address >> REGION_SHIFT) as u32).wrapping_mul(0x9e37_79b9) as u64 >> (32 - REGION_BITS)
}

/// The place of what follows a stack.
#[inline(always)]
const fn follower_place(stack: u32) -> usize {
    (stack.wrapping_mul(0x9e37_79b9) >> (32 - FOLLOWER_BITS)) as usize
}

/// A record of the hot path.
pub trait Hot: Copy {
    /// Writes it; its length. `now` is there in a shared turn only.
    fn encode(self, out: &mut [u8; HOT_ROOM], deltas: &mut Deltas, now: Option<u64>) -> usize;
}

impl Hot for Alloc {
    #[inline(always)]
    fn encode(self, out: &mut [u8; HOT_ROOM], deltas: &mut Deltas, now: Option<u64>) -> usize {
        let is_expected = self.stack == deltas.follower();
        let stack = zigzag(self.stack as i64 - deltas.stack as i64);
        deltas.follow(self.stack);
        let tag = self.kind as u8 | if is_expected { hot::EXPECTED_STACK } else { 0 };
        let len = tag_and_address(out, deltas, now, tag, self.address);
        let len = varint::write_early(out, len, self.size);
        if is_expected { len } else { varint::write_early(out, len, stack) }
    }
}

impl Hot for Free {
    #[inline(always)]
    fn encode(self, out: &mut [u8; HOT_ROOM], deltas: &mut Deltas, now: Option<u64>) -> usize {
        tag_and_address(out, deltas, now, self.kind as u8, self.address)
    }
}

impl Hot for Object {
    #[inline(always)]
    fn encode(self, out: &mut [u8; HOT_ROOM], deltas: &mut Deltas, now: Option<u64>) -> usize {
        let len = tag_and_address(out, deltas, now, hot::OBJECT, self.address);
        let number = self.made_by.map_or(0, |stack| zigzag(stack as i64 - deltas.stack as i64) + 1);
        varint::write_early(out, len, number)
    }
}

#[inline(always)]
fn tag_and_address(out: &mut [u8; HOT_ROOM], deltas: &mut Deltas, now: Option<u64>, tag: u8, address: u64) -> usize {
    let mut len = 1;
    if let Some(now) = now {
        len = varint::write_early(out, len, deltas.advance(now));
    }
    let difference = address.wrapping_sub(deltas.address) as i64;
    if difference == 0 {
        // The table has it since the last time.
        out[0] = tag | hot::SAME;
        return len;
    }
    // Also where neither address is one of a program's, so that the numbers below are short.
    if (address | deltas.address) & !WHOLE_UNITS != 0 {
        deltas.touch(address);
        out[0] = tag | hot::RAW_DIFFERENCE;
        return varint::write_early(out, len, zigzag(difference));
    }
    let last = deltas.touch(address);
    // (Wraps where the regions differ, and is not written then.)
    let in_region = zigzag(address.wrapping_sub(last) as i64 >> UNIT_SHIFT) << REGION_BITS | region_place(address);
    let is_same_region = (address ^ last) >> REGION_SHIFT == 0;
    let in_units = zigzag(difference >> UNIT_SHIFT);
    // A program goes through several regions at once, with steps that repeat in each, and those from one to another
    // don't. But no number takes a byte more for that.
    let takes_as_much = select_unpredictable(in_region < 1 << 14, 1 << 7, 1 << 14);
    // Which of the ways it is depends on the program's data: no branch would be foreseen.
    let takes_region = is_same_region & (in_units >= takes_as_much);
    const { assert!(hot::DIFFERENCE == 0) };
    out[0] = tag | (takes_region as u8 * hot::REGION);
    varint::write_early_short(out, len, select_unpredictable(takes_region, in_region, in_units))
}

/// Writes the beginning of a turn; its length. `None` when it does not fit.
pub fn turn(out: &mut [u8], deltas: &mut Deltas, turn: Turn) -> Option<usize> {
    let room = out.first_chunk_mut::<HOT_ROOM>()?;
    room[0] = if turn.is_shared { hot::SHARED_TURN } else { hot::TURN };
    let len = varint::write(room, 1, turn.number.wrapping_sub(deltas.turn.number));
    deltas.turn = turn;
    Some(len)
}

/// Writes a stack node; its length. `None` when it does not fit.
pub fn node(out: &mut [u8], deltas: &mut Deltas, node: &Node) -> Option<usize> {
    let room = out.first_chunk_mut::<HOT_ROOM>()?;
    room[0] = hot::NODE;
    deltas.node = deltas.node.wrapping_add(1);
    let len = varint::write(room, 1, deltas.node.wrapping_sub(node.parent) as u64);
    let len = varint::write(room, len, zigzag(node.code as i64 - deltas.code as i64));
    deltas.code = node.code;
    // Instructions are two bytes long: the lowest bit is the rare one.
    Some(varint::write(room, len, node.offset.rotate_right(1) as u64))
}

/// Writes any record. Returns its length, or `None` when it did not fit; `deltas` is unchanged then.
pub fn record(out: &mut [u8], deltas: &mut Deltas, now: u64, record: &Record<'_>) -> Option<usize> {
    match record {
        Record::Alloc(it) => Some(it.encode(out.first_chunk_mut()?, deltas, deltas.turn.is_shared.then_some(now))),
        Record::Free(it) => Some(it.encode(out.first_chunk_mut()?, deltas, deltas.turn.is_shared.then_some(now))),
        Record::Object(it) => Some(it.encode(out.first_chunk_mut()?, deltas, deltas.turn.is_shared.then_some(now))),
        Record::Turn(it) => turn(out, deltas, *it),
        Record::Node(it) => node(out, deltas, it),
        Record::Restore(_) => {
            let room = out.first_chunk_mut::<HOT_ROOM>()?;
            room[0] = hot::RESTORE;
            Some(if deltas.turn.is_shared { varint::write(room, 1, deltas.advance(now)) } else { 1 })
        }
        _ => {
            let ticks = deltas.ticks;
            let written = with_length(out, deltas, now, record);
            if written.is_none() {
                deltas.ticks = ticks;
            }
            written
        }
    }
}

/// Bytes that hold the length of a body: one, or this many, because the body is written before its length is known.
const LENGTH_LEN: usize = 4;
/// The longest body whose length takes one byte.
const MAX_SHORT_BODY: usize = 0x7f;

fn with_length(out: &mut [u8], deltas: &mut Deltas, now: u64, record: &Record<'_>) -> Option<usize> {
    let (head, room) = out.split_at_mut_checked(1 + LENGTH_LEN)?;
    let mut body = Body { out: room, len: 0, has_overflowed: false };
    if deltas.turn.is_shared && record.is_event() {
        body.number(deltas.advance(now));
    }
    let tag = fields(&mut body, record)?;
    let len = body.finish()?;
    *head.first_mut()? = tag;
    if len > MAX_SHORT_BODY {
        let len = u32::try_from(len).ok().filter(|len| *len < 1 << (7 * LENGTH_LEN))?;
        let word = varint_of_four_bytes(len);
        head.get_mut(1..)?.copy_from_slice(&word);
        return Some(1 + LENGTH_LEN + len as usize);
    }
    // Short bodies move up behind a length of one byte.
    // (Byte by byte, because `copy_within` may panic, and the recorder must hold no panic.)
    for index in 0..len {
        let byte = *out.get(1 + LENGTH_LEN + index)?;
        *out.get_mut(2 + index)? = byte;
    }
    *out.get_mut(1)? = varint::short(len as u64) as u8;
    Some(2 + len)
}

/// A number of at most 28 bits, in four bytes whether or not it needs them.
const fn varint_of_four_bytes(number: u32) -> [u8; LENGTH_LEN] {
    ((number << 1 | 1) << (LENGTH_LEN - 1)).to_le_bytes()
}

/// Writes the fields of a body and remembers whether everything fitted.
struct Body<'a> {
    out: &'a mut [u8],
    len: usize,
    has_overflowed: bool,
}

impl Body<'_> {
    /// The number of bytes written, or `None` when they did not fit.
    fn finish(self) -> Option<usize> {
        if self.has_overflowed { None } else { Some(self.len) }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.len..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.has_overflowed = true,
        }
    }

    fn number(&mut self, value: u64) {
        let mut word = [0; 2 * varint::MAX_LEN];
        let len = varint::write(&mut word, 0, value);
        self.bytes(word.get(..len).unwrap_or(&[]));
    }

    fn text(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes(bytes);
    }

    fn py_str(&mut self, string: &PyStr<'_>) {
        self.bytes(&[string.width]);
        self.text(string.bytes);
    }
}

/// Writes the fields of a record with a length; its tag.
fn fields(out: &mut Body<'_>, record: &Record<'_>) -> Option<u8> {
    Some(match record {
        Record::Thread(it) => {
            out.number(it.thread as u64);
            out.number(it.os_tid as u64);
            out.number(it.pthread);
            tag::THREAD
        }
        Record::ThreadName(it) => {
            out.number(it.pthread);
            out.text(it.name);
            tag::THREAD_NAME
        }
        Record::Mmap(it) => {
            out.number(it.address);
            out.number(it.len);
            out.number(it.prot as u64);
            out.number(it.flags as u64);
            out.number(it.is_arena as u64);
            out.number(it.stack as u64);
            tag::MMAP
        }
        Record::Munmap(it) => {
            out.number(it.address);
            out.number(it.len);
            out.number(it.is_remap as u64);
            tag::MUNMAP
        }
        Record::Mremap(it) => {
            out.number(it.old_address);
            out.number(it.address);
            out.number(it.len);
            out.number(it.flags as u64);
            out.number(it.is_arena as u64);
            out.number(it.stack as u64);
            tag::MREMAP
        }
        Record::Lost(it) => {
            out.number(it.count);
            tag::LOST
        }
        Record::Code(it) => {
            out.number(it.id as u64);
            out.number(it.first_line as u64);
            out.py_str(&it.name);
            out.py_str(&it.file);
            out.text(it.line_table);
            tag::CODE
        }
        Record::Module(it) => {
            out.number(it.id as u64);
            out.number(it.bias);
            out.text(it.path);
            out.text(it.build_id);
            tag::MODULE
        }
        Record::Image(it) => {
            out.number(it.turn);
            out.text(it.exe);
            out.text(it.arguments);
            tag::IMAGE
        }
        Record::Python(it) => {
            out.number(it.version as u64);
            out.text(it.allocator);
            out.number(it.has_stacks as u64);
            tag::PYTHON
        }
        Record::Notice(it) => {
            out.number(it.code as u64);
            out.text(it.text);
            tag::NOTICE
        }
        Record::Clock(it) => {
            out.number(it.mono_nanos);
            tag::CLOCK
        }
        Record::Rss(it) => {
            out.number(it.mono_nanos);
            out.number(it.bytes);
            tag::RSS
        }
        Record::Mark(it) => {
            out.number(it.mono_nanos);
            out.number(it.what as u64);
            out.text(it.name);
            tag::MARK
        }
        Record::Alloc(_) | Record::Free(_) | Record::Object(_) => return None,
        Record::Restore(_) | Record::Turn(_) | Record::Node(_) => return None,
        Record::Unknown(_) => return None,
    })
}
