//! Bytes → record, borrowing. Input is hostile: a length is compared with the bytes that are there before it is used,
//! and whatever the bytes are, decoding ends with a record or an error that says the offset.

use core::ops::ControlFlow;

use crate::encode::{Deltas, HOT_ROOM};
use crate::record::*;
use crate::turn::Turn;
use crate::varint::{self, unzigzag};

/// A record that can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where the record starts in the payload.
    pub offset: usize,
    pub problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The payload ends inside the record.
    CutOff,
    /// A hot tag or a number that no writer produces.
    Invalid,
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.problem {
            Problem::CutOff => write!(out, "record at payload byte {} is cut off", self.offset),
            Problem::Invalid => write!(out, "record at payload byte {} is not valid", self.offset),
        }
    }
}

impl core::error::Error for DecodeError {}

/// The records of one block's payload, in order.
#[derive(Debug)]
pub struct Decoder<'a, 'd> {
    bytes: &'a [u8],
    offset: usize,
    deltas: &'d mut Deltas,
}

impl<'a, 'd> Decoder<'a, 'd> {
    /// Over the committed payload of a block, or what is left of it; `deltas` are those at its start, or where an earlier
    /// decoder over the same payload stopped.
    pub fn new(payload: &'a [u8], deltas: &'d mut Deltas) -> Decoder<'a, 'd> {
        Decoder { bytes: payload, offset: 0, deltas }
    }

    /// Payload bytes decoded so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What the next record's differences are relative to. Its turn and ticks are when the last event happened.
    #[inline(always)]
    pub fn deltas(&self) -> &Deltas {
        self.deltas
    }

    /// The next record, `None` at the end of the payload. After an error the decoder stays where it was.
    // Not an `Iterator`: after an error the caller decides whether to go on, and `?` reads better than `transpose`.
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Record<'a>>, DecodeError> {
        let start = self.offset;
        let Some(rest) = self.bytes.get(start..).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        let mut fields = Fields { bytes: rest };
        let ticks = self.deltas.ticks;
        match decode(&mut fields, self.deltas) {
            Ok(record) => {
                self.offset = self.bytes.len() - fields.bytes.len();
                Ok(Some(record))
            }
            Err(problem) => {
                self.deltas.ticks = ticks;
                Err(DecodeError { offset: start, problem })
            }
        }
    }
}

/// An [`Alloc`] or a [`Free`], of which a log has hundreds of millions: small, and the same for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEvent {
    pub address: u64,
    /// 0 for a free, and its stack as well.
    pub size: u64,
    pub stack: u32,
    pub kind: AllocatorKind,
}

impl Decoder<'_, '_> {
    /// Decodes allocations and frees for as long as one follows the other, and hands them to `take` with their ticks (0
    /// where there are none) until it breaks off. It may end early: what comes next is for [`next`](Decoder::next),
    /// which would have told the same.
    ///
    /// Nearly all of a log goes through here. As there is room for a whole record, nothing is asked for byte by byte.
    #[inline]
    pub fn blocks(&mut self, mut take: impl FnMut(BlockEvent, u64) -> ControlFlow<()>) {
        let is_shared = self.deltas.turn.is_shared;
        while let Some(bytes) = self.bytes.get(self.offset..).and_then(|rest| rest.first_chunk::<HOT_ROOM>()) {
            let tag = bytes[0];
            if tag & 0x80 != 0 {
                return;
            }
            let Some(kind) = AllocatorKind::from_number(tag & hot::KIND_MASK) else { return };
            let mut end = 1;
            let mut ticks = 0;
            if is_shared {
                let (number, len) = varint::read_early(bytes, end);
                let Some(sum) = self.deltas.ticks.checked_add(number) else { return };
                (ticks, end) = (sum, end + len);
            }
            let mut address = self.deltas.address;
            if tag & hot::ADDRESS_MASK != hot::SAME {
                let (number, len) = varint::read_early(bytes, end);
                end += len;
                address = self.deltas.address_of(tag, number);
            }
            let (mut size, mut stack) = (0, 0);
            if !kind.is_free() {
                let len;
                (size, len) = varint::read_early(bytes, end);
                end += len;
                stack = self.deltas.follower();
                if tag & hot::EXPECTED_STACK == 0 {
                    let (number, len) = varint::read_early(bytes, end);
                    let Ok(number) = after(self.deltas.stack, number) else { return };
                    (stack, end) = (number, end + len);
                }
                self.deltas.follow(stack);
            }
            if is_shared {
                self.deltas.ticks = ticks;
            }
            self.deltas.touch(address);
            self.offset += end;
            if take(BlockEvent { address, size, stack, kind }, ticks).is_break() {
                return;
            }
        }
    }
}

