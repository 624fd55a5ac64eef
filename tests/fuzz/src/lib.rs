//! What the fuzz targets share: a file to put the input into, and checksums made right, without which no mutation
//! would get past the header of its block.

use std::path::PathBuf;

use memtrace_format::{
    BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, FileHeader, HEADER_LEN, PACKED_ALIGN, block_state, crc32c,
};
use zerocopy::{FromBytes, IntoBytes};

pub mod seeds;

#[path = "../../support/consume.rs"]
pub mod consume;

/// Does with the input everything that any command does with a capture.
pub fn consume(bytes: &[u8]) {
    let folder = if PathBuf::from("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let path = folder.join(format!("memtrace-fuzz-{}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let _ = consume::consume_with_all_reports(&path);
    std::fs::remove_file(&path).unwrap();
}

/// Gives every block header, the description and every sealed payload the checksum that it needs to be believed.
pub fn repair(bytes: &mut [u8]) {
    let mut first = HEADER_LEN;
    if let Ok((mut header, rest)) = FileHeader::read_from_prefix(bytes) {
        first = (header.header_len as usize).next_multiple_of(PACKED_ALIGN);
        if let Some(info) = rest.get(..header.info_len as usize) {
            header.info_crc = crc32c(info);
            let _ = header.write_to_prefix(bytes);
        }
    }
    for at in (first..bytes.len()).step_by(PACKED_ALIGN) {
        let Ok((mut header, _)) = BlockHeader::read_from_prefix(&bytes[at..]) else { continue };
        if header.magic != BLOCK_MAGIC {
            continue;
        }
        header = header.checked();
        let payload = bytes.get(at + BLOCK_HEADER_LEN..at + BLOCK_HEADER_LEN + header.committed as usize);
        if let (block_state::SEALED, Some(payload)) = (header.state, payload) {
            header.payload_crc = crc32c(payload);
        }
        let _ = header.write_to_prefix(&mut bytes[at..]);
    }
}
