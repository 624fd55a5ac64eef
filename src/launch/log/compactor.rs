//! Finished blocks become small and move down: each is compressed into the first free space. Where it was there is free
//! space then, or, when its writer has kept the window, the place of a later block of the same lane. Called by the log,
//! block by block, while the program writes further ones.
//!
//! ```text
//!     ┌───────────────────────────────────────────┐
//!     ▼                                           │
//!  ├─┼─ free ─ ─┼───────┼───────┼─ ─ free ─ ─ ─┼──┴────┼───────┼───────┤
//!  packed        of an   released                closed   kept    open
//!                idle
//!                thread
//! ```
//!
//! It must never touch a block that somebody may still write to, nor give up the only copy of one.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use memtrace_format::{BLOCK_ALIGN, BlockHeader, LAUNCHER_IMAGE, MAX_COMPRESSED_RAW_LEN, block_state, codec};
use zerocopy::IntoBytes;

use super::codec::Codec;
use super::place::{Place, packed_len};
use super::space::FreeSpace;
use crate::capture::blocks::{Found, find_header, read_header};
use crate::capture::count;

/// What is taken from the end of the file when no free space is left, in bytes.
const ROOM_LEN: u64 = 1 << 20;

/// Puts the blocks of one log in order.
pub struct Compactor {
    space: FreeSpace,
    /// Where the first packed block is.
    start: u64,
    /// Blocks in front of this are known…
    frontier: u64,
    /// …and behind it some that are packed, in these ranges.
    rooms: VecDeque<Range<u64>>,
    /// Ranges in front of it that had been taken and not begun when it passed them.
    unbegun: Vec<Range<u64>>,
    /// Blocks that are packed, where their writers may begin others.
    released: Vec<Place>,
    /// The last image that has begun a block: what earlier ones kept is nobody's.
    image: u16,
    /// The last known block of each lane: the one that its thread may write to.
    last_by_lane: HashMap<(u8, u16, u32), Place>,
    /// Blocks whose writer has gone on to another.
    closed: VecDeque<Place>,
    /// Those among them that could not be packed.
    left: Vec<Place>,
    /// Where the last of the blocks ends that need nothing more.
    end: u64,
    n_events: u64,
    raw_len: u64,
    codec: Codec,
    payload: Vec<u8>,
    compressed: Vec<u8>,
}

/// Takes bytes at the end of the file; where they start.
type Take<'a> = &'a mut dyn FnMut(u64) -> u64;

/// What came out.
pub struct Compacted {
    /// Where the last block ends.
    pub end: u64,
    /// Bytes of records in all blocks, uncompressed.
    pub raw_len: u64,
    pub n_events: u64,
}

impl Compactor {
    /// Over the blocks from `start` on, with nothing between `free_start` and there.
    pub fn new(free_start: u64, start: u64) -> Compactor {
        let mut space = FreeSpace::default();
        space.give(free_start, start);
        Compactor {
            space,
            start: free_start,
            frontier: start,
            rooms: VecDeque::new(),
            unbegun: Vec::new(),
            released: Vec::new(),
            image: 0,
            last_by_lane: HashMap::new(),
            closed: VecDeque::new(),
            left: Vec::new(),
            end: free_start,
            n_events: 0,
            raw_len: 0,
            codec: Codec::default(),
            payload: Vec::new(),
            compressed: Vec::new(),
        }
    }

    /// Notes the blocks in front of `end` that were begun since the last time.
    pub fn look(&mut self, file: &File, end: u64) -> io::Result<()> {
        for gap in std::mem::take(&mut self.unbegun) {
            self.meet_between(file, gap)?;
        }
        while let Some(room) = self.rooms.front().filter(|room| room.start < end).cloned() {
            self.meet_between(file, self.frontier..room.start)?;
            self.frontier = self.frontier.max(room.end);
            self.rooms.pop_front();
        }
        self.frontier = self.meet_all(file, self.frontier..end)?;
        self.meet_again(file)
    }

