//! Unwind information as compilers leave it: the sorted table of `.eh_frame_hdr` leads to a function's description (FDE),
//! and that to what it has in common with others (CIE). The formats are those of the Linux Standard Base, "Exception
//! Frames"; only what compilers for x86-64 write is understood, and whatever is odd is not there.

use super::bytes::{Cursor, Region};
use super::cfi::{self, Program};
use super::rule::Rule;

/// The unwind information of a loaded object.
#[derive(Clone, Copy)]
pub struct EhFrame<'a> {
    /// The segment that holds `.eh_frame_hdr` and `.eh_frame`.
    segment: Region<'a>,
    header: u64,
    table: Region<'a>,
}

/// Bytes of a pair in the sorted table.
const PAIR_LEN: u64 = 8;

impl<'a> EhFrame<'a> {
    /// `segment` is what `PT_LOAD` maps, `header` the address of `PT_GNU_EH_FRAME` in it.
    pub fn new(segment: Region<'a>, header: u64) -> Option<EhFrame<'a>> {
        let mut cursor = segment.cursor(header)?;
        let [version, frame_encoding, count_encoding, table_encoding] = cursor.array()?;
        if version != 1 || table_encoding != encoding::RELATIVE_TO_DATA | encoding::I32 {
            return None;
        }
        pointer(&mut cursor, frame_encoding, header)?;
        let n_pairs = pointer(&mut cursor, count_encoding, header)?;
        let table = cursor.take(n_pairs.checked_mul(PAIR_LEN)?)?;
        Some(EhFrame { segment, header, table })
    }

    /// The rule at an instruction.
    pub fn rule(&self, address: u64) -> Option<Rule> {
        let function = Function::parse(self.segment, self.find(address)?)?;
        let offset = address.checked_sub(function.start)?;
        if offset >= function.len { None } else { function.rule(offset) }
    }

    /// The description of the last function that begins at an address or before it.
    fn find(&self, address: u64) -> Option<u64> {
        let (mut low, mut high) = (0, self.table.bytes.len() as u64 / PAIR_LEN);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.pair(middle)?.0 <= address { low = middle + 1 } else { high = middle }
        }
        Some(self.pair(low.checked_sub(1)?)?.1)
    }

    /// Where a function begins, and its description.
    fn pair(&self, index: u64) -> Option<(u64, u64)> {
        let mut cursor = self.table.cursor(self.table.start.wrapping_add(index.checked_mul(PAIR_LEN)?))?;
        let mut relative = || Some(self.header.wrapping_add(cursor.u32()? as i32 as u64));
        Some((relative()?, relative()?))
    }
}

/// What a description says, its CIE included.
struct Function<'a> {
    start: u64,
    len: u64,
    common: Common<'a>,
    instructions: Region<'a>,
}

/// A CIE.
struct Common<'a> {
    code_alignment: u64,
    data_alignment: i64,
    pointer_encoding: u8,
    has_data: bool,
    is_signal: bool,
    instructions: Region<'a>,
}

