//! Cuts real captures down to inputs of a size that a fuzzer can work with: `file` gets captures with a few records
//! in each of a few blocks, `payload` gets pieces of payloads.

use std::path::Path;

use memtrace_format::decode::Decoder;
use memtrace_format::encode::Deltas;
use memtrace_format::turn::Turn;
use memtrace_format::{
    BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, FileHeader, HEADER_LEN, PACKED_ALIGN, block_kind, codec,
};
use zerocopy::{FromBytes, IntoBytes};

const MAX_BLOCKS_OF_A_KIND: usize = 4;

/// Cuts the captures of one folder into another.
pub fn write(captures: &Path, folder: &Path) {
    for name in ["file", "payload"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    for (number, capture) in std::fs::read_dir(captures).unwrap().enumerate() {
        let bytes = std::fs::read(capture.unwrap().path()).unwrap();
        for (which, payload_len) in [200, 1000, 4000].into_iter().enumerate() {
            cut(folder, &format!("{number}-{which}"), &bytes, payload_len);
        }
    }
}

fn cut(folder: &Path, name: &str, bytes: &[u8], payload_len: usize) {
    let mut at = FileHeader::read_from_prefix(bytes).unwrap().0.header_len as usize;
    let mut file = bytes[..at].to_vec();
    let mut n_blocks = [0; 256];
    while let Some(Ok((header, rest))) = bytes.get(at..).map(BlockHeader::read_from_prefix) {
        if header.magic != BLOCK_MAGIC {
            at += PACKED_ALIGN;
            continue;
        }
        let payload = &rest[..rest.len().min(header.committed as usize)];
        at += header.capacity as usize;
        let seen = &mut n_blocks[header.kind as usize];
        *seen += 1;
        if *seen > MAX_BLOCKS_OF_A_KIND {
            continue;
        }
        let unpacked;
        let payload = match header.codec {
            codec::ZSTD => {
                unpacked = zstd::bulk::decompress(payload, header.raw_len as usize).unwrap();
                &unpacked[..]
            }
            _ => payload,
        };
        let payload = if header.kind == block_kind::END { payload } else { whole_records(payload, payload_len) };
        if header.kind == block_kind::EVENTS || header.kind == block_kind::META {
            let shape = if header.kind == block_kind::META { 4 } else { 0 };
            let piece = [&[shape][..], payload].concat();
            std::fs::write(folder.join("payload").join(format!("{name}-{}", file.len())), piece).unwrap();
        }
        // Some as they were compressed, the others plain.
        let packed = zstd::bulk::compress(payload, 1).unwrap();
        let is_compressed = header.codec == codec::ZSTD && n_blocks[header.kind as usize] % 2 == 0;
        let stored = if is_compressed { &packed } else { payload };
        let mut short = header;
        (short.codec, short.raw_len) = if is_compressed { (codec::ZSTD, payload.len() as u32) } else { (codec::RAW, 0) };
        short.committed = stored.len() as u32;
        short.capacity = (BLOCK_HEADER_LEN + stored.len()).next_multiple_of(PACKED_ALIGN) as u32;
        let start = file.len();
        file.extend_from_slice(short.as_bytes());
        file.extend_from_slice(stored);
        file.resize(start + short.capacity as usize, 0);
    }
    file.resize(file.len().max(HEADER_LEN), 0);
    crate::repair(&mut file);
    std::fs::write(folder.join("file").join(name), file).unwrap();
}

/// The records that end before so many bytes.
fn whole_records(payload: &[u8], max_len: usize) -> &[u8] {
    let mut deltas = Deltas::at_block_start(Turn::default(), 0);
    let mut decoder = Decoder::new(payload, &mut deltas);
    let mut len = 0;
    while let Ok(Some(_)) = decoder.next() {
        if decoder.offset() > max_len {
            break;
        }
        len = decoder.offset();
    }
    &payload[..len]
}
