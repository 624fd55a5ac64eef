//! What is alive: heap blocks by address and mappings by range. Every fold that asks what memory is for stands on it.
//!
//! The log may have gaps (events lost, a damaged block), so nothing here trusts that frees match: a free of an unknown
//! address is ignored, and an address that is handed out again while it is alive had a free that was missed, so the
//! old block goes.

use memtrace_format::AllocatorKind;

use super::mappings::{Class, Mappings, MmapRule, Pieces};
use super::table::Table;
use crate::model::{Action, Event, Model};

/// A block or a piece of a mapping that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding<T> {
    pub bytes: u64,
    /// What the fold wants to know about it again.
    pub tag: T,
}

/// What an event does to the memory that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<T> {
    Allocated(Holding<T>, AllocatorKind),
    Freed(Holding<T>),
    /// A free that did not happen: the holding is back as it was.
    Restored(Holding<T>),
    /// A holding that was never freed makes room for another at its address, or goes with its image, or was cut.
    Vanished(Holding<T>),
    /// What is left of a holding that was cut.
    Remains(Holding<T>),
}

pub struct Live<T> {
    blocks: Table<T>,
    mappings: Mappings<T>,
    /// By lane: what its last free or munmap took, for a restore.
    undo: Vec<Undo<T>>,
    rule: MmapRule,
    heap_bytes: u64,
    /// Allocations at an address that was still alive.
    pub n_replaced: u64,
    /// Frees of addresses that nobody allocated.
    pub n_unknown_frees: u64,
    /// Sizes that can't be: no address space is that large.
    pub n_impossible_sizes: u64,
}

enum Undo<T> {
    Nothing,
    Block(u64, Holding<T>),
    Pieces(Pieces<T>),
}

/// More than this is not alive at a time on any machine: a sum beyond it comes from a damaged log.
const MAX_HEAP_BYTES: u64 = 1 << 62;

impl<T: Copy> Live<T> {
    pub fn new(rule: MmapRule) -> Live<T> {
        Live {
            blocks: Table::new(),
            mappings: Mappings::default(),
            undo: Vec::new(),
            rule,
            heap_bytes: 0,
            n_replaced: 0,
            n_unknown_frees: 0,
            n_impossible_sizes: 0,
        }
    }

    /// Bytes of mappings outside the heap.
    pub fn mapped_bytes(&self, class: Class) -> u64 {
        self.mappings.bytes(class)
    }

    /// Everything that is alive and counts.
    pub fn for_each(&self, take: &mut impl FnMut(&Holding<T>)) {
        self.blocks.for_each(take);
        self.mappings.counted().for_each(take);
    }

    /// Gives everything that is alive, or may come back to life, another tag.
    pub fn retag(&mut self, new: &mut impl FnMut(T) -> T) {
        self.blocks.retag(new);
        self.mappings.retag(new);
        for undo in &mut self.undo {
            match undo {
                Undo::Nothing => {}
                Undo::Block(_, holding) => holding.tag = new(holding.tag),
                Undo::Pieces(pieces) => pieces.retag(new),
            }
        }
    }

    /// Before the event at `index` is applied: has the processor fetch what a later one is about, so that it needn't wait.
    #[inline(always)]
    pub fn look_ahead(&self, events: &[Event], index: usize) {
        /// Some 300 ns, a few times what memory takes.
        const DISTANCE: usize = 16;
        if let Some(later) = events.get(index + DISTANCE)
            && let Action::Alloc { address, .. } | Action::Free { address, .. } = later.action
            && self.blocks.is_large()
        {
            self.blocks.prefetch(address);
        }
    }

    /// Applies an event; `tag` goes with what it allocates, and `change` hears what it does.
    #[inline]
    pub fn apply(&mut self, model: &Model, event: &Event, tag: T, change: &mut impl FnMut(Change<T>)) {
        match event.action {
            Action::Alloc { kind, address, size, .. } => {
                let bytes = self.believable(size);
                let holding = Holding { bytes, tag };
                if let Some(old) = self.blocks.insert(address, holding) {
                    self.n_replaced += 1;
                    self.heap_bytes -= old.bytes;
                    change(Change::Vanished(old));
                }
                self.heap_bytes += bytes;
                change(Change::Allocated(holding, kind));
            }
            Action::Free { address, .. } => {
                let undo = match self.blocks.remove(address) {
                    Some(holding) => {
                        self.heap_bytes -= holding.bytes;
                        change(Change::Freed(holding));
                        Undo::Block(address, holding)
                    }
                    None => {
                        self.n_unknown_frees += 1;
                        Undo::Nothing
                    }
                };
                *self.undo_slot(event.lane) = undo;
            }
            _ => self.apply_rare(model, event, tag, change),
        }
    }