impl Deltas {
    /// The address that a number stands for, which is written in one of the ways that take a number. Which of them it is
    /// depends on the program's data, so there is no branch.
    #[inline(always)]
    fn address_of(&self, tag: u8, number: u64) -> u64 {
        let way = tag & hot::ADDRESS_MASK;
        let is_in_region = way == hot::REGION;
        let in_region = self.in_region(number);
        let shift = if way == hot::DIFFERENCE { 4 } else { 0 };
        let beside = self.address.wrapping_add((unzigzag(number) << shift) as u64);
        core::hint::select_unpredictable(is_in_region, in_region, beside)
    }
}

/// The undecoded rest of a record.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    #[inline]
    fn byte(&mut self) -> Result<u8, Problem> {
        let (&byte, rest) = self.bytes.split_first().ok_or(Problem::CutOff)?;
        self.bytes = rest;
        Ok(byte)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Problem> {
        let (value, len) = varint::read(self.bytes).ok_or(Problem::CutOff)?;
        self.bytes = self.bytes.get(len..).ok_or(Problem::CutOff)?;
        Ok(value)
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        u32::try_from(self.varint()?).map_err(|_| Problem::Invalid)
    }

    /// A number as the difference to the one before.
    #[inline]
    fn u32_after(&mut self, last: u32) -> Result<u32, Problem> {
        after(last, self.varint()?)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Problem> {
        let len = usize::try_from(len).map_err(|_| Problem::CutOff)?;
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(Problem::CutOff)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn text(&mut self) -> Result<&'a [u8], Problem> {
        let len = self.varint()?;
        self.take(len)
    }

    fn py_str(&mut self) -> Result<PyStr<'a>, Problem> {
        let width = self.byte()?;
        let bytes = self.text()?;
        if !matches!(width, 1 | 2 | 4) || bytes.len() % width as usize != 0 {
            return Err(Problem::Invalid);
        }
        Ok(PyStr { width, bytes })
    }

    /// Ticks, where there are any.
    #[inline]
    fn ticks(&mut self, deltas: &mut Deltas) -> Result<(), Problem> {
        if deltas.turn.is_shared {
            deltas.ticks = deltas.ticks.checked_add(self.varint()?).ok_or(Problem::Invalid)?;
        }
        Ok(())
    }

    #[inline]
    fn address(&mut self, deltas: &Deltas, tag: u8) -> Result<u64, Problem> {
        if tag & hot::ADDRESS_MASK == hot::SAME {
            return Ok(deltas.address);
        }
        let number = self.varint()?;
        Ok(deltas.address_of(tag, number))
    }
}

/// The number that a difference stands for.
#[inline]
fn after(last: u32, difference: u64) -> Result<u32, Problem> {
    let number = (last as i64).checked_add(unzigzag(difference));
    number.and_then(|number| u32::try_from(number).ok()).ok_or(Problem::Invalid)
}

/// What is relative to the record before changes only once the record is whole.
#[inline]
fn decode<'a>(fields: &mut Fields<'a>, deltas: &mut Deltas) -> Result<Record<'a>, Problem> {
    let tag = fields.byte()?;
    if tag & 0x80 != 0 {
        let body = fields.text()?;
        // Nothing inside a body that is whole can be cut off.
        return match with_length(tag, &mut Fields { bytes: body }, deltas) {
            Err(_) => Err(Problem::Invalid),
            whole => whole,
        };
    }
    let Some(kind) = AllocatorKind::from_number(tag & hot::KIND_MASK) else {
        return without_kind(tag, fields, deltas);
    };
    fields.ticks(deltas)?;
    let address = fields.address(deltas, tag)?;
    if kind.is_free() {
        deltas.touch(address);
        return Ok(Record::Free(Free { kind, address }));
    }
    let size = fields.varint()?;
    let is_expected = tag & hot::EXPECTED_STACK != 0;
    let stack = if is_expected { deltas.follower() } else { fields.u32_after(deltas.stack)? };
    deltas.follow(stack);
    deltas.touch(address);
    Ok(Record::Alloc(Alloc { kind, address, size, stack }))
}

