//! The payloads of a few blocks: the first byte of the input says of which kind each is and where it ends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace_format::{
    BLOCK_ALIGN, BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, FileHeader, HEADER_LEN, MAGIC, VERSION, block_kind,
    codec,
};
use zerocopy::{FromZeros, IntoBytes};

fuzz_target!(|bytes: &[u8]| {
    let Some((&shape, payloads)) = bytes.split_first() else { return };
    let mut header = FileHeader::new_zeroed();
    (header.magic, header.version, header.header_len) = (MAGIC, VERSION, HEADER_LEN as u32);
    let mut file = header.as_bytes().to_vec();
    file.resize(HEADER_LEN, 0);
    // Metadata first, then up to three blocks of events in one or two lanes and images.
    let n_blocks = (shape & 3) as usize + 1;
    for (index, payload) in payloads.chunks(payloads.len().div_ceil(n_blocks).max(1)).enumerate() {
        let mut block = BlockHeader::new_zeroed();
        block.magic = BLOCK_MAGIC;
        block.kind = match index {
            0 if shape & 4 != 0 => block_kind::META,
            1 if shape & 8 != 0 => block_kind::LAUNCHER,
            _ => block_kind::EVENTS,
        };
        block.image = if shape & 16 != 0 { index as u16 / 2 } else { 0 };
        block.lane = if shape & 32 != 0 { index as u32 % 2 } else { 0 };
        block.sequence = index as u32;
        block.thread = 1;
        block.capacity = (BLOCK_HEADER_LEN + payload.len()).next_multiple_of(BLOCK_ALIGN) as u32;
        if shape & 64 != 0 {
            // What is hostile is the compressed frame.
            (block.codec, block.raw_len) = (codec::ZSTD, u32::from(shape) << 8);
        }
        block.committed = payload.len() as u32;
        block = block.checked();
        let start = file.len();
        file.extend_from_slice(block.as_bytes());
        file.extend_from_slice(payload);
        file.resize(start + block.capacity as usize, 0);
    }
    memtrace_fuzz::consume(&file);
});
