//! Mapped ranges, and what they count as.

use std::collections::BTreeMap;

use super::live::Holding;

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Anonymous memory that can be written to: counts like an allocation.
    Heap,
    /// Where CPython's own allocator puts objects that are recorded one by one.
    Arena,
    /// Address space without memory behind it: no access, no write access, or no reservation.
    Reserved,
    /// A file.
    File,
}

pub const N_CLASSES: usize = 4;

/// Which mappings count as heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MmapRule {
    /// Memory that the program got: anonymous and writable. Shared anonymous memory is the program's as well.
    #[default]
    Memory,
    /// Every mapping at its full length but for arenas, as memray counts.
    All,
}

impl MmapRule {
    pub fn class(self, prot: u32, flags: u32, is_arena: bool) -> Class {
        const PROT_WRITE: u32 = 2;
        const MAP_ANONYMOUS: u32 = 0x20;
        const MAP_NORESERVE: u32 = 0x4000;
        if is_arena {
            Class::Arena
        } else if self == MmapRule::All {
            Class::Heap
        } else if flags & MAP_ANONYMOUS == 0 {
            Class::File
        } else if prot & PROT_WRITE == 0 || flags & MAP_NORESERVE != 0 {
            Class::Reserved
        } else {
            Class::Heap
        }
    }
}

/// A mapping, or what is left of one. Its start is its key.
#[derive(Clone, Copy, Debug)]
pub struct Piece<T> {
    /// Where the requested length ends.
    end: u64,
    class: Class,
    holding: Holding<T>,
}

impl<T: Copy> Piece<T> {
    pub fn len(&self, start: u64) -> u64 {
        self.end - start
    }

    /// The part from `start` to `end`; `None` when there is nothing between them.
    fn part(&self, start: u64, end: u64) -> Option<(u64, Piece<T>)> {
        let bytes = end.checked_sub(start).filter(|&bytes| bytes > 0)?;
        Some((start, Piece { end, class: self.class, holding: Holding { bytes, ..self.holding } }))
    }

    fn counted(&self) -> Option<Holding<T>> {
        (self.class == Class::Heap).then_some(self.holding)
    }
}

/// What one `munmap` took.
pub struct Pieces<T> {
    parts: Vec<(u64, Piece<T>)>,
}

impl<T: Copy> Pieces<T> {
    pub fn class_at(&self, address: u64) -> Option<Class> {
        let holds = |(start, piece): &&(u64, Piece<T>)| *start <= address && address < piece.end;
        self.parts.iter().find(holds).map(|(_, piece)| piece.class)
    }

    pub fn retag(&mut self, new: &mut impl FnMut(T) -> T) {
        self.parts.iter_mut().for_each(|(_, piece)| piece.holding.tag = new(piece.holding.tag));
    }

    pub fn into_parts(self) -> Vec<(u64, Piece<T>)> {
        self.parts
    }
}

/// A counted mapping that lost a part: what it was, and what is left before and behind the part.
pub struct Cut<T> {
    pub before: Holding<T>,
    pub remains: [Option<Holding<T>>; 2],
}

/// Ranges that do not overlap.
pub struct Mappings<T> {
    pieces: BTreeMap<u64, Piece<T>>,
    bytes: [u64; N_CLASSES],
}

impl<T> Default for Mappings<T> {
    fn default() -> Mappings<T> {
        Mappings { pieces: BTreeMap::new(), bytes: [0; N_CLASSES] }
    }
}

impl<T: Copy> Mappings<T> {
    pub fn bytes(&self, class: Class) -> u64 {
        self.bytes[class as usize]
    }

    pub fn class_at(&self, address: u64) -> Option<Class> {
        let (_, piece) = self.pieces.range(..=address).next_back()?;
        (address < piece.end).then_some(piece.class)
    }

    /// Adds a range that was removed before. Returns the holding when it counts.
    pub fn insert(&mut self, start: u64, len: u64, class: Class, holding: Holding<T>) -> Option<Holding<T>> {
        let end = start.saturating_add(len);
        let bytes = end - start;
        self.insert_piece(start, Piece { end, class, holding: Holding { bytes, ..holding } })
    }

    pub fn insert_piece(&mut self, start: u64, piece: Piece<T>) -> Option<Holding<T>> {
        if piece.end <= start {
            return None;
        }
        // At most the whole address space is mapped at a time, so the sum of the ranges can't overflow.
        self.bytes[piece.class as usize] += piece.len(start);
        self.pieces.insert(start, piece);
        piece.counted()
    }