/// The hot records without an allocator.
fn without_kind<'a>(tag: u8, fields: &mut Fields<'a>, deltas: &mut Deltas) -> Result<Record<'a>, Problem> {
    match tag {
        _ if tag & !hot::ADDRESS_MASK == hot::OBJECT => {
            fields.ticks(deltas)?;
            let address = fields.address(deltas, tag)?;
            let made_by = match fields.varint()?.checked_sub(1) {
                Some(difference) => Some(after(deltas.stack, difference)?),
                None => None,
            };
            deltas.touch(address);
            Ok(Record::Object(Object { address, made_by }))
        }
        hot::NODE => {
            let (back, code, offset) = (fields.u32()?, fields.u32_after(deltas.code)?, fields.u32()?);
            (deltas.node, deltas.code) = (deltas.node.wrapping_add(1), code);
            Ok(Record::Node(Node { parent: deltas.node.wrapping_sub(back), code, offset: offset.rotate_left(1) }))
        }
        hot::RESTORE => {
            fields.ticks(deltas)?;
            Ok(Record::Restore(Restore))
        }
        hot::TURN | hot::SHARED_TURN => {
            let number = deltas.turn.number.checked_add(fields.varint()?).ok_or(Problem::Invalid)?;
            deltas.turn = Turn { number, is_shared: tag == hot::SHARED_TURN };
            Ok(Record::Turn(deltas.turn))
        }
        _ => Err(Problem::Invalid),
    }
}

