//! Code objects as the recorder described them, and the frames that their instructions stand for.

use hashbrown::HashMap;
use memtrace_format::record::{self, PyStr};

use super::lines::{Encoding, Lines};
use super::stacks::{Frame, FrameId};
use super::strings::StringId;

struct Code {
    function: StringId,
    file: StringId,
    lines: Lines,
}

#[derive(Default)]
pub struct Codes {
    codes: HashMap<(u16, u32), Code>,
    frames: HashMap<(u16, u32, u32), FrameId>,
}

impl Codes {
    pub fn add(&mut self, image: u16, code: &record::Code<'_>, function: StringId, file: StringId, encoding: Encoding) {
        let lines = || Lines::new(encoding, code.first_line, code.line_table);
        self.codes.entry((image, code.id)).or_insert_with(|| Code { function, file, lines: lines() });
    }

    /// The frame of an instruction; `None` when the code object was never described.
    pub fn locate(&mut self, image: u16, code: u32, offset: u32) -> Option<Frame> {
        let code = self.codes.get_mut(&(image, code))?;
        Some(Frame { function: code.function, file: code.file, line: code.lines.at(offset), is_native: false })
    }

    pub fn cached_frame(&self, image: u16, code: u32, offset: u32) -> Option<FrameId> {
        self.frames.get(&(image, code, offset)).copied()
    }

    pub fn cache_frame(&mut self, image: u16, code: u32, offset: u32, frame: FrameId) {
        self.frames.insert((image, code, offset), frame);
    }
}

/// A string of the interpreter as text. What is not Unicode (lone surrogates, which file names that are not UTF-8
/// have) is shown as Python's `backslashreplace` does: `\udc80`.
pub fn decode_py_str(string: PyStr<'_>) -> String {
    let (pairs, quads) = (string.bytes.as_chunks::<2>().0, string.bytes.as_chunks::<4>().0);
    match string.width {
        1 => string.bytes.iter().map(|&byte| byte as char).collect(),
        2 => text(pairs.iter().map(|&pair| u16::from_le_bytes(pair) as u32)),
        _ => text(quads.iter().map(|&quad| u32::from_le_bytes(quad))),
    }
}

fn text(numbers: impl Iterator<Item = u32>) -> String {
    let mut text = String::new();
    for number in numbers {
        match char::from_u32(number) {
            Some(character) => text.push(character),
            None if number <= 0xffff => text += &format!("\\u{number:04x}"),
            None => text += &format!("\\U{number:08x}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_every_width_are_read() {
        let check = |width, bytes: &[u8], expected: &str| {
            assert_eq!(decode_py_str(PyStr { width, bytes }), expected);
        };
        check(1, b"caf\xe9", "café");
        check(2, &[0x3b, 0x04, b'x', 0x00], "лx");
        check(4, &[0x40, 0xf6, 0x01, 0x00, b'y', 0, 0, 0], "🙀y");
        check(1, b"", "");
    }

    #[test]
    fn surrogates_and_nonsense_are_shown_with_a_backslash() {
        assert_eq!(decode_py_str(PyStr { width: 2, bytes: &[0x80, 0xdc, b'a', 0] }), "\\udc80a");
        assert_eq!(decode_py_str(PyStr { width: 4, bytes: &[0xff, 0xff, 0xff, 0xff] }), "\\Uffffffff");
        assert_eq!(decode_py_str(PyStr { width: 4, bytes: &[1, 2, 3] }), "");
    }
}
