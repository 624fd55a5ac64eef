//! How the data travels in the page: deflated, as base64.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// Raw deflate, without a header.
pub fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes everything")
}

/// How many characters base64 has for so many bytes.
pub fn base64_len(n_bytes: usize) -> usize {
    n_bytes.div_ceil(3) * 4
}
