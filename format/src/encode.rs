//! Record → bytes, into a slice the caller owns. Called in the recorder's hot path and by the launcher; it must never
//! allocate, panic or write past the slice.

use crate::record::*;
use crate::varint::zigzag;

/// The most bytes of a hot record.
pub const MAX_HOT_LEN: usize = 1 + 10 + 10 + 10 + 10;
/// The most bytes of a [`Node`] record, and of every other record without strings.
pub const MAX_PLAIN_LEN: usize = 2 + 8 * 10;

/// What differences are relative to; starts anew in each block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deltas {
    pub ticks: u64,
    pub address: u64,
    pub stack: u32,
}

impl Deltas {
    /// The state at the start of a block.
    pub fn at_block_start(first_ticks: u64) -> Deltas {
        Deltas { ticks: first_ticks, address: 0, stack: 0 }
    }
}

/// Writes into a slice and remembers whether everything fitted.
pub struct Encoder<'a> {
    buf: &'a mut [u8],
    len: usize,
    overflowed: bool,
}

impl<'a> Encoder<'a> {
    pub fn new(buf: &'a mut [u8]) -> Encoder<'a> {
        Encoder { buf, len: 0, overflowed: false }
    }

    /// The number of bytes written, or `None` when they did not fit.
    #[inline(always)]
    pub fn finish(self) -> Option<usize> {
        if self.overflowed { None } else { Some(self.len) }
    }

    #[inline(always)]
    pub fn byte(&mut self, byte: u8) {
        match self.buf.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len += 1;
            }
            None => self.overflowed = true,
        }
    }

    #[inline(always)]
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match self.buf.get_mut(self.len..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflowed = true,
        }
    }

    fn text(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes(bytes);
    }

    #[inline(always)]
    fn hot(&mut self, deltas: &mut Deltas, tag: u8, ticks: u64, address: u64) {
        let difference = address.wrapping_sub(deltas.address);
        deltas.address = address;
        // Addresses are multiples of eight but for custom allocators, and so are their differences.
        let (tag, difference) = if difference & 7 == 0 {
            (tag, difference as i64 >> 3)
        } else {
            (tag | hot::RAW_ADDRESS, difference as i64)
        };
        self.byte(tag);
        self.ticks(deltas, ticks);
        self.varint(zigzag(difference));
    }

    #[inline(always)]
    fn ticks(&mut self, deltas: &mut Deltas, ticks: u64) {
        // A clock that steps back would break the order along the lane: it stands still instead.
        let difference = ticks.saturating_sub(deltas.ticks);
        deltas.ticks += difference;
        self.varint(difference);
    }
}

/// Writes an allocation.
#[inline(always)]
pub fn alloc(buf: &mut [u8], deltas: &mut Deltas, record: &Alloc) -> Option<usize> {
    let mut out = Encoder::new(buf);
    let is_same_stack = record.stack == deltas.stack;
    let tag = record.kind as u8 | if is_same_stack { hot::SAME_STACK } else { 0 };
    out.hot(deltas, tag, record.ticks, record.address);
    out.varint(record.size);
    if !is_same_stack {
        out.varint(zigzag(record.stack as i64 - deltas.stack as i64));
        deltas.stack = record.stack;
    }
    out.finish()
}

/// Writes a free.
#[inline(always)]
pub fn free(buf: &mut [u8], deltas: &mut Deltas, record: &Free) -> Option<usize> {
    let mut out = Encoder::new(buf);
    out.hot(deltas, record.kind as u8, record.ticks, record.address);
    out.finish()
}

/// Writes any record. Returns its length, or `None` when it did not fit; `deltas` is unchanged then.
pub fn record(buf: &mut [u8], deltas: &mut Deltas, record: &Record<'_>) -> Option<usize> {
    let mut next = *deltas;
    let len = match record {
        Record::Alloc(it) => alloc(buf, &mut next, it)?,
        Record::Free(it) => free(buf, &mut next, it)?,
        Record::Restore(it) => {
            let mut out = Encoder::new(buf);
            out.byte(hot::RESTORE);
            out.ticks(&mut next, it.ticks);
            out.finish()?
        }
        _ => with_length(buf, &mut next, record)?,
    };
    *deltas = next;
    Some(len)
}

/// Bytes that hold the length of a body: fixed, so that the body can be written in place before its length is known.
const LENGTH_LEN: usize = 4;

