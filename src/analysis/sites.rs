//! Sites: who allocated, and what. A site is a stack together with whatever else reports tell apart: the thread, the
//! allocator, the class of sizes. Folds count by the small numbers that they are given here.
//!
//! A report that needs no more than stacks asks for [`Detail::Stack`] and pays for nothing else.

use hashbrown::HashTable;
use memtrace_format::AllocatorKind;

use super::Snapshot;
use crate::model::stacks::hash_of;
use crate::model::{Action, Event, Handles, StackId, ThreadKey};

/// How much of an allocation is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// The stack alone. Of a [`Site`], the rest means nothing then.
    #[default]
    Stack,
    /// All that a [`Site`] has.
    Full,
}

/// Where an allocation comes from, in the order in which reports sum up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    pub stack: StackId,
    /// Which process of a report over several; each process is folded by itself and has the number 0 there.
    pub process: u16,
    /// The thread that allocated.
    pub thread: ThreadKey,
    pub kind: AllocatorKind,
    pub size_class: SizeClass,
}

/// Sizes that are about the same: those above the bound of the class below, and up to its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeClass(u8);

/// The largest size of each class in bytes, from 16 to 1 GiB by powers of two. What is larger is one more class.
pub const SIZE_BOUNDS: [u64; 27] = {
    let mut bounds = [0; 27];
    let mut class = 0;
    while class < bounds.len() {
        bounds[class] = 16 << class;
        class += 1;
    }
    bounds
};

impl SizeClass {
    #[inline]
    pub fn of(bytes: u64) -> SizeClass {
        let sixteens = bytes.saturating_sub(1) / 16;
        let class = u64::BITS - sixteens.leading_zeros();
        SizeClass(class.min(SIZE_BOUNDS.len() as u32) as u8)
    }

    /// From 0 to `SIZE_BOUNDS.len()`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of a site among those that one fold has seen. With [`Detail::Stack`] it is the stack's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(u32);

impl SiteId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Gives sites their numbers.
pub struct Sites {
    detail: Detail,
    sites: Vec<Packed>,
    table: HashTable<u32>,
    /// Sites that came lately, each at a place that its content gives: most allocations are like one shortly before.
    recent: Box<[(Packed, u32); N_RECENT]>,
}

const N_RECENT: usize = 1024;

/// A site but for its process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Packed {
    /// From the highest bit: image, number of the thread, allocator, class.
    rest: u64,
    stack: StackId,
}

impl Packed {
    #[inline]
    fn new(event: &Event, stack: StackId, kind: AllocatorKind, bytes: u64) -> Packed {
        let thread = (event.image as u64) << 32 | event.thread as u64;
        Packed { rest: thread << 16 | (kind as u64) << 8 | SizeClass::of(bytes).0 as u64, stack }
    }

    #[inline]
    fn place(self) -> usize {
        // Fibonacci hashing; what collides is found in the table.
        let mixed = (self.rest ^ (self.stack.index() as u64) << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 54) as usize
    }

    fn site(self) -> Site {
        Site {
            stack: self.stack,
            process: 0,
            thread: ThreadKey { image: (self.rest >> 48) as u16, number: (self.rest >> 16) as u32 },
            kind: AllocatorKind::from_number((self.rest >> 8) as u8).expect("packed from a kind"),
            size_class: SizeClass(self.rest as u8),
        }
    }
}

impl Sites {
    pub fn new(detail: Detail) -> Sites {
        // No allocation has the kind 0, so that no site is mistaken for one of these.
        let none = (Packed { rest: 0, stack: StackId::EMPTY }, 0);
        Sites { detail, sites: Vec::new(), table: HashTable::new(), recent: Box::new([none; N_RECENT]) }
    }

