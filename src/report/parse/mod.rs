//! Every event of a capture, one after the other: as JSON lines for programs, as text for people.

mod json;
mod text;

pub use json::JsonLines;
pub use text::Text;

use crate::model::Action;

/// What to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParseOptions {
    /// Allocations and mappings of fewer bytes are left out.
    pub min_size: u64,
    /// JSON: each stack once, on a line of its own, and its number from then on.
    pub stacks_once: bool,
}

impl ParseOptions {
    fn leaves_out(&self, action: &Action) -> bool {
        match action {
            Action::Alloc { size, .. } => *size < self.min_size,
            Action::Mmap { len, .. } | Action::Mremap { len, .. } => *len < self.min_size,
            _ => false,
        }
    }
}

/// Lines collected in memory, handed to the writer in large pieces.
pub struct Buffer<W> {
    pub bytes: Vec<u8>,
    out: W,
}

const FLUSH_LEN: usize = 128 * 1024;

impl<W: std::io::Write> Buffer<W> {
    pub fn new(out: W) -> Buffer<W> {
        Buffer { bytes: Vec::with_capacity(2 * FLUSH_LEN), out }
    }

    /// Hands on what was collected when there is enough of it.
    #[inline]
    pub fn pass(&mut self) -> std::io::Result<()> {
        if self.bytes.len() < FLUSH_LEN { Ok(()) } else { self.flush() }
    }

    pub fn flush(&mut self) -> std::io::Result<()> {
        self.out.write_all(&self.bytes)?;
        self.bytes.clear();
        // A deep stack may have made it large.
        self.bytes.shrink_to(2 * FLUSH_LEN);
        self.out.flush()
    }

    pub fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub fn decimal(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(&digits[at..]);
    }

    /// With `0x` in front.
    pub fn hex(&mut self, number: u64) {
        self.text("0x");
        let n_digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..n_digits).rev() {
            self.bytes.push(b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15]);
        }
    }
}