fn with_length(buf: &mut [u8], deltas: &mut Deltas, record: &Record<'_>) -> Option<usize> {
    let (head, body_buf) = buf.split_at_mut_checked(1 + LENGTH_LEN)?;
    let mut out = Encoder::new(body_buf);
    let tag = body(&mut out, deltas, record)?;
    let body_len = out.finish()?;
    if body_len >= 1 << (7 * LENGTH_LEN) {
        return None;
    }
    if body_len < 0x80 {
        // Short bodies, nodes above all, move up behind a length of one byte.
        // (Byte by byte, because `copy_within` may panic, and the recorder must hold no panic.)
        for index in 0..body_len {
            let byte = *buf.get(1 + LENGTH_LEN + index)?;
            *buf.get_mut(2 + index)? = byte;
        }
        *buf.get_mut(0)? = tag;
        *buf.get_mut(1)? = body_len as u8;
        return Some(2 + body_len);
    }
    *head.get_mut(0)? = tag;
    for (index, place) in head.iter_mut().skip(1).enumerate() {
        let more = if index + 1 < LENGTH_LEN { 0x80 } else { 0 };
        *place = (body_len >> (7 * index)) as u8 & 0x7f | more;
    }
    Some(1 + LENGTH_LEN + body_len)
}

fn body(out: &mut Encoder<'_>, deltas: &mut Deltas, record: &Record<'_>) -> Option<u8> {
    Some(match record {
        Record::Node(it) => {
            out.varint(it.parent as u64);
            out.varint(it.code as u64);
            out.varint(it.offset as u64);
            tag::NODE
        }
        Record::Thread(it) => {
            out.ticks(deltas, it.ticks);
            out.varint(it.thread as u64);
            out.varint(it.os_tid as u64);
            out.varint(it.pthread);
            tag::THREAD
        }
        Record::ThreadName(it) => {
            out.ticks(deltas, it.ticks);
            out.varint(it.pthread);
            out.text(it.name);
            tag::THREAD_NAME
        }
        Record::Mmap(it) => {
            out.ticks(deltas, it.ticks);
            out.varint(it.address);
            out.varint(it.len);
            out.varint(it.prot as u64);
            out.varint(it.flags as u64);
            out.varint(it.is_arena as u64);
            out.varint(it.stack as u64);
            tag::MMAP
        }
        Record::Munmap(it) => {
            out.ticks(deltas, it.ticks);
            out.varint(it.address);
            out.varint(it.len);
            out.varint(it.is_remap as u64);
            tag::MUNMAP
        }
        Record::Mremap(it) => {
            out.ticks(deltas, it.ticks);
            out.varint(it.old_address);
            out.varint(it.address);
            out.varint(it.len);
            out.varint(it.flags as u64);
            out.varint(it.is_arena as u64);
            out.varint(it.stack as u64);
            tag::MREMAP
        }
        Record::Lost(it) => {
            out.ticks(deltas, it.ticks);
            out.varint(it.count);
            tag::LOST
        }
        Record::Code(it) => {
            out.varint(it.id as u64);
            out.varint(it.first_line as u64);
            py_str(out, &it.name);
            py_str(out, &it.file);
            out.text(it.line_table);
            tag::CODE
        }
        Record::Image(it) => {
            out.ticks(deltas, it.ticks);
            out.text(it.exe);
            out.text(it.arguments);
            tag::IMAGE
        }
        Record::Python(it) => {
            out.varint(it.version as u64);
            out.text(it.allocator);
            out.varint(it.has_stacks as u64);
            tag::PYTHON
        }
        Record::Notice(it) => {
            out.varint(it.code as u64);
            out.text(it.text);
            tag::NOTICE
        }
        Record::Clock(it) => {
            out.ticks(deltas, it.ticks);
            out.varint(it.mono_nanos);
            tag::CLOCK
        }
        Record::Rss(it) => {
            out.ticks(deltas, it.ticks);
            out.varint(it.mono_nanos);
            out.varint(it.bytes);
            tag::RSS
        }
        Record::Alloc(_) | Record::Free(_) | Record::Restore(_) | Record::Unknown(_) => return None,
    })
}

fn py_str(out: &mut Encoder<'_>, string: &PyStr<'_>) {
    out.byte(string.width);
    out.text(string.bytes);
}