    /// Takes a range away, in whole pages as the kernel does, and tells of each counted mapping that it hit.
    pub fn remove(&mut self, start: u64, len: u64, hit: &mut impl FnMut(Cut<T>)) -> Pieces<T> {
        const PAGE: u64 = 4096;
        let mut taken = Pieces { parts: Vec::new() };
        if len == 0 {
            return taken;
        }
        let end = start.saturating_add(len).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let mut hits: Vec<u64> = Vec::new();
        let before = self.pieces.range(..start).next_back();
        hits.extend(before.filter(|(_, piece)| piece.end > start).map(|(&at, _)| at));
        hits.extend(self.pieces.range(start..end).map(|(&at, _)| at));
        for at in hits {
            let Some(piece) = self.pieces.remove(&at) else { continue };
            self.bytes[piece.class as usize] -= piece.len(at);
            taken.parts.extend(piece.part(at.max(start), piece.end.min(end)));
            let remains = [piece.part(at, start), piece.part(end, piece.end)];
            let remains = remains.map(|part| part.and_then(|(at, part)| self.insert_piece(at, part)));
            if let Some(before) = piece.counted() {
                hit(Cut { before, remains });
            }
        }
        taken
    }

    /// The mappings that count.
    pub fn counted(&self) -> impl Iterator<Item = &Holding<T>> {
        self.pieces.values().filter(|piece| piece.class == Class::Heap).map(|piece| &piece.holding)
    }

    pub fn retag(&mut self, new: &mut impl FnMut(T) -> T) {
        self.pieces.values_mut().for_each(|piece| piece.holding.tag = new(piece.holding.tag));
    }

    pub fn clear(&mut self, gone: &mut impl FnMut(Holding<T>)) {
        for piece in std::mem::take(&mut self.pieces).into_values() {
            piece.counted().map(&mut *gone);
        }
        self.bytes = [0; N_CLASSES];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn mapped(mappings: &Mappings<()>) -> Vec<(u64, u64)> {
        mappings.pieces.iter().map(|(&start, piece)| (start / PAGE, piece.end.div_ceil(PAGE))).collect()
    }

    fn map(mappings: &mut Mappings<()>, start: u64, end: u64) {
        let holding = Holding { bytes: 0, tag: () };
        mappings.insert(start * PAGE, (end - start) * PAGE, Class::Heap, holding);
    }

    /// Removes pages from three mappings of the pages 10 to 20, 20 to 30 and 40 to 50.
    fn check(start: u64, end: u64, expected: &[(u64, u64)]) {
        let mut mappings = Mappings::default();
        for (start, end) in [(10, 20), (20, 30), (40, 50)] {
            map(&mut mappings, start, end);
        }
        let mut hits = 0;
        mappings.remove(start * PAGE, (end - start) * PAGE, &mut |_| hits += 1);
        assert_eq!(mapped(&mappings), expected, "after removing {start} to {end}");
        let left: u64 = expected.iter().map(|(start, end)| (end - start) * PAGE).sum();
        assert_eq!(mappings.bytes(Class::Heap), left);
    }

    #[test]
    fn any_part_can_be_unmapped() {
        check(0, 10, &[(10, 20), (20, 30), (40, 50)]);
        check(30, 40, &[(10, 20), (20, 30), (40, 50)]);
        check(10, 20, &[(20, 30), (40, 50)]);
        check(10, 15, &[(15, 20), (20, 30), (40, 50)]);
        check(15, 20, &[(10, 15), (20, 30), (40, 50)]);
        check(12, 18, &[(10, 12), (18, 20), (20, 30), (40, 50)]);
        check(15, 45, &[(10, 15), (45, 50)]);
        check(0, 100, &[]);
    }

    #[test]
    fn a_length_is_rounded_up_to_whole_pages() {
        let mut mappings = Mappings::default();
        map(&mut mappings, 10, 20);
        mappings.remove(10 * PAGE, 1, &mut |_| {});
        assert_eq!(mapped(&mappings), [(11, 20)]);
        mappings.remove(10 * PAGE, u64::MAX, &mut |_| {});
        assert_eq!(mapped(&mappings), []);
    }

    #[test]
    fn the_class_follows_what_the_range_can_hold() {
        const PRIVATE_ANONYMOUS: u32 = 0x22;
        let check = |prot, flags, is_arena, expected| {
            assert_eq!(MmapRule::Memory.class(prot, flags, is_arena), expected);
        };
        check(3, PRIVATE_ANONYMOUS, false, Class::Heap);
        check(3, 0x21, false, Class::Heap);
        check(0, PRIVATE_ANONYMOUS, false, Class::Reserved);
        check(3, PRIVATE_ANONYMOUS | 0x4000, false, Class::Reserved);
        check(3, 2, false, Class::File);
        check(3, PRIVATE_ANONYMOUS, true, Class::Arena);
        assert_eq!(MmapRule::All.class(0, 2, false), Class::Heap);
        assert_eq!(MmapRule::All.class(3, PRIVATE_ANONYMOUS, true), Class::Arena);
    }
}
