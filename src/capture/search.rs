//! The blocks of a log that grows, found again and again. Called by `follow`.
//!
//! While a log is written, a sealed block stays where it is and as it is: it is the packed copy of one, and nothing moves it
//! before the end. So where such blocks lie one behind the other, which is most of a long log, the next search goes on behind
//! the last of them. It must never pass over a block that may change.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;

use anyhow::Result;

use super::blocks::{self, Block};

/// What is known of a log, which has not ended.
#[derive(Default)]
pub struct Search {
    /// Where sealed blocks lie one behind the other: from where up to where.
    runs: BTreeMap<u64, u64>,
    /// Those among them that were not forgotten.
    sealed: Vec<Block>,
}

impl Search {
    /// All blocks, but for those that were forgotten: as `blocks::scan` finds them.
    pub fn blocks(&mut self, file: &File) -> Result<Vec<Block>> {
        let (mut places, mut open) = (Vec::new(), Vec::new());
        let pass = |at: u64| self.runs.get(&at).copied();
        blocks::walk(file, None, pass, |place, block| {
            if block.payload_crc.is_some() {
                places.push(place);
                self.sealed.push(block);
            } else {
                open.push(block);
            }
        })?;
        places.into_iter().for_each(|place| self.add(place));
        open.extend_from_slice(&self.sealed);
        Ok(blocks::in_order(open))
    }

    /// Sealed blocks that nobody wants again.
    pub fn forget(&mut self, is_forgotten: impl Fn(&Block) -> bool) {
        self.sealed.retain(|block| !is_forgotten(block));
    }

    fn add(&mut self, place: Range<u64>) {
        let before = self.runs.range(..place.start).next_back().filter(|(_, end)| **end == place.start);
        let start = before.map_or(place.start, |(start, _)| *start);
        let end = self.runs.remove(&place.end).unwrap_or(place.end);
        self.runs.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use memtrace_format::{BlockHeader, HEADER_LEN, block_kind, block_state};
    use zerocopy::IntoBytes;

    use super::*;

    const LEN: u64 = 128;

    fn put(file: &File, number: u64, state: u32) {
        let header = BlockHeader {
            kind: block_kind::EVENTS,
            capacity: LEN as u32,
            sequence: number as u32,
            state,
            ..BlockHeader::OPEN
        };
        file.write_all_at(header.checked().as_bytes(), HEADER_LEN as u64 + number * LEN).unwrap();
    }

    fn sequences(search: &mut Search, file: &File) -> Vec<u32> {
        search.blocks(file).unwrap().iter().map(|block| block.sequence).collect()
    }

    #[test]
    fn what_was_forgotten_is_passed_over_and_whatever_else_comes_is_found() {
        let path = std::env::temp_dir().join(format!("memtrace-search-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all_at(&(HEADER_LEN as u32).to_le_bytes(), 12).unwrap();
        file.set_len(HEADER_LEN as u64 + 10 * LEN).unwrap();
        let sealed = block_state::SEALED;
        // Two runs with a hole between them, and a block behind that somebody writes to.
        [0, 1, 4, 5].iter().for_each(|number| put(&file, *number, sealed));
        put(&file, 6, block_state::OPEN);
        let mut search = Search::default();
        assert_eq!(sequences(&mut search, &file), [0, 1, 4, 5, 6]);
        assert_eq!(sequences(&mut search, &file), [0, 1, 4, 5, 6]);
        search.forget(|block| block.sequence != 4);
        assert_eq!(sequences(&mut search, &file), [4, 6]);
        // One comes in the hole, one is sealed, one comes at the end.
        put(&file, 2, sealed);
        put(&file, 6, sealed);
        put(&file, 7, sealed);
        assert_eq!(sequences(&mut search, &file), [2, 4, 6, 7]);
        search.forget(|_| true);
        put(&file, 3, sealed);
        assert_eq!(sequences(&mut search, &file), [3]);
        assert_eq!(search.runs, [(HEADER_LEN as u64, HEADER_LEN as u64 + 8 * LEN)].into());
        search.forget(|_| true);
        // Nobody looks into the run again.
        put(&file, 5, block_state::OPEN);
        assert!(sequences(&mut search, &file).is_empty());
    }
}
