//! Bytes → record, borrowing. Input is hostile: a length is compared with the bytes that are there before it is used,
//! and whatever the bytes are, decoding ends with a record or an error that says the offset.

use crate::encode::Deltas;
use crate::record::*;
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
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    offset: usize,
    deltas: Deltas,
}

impl<'a> Decoder<'a> {
    /// Over the committed payload of a block whose header says `first_ticks`.
    pub fn new(payload: &'a [u8], first_ticks: u64) -> Decoder<'a> {
        Decoder::resume(payload, 0, Deltas::at_block_start(first_ticks))
    }

    /// Goes on where an earlier decoder over the same payload stopped.
    pub fn resume(payload: &'a [u8], offset: usize, deltas: Deltas) -> Decoder<'a> {
        Decoder { bytes: payload, offset, deltas }
    }

    /// Payload bytes decoded so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What the next record's differences are relative to.
    pub fn deltas(&self) -> Deltas {
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
        let mut deltas = self.deltas;
        match decode(&mut fields, &mut deltas) {
            Ok(record) => {
                self.offset = self.bytes.len() - fields.bytes.len();
                self.deltas = deltas;
                Ok(Some(record))
            }
            Err(problem) => Err(DecodeError { offset: start, problem }),
        }
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
        match varint::read(self.bytes) {
            Some((value, len)) => {
                self.bytes = self.bytes.get(len..).ok_or(Problem::CutOff)?;
                Ok(value)
            }
            None if self.bytes.len() < varint::MAX_LEN => Err(Problem::CutOff),
            None => Err(Problem::Invalid),
        }
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        u32::try_from(self.varint()?).map_err(|_| Problem::Invalid)
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

    #[inline]
    fn ticks(&mut self, deltas: &mut Deltas) -> Result<u64, Problem> {
        deltas.ticks = deltas.ticks.checked_add(self.varint()?).ok_or(Problem::Invalid)?;
        Ok(deltas.ticks)
    }

    #[inline]
    fn address(&mut self, deltas: &mut Deltas, tag: u8) -> Result<u64, Problem> {
        let difference = unzigzag(self.varint()?) as u64;
        let difference = if tag & hot::RAW_ADDRESS == 0 { difference << 3 } else { difference };
        deltas.address = deltas.address.wrapping_add(difference);
        Ok(deltas.address)
    }
}

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
    if tag & hot::KIND_MASK == hot::RESTORE {
        return Ok(Record::Restore(Restore { ticks: fields.ticks(deltas)? }));
    }
    let kind = AllocatorKind::from_number(tag & hot::KIND_MASK).ok_or(Problem::Invalid)?;
    let ticks = fields.ticks(deltas)?;
    let address = fields.address(deltas, tag)?;
    if kind.is_free() {
        return Ok(Record::Free(Free { ticks, kind, address }));
    }
    let size = fields.varint()?;
    if tag & hot::SAME_STACK == 0 {
        let stack = (deltas.stack as i64).checked_add(unzigzag(fields.varint()?));
        deltas.stack = stack.and_then(|stack| u32::try_from(stack).ok()).ok_or(Problem::Invalid)?;
    }
    Ok(Record::Alloc(Alloc { ticks, kind, address, size, stack: deltas.stack }))
}

fn with_length<'a>(tag: u8, body: &mut Fields<'a>, deltas: &mut Deltas) -> Result<Record<'a>, Problem> {
    Ok(match tag {
        tag::NODE => Record::Node(Node { parent: body.u32()?, code: body.u32()?, offset: body.u32()? }),
        tag::THREAD => Record::Thread(Thread {
            ticks: body.ticks(deltas)?,
            thread: body.u32()?,
            os_tid: body.u32()?,
            pthread: body.varint()?,
        }),
        tag::THREAD_NAME => {
            Record::ThreadName(ThreadName { ticks: body.ticks(deltas)?, pthread: body.varint()?, name: body.text()? })
        }
        tag::MMAP => Record::Mmap(Mmap {
            ticks: body.ticks(deltas)?,
            address: body.varint()?,
            len: body.varint()?,
            prot: body.u32()?,
            flags: body.u32()?,
            is_arena: body.varint()? != 0,
            stack: body.u32()?,
        }),
        tag::MUNMAP => Record::Munmap(Munmap {
            ticks: body.ticks(deltas)?,
            address: body.varint()?,
            len: body.varint()?,
            is_remap: body.varint()? != 0,
        }),
        tag::MREMAP => Record::Mremap(Mremap {
            ticks: body.ticks(deltas)?,
            old_address: body.varint()?,
            address: body.varint()?,
            len: body.varint()?,
            flags: body.u32()?,
            is_arena: body.varint()? != 0,
            stack: body.u32()?,
        }),
        tag::LOST => Record::Lost(Lost { ticks: body.ticks(deltas)?, count: body.varint()? }),
        tag::CODE => Record::Code(Code {
            id: body.u32()?,
            first_line: body.u32()?,
            name: body.py_str()?,
            file: body.py_str()?,
            line_table: body.text()?,
        }),
        tag::IMAGE => Record::Image(Image { ticks: body.ticks(deltas)?, exe: body.text()?, arguments: body.text()? }),
        tag::PYTHON => {
            Record::Python(Python { version: body.u32()?, allocator: body.text()?, has_stacks: body.varint()? != 0 })
        }
        tag::NOTICE => Record::Notice(Notice { code: body.u32()?, text: body.text()? }),
        tag::CLOCK => Record::Clock(Clock { ticks: body.ticks(deltas)?, mono_nanos: body.varint()? }),
        tag::RSS => Record::Rss(Rss { ticks: body.ticks(deltas)?, mono_nanos: body.varint()?, bytes: body.varint()? }),
        unknown => Record::Unknown(unknown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode;
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

    /// One strategy per kind; ticks are differences here and made absolute by the test.
    fn records() -> impl Strategy<Value = Record<'static>> {
        let ticks = 0u64..1 << 40;
        prop_oneof![
            (ticks.clone(), kinds(false), any::<u64>(), any::<u64>(), any::<u32>()).prop_map(
                |(ticks, kind, address, size, stack)| Record::Alloc(Alloc { ticks, kind, address, size, stack })
            ),
            (ticks.clone(), kinds(true), any::<u64>()).prop_map(|(ticks, kind, address)| Record::Free(Free {
                ticks,
                kind,
                address
            })),
            ticks.clone().prop_map(|ticks| Record::Restore(Restore { ticks })),
            (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(parent, code, offset)| Record::Node(Node {
                parent,
                code,
                offset
            })),
            (ticks.clone(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(ticks, thread, os_tid, pthread)| {
                Record::Thread(Thread { ticks, thread, os_tid, pthread })
            }),
            (ticks.clone(), any::<u64>(), texts()).prop_map(|(ticks, pthread, name)| Record::ThreadName(ThreadName {
                ticks,
                pthread,
                name
            })),
            (ticks.clone(), any::<[u64; 2]>(), any::<[u32; 3]>(), any::<bool>()).prop_map(
                |(ticks, [address, len], [prot, flags, stack], is_arena)| {
                    Record::Mmap(Mmap { ticks, address, len, prot, flags, is_arena, stack })
                }
            ),
            (ticks.clone(), any::<[u64; 2]>(), any::<bool>()).prop_map(|(ticks, [address, len], is_remap)| {
                Record::Munmap(Munmap { ticks, address, len, is_remap })
            }),
            (ticks.clone(), any::<[u64; 3]>(), any::<[u32; 2]>(), any::<bool>()).prop_map(
                |(ticks, [old_address, address, len], [flags, stack], is_arena)| {
                    Record::Mremap(Mremap { ticks, old_address, address, len, flags, is_arena, stack })
                }
            ),
            (ticks.clone(), any::<u64>()).prop_map(|(ticks, count)| Record::Lost(Lost { ticks, count })),
            (any::<[u32; 2]>(), py_strs(), py_strs(), texts()).prop_map(
                |([id, first_line], name, file, line_table)| {
                    Record::Code(Code { id, first_line, name, file, line_table })
                }
            ),
            (ticks.clone(), texts(), texts()).prop_map(|(ticks, exe, arguments)| Record::Image(Image {
                ticks,
                exe,
                arguments
            })),
            (any::<u32>(), texts(), any::<bool>()).prop_map(|(version, allocator, has_stacks)| {
                Record::Python(Python { version, allocator, has_stacks })
            }),
            (any::<u32>(), texts()).prop_map(|(code, text)| Record::Notice(Notice { code, text })),
            (ticks.clone(), any::<u64>()).prop_map(|(ticks, mono_nanos)| Record::Clock(Clock { ticks, mono_nanos })),
            (ticks, any::<[u64; 2]>())
                .prop_map(|(ticks, [mono_nanos, bytes])| { Record::Rss(Rss { ticks, mono_nanos, bytes }) }),
        ]
    }

    /// Adds `base` to the ticks of a record and returns what they are then.
    fn advance(record: &mut Record<'_>, base: u64) -> u64 {
        let ticks = match record {
            Record::Alloc(it) => &mut it.ticks,
            Record::Free(it) => &mut it.ticks,
            Record::Restore(it) => &mut it.ticks,
            Record::Thread(it) => &mut it.ticks,
            Record::ThreadName(it) => &mut it.ticks,
            Record::Mmap(it) => &mut it.ticks,
            Record::Munmap(it) => &mut it.ticks,
            Record::Mremap(it) => &mut it.ticks,
            Record::Lost(it) => &mut it.ticks,
            Record::Image(it) => &mut it.ticks,
            Record::Clock(it) => &mut it.ticks,
            Record::Rss(it) => &mut it.ticks,
            Record::Node(_) | Record::Code(_) | Record::Python(_) | Record::Notice(_) | Record::Unknown(_) => {
                return base;
            }
        };
        *ticks += base;
        *ticks
    }

    proptest! {
        #[test]
        fn a_sequence_of_records_comes_back_and_every_prefix_is_a_log(
            mut sequence in proptest::collection::vec(records(), 1..20),
        ) {
            let mut ticks = 1_000;
            for record in &mut sequence {
                ticks = advance(record, ticks);
            }
            let mut buf = vec![0u8; 64 * 1024];
            let mut deltas = Deltas::at_block_start(1_000);
            let mut ends = Vec::new();
            let mut len = 0;
            for record in &sequence {
                len += encode::record(&mut buf[len..], &mut deltas, record).unwrap();
                ends.push(len);
            }
            for cut in [len, len - 1, len / 2, ends[0]] {
                let mut decoder = Decoder::new(&buf[..cut], 1_000);
                let whole = ends.iter().filter(|&&end| end <= cut).count();
                for expected in &sequence[..whole] {
                    prop_assert_eq!(decoder.next(), Ok(Some(*expected)));
                }
                if ends.contains(&cut) {
                    prop_assert_eq!(decoder.next(), Ok(None));
                } else {
                    prop_assert!(decoder.next().is_err());
                }
            }
        }

        #[test]
        fn arbitrary_bytes_end_in_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(&bytes, 0);
            while let Ok(Some(_)) = decoder.next() {}
            prop_assert!(decoder.offset() <= bytes.len());
        }

        #[test]
        fn what_does_not_fit_is_refused_and_changes_nothing(record in records(), room in 0usize..16) {
            let mut buf = vec![0u8; room];
            let mut deltas = Deltas::at_block_start(5);
            let before = deltas;
            if encode::record(&mut buf, &mut deltas, &record).is_none() {
                prop_assert_eq!(deltas, before);
            }
        }
    }

    #[test]
    fn an_unknown_record_is_skipped_by_its_length() {
        let bytes = [0xff, 2, 9, 9, hot::RESTORE, 7];
        let mut decoder = Decoder::new(&bytes, 0);
        assert_eq!(decoder.next(), Ok(Some(Record::Unknown(0xff))));
        assert_eq!(decoder.next(), Ok(Some(Record::Restore(Restore { ticks: 7 }))));
        assert_eq!(decoder.next(), Ok(None));
    }

    #[test]
    fn a_length_beyond_the_payload_is_not_believed() {
        let mut decoder = Decoder::new(&[0xff, 0xff, 0xff, 0xff, 0x7f, 1], 0);
        assert_eq!(decoder.next(), Err(DecodeError { offset: 0, problem: Problem::CutOff }));
    }
}