    /// The site of what an event allocates; of an event that allocates nothing, any.
    #[inline]
    pub fn of(&mut self, event: &Event) -> SiteId {
        let (stack, kind, bytes) = match event.action {
            Action::Alloc { kind, size, stack, .. } => (stack, kind, size),
            Action::Mmap { len, stack, .. } | Action::Mremap { len, stack, .. } => (stack, AllocatorKind::Mmap, len),
            _ => return SiteId(0),
        };
        match self.detail {
            Detail::Stack => SiteId(stack.index() as u32),
            Detail::Full => self.intern(Packed::new(event, stack, kind, bytes)),
        }
    }

    /// The site with a number that came from here.
    pub fn get(&self, id: SiteId) -> Site {
        match self.detail {
            Detail::Stack => {
                let kind = AllocatorKind::Malloc;
                let thread = ThreadKey { image: 0, number: 0 };
                let stack = StackId::from_index(id.index());
                Site { stack, process: 0, thread, kind, size_class: SizeClass(0) }
            }
            Detail::Full => self.sites[id.index()].site(),
        }
    }

    /// Sites so far. With [`Detail::Stack`] nobody counts them.
    pub fn count(&self) -> usize {
        self.sites.len()
    }

    /// All sites in the order of their numbers.
    pub fn all(&self) -> impl Iterator<Item = Site> + '_ {
        self.sites.iter().map(|packed| packed.site())
    }

    /// The table of a column that has an entry for each site, in the order of sites.
    pub fn by_site<T>(&self, column: &[T], turn: Option<u64>, amount: impl Fn(&T) -> (u64, u64)) -> BySite {
        let rows = column.iter().enumerate().filter_map(|(index, entry)| {
            let (bytes, count) = amount(entry);
            (count > 0).then(|| SiteRow { site: self.get(SiteId(index as u32)), bytes, count })
        });
        let mut rows: Vec<SiteRow> = rows.collect();
        rows.sort_unstable_by_key(|row| row.site);
        BySite::new(rows, turn)
    }

    /// The same by stack.
    pub fn by_stack<T>(&self, column: &[T], turn: Option<u64>, amount: impl Fn(&T) -> (u64, u64)) -> Snapshot {
        let mut rows = Vec::new();
        for (index, entry) in column.iter().enumerate() {
            let (bytes, count) = amount(entry);
            if count == 0 {
                continue;
            }
            let stack = match self.detail {
                Detail::Stack => StackId::from_index(index),
                Detail::Full => self.sites[index].stack,
            };
            rows.push(super::Row { stack, bytes, count });
        }
        Snapshot::summed(rows, turn)
    }

    #[inline]
    fn intern(&mut self, site: Packed) -> SiteId {
        let place = site.place();
        let (known, id) = self.recent[place];
        if known == site {
            return SiteId(id);
        }
        let id = self.find_or_add(site);
        self.recent[place] = (site, id);
        SiteId(id)
    }

    #[inline(never)]
    fn find_or_add(&mut self, site: Packed) -> u32 {
        let Sites { sites, table, .. } = self;
        let hash = hash_of(site);
        if let Some(&known) = table.find(hash, |&id| sites[id as usize] == site) {
            return known;
        }
        let id = u32::try_from(sites.len()).expect("fewer than 2^32 distinct sites fit in memory");
        sites.push(site);
        table.insert_unique(hash, id, |&id| hash_of(sites[id as usize]));
        id
    }
}

/// Bytes and allocations by site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BySite {
    /// In the order of sites, those of a stack together; sites without an allocation are left out.
    pub rows: Vec<SiteRow>,
    pub bytes: u64,
    pub count: u64,
    /// The moment it shows, when it shows one.
    pub turn: Option<u64>,
}

/// What one site holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteRow {
    pub site: Site,
    pub bytes: u64,
    /// Blocks (and pieces of mappings).
    pub count: u64,
}