    fn apply_rare(&mut self, model: &Model, event: &Event, tag: T, change: &mut impl FnMut(Change<T>)) {
        match event.action {
            Action::Restore => match std::mem::replace(self.undo_slot(event.lane), Undo::Nothing) {
                Undo::Nothing => {}
                Undo::Block(address, holding) => {
                    if let Some(old) = self.blocks.insert(address, holding) {
                        self.n_replaced += 1;
                        self.heap_bytes -= old.bytes;
                        change(Change::Vanished(old));
                    }
                    self.heap_bytes += holding.bytes;
                    change(Change::Restored(holding));
                }
                Undo::Pieces(pieces) => self.put_back(pieces, change),
            },
            Action::Mmap { address, len, prot, flags, is_arena, .. } => {
                let is_counted_apart = is_arena && model.process().facts.records_python_objects(event.image);
                let class = self.rule.class(prot, flags, is_counted_apart);
                let len = self.believable(len);
                self.map(address, len, class, Holding { bytes: len, tag }, change);
            }
            Action::Munmap { address, len, .. } => {
                let pieces = self.unmap(address, len, change, Change::Freed);
                *self.undo_slot(event.lane) = Undo::Pieces(pieces);
            }
            Action::Mremap { old_address, address, len, flags, is_arena, .. } => {
                const DONTUNMAP: u32 = 4;
                let taken = std::mem::replace(self.undo_slot(event.lane), Undo::Nothing);
                let mut class = self.mappings.class_at(old_address);
                if let Undo::Pieces(pieces) = taken {
                    class = pieces.class_at(old_address).or(class);
                    if flags & DONTUNMAP != 0 {
                        self.put_back(pieces, change);
                    }
                }
                // A range that we never saw mapped: what is moved about is memory in use.
                let is_counted_apart = is_arena && model.process().facts.records_python_objects(event.image);
                let class = class.unwrap_or(if is_counted_apart { Class::Arena } else { Class::Heap });
                let len = self.believable(len);
                self.map(address, len, class, Holding { bytes: len, tag }, change);
            }
            Action::ImageStart => {
                std::mem::replace(&mut self.blocks, Table::new())
                    .for_each(&mut |holding| change(Change::Vanished(*holding)));
                self.mappings.clear(&mut |holding| change(Change::Vanished(holding)));
                self.undo.clear();
                self.heap_bytes = 0;
            }
            _ => {}
        }
    }

    fn map(&mut self, address: u64, len: u64, class: Class, holding: Holding<T>, change: &mut impl FnMut(Change<T>)) {
        self.unmap(address, len, change, Change::Vanished);
        let Some(counted) = self.mappings.insert(address, len, class, holding) else { return };
        self.heap_bytes += counted.bytes;
        change(Change::Allocated(counted, AllocatorKind::Mmap));
    }

    /// Takes a range away; `gone` says how what was wholly in it went.
    fn unmap(
        &mut self,
        address: u64,
        len: u64,
        change: &mut impl FnMut(Change<T>),
        gone: fn(Holding<T>) -> Change<T>,
    ) -> Pieces<T> {
        let heap_bytes = &mut self.heap_bytes;
        self.mappings.remove(address, len, &mut |cut| {
            *heap_bytes -= cut.before.bytes;
            let is_whole = cut.remains.iter().all(Option::is_none);
            change(if is_whole { gone(cut.before) } else { Change::Vanished(cut.before) });
            for remains in cut.remains.into_iter().flatten() {
                *heap_bytes += remains.bytes;
                change(Change::Remains(remains));
            }
        })
    }

    fn put_back(&mut self, pieces: Pieces<T>, change: &mut impl FnMut(Change<T>)) {
        // All room is made before anything is put back: no moment in between has more than there ever was.
        let parts = pieces.into_parts();
        for (start, piece) in &parts {
            self.unmap(*start, piece.len(*start), change, Change::Vanished);
        }
        for (start, piece) in parts {
            if let Some(counted) = self.mappings.insert_piece(start, piece) {
                self.heap_bytes += counted.bytes;
                change(Change::Restored(counted));
            }
        }
    }

    /// The size, or 0 when it would make the sum impossible.
    #[inline]
    fn believable(&mut self, size: u64) -> u64 {
        if size <= MAX_HEAP_BYTES - self.heap_bytes.min(MAX_HEAP_BYTES) {
            return size;
        }
        self.n_impossible_sizes += 1;
        0
    }

    #[inline]
    fn undo_slot(&mut self, lane: u32) -> &mut Undo<T> {
        let index = lane as usize;
        if index >= self.undo.len() {
            self.undo.resize_with(index + 1, || Undo::Nothing);
        }
        &mut self.undo[index]
    }
}
