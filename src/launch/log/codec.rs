//! How hard finished blocks are compressed: as hard as costs next to nothing. Called by the compactor, block by block; it
//! must never take longer than it is worth to the program that is recorded, whose processors it uses.

use std::io;

use memtrace_format::block_kind;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

/// Bytes of records with which a log is tiny: what starts an interpreter and not much more…
const TINY_LEN: u64 = 64 << 10;
/// …or short, as most are.
const SHORT_LEN: u64 = 256 << 10;

/// The codec over the blocks of one log.
#[derive(Default)]
pub struct Codec {
    compressor: Option<Compressor<'static>>,
    /// How many times shorter the last block of events became.
    ratio: usize,
}

/// What Zstandard is told.
struct Effort {
    level: i32,
    is_hasty: bool,
}

impl Codec {
    /// Compresses a block of this kind, in front of which there were `raw_len` bytes of records, into `out`.
    pub fn compress(&mut self, kind: u8, raw_len: u64, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            None => self.compressor.insert(Compressor::new(1)?),
        };
        for parameter in effort(kind, self.ratio, raw_len).parameters() {
            compressor.set_parameter(parameter)?;
        }
        out.clear();
        out.reserve(compress_bound(payload.len()));
        compressor.compress_to_buffer(payload, out)?;
        if kind == block_kind::EVENTS {
            self.ratio = payload.len() / out.len().max(1);
        }
        Ok(())
    }
}

fn effort(kind: u8, ratio: usize, raw_len: u64) -> Effort {
    let at_level = |level| Effort { level, is_hasty: false };
    match (kind, ratio, raw_len) {
        // Half a millisecond for every program, and a thirtieth less of what is all that some write.
        (.., ..TINY_LEN) => at_level(6),
        // Code objects come once, and are most of a short log.
        (block_kind::META, ..) => at_level(3),
        // What repeats itself costs no more here than below.
        (_, 8.., _) => at_level(2),
        (.., ..SHORT_LEN) => at_level(3),
        (_, 4.., _) => at_level(1),
        // 5 ns an event of Django. At level 1 it would be 9, and leave a quarter less.
        _ => Effort { level: 1, is_hasty: true },
    }
}

impl Effort {
    fn parameters(&self) -> [CParameter; 4] {
        // Zeros are what the level says. A step of three bytes where nothing was found, and literals as they are; then a
        // small table with what is well worth a match finds nearly as much as a large one.
        let [hash_log, min_match, target_length] = if self.is_hasty { [12, 7, 2] } else { [0; 3] };
        [
            CParameter::CompressionLevel(self.level),
            CParameter::HashLog(hash_log),
            CParameter::MinMatch(min_match),
            CParameter::TargetLength(target_length),
        ]
    }
}
