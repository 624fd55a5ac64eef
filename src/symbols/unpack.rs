//! Compressed parts of ELF files: sections in zlib or zstd, and the xz of `.gnu_debugdata`.
//!
//! What a file says about the size of what it holds is believed as far as memory for it goes.

use std::io::{Cursor, Read};

/// Debug information shrinks to a third or a fifth; nothing honest shrinks like this.
const MAX_RATIO: u64 = 1000;
/// The minidebuginfo of a large program is a few megabytes.
const MAX_XZ_BYTES: u64 = 256 << 20;
/// For the dictionary of the xz decoder.
const MAX_XZ_MEMORY_KIB: u32 = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Zlib,
    Zstd,
}

impl Compression {
    /// The bytes of a section that says it has `len` of them; `None` when that is not so.
    pub fn unpack(self, packed: &[u8], len: u64) -> Option<Vec<u8>> {
        if len / MAX_RATIO > packed.len() as u64 {
            return None;
        }
        match self {
            Compression::Zlib => exactly(flate2::read::ZlibDecoder::new(packed), len),
            Compression::Zstd => exactly(zstd::stream::read::Decoder::with_buffer(packed).ok()?, len),
        }
    }
}

/// The file inside a section `.gnu_debugdata`.
pub fn unpack_xz(packed: &[u8]) -> Option<Vec<u8>> {
    let decoder = lzma_rust2::XzReader::new_mem_limit(Cursor::new(packed), true, MAX_XZ_MEMORY_KIB);
    let mut bytes = Vec::new();
    decoder.take(MAX_XZ_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn exactly(decoder: impl Read, len: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder.take(len.checked_add(1)?).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == len).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_says_a_wrong_size_is_none() {
        let packed = zstd::encode_all(&[7_u8; 1000][..], 3).unwrap();
        assert_eq!(Compression::Zstd.unpack(&packed, 1000), Some(vec![7; 1000]));
        for wrong in [0, 999, 1001, u64::MAX] {
            assert_eq!(Compression::Zstd.unpack(&packed, wrong), None, "{wrong}");
        }
        assert_eq!(Compression::Zlib.unpack(&packed, 1000), None);
    }
}
