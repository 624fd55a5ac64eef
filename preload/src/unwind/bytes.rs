//! Memory of the program as bytes at addresses. Whatever is not there reads as nothing.

/// A stretch of memory and where it lies.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    pub start: u64,
    pub bytes: &'a [u8],
}

/// Reads on from an address.
#[derive(Clone)]
pub struct Cursor<'a> {
    region: Region<'a>,
    at: usize,
}

impl<'a> Region<'a> {
    /// From an address on; `None` when that is elsewhere.
    pub fn cursor(&self, address: u64) -> Option<Cursor<'a>> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        (at <= self.bytes.len()).then_some(Cursor { region: *self, at })
    }

    pub fn beginning(self) -> Cursor<'a> {
        Cursor { region: self, at: 0 }
    }
}

impl<'a> Cursor<'a> {
    pub fn address(&self) -> u64 {
        self.region.start.wrapping_add(self.at as u64)
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.region.bytes.len()
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let rest = self.region.bytes.get(self.at..)?;
        let array = *rest.first_chunk::<N>()?;
        self.at += N;
        Some(array)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of 7 bits a byte, the lowest first. Bits beyond the 64th are an error.
    pub fn uleb(&mut self) -> Option<u64> {
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift >= 64 || (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
    }

    /// The same with a sign, at most ten bytes long.
    pub fn sleb(&mut self) -> Option<i64> {
        let mut value = 0i64;
        let mut shift = 0;
        loop {
            let byte = self.u8()?;
            if shift >= 64 {
                return None;
            }
            value |= i64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                let is_negative = byte & 0x40 != 0;
                return Some(if is_negative && shift < 64 { value | -1 << shift } else { value });
            }
        }
    }

    /// The next `len` bytes as a region of their own, and goes on behind them.
    pub fn take(&mut self, len: u64) -> Option<Region<'a>> {
        let len = usize::try_from(len).ok()?;
        let end = self.at.checked_add(len)?;
        let bytes = self.region.bytes.get(self.at..end)?;
        let start = self.address();
        self.at = end;
        Some(Region { start, bytes })
    }

    /// What is left.
    pub fn rest(&self) -> Region<'a> {
        Region { start: self.address(), bytes: self.region.bytes.get(self.at..).unwrap_or(&[]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(bytes: &[u8]) -> Cursor<'_> {
        Region { start: 0x1000, bytes }.cursor(0x1000).unwrap()
    }

    #[test]
    fn numbers_of_seven_bits_a_byte_are_those_of_the_standard() {
        let uleb = |bytes: &[u8]| cursor(bytes).uleb();
        let sleb = |bytes: &[u8]| cursor(bytes).sleb();
        // Figures 22 and 23 of DWARF 5.
        assert_eq!([uleb(&[2]), uleb(&[127]), uleb(&[0x80, 1]), uleb(&[0xb9, 0x64])], [2, 127, 128, 12857].map(Some));
        assert_eq!([sleb(&[2]), sleb(&[0x7e]), sleb(&[0xff, 0]), sleb(&[0x81, 0x7f])], [2, -2, 127, -127].map(Some));
        assert_eq!([sleb(&[0x80, 1]), sleb(&[0x80, 0x7f])], [128, -128].map(Some));
        assert_eq!(uleb(&[0xff; 9].iter().copied().chain([1]).collect::<Vec<_>>()), Some(u64::MAX));
        assert_eq!(uleb(&[0xff; 9].iter().copied().chain([2]).collect::<Vec<_>>()), None);
        assert_eq!((uleb(&[0x80; 20]), sleb(&[0x80; 20]), uleb(&[]), sleb(&[0x80])), (None, None, None, None));
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let region = Region { start: 0x1000, bytes: &[1, 2, 3, 4, 5] };
        assert!(region.cursor(0xfff).is_none() && region.cursor(0x1006).is_none());
        assert_eq!(region.cursor(0x1001).and_then(|mut cursor| cursor.u32()), Some(0x0504_0302));
        assert_eq!(region.cursor(0x1002).and_then(|mut cursor| cursor.u32()), None);
        assert_eq!(region.cursor(0x1005).map(|cursor| cursor.is_at_end()), Some(true));
        assert!(region.cursor(0x1001).and_then(|mut cursor| cursor.take(5)).is_none());
        assert!(region.cursor(0x1001).and_then(|mut cursor| cursor.take(u64::MAX)).is_none());
        let mut cursor = region.cursor(0x1001).unwrap();
        assert_eq!(cursor.take(2).map(|taken| (taken.start, taken.bytes)), Some((0x1001, &[2, 3][..])));
        assert_eq!((cursor.address(), cursor.rest().bytes), (0x1003, &[4, 5][..]));
    }
}