    /// Notes the blocks that were begun in released places.
    fn meet_again(&mut self, file: &File) -> io::Result<()> {
        let mut index = 0;
        while let Some(&place) = self.released.get(index) {
            let header = read_header(file, place.offset)?;
            if header.is_some_and(|it| it.state == block_state::RELEASED) && place.header.image == self.image {
                index += 1;
                continue;
            }
            self.released.swap_remove(index);
            match header {
                Some(header) if header.state == block_state::RELEASED => self.give_up(file, &place),
                // Whatever else is there, the program has put it there.
                Some(header) if header.capacity == place.header.capacity => self.meet(Place { header, ..place }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes the blocks in a range behind which there are others, and what of it is not begun.
    fn meet_between(&mut self, file: &File, range: Range<u64>) -> io::Result<()> {
        let rest = self.meet_all(file, range.clone())?..range.end;
        if !rest.is_empty() {
            self.unbegun.push(rest);
        }
        Ok(())
    }

    /// Notes the blocks in a range; where the last of them ends.
    fn meet_all(&mut self, file: &File, range: Range<u64>) -> io::Result<u64> {
        let mut start = range.start;
        while start < range.end {
            let Found { offset, header: Some(header), .. } = find_header(file, start, range.end)? else { break };
            if offset > start {
                self.unbegun.push(start..offset);
            }
            if matches!(header.state, block_state::OPEN | block_state::CLOSED | block_state::KEPT) {
                self.meet(Place { offset, header });
            }
            start = offset + u64::from(header.capacity);
        }
        Ok(start)
    }

    fn meet(&mut self, place: Place) {
        if place.header.image != LAUNCHER_IMAGE {
            self.image = self.image.max(place.header.image);
        }
        let lane = (place.header.kind, place.header.image, place.header.lane);
        let Some(other) = self.last_by_lane.insert(lane, place) else { return };
        if other.header.sequence > place.header.sequence {
            self.last_by_lane.insert(lane, other);
            self.closed.push_back(place);
        } else {
            self.closed.push_back(other);
        }
    }

    /// Whether there are blocks to pack.
    pub fn has_work(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Packs the block that was closed first.
    pub fn step(&mut self, file: &File, take: Take<'_>) -> io::Result<()> {
        let Some(place) = self.closed.pop_front() else { return Ok(()) };
        let packed = self.pack(file, &place, Some(take));
        if !matches!(packed, Ok(true)) {
            self.left.push(place);
        }
        packed.map(|_| ())
    }

    /// Treats what is left, once nobody writes any more. Blocks that are not packed, because `packs` says so or there
    /// is no space, are sealed where they are; when `is_enough` the rest stays as it is.
    pub fn finish(
        &mut self,
        file: &File,
        end: u64,
        packs: bool,
        is_enough: &mut dyn FnMut() -> bool,
    ) -> io::Result<Compacted> {
        self.look(file, end)?;
        for place in std::mem::take(&mut self.released) {
            self.give_up(file, &place);
        }
        let mut rest: Vec<Place> = self.closed.drain(..).chain(self.left.drain(..)).collect();
        rest.extend(self.last_by_lane.drain().map(|(_, place)| place));
        rest.sort_by_key(|place| place.offset);
        let mut last_in_place = None;
        for place in &rest {
            if is_enough() {
                self.leave(file, place)?;
                continue;
            }
            if packs && self.pack(file, place, None).unwrap_or(false) {
                continue;
            }
            if let Some(sealed) = self.seal(file, place)? {
                last_in_place = Some(sealed);
            }
        }
        if packs {
            self.move_down(file, is_enough)?;
        }
        if let Some(mut last) = last_in_place.filter(|last| last.end() == self.end) {
            last.header.capacity = last.used_len() as u32;
            last.header = last.header.checked();
            file.write_all_at(last.header.as_bytes(), last.offset)?;
            self.end = last.end();
        }
        Ok(Compacted { end: self.end, raw_len: self.raw_len, n_events: self.n_events })
    }

    /// Moves a block, compressed if that helps, into the first free space. While the program runs, more of it can be
    /// taken. `false` when there is not enough, when the block is too long, or when somebody may write to it.
    fn pack(&mut self, file: &File, place: &Place, take: Option<Take<'_>>) -> io::Result<bool> {
        let Some(mut place) = place.now(file)? else { return Ok(false) };
        let is_running = take.is_some();
        let is_open = place.header.state == block_state::OPEN;
        if is_open && is_running || place.header.committed as usize > MAX_COMPRESSED_RAW_LEN {
            return Ok(false);
        }
        self.read_payload(file, &mut place)?;
        self.codec.compress(place.header.kind, self.raw_len, &self.payload, &mut self.compressed)?;
        let len = packed_len(self.packed().1.len());
        let Some(offset) = self.take_space(len, take) else { return Ok(false) };
        let (codec, bytes) = self.packed();
        let header = BlockHeader {
            codec,
            capacity: len as u32,
            committed: bytes.len() as u32,
            state: block_state::SEALED,
            payload_crc: crc32c::crc32c(bytes),
            raw_len: self.payload.len() as u32,
            ..place.header
        };
        let packed = Place { offset, header: header.checked() };
        if let Err(error) = packed.write(file, bytes) {
            self.give_up(file, &packed);
            return Err(error);
        }
        self.done(&place, packed.end());
        let is_kept = is_running && place.header.state == block_state::KEPT && place.header.image == self.image;
        if is_kept && place.release(file).is_ok() {
            self.released.push(place);
        } else {
            self.give_up(file, &place);
        }
        Ok(true)
    }

    /// The codec and the bytes that the payload became.
    fn packed(&self) -> (u8, &[u8]) {
        let is_shorter = self.compressed.len() < self.payload.len();
        if is_shorter { (codec::ZSTD, &self.compressed) } else { (codec::RAW, &self.payload) }
    }

    /// The first free space of that length.
    fn take_space(&mut self, len: u64, take: Option<Take<'_>>) -> Option<u64> {
        self.space.take(len).or_else(|| {
            let room_len = len.max(ROOM_LEN).next_multiple_of(BLOCK_ALIGN as u64);
            let start = take?(room_len);
            self.rooms.push_back(start..start + room_len);
            self.space.give(start, start + room_len);
            self.space.take(len)
        })
    }

    /// Has a place be free space.
    fn give_up(&mut self, file: &File, place: &Place) {
        if place.clear(file).is_ok() {
            self.space.give(place.offset, place.end());
        }
    }

    /// Moves the last blocks into free space in front of them, as long as there is some.
    fn move_down(&mut self, file: &File, is_enough: &mut dyn FnMut() -> bool) -> io::Result<()> {
        let mut blocks = Vec::new();
        let mut start = self.start;
        while start < self.end
            && let Found { offset, header: Some(header), .. } = find_header(file, start, self.end)?
        {
            let place = Place { offset, header };
            start = place.end();
            blocks.push(place);
        }
        self.end = self.start;
        let mut left = Vec::new();
        while let Some(last) = blocks.pop() {
            let moved = if is_enough() { None } else { self.moved_down(file, &last).unwrap_or(None) };
            self.end = self.end.max(moved.unwrap_or(last).end());
            if moved.is_none() {
                break;
            }
            left.push(last);
        }
        // Most are behind the end now, and go with the rest of the file.
        for place in left.iter().filter(|place| place.offset < self.end) {
            let _ = place.clear(file);
        }
        Ok(())
    }

    /// A second, lower copy of a sealed block; `None` when there is no space for one.
    fn moved_down(&mut self, file: &File, place: &Place) -> io::Result<Option<Place>> {
        let committed = place.header.committed as usize;
        if place.header.state != block_state::SEALED || committed > MAX_COMPRESSED_RAW_LEN {
            return Ok(None);
        }
        let len = packed_len(committed);
        let Some(offset) = self.space.take(len) else { return Ok(None) };
        let moved = Place { offset, header: BlockHeader { capacity: len as u32, ..place.header }.checked() };
        if offset > place.offset {
            self.space.give(offset, moved.end());
            return Ok(None);
        }
        let is_read = place.read(file, &mut self.payload);
        if let Err(error) = is_read.and_then(|()| moved.write(file, &self.payload)) {
            self.give_up(file, &moved);
            return Err(error);
        }
        Ok(Some(moved))
    }

    /// Stores the checksum of a block where it is, and gives its unused part back to the file system. `None` when it is
    /// a block no more.
    fn seal(&mut self, file: &File, place: &Place) -> io::Result<Option<Place>> {
        let Some(mut place) = place.now(file)? else { return Ok(None) };
        self.read_payload(file, &mut place)?;
        if place.header.state != block_state::SEALED {
            place.header.payload_crc = crc32c::crc32c(&self.payload);
            place.header.state = block_state::SEALED;
            file.write_all_at(place.header.as_bytes(), place.offset)?;
        }
        self.done(&place, place.end());
        place.trim(file);
        Ok(Some(place))
    }

    fn leave(&mut self, file: &File, place: &Place) -> io::Result<()> {
        if let Some(mut place) = place.now(file)? {
            if place.header.state == block_state::OPEN {
                self.read_payload(file, &mut place)?;
            }
            self.done(&place, place.end());
        }
        Ok(())
    }

    /// Reads what a block holds, and completes its header when its writer never went on to another block.
    fn read_payload(&mut self, file: &File, place: &mut Place) -> io::Result<()> {
        place.read(file, &mut self.payload)?;
        if place.header.state == block_state::OPEN {
            place.header.n_events = count::events(&place.header, &self.payload);
        }
        Ok(())
    }

    /// Counts a block that ends at `end` now; `place` is as its writer left it.
    fn done(&mut self, place: &Place, end: u64) {
        self.end = self.end.max(end);
        self.raw_len += u64::from(place.header.committed);
        self.n_events += u64::from(place.header.n_events);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::mem::offset_of;
    use std::path::PathBuf;

    use memtrace_format::{BLOCK_HEADER_LEN, HEADER_LEN, PACKED_ALIGN, block_kind};
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    use super::*;
    use crate::capture::blocks;
    use crate::model::Facts;

    const START: u64 = HEADER_LEN as u64;

    /// A log as a recorder with several threads writes it, and what every reader has to find in it.
    struct Writers {
        path: PathBuf,
        file: File,
        next_offset: u64,
        image: u16,
        lanes: Vec<Lane>,
        payloads: BTreeMap<Key, Vec<u8>>,
    }

    /// Image, lane and sequence.
    type Key = (u16, u32, u32);

    const N_KEPT: usize = 2;

    #[derive(Default)]
    struct Lane {
        n_blocks: u32,
        /// Taken and, when the header is there, begun.
        open: Option<Place>,
        is_begun: bool,
        /// Offset and capacity of windows that may be used again.
        kept: Vec<(u64, u32)>,
    }

    impl Writers {
        fn new(start: u64) -> Writers {
            static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("memtrace-compactor-{}-{number}", std::process::id()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            Writers {
                path,
                file,
                next_offset: start,
                image: 0,
                lanes: (0..4).map(|_| Lane::default()).collect(),
                payloads: BTreeMap::new(),
            }
        }

        /// Of a window that is used again, the new header is there but for its state.
        fn take(&mut self, lane: u32, capacity: usize) {
            self.close(lane);
            let it = &mut self.lanes[lane as usize];
            let header = BlockHeader {
                kind: block_kind::EVENTS,
                image: self.image,
                capacity: capacity as u32,
                lane,
                sequence: it.n_blocks,
                thread: lane + 1,
                ..BlockHeader::OPEN
            };
            let header = header.checked();
            let is_released = |offset| {
                let mut state = [0; 4];
                self.file.read_exact_at(&mut state, offset + offset_of!(BlockHeader, state) as u64).unwrap();
                u32::from_le_bytes(state) == block_state::RELEASED
            };
            let released = it.kept.iter().find(|kept| kept.1 == header.capacity && is_released(kept.0));
            let offset = match released {
                Some(&(offset, _)) => {
                    let beginning = BlockHeader { state: block_state::RELEASED, ..header };
                    self.file.write_all_at(beginning.as_bytes(), offset).unwrap();
                    offset
                }
                None => {
                    self.next_offset += capacity as u64;
                    self.next_offset - capacity as u64
                }
            };
            it.n_blocks += 1;
            it.open = Some(Place { offset, header });
            it.is_begun = false;
        }

        fn begin(&mut self, lane: u32) {
            let it = &mut self.lanes[lane as usize];
            if let Some(place) = it.open.filter(|_| !it.is_begun) {
                self.file.write_all_at(place.header.as_bytes(), place.offset).unwrap();
                self.payloads.insert((self.image, lane, place.header.sequence), Vec::new());
                it.is_begun = true;
            }
        }

        fn append(&mut self, lane: u32, bytes: &[u8]) {
            self.begin(lane);
            let Some(place) = &mut self.lanes[lane as usize].open else { return };
            let payload = self.payloads.get_mut(&(self.image, lane, place.header.sequence)).unwrap();
            let room = place.header.capacity as usize - BLOCK_HEADER_LEN - payload.len();
            let bytes = &bytes[..bytes.len().min(room)];
            let at = place.offset + (BLOCK_HEADER_LEN + payload.len()) as u64;
            payload.extend_from_slice(bytes);
            place.header.committed = payload.len() as u32;
            self.file.write_all_at(bytes, at).unwrap();
            self.file.write_all_at(place.header.as_bytes(), place.offset).unwrap();
        }

        fn close(&mut self, lane: u32) {
            let it = &mut self.lanes[lane as usize];
            if let Some(mut place) = it.open.take().filter(|_| it.is_begun) {
                let window = (place.offset, place.header.capacity);
                if !it.kept.contains(&window) && it.kept.len() < N_KEPT {
                    it.kept.push(window);
                }
                place.header.state = if it.kept.contains(&window) { block_state::KEPT } else { block_state::CLOSED };
                self.file.write_all_at(place.header.as_bytes(), place.offset).unwrap();
            }
        }

        /// The next program of the process knows nothing of the blocks of this one.
        fn exec(&mut self) {
            self.image += 1;
            self.lanes.fill_with(Lane::default);
        }

        fn pack(&mut self, compactor: &mut Compactor) {
            let next_offset = &mut self.next_offset;
            let mut take = |len: u64| {
                *next_offset += len;
                *next_offset - len
            };
            compactor.step(&self.file, &mut take).unwrap();
        }

        /// Every block that was begun is there once, with all that was committed to it.
        fn check(&self) {
            let mut found = BTreeMap::new();
            let mut facts = Facts::default();
            for block in blocks::scan(&self.file, Some(&mut facts)).unwrap() {
                let mut bytes = vec![0; block.payload_len as usize];
                self.file.read_exact_at(&mut bytes, block.payload_offset).unwrap();
                if let Some(crc) = block.payload_crc {
                    assert_eq!(crc, crc32c::crc32c(&bytes), "{block:?}");
                }
                if block.codec == codec::ZSTD {
                    bytes = zstd::bulk::decompress(&bytes, block.raw_len as usize).unwrap();
                }
                assert!(
                    found.insert((block.image, block.lane, block.sequence), bytes).is_none(),
                    "{block:?} is there twice"
                );
            }
            assert_eq!(facts.damage, []);
            assert!(found == self.payloads, "found {:?}, wrote {:?}", lengths(&found), lengths(&self.payloads));
        }
    }

    impl Drop for Writers {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn lengths(payloads: &BTreeMap<Key, Vec<u8>>) -> Vec<(Key, usize)> {
        payloads.iter().map(|(key, bytes)| (*key, bytes.len())).collect()
    }

    /// What a payload is made of.
    #[derive(Clone, Copy, Debug)]
    enum Text {
        /// It compresses well.
        Plain,
        /// It compresses hardly at all.
        Random(u32),
        /// Whoever takes a part of it for a block finds one.
        Headers,
    }

    fn bytes(len: usize, text: Text) -> Vec<u8> {
        let header = BlockHeader { kind: block_kind::EVENTS, capacity: 64, lane: 99, ..BlockHeader::OPEN }.checked();
        let mut state = if let Text::Random(seed) = text { seed | 1 } else { 0 };
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        let byte = |at| match text {
            Text::Plain => (at % 7) as u8,
            Text::Random(_) => random(),
            Text::Headers => header.as_bytes()[at % BLOCK_HEADER_LEN],
        };
        (0..len).map(byte).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take { lane: u32, n_pages: usize },
        Begin { lane: u32 },
        Append { lane: u32, len: usize, text: Text },
        Close { lane: u32 },
        Exec,
        Look,
        Pack,
    }

    fn a_text() -> impl Strategy<Value = Text> {
        prop_oneof![Just(Text::Plain), any::<u32>().prop_map(Text::Random), Just(Text::Headers)]
    }

    fn a_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => (0u32..4, 1usize..4).prop_map(|(lane, n_pages)| Step::Take { lane, n_pages }),
            10 => (0u32..4).prop_map(|lane| Step::Begin { lane }),
            40 => (0u32..4, 0usize..9000, a_text()).prop_map(|(lane, len, text)| Step::Append { lane, len, text }),
            10 => (0u32..4).prop_map(|lane| Step::Close { lane }),
            1 => Just(Step::Exec),
            20 => Just(Step::Look),
            30 => Just(Step::Pack),
        ]
    }

    fn check(steps: &[Step], n_free: u64, packs_at_end: bool, n_before_enough: usize) {
        let start = START + n_free * PACKED_ALIGN as u64;
        let start = start.next_multiple_of(BLOCK_ALIGN as u64);
        let mut log = Writers::new(start);
        let mut compactor = Compactor::new(START, start);
        for step in steps {
            match *step {
                Step::Take { lane, n_pages } => log.take(lane, n_pages * BLOCK_ALIGN),
                Step::Begin { lane } => log.begin(lane),
                Step::Append { lane, len, text } => log.append(lane, &bytes(len, text)),
                Step::Close { lane } => log.close(lane),
                Step::Exec => log.exec(),
                Step::Look => compactor.look(&log.file, log.next_offset).unwrap(),
                Step::Pack => log.pack(&mut compactor),
            }
            log.check();
        }
        let mut n_left = n_before_enough;
        let mut is_enough = || {
            n_left = n_left.saturating_sub(1);
            n_left == 0
        };
        let compacted = compactor.finish(&log.file, log.next_offset, packs_at_end, &mut is_enough).unwrap();
        log.check();
        log.file.set_len(compacted.end).unwrap();
        log.check();
        let raw_len: usize = log.payloads.values().map(Vec::len).sum();
        assert_eq!(compacted.raw_len, raw_len as u64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn whatever_happens_in_between_every_record_is_there_once(
            steps in proptest::collection::vec(a_step(), 1..120),
            n_free in 0u64..600,
            packs_at_end in any::<bool>(),
            n_before_enough in prop_oneof![Just(usize::MAX), 1usize..5],
        ) {
            check(&steps, n_free, packs_at_end, n_before_enough);
        }
    }

    /// Where the first block is, with free space in front of it.
    const BEHIND_HOLE: u64 = START + 256 * 1024;

    fn behind_hole() -> (Writers, Compactor) {
        (Writers::new(BEHIND_HOLE), Compactor::new(START, BEHIND_HOLE))
    }

    /// Blocks of 64 KiB, closed and compressible, in turn in each of the lanes.
    fn write_blocks(log: &mut Writers, n_blocks: u32) {
        for number in 0..n_blocks {
            log.take(number % 4, 16 * BLOCK_ALIGN);
            log.append(number % 4, &bytes(16 * BLOCK_ALIGN, Text::Plain));
        }
    }

    fn pack_all(log: &mut Writers, compactor: &mut Compactor) {
        compactor.look(&log.file, log.next_offset).unwrap();
        while compactor.has_work() {
            log.pack(compactor);
        }
    }

    fn bytes_on_disk(log: &Writers) -> u64 {
        std::os::unix::fs::MetadataExt::blocks(&log.file.metadata().unwrap()) * 512
    }

    #[test]
    fn the_file_takes_little_more_space_than_its_compressed_blocks_while_it_grows() {
        let (mut log, mut compactor) = behind_hole();
        for _ in 0..10 {
            write_blocks(&mut log, 40);
            pack_all(&mut log, &mut compactor);
            // Of each lane one block is open and its kept windows wait.
            let on_disk = bytes_on_disk(&log);
            assert!(on_disk < 4 * (1 + N_KEPT as u64) * 64 * 1024 + 100 * 1024, "{on_disk} bytes");
        }
        let compacted = compactor.finish(&log.file, log.next_offset, true, &mut || false).unwrap();
        assert!(compacted.end < START + 400 * 256, "{} bytes", compacted.end);
    }

    #[test]
    fn a_writer_that_is_kept_up_with_takes_no_further_windows() {
        let (mut log, mut compactor) = behind_hole();
        for number in 0..600 {
            log.take(number % 4, 16 * BLOCK_ALIGN);
            log.append(number % 4, &bytes(5000, Text::Random(number)));
            log.append(number % 4, &bytes(15 * BLOCK_ALIGN, Text::Plain));
            pack_all(&mut log, &mut compactor);
        }
        let n_rooms = (log.next_offset - BEHIND_HOLE - 4 * N_KEPT as u64 * 64 * 1024) as f64 / ROOM_LEN as f64;
        assert!(n_rooms.fract() == 0.0 && n_rooms > 0.0 && n_rooms <= 3.0, "{n_rooms} pieces for packed blocks");
        // What is packed moves to where the windows were.
        let compacted = compactor.finish(&log.file, log.next_offset, true, &mut || false).unwrap();
        log.check();
        log.file.set_len(compacted.end).unwrap();
        log.check();
        let (len, on_disk) = (compacted.end - START, bytes_on_disk(&log));
        assert!(len < on_disk + on_disk / 50, "{len} bytes, of which {on_disk} hold something");
    }

    #[test]
    fn a_program_that_replaces_itself_leaves_no_windows_behind() {
        let (mut log, mut compactor) = behind_hole();
        for _ in 0..100 {
            write_blocks(&mut log, 12);
            pack_all(&mut log, &mut compactor);
            log.exec();
        }
        write_blocks(&mut log, 12);
        pack_all(&mut log, &mut compactor);
        // The last block of each lane stays until the end, and the last image's windows.
        let on_disk = bytes_on_disk(&log);
        assert!(on_disk < (100 * 4 + 4 * (1 + N_KEPT as u64)) * 64 * 1024 + 200 * 1024, "{on_disk} bytes");
        log.check();
    }

    #[test]
    fn a_copy_that_was_not_finished_hides_no_block() {
        let (mut log, mut compactor) = behind_hole();
        write_blocks(&mut log, 8);
        compactor.look(&log.file, log.next_offset).unwrap();
        let before = fs::read(&log.path).unwrap();
        log.pack(&mut compactor);
        let after = fs::read(&log.path).unwrap();
        // As a launcher that is killed leaves it: first there is a place, then the payload, the header, the release.
        let place = START as usize..BEHIND_HOLE as usize;
        let header = BlockHeader::read_from_bytes(&after[place.start..][..BLOCK_HEADER_LEN]).unwrap();
        let empty = BlockHeader { state: block_state::RELEASED, ..header };
        let mut torn = before.clone();
        torn[place.start..][..BLOCK_HEADER_LEN].copy_from_slice(empty.as_bytes());
        for len in [0, 1, 10, header.committed as usize] {
            let payload = place.start + BLOCK_HEADER_LEN;
            torn[payload..payload + len].copy_from_slice(&after[payload..payload + len]);
            log.file.write_all_at(&torn, 0).unwrap();
            log.check();
        }
        torn[place.clone()].copy_from_slice(&after[place]);
        log.file.write_all_at(&torn, 0).unwrap();
        log.check();
        let state = BEHIND_HOLE as usize + offset_of!(BlockHeader, state);
        torn[state] = block_state::RELEASED as u8;
        assert_eq!(torn, after);
    }

    #[test]
    fn a_place_that_was_not_quite_cleared_hides_no_block() {
        let (mut log, mut compactor) = behind_hole();
        write_blocks(&mut log, 8);
        compactor.look(&log.file, log.next_offset).unwrap();
        let before = fs::read(&log.path).unwrap();
        // Nobody waits for the places of an earlier image.
        compactor.image = 1;
        log.pack(&mut compactor);
        let after = fs::read(&log.path).unwrap();
        let mut both = before;
        both[..BEHIND_HOLE as usize].copy_from_slice(&after[..BEHIND_HOLE as usize]);
        for cleared in [0, BLOCK_ALIGN, 16 * BLOCK_ALIGN] {
            both[BEHIND_HOLE as usize..BEHIND_HOLE as usize + cleared].fill(0);
            log.file.write_all_at(&both, 0).unwrap();
            // What is left of the payload is damage to a reader, and hides nothing.
            if cleared != BLOCK_ALIGN {
                log.check();
            }
        }
        assert_eq!(both, after);
    }
}