impl BySite {
    /// Of rows in order, those of a site summed up.
    pub fn new(mut rows: Vec<SiteRow>, turn: Option<u64>) -> BySite {
        rows.dedup_by(|row, sum| {
            let is_same = row.site == sum.site;
            if is_same {
                sum.bytes = sum.bytes.saturating_add(row.bytes);
                sum.count += row.count;
            }
            is_same
        });
        let bytes = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.bytes));
        let count = rows.iter().map(|row| row.count).sum();
        BySite { rows, bytes, count, turn }
    }

    /// The tables of several processes as one, each with what became of its handles. The processes are numbered as they
    /// come; a moment has only the table of one.
    pub fn of_processes<'a>(parts: impl IntoIterator<Item = (BySite, &'a Handles)>) -> BySite {
        let (mut rows, mut turns) = (Vec::new(), Vec::new());
        for (process, (part, handles)) in (0..).zip(parts) {
            turns.push(part.turn);
            rows.extend(part.rows.into_iter().map(|row| {
                let site = Site { process, stack: handles.stack(row.site.stack), ..row.site };
                SiteRow { site, ..row }
            }));
        }
        rows.sort_unstable_by_key(|row| row.site);
        BySite::new(rows, if let [only] = turns[..] { only } else { None })
    }

    /// The sum over the sites of each stack.
    pub fn by_stack(&self) -> Snapshot {
        let rows = self.rows.iter();
        let rows = rows.map(|row| super::Row { stack: row.site.stack, bytes: row.bytes, count: row.count });
        Snapshot::summed(rows.collect(), self.turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alloc(image: u16, thread: u32, kind: AllocatorKind, size: u64, stack: usize) -> Event {
        let action = Action::Alloc { kind, address: 1, size, stack: StackId::from_index(stack) };
        Event { turn: 0, image, lane: 0, thread, action }
    }

    #[test]
    fn a_class_ends_at_its_bound() {
        let class = |bytes| SizeClass::of(bytes).index();
        assert_eq!([class(0), class(1), class(16), class(17), class(32), class(33)], [0, 0, 0, 1, 1, 2]);
        for (index, &bound) in SIZE_BOUNDS.iter().enumerate() {
            assert_eq!((class(bound), class(bound + 1)), (index, index + 1));
        }
        assert_eq!(class(u64::MAX), SIZE_BOUNDS.len());
        assert_eq!(SIZE_BOUNDS.last(), Some(&(1 << 30)));
    }

    #[test]
    fn sites_are_what_was_put_in_and_have_one_number_each() {
        use AllocatorKind::*;
        let mut sites = Sites::new(Detail::Full);
        // Far more than are remembered as recent, twice.
        let events: Vec<Event> = (0..5 * N_RECENT)
            .map(|n| alloc((n % 3) as u16, (n % 7) as u32, [Malloc, PymallocRealloc][n % 2], 1 << (n % 40), n / 2))
            .collect();
        let ids: Vec<SiteId> = events.iter().map(|event| sites.of(event)).collect();
        for (event, id) in events.iter().zip(&ids) {
            assert_eq!(sites.of(event), *id);
            let Action::Alloc { kind, size, stack, .. } = event.action else { unreachable!() };
            let thread = ThreadKey { image: event.image, number: event.thread };
            let expected = Site { stack, process: 0, thread, kind, size_class: SizeClass::of(size) };
            assert_eq!(sites.get(*id), expected);
        }
        assert_eq!(sites.sites.len(), events.len());
    }

    #[test]
    fn the_largest_numbers_are_kept_apart() {
        let mut sites = Sites::new(Detail::Full);
        let id = sites.of(&alloc(u16::MAX, u32::MAX, AllocatorKind::Munmap, u64::MAX, u32::MAX as usize));
        let site = sites.get(id);
        assert_eq!(site.thread, ThreadKey { image: u16::MAX, number: u32::MAX });
        assert_eq!((site.kind, site.size_class.index()), (AllocatorKind::Munmap, SIZE_BOUNDS.len()));
    }

    #[test]
    fn without_detail_a_site_is_a_stack() {
        let mut sites = Sites::new(Detail::Stack);
        let id = sites.of(&alloc(1, 2, AllocatorKind::Calloc, 3, 4));
        assert_eq!(sites.get(id).stack, StackId::from_index(4));
        assert_eq!(id, sites.of(&alloc(2, 3, AllocatorKind::Malloc, 500, 4)));
    }
}