impl<'a> Function<'a> {
    fn parse(segment: Region<'a>, address: u64) -> Option<Function<'a>> {
        let mut cursor = entry(segment, address)?;
        let id_address = cursor.address();
        let common = Common::parse(segment, id_address.checked_sub(u64::from(cursor.u32()?))?)?;
        let start = pointer(&mut cursor, common.pointer_encoding, 0)?;
        let len = pointer(&mut cursor, common.pointer_encoding & encoding::FORMAT, 0)?;
        if common.has_data {
            let data_len = cursor.uleb()?;
            cursor.take(data_len)?;
        }
        Some(Function { start, len, common, instructions: cursor.rest() })
    }

    /// The rule at so many bytes from the function's start.
    fn rule(&self, offset: u64) -> Option<Rule> {
        if self.common.is_signal {
            return Some(Rule::Signal);
        }
        let program = Program {
            start: self.start,
            code_alignment: self.common.code_alignment,
            data_alignment: self.common.data_alignment,
            pointer_encoding: self.common.pointer_encoding,
            common: self.common.instructions,
            instructions: self.instructions,
        };
        cfi::run(&program, self.start.checked_add(offset)?)
    }
}

impl<'a> Common<'a> {
    fn parse(segment: Region<'a>, address: u64) -> Option<Common<'a>> {
        let mut cursor = entry(segment, address)?;
        if cursor.u32()? != 0 {
            return None;
        }
        let version = cursor.u8()?;
        if version != 1 && version != 3 {
            return None;
        }
        let mut augmentation = cursor.clone();
        while cursor.u8()? != 0 {}
        let code_alignment = cursor.uleb()?;
        let data_alignment = cursor.sleb()?;
        let return_column = if version == 1 { u64::from(cursor.u8()?) } else { cursor.uleb()? };
        if return_column != u64::from(cfi::RETURN_ADDRESS) {
            return None;
        }
        let mut common = Common {
            code_alignment,
            data_alignment,
            pointer_encoding: encoding::ABSOLUTE,
            has_data: false,
            is_signal: false,
            instructions: Region { start: 0, bytes: &[] },
        };
        let mut data = None;
        loop {
            match (augmentation.u8()?, &mut data) {
                (0, _) => break,
                (b'z', None) => {
                    let len = cursor.uleb()?;
                    data = Some(cursor.take(len)?.beginning());
                    common.has_data = true;
                }
                (b'R', Some(data)) => common.pointer_encoding = data.u8()?,
                (b'L', Some(data)) => drop(data.u8()?),
                (b'P', Some(data)) => {
                    let encoding = data.u8()?;
                    pointer(data, encoding & !encoding::INDIRECT, 0)?;
                }
                (b'S', _) => common.is_signal = true,
                // Memory tagging and pointer authentication, which change nothing here.
                (b'B' | b'G', _) => {}
                _ => return None,
            }
        }
        common.instructions = cursor.rest();
        Some(common)
    }
}

/// What follows an entry's length, cut off at its end.
fn entry(segment: Region<'_>, address: u64) -> Option<Cursor<'_>> {
    let mut cursor = segment.cursor(address)?;
    let len = cursor.u32()?;
    // 0 ends the section, and this is the 64-bit format, which nobody writes.
    if len == 0 || len == u32::MAX { None } else { Some(cursor.take(u64::from(len))?.beginning()) }
}

/// `DW_EH_PE_*`.
pub mod encoding {
    pub const ABSOLUTE: u8 = 0x00;
    pub const ULEB: u8 = 0x01;
    pub const U16: u8 = 0x02;
    pub const U32: u8 = 0x03;
    pub const U64: u8 = 0x04;
    pub const SLEB: u8 = 0x09;
    pub const I16: u8 = 0x0a;
    pub const I32: u8 = 0x0b;
    pub const I64: u8 = 0x0c;
    /// The bits that say how long a pointer is.
    pub const FORMAT: u8 = 0x0f;
    pub const RELATIVE_TO_ITSELF: u8 = 0x10;
    pub const RELATIVE_TO_DATA: u8 = 0x30;
    pub const INDIRECT: u8 = 0x80;
}

/// An encoded pointer.
pub fn pointer(cursor: &mut Cursor<'_>, encoding: u8, data: u64) -> Option<u64> {
    let base = match encoding & !encoding::FORMAT {
        0 => 0,
        encoding::RELATIVE_TO_ITSELF => cursor.address(),
        encoding::RELATIVE_TO_DATA => data,
        _ => return None,
    };
    let value = match encoding & encoding::FORMAT {
        encoding::ABSOLUTE | encoding::U64 | encoding::I64 => cursor.u64()?,
        encoding::ULEB => cursor.uleb()?,
        encoding::SLEB => cursor.sleb()? as u64,
        encoding::U16 => u64::from(cursor.u16()?),
        encoding::U32 => u64::from(cursor.u32()?),
        encoding::I16 => cursor.u16()? as i16 as u64,
        encoding::I32 => cursor.u32()? as i32 as u64,
        _ => return None,
    };
    Some(base.wrapping_add(value))
}