fn with_length<'a>(tag: u8, body: &mut Fields<'a>, deltas: &mut Deltas) -> Result<Record<'a>, Problem> {
    if matches!(tag, tag::THREAD | tag::THREAD_NAME | tag::MMAP | tag::MUNMAP | tag::MREMAP | tag::LOST) {
        body.ticks(deltas)?;
    }
    Ok(match tag {
        tag::THREAD => Record::Thread(Thread { thread: body.u32()?, os_tid: body.u32()?, pthread: body.varint()? }),
        tag::THREAD_NAME => Record::ThreadName(ThreadName { pthread: body.varint()?, name: body.text()? }),
        tag::MMAP => Record::Mmap(Mmap {
            address: body.varint()?,
            len: body.varint()?,
            prot: body.u32()?,
            flags: body.u32()?,
            is_arena: body.varint()? != 0,
            stack: body.u32()?,
        }),
        tag::MUNMAP => {
            Record::Munmap(Munmap { address: body.varint()?, len: body.varint()?, is_remap: body.varint()? != 0 })
        }
        tag::MREMAP => Record::Mremap(Mremap {
            old_address: body.varint()?,
            address: body.varint()?,
            len: body.varint()?,
            flags: body.u32()?,
            is_arena: body.varint()? != 0,
            stack: body.u32()?,
        }),
        tag::LOST => Record::Lost(Lost { count: body.varint()? }),
        tag::CODE => Record::Code(Code {
            id: body.u32()?,
            first_line: body.u32()?,
            name: body.py_str()?,
            file: body.py_str()?,
            line_table: body.text()?,
        }),
        tag::MODULE => {
            Record::Module(Module { id: body.u32()?, bias: body.varint()?, path: body.text()?, build_id: body.text()? })
        }
        tag::IMAGE => Record::Image(Image { turn: body.varint()?, exe: body.text()?, arguments: body.text()? }),
        tag::PYTHON => {
            Record::Python(Python { version: body.u32()?, allocator: body.text()?, has_stacks: body.varint()? != 0 })
        }
        tag::NOTICE => Record::Notice(Notice { code: body.u32()?, text: body.text()? }),
        tag::CLOCK => Record::Clock(Clock { mono_nanos: body.varint()? }),
        tag::RSS => Record::Rss(Rss { mono_nanos: body.varint()?, bytes: body.varint()? }),
        tag::MARK => Record::Mark(Mark { mono_nanos: body.varint()?, what: body.u32()?, name: body.text()? }),
        unknown => Record::Unknown(unknown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{self, Hot};
    use proptest::prelude::*;

    fn kinds(free: bool) -> impl Strategy<Value = AllocatorKind> {
        let kinds: Vec<_> = AllocatorKind::ALL.into_iter().filter(|kind| kind.is_free() == free).collect();
        proptest::sample::select(kinds)
    }

    fn leak(bytes: Vec<u8>) -> &'static [u8] {
        Vec::leak(bytes)
    }

    fn py_strs() -> impl Strategy<Value = PyStr<'static>> {
        (proptest::sample::select(vec![1u8, 2, 4]), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(width, mut bytes)| {
                bytes.truncate(bytes.len() / width as usize * width as usize);
                PyStr { width, bytes: leak(bytes) }
            },
        )
    }

    fn texts() -> impl Strategy<Value = &'static [u8]> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(leak)
    }

    /// Addresses near each other and far, aligned and not, new and seen before.
    fn addresses() -> impl Strategy<Value = u64> {
        prop_oneof![
            (0u64..50).prop_map(|n| 0x7f00_0000_0000 + 48 * n),
            (0u64..1 << 30).prop_map(|n| 8 * n),
            any::<u64>()
        ]
    }

    /// One strategy per kind; the number of a turn is a difference here and made absolute by the test.
    fn records() -> impl Strategy<Value = Record<'static>> {
        prop_oneof![
            4 => (kinds(false), addresses(), any::<u64>(), any::<u32>())
                .prop_map(|(kind, address, size, stack)| Record::Alloc(Alloc { kind, address, size, stack })),
            4 => (kinds(true), addresses()).prop_map(|(kind, address)| Record::Free(Free { kind, address })),
            4 => (addresses(), any::<Option<u32>>())
                .prop_map(|(address, made_by)| Record::Object(Object { address, made_by })),
            4 => rare_records(),
        ]
    }

    fn rare_records() -> impl Strategy<Value = Record<'static>> {
        prop_oneof![
            Just(Record::Restore(Restore)),
            (0u64..1 << 40, any::<bool>()).prop_map(|(number, is_shared)| Record::Turn(Turn { number, is_shared })),
            (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(parent, code, offset)| Record::Node(Node {
                parent,
                code,
                offset
            })),
            (any::<[u32; 2]>(), any::<u64>()).prop_map(|([thread, os_tid], pthread)| Record::Thread(Thread {
                thread,
                os_tid,
                pthread
            })),
            (any::<u64>(), texts()).prop_map(|(pthread, name)| Record::ThreadName(ThreadName { pthread, name })),
            (any::<[u64; 2]>(), any::<[u32; 3]>(), any::<bool>()).prop_map(
                |([address, len], [prot, flags, stack], is_arena)| {
                    Record::Mmap(Mmap { address, len, prot, flags, is_arena, stack })
                }
            ),
            (any::<[u64; 2]>(), any::<bool>()).prop_map(|([address, len], is_remap)| Record::Munmap(Munmap {
                address,
                len,
                is_remap
            })),
            (any::<[u64; 3]>(), any::<[u32; 2]>(), any::<bool>()).prop_map(
                |([old_address, address, len], [flags, stack], is_arena)| {
                    Record::Mremap(Mremap { old_address, address, len, flags, is_arena, stack })
                }
            ),
            any::<u64>().prop_map(|count| Record::Lost(Lost { count })),
            (any::<[u32; 2]>(), py_strs(), py_strs(), texts()).prop_map(
                |([id, first_line], name, file, line_table)| {
                    Record::Code(Code { id, first_line, name, file, line_table })
                }
            ),
            (any::<u32>(), any::<u64>(), texts(), texts())
                .prop_map(|(id, bias, path, build_id)| { Record::Module(Module { id, bias, path, build_id }) }),
            (any::<u64>(), texts(), texts()).prop_map(|(turn, exe, arguments)| Record::Image(Image {
                turn,
                exe,
                arguments
            })),
            (any::<u32>(), texts(), any::<bool>()).prop_map(|(version, allocator, has_stacks)| {
                Record::Python(Python { version, allocator, has_stacks })
            }),
            (any::<u32>(), texts()).prop_map(|(code, text)| Record::Notice(Notice { code, text })),
            any::<u64>().prop_map(|mono_nanos| Record::Clock(Clock { mono_nanos })),
            any::<[u64; 2]>().prop_map(|[mono_nanos, bytes]| Record::Rss(Rss { mono_nanos, bytes })),
            (any::<u64>(), any::<u32>(), texts()).prop_map(|(mono_nanos, what, name)| Record::Mark(Mark {
                mono_nanos,
                what,
                name
            })),
        ]
    }

    const START: Turn = Turn { number: 1_000, is_shared: false };
    const FIRST_NODE: u32 = 40;

    proptest! {
        #[test]
        fn a_sequence_of_records_comes_back_and_every_prefix_is_a_log(
            mut sequence in proptest::collection::vec((records(), 0u64..1 << 40), 1..60),
        ) {
            let mut buf = vec![0u8; 64 * 1024];
            let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
            let mut ends = Vec::new();
            let (mut len, mut now) = (0, 0);
            let mut moments = Vec::new();
            for (record, ticks) in &mut sequence {
                if let Record::Turn(turn) = record {
                    turn.number += deltas.turn.number;
                }
                now += *ticks;
                len += encode::record(&mut buf[len..], &mut deltas, now, record).unwrap();
                moments.push((deltas.turn, deltas.turn.is_shared.then_some(deltas.ticks)));
                ends.push(len);
            }
            for cut in [len, len - 1, len / 2, ends[0]] {
                let mut read = Deltas::at_block_start(START, FIRST_NODE);
                let mut decoder = Decoder::new(&buf[..cut], &mut read);
                let whole = ends.iter().filter(|&&end| end <= cut).count();
                for ((expected, _), (turn, ticks)) in sequence.iter().zip(&moments).take(whole) {
                    prop_assert_eq!(decoder.next(), Ok(Some(*expected)));
                    prop_assert_eq!(decoder.deltas().turn, *turn);
                    prop_assert!(ticks.is_none_or(|ticks| ticks == decoder.deltas().ticks));
                }
                let at_end = decoder.deltas().clone();
                // The shortest record is one byte long; in front of it there is the empty log.
                if cut == 0 || ends.contains(&cut) {
                    prop_assert_eq!(decoder.next(), Ok(None));
                } else {
                    prop_assert!(decoder.next().is_err());
                }
                prop_assert_eq!(decoder.deltas(), &at_end);
            }
        }

        #[test]
        fn runs_of_blocks_are_what_they_are_one_by_one(
            mut sequence in proptest::collection::vec((records(), 0u64..1 << 40), 1..60),
            is_damaged: bool,
            at in any::<proptest::sample::Index>(),
            stops in 1usize..8,
        ) {
            let mut buf = vec![0u8; 64 * 1024];
            let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
            let (mut len, mut now) = (0, 0);
            for (record, ticks) in &mut sequence {
                if let Record::Turn(turn) = record {
                    turn.number += deltas.turn.number;
                }
                now += *ticks;
                len += encode::record(&mut buf[len..], &mut deltas, now, record).unwrap();
            }
            if is_damaged {
                buf[at.index(len)] ^= 0x55;
            }
            let mut plain = Vec::new();
            let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
            let mut decoder = Decoder::new(&buf[..len], &mut deltas);
            let end = loop {
                match decoder.next() {
                    Ok(Some(record)) => plain.push((record, decoder.deltas().ticks)),
                    other => break (other, decoder.offset()),
                }
            };
            let mut fast = Vec::new();
            let mut fast_deltas = Deltas::at_block_start(START, FIRST_NODE);
            let mut decoder = Decoder::new(&buf[..len], &mut fast_deltas);
            let fast_end = loop {
                let is_shared = decoder.deltas().turn.is_shared;
                let before = decoder.deltas().ticks;
                let mut n = 0;
                decoder.blocks(|BlockEvent { address, size, stack, kind }, ticks| {
                    let record = match kind.is_free() {
                        true => Record::Free(Free { kind, address }),
                        false => Record::Alloc(Alloc { kind, address, size, stack }),
                    };
                    fast.push((record, if is_shared { ticks } else { before }));
                    n += 1;
                    if n == stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                match decoder.next() {
                    Ok(Some(record)) => fast.push((record, decoder.deltas().ticks)),
                    other => break (other, decoder.offset()),
                }
            };
            prop_assert_eq!(fast, plain);
            prop_assert_eq!(fast_end, end);
            prop_assert_eq!(fast_deltas, deltas);
        }

        #[test]
        fn arbitrary_bytes_end_in_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
            let mut decoder = Decoder::new(&bytes, &mut deltas);
            while let Ok(Some(_)) = decoder.next() {}
            prop_assert!(decoder.offset() <= bytes.len());
        }

        #[test]
        fn what_does_not_fit_is_refused_and_changes_nothing(record in records(), room in 0usize..16, shared: bool) {
            let mut buf = vec![0u8; room];
            let mut deltas = Deltas::at_block_start(Turn { number: 5, is_shared: shared }, FIRST_NODE);
            let before = deltas.clone();
            if encode::record(&mut buf, &mut deltas, 77, &record).is_none() {
                prop_assert_eq!(deltas, before);
            }
        }
    }

    #[test]
    fn an_address_takes_few_bytes_when_its_region_is_known() {
        let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
        let mut len_of = |address| {
            let mut out = [0; encode::HOT_ROOM];
            Free { kind: AllocatorKind::Free, address }.encode(&mut out, &mut deltas, None) - 1
        };
        let far = 0x7fff_0000_0000;
        let addresses = [0x1000_0000, 0x1000_0020, far, 0x1000_0020, far, 0x1000_0030, 0x1000_3ff0, far, far];
        assert_eq!(addresses.map(&mut len_of), [4, 1, 7, 1, 1, 2, 2, 1, 0]);
    }

    #[test]
    fn a_stack_that_comes_after_another_as_before_takes_no_byte() {
        let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
        let mut stack_len_of = |stack| {
            let mut out = [0; encode::HOT_ROOM];
            let alloc = Alloc { kind: AllocatorKind::Malloc, address: 0, size: 0, stack };
            alloc.encode(&mut out, &mut deltas, None) - 2
        };
        let stacks = [1, 2, 300, 1, 2, 300, 1, 2, 2, 2, 1, 2, 300];
        assert_eq!(stacks.map(&mut stack_len_of), [1, 1, 2, 2, 0, 0, 0, 0, 1, 0, 1, 0, 2]);
    }

    #[test]
    fn an_object_at_its_block_takes_three_bytes() {
        let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
        let mut out = [0; encode::HOT_ROOM];
        let block = Alloc { kind: AllocatorKind::PymallocMalloc, address: 0x7f00_0000_0000, size: 72, stack: 5 };
        block.encode(&mut out, &mut deltas, None);
        // Behind the collector's header.
        let made = Object { address: block.address + 16, made_by: Some(5) };
        let destroyed = Object { made_by: None, ..made };
        let lens = [made, destroyed].map(|object| object.encode(&mut out, &mut deltas, None));
        assert_eq!(lens, [3, 2]);
    }

    #[test]
    fn a_node_on_top_of_the_last_one_takes_four_bytes() {
        let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
        let mut out = [0; encode::HOT_ROOM];
        let mut len_of = |node| encode::node(&mut out, &mut deltas, &node).unwrap();
        assert_eq!(len_of(Node { parent: FIRST_NODE, code: 1 << 10, offset: 0x80 }), 5);
        assert_eq!(len_of(Node { parent: FIRST_NODE + 1, code: (1 << 10) + 63, offset: 0xfe }), 4);
    }

    #[test]
    fn an_unknown_record_is_skipped_by_its_length() {
        let bytes = [0xff, 2 << 1 | 1, 9, 9, hot::RESTORE];
        let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
        let mut decoder = Decoder::new(&bytes, &mut deltas);
        assert_eq!(decoder.next(), Ok(Some(Record::Unknown(0xff))));
        assert_eq!(decoder.next(), Ok(Some(Record::Restore(Restore))));
        assert_eq!(decoder.next(), Ok(None));
    }

    #[test]
    fn a_length_beyond_the_payload_is_not_believed() {
        let mut deltas = Deltas::at_block_start(START, FIRST_NODE);
        let mut decoder = Decoder::new(&[0xff, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], &mut deltas);
        assert_eq!(decoder.next(), Err(DecodeError { offset: 0, problem: Problem::CutOff }));
    }
}
