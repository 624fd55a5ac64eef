//! `/proc/self/maps`, line by line: what is mapped where. The one account of loaded objects that takes no lock of the
//! loader's. Called when code is met that nobody knows, which is rare.

use crate::heap::Array;
use crate::sys;

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<'a> {
    pub start: u64,
    pub end: u64,
    pub is_readable: bool,
    pub is_executable: bool,
    pub offset: u64,
    /// Device and inode; both zero without a file.
    pub file: (u64, u64),
    /// As the kernel writes it, ` (deleted)` included; empty, or a name in brackets, without a file.
    pub path: &'a [u8],
}

/// The text of the file at one time.
pub struct Maps {
    text: Array<u8>,
    len: usize,
}

const FIRST_LEN: usize = 64 * 1024;

impl Maps {
    /// `None` when it can't be read.
    pub fn read() -> Option<Maps> {
        Maps::read_into(Array::new())
    }

    /// The same in memory that is there.
    pub fn read_into(text: Array<u8>) -> Option<Maps> {
        let mut maps = Maps { text, len: 0 };
        if !maps.text.grow(FIRST_LEN) {
            return None;
        }
        let fd = sys::open_read(c"/proc/self/maps").ok()?;
        let is_whole = loop {
            if maps.len == maps.text.capacity() && !maps.text.grow(maps.len + 1) {
                break false;
            }
            match maps.text.tail_mut(maps.len).map(|rest| sys::read_at(fd, rest, maps.len as u64)) {
                Some(Ok(0)) => break true,
                Some(Ok(n_read)) => maps.len += n_read,
                Some(Err(sys::Errno(crate::abi::EINTR))) => {}
                _ => break false,
            }
        };
        sys::close(fd);
        if is_whole { Some(maps) } else { None }
    }

    /// The memory, for the next time.
    pub fn into_memory(mut self) -> Array<u8> {
        core::mem::replace(&mut self.text, Array::new())
    }

    /// The mapping that an address is in.
    pub fn at(&self, address: u64) -> Option<Mapping<'_>> {
        self.lines().find(|line| (line.start..line.end).contains(&address))
    }

    pub fn lines(&self) -> impl Iterator<Item = Mapping<'_>> {
        self.text.slice(self.len).split(|byte| *byte == b'\n').filter_map(parse)
    }
}

impl Drop for Maps {
    fn drop(&mut self) {
        self.text.release();
    }
}

/// `7f1c2a000000-7f1c2a021000 r-xp 00001000 fe:00 1234   /usr/lib/libc.so.6`
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut rest = line;
    let start = hex(&mut rest, b'-')?;
    let end = hex(&mut rest, b' ')?;
    let (&[read, _, execute, _, _], behind) = rest.split_first_chunk()?;
    rest = behind;
    let offset = hex(&mut rest, b' ')?;
    let device = hex(&mut rest, b':')? << 32 | hex(&mut rest, b' ')?;
    let mut inode = 0u64;
    while let Some((digit @ b'0'..=b'9', behind)) = rest.split_first() {
        inode = inode.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        rest = behind;
    }
    while let Some((b' ', behind)) = rest.split_first() {
        rest = behind;
    }
    let (is_readable, is_executable) = (read == b'r', execute == b'x');
    Some(Mapping { start, end, is_readable, is_executable, offset, file: (device, inode), path: rest })
}

/// A number of base 16 and what ends it.
fn hex(rest: &mut &[u8], end: u8) -> Option<u64> {
    let mut value = 0u64;
    loop {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ if byte == end => return Some(value),
            _ => return None,
        };
        value = value.checked_mul(16)? | u64::from(digit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_the_kernel_writes_it() {
        let line =
            b"7f1c2a000000-7f1c2a021000 r-xp 00001000 fe:01 1234                       /usr/lib/a b.so (deleted)";
        let expected = Mapping {
            start: 0x7f1c_2a00_0000,
            end: 0x7f1c_2a02_1000,
            is_readable: true,
            is_executable: true,
            offset: 0x1000,
            file: (0xfe << 32 | 1, 1234),
            path: b"/usr/lib/a b.so (deleted)",
        };
        assert_eq!(parse(line), Some(expected));
        let anonymous = parse(b"01000-02000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!((anonymous.path, anonymous.file, anonymous.is_executable), (&b""[..], (0, 0), false));
        let long = b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]";
        assert_eq!(parse(long).map(|line| (line.is_readable, line.path)), Some((false, &b"[vsyscall]"[..])));
        for odd in
            [&b""[..], b"x", b"10-", b"10-20", b"10-20 r", b"10-20 r-xp 11111111111111111 0:0 0", b"10-20 r-xp 0 g:0 0"]
        {
            assert_eq!(parse(odd), None);
        }
    }

    #[test]
    fn the_mappings_of_this_process_are_all_there() {
        let maps = Maps::read().unwrap();
        let here = the_mappings_of_this_process_are_all_there as *const () as u64;
        let found = maps.lines().find(|line| (line.start..line.end).contains(&here)).unwrap();
        assert!(found.is_executable);
        let expected = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        assert!(maps.lines().count().abs_diff(expected) < 5);
        assert!(maps.lines().is_sorted_by_key(|line| line.start));
    }
}
