//! What stands at the nodes of a page: cells that can be filtered, and the time of what is in them.
//!
//! A capture has millions of rows, of which a page has room for some hundred thousand. So those of the capture are put
//! together once; what is coarser comes from what is finer.

use hashbrown::HashMap;

use super::Part;
use super::levels::{self, Level};
use crate::analysis::Site;
use crate::analysis::intervals::{Amount, IntervalRow};
use crate::model::ThreadKey;

/// What a node holds for one thread, allocator and class of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub node: u32,
    /// Among the threads of all processes.
    pub thread: u32,
    pub allocator: u8,
    pub size_class: u8,
}

/// What came into a cell in one segment and went in one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// From the highest bits: the cell's number, born, died.
    key: u64,
    pub amount: Amount,
}

/// All cells, in order, with their rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cells {
    pub cells: Vec<Cell>,
    pub rows: Vec<Row>,
}

/// How much of a site is told apart. Whatever a capture holds, coarse enough it fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grain {
    pub max_threads: usize,
    pub has_size_classes: bool,
}

/// The threads that a page knows.
#[derive(Clone)]
pub struct Threads {
    /// By process. One without a number stands for many.
    pub of_process: Vec<Vec<ThreadKey>>,
    numbers: HashMap<(usize, ThreadKey), u32>,
    /// By process, the number of the one that stands for many.
    others: Vec<u32>,
    /// By thread of the page, its process.
    pub processes: Vec<usize>,
}

/// So many rows are put together before they are summed up.
const MANY_ROWS: usize = 1 << 12;

/// Stands for threads that have no place of their own. No thread has the number.
pub const OTHER_THREADS: ThreadKey = ThreadKey { image: u16::MAX, number: u32::MAX };

impl Row {
    /// In cell 0.
    fn new((born, died): (u16, u16), amount: Amount) -> Row {
        Row { key: u64::from(born) << 16 | u64::from(died), amount }
    }

    pub fn cell(&self) -> usize {
        (self.key >> 32) as usize
    }

    pub fn born(&self) -> u16 {
        (self.key >> 16) as u16
    }

    pub fn died(&self) -> u16 {
        self.key as u16
    }
}

impl Cell {
    /// A number in whose order cells stand; it has room for half a million threads, and 32 classes of sizes.
    fn rank(&self) -> u64 {
        let Cell { node, thread, allocator, size_class } = *self;
        u64::from(node) << 32 | u64::from(thread) << 13 | u64::from(allocator) << 5 | u64::from(size_class)
    }

    fn of_rank(rank: u64) -> Cell {
        let node = (rank >> 32) as u32;
        let thread = rank as u32 >> 13;
        Cell { node, thread, allocator: (rank >> 5) as u8, size_class: rank as u8 & 31 }
    }
}

impl Threads {
    /// All threads that allocated; when there are too many, those with the most allocations.
    pub fn new(parts: &[Part], max_threads: usize) -> Threads {
        let mut counts: HashMap<(usize, ThreadKey), i64> = HashMap::new();
        for (process, Part { temporal, .. }) in parts.iter().enumerate() {
            for rows in temporal.rows.chunk_by(|a, b| a.site == b.site) {
                let thread = temporal.sites[rows[0].site as usize].thread;
                let count: i64 = rows.iter().map(|row| row.amount.count).sum();
                *counts.entry((process, thread)).or_default() += count;
            }
        }
        let mut listed: Vec<_> = counts.into_iter().collect();
        listed.sort_unstable_by_key(|&(thread, count)| (std::cmp::Reverse(count), thread));
        let mut has_others = vec![false; parts.len()];
        listed.iter().skip(max_threads).for_each(|&((process, _), _)| has_others[process] = true);
        listed.truncate(max_threads);
        listed.sort_unstable_by_key(|&(thread, _)| thread);

        let mut threads =
            Threads { of_process: Vec::new(), numbers: HashMap::new(), others: Vec::new(), processes: Vec::new() };
        for (process, &has_others) in has_others.iter().enumerate() {
            let own = listed.iter().map(|&(thread, _)| thread).filter(|thread| thread.0 == process);
            let mut keys: Vec<ThreadKey> = own.map(|(_, key)| key).collect();
            for (index, &key) in keys.iter().enumerate() {
                threads.numbers.insert((process, key), (threads.processes.len() + index) as u32);
            }
            threads.others.push((threads.processes.len() + keys.len()) as u32);
            keys.extend(has_others.then_some(OTHER_THREADS));
            threads.processes.resize(threads.processes.len() + keys.len(), process);
            threads.of_process.push(keys);
        }
        threads
    }

    fn number(&self, process: usize, key: ThreadKey) -> u32 {
        self.numbers.get(&(process, key)).copied().unwrap_or(self.others[process])
    }
}

impl Cells {
    /// Of all parts, with the node of each stack, in the buckets of a level.
    pub fn new(parts: &[Part], node_of: &[u32], threads: &Threads, grain: Grain, level: &Level) -> Cells {
        // Sites of a thread often stand together.
        let mut latest = (usize::MAX, OTHER_THREADS, 0);
        let mut thread_of = |process: usize, key: ThreadKey| {
            if (latest.0, latest.1) != (process, key) {
                latest = (process, key, threads.number(process, key));
            }
            latest.2
        };
        let mut cell_of = |process: usize, site: &Site| Cell {
            node: node_of[site.stack.index()],
            thread: thread_of(process, site.thread),
            allocator: site.kind as u8,
            size_class: if grain.has_size_classes { site.size_class.index() as u8 } else { 0 },
        };
        // Rows of a site stand together.
        let mut pieces: Vec<(u64, &[IntervalRow])> = Vec::new();
        for (process, Part { temporal, .. }) in parts.iter().enumerate() {
            let of_sites = temporal.rows.chunk_by(|a, b| a.site == b.site);
            pieces.extend(of_sites.map(|rows| (cell_of(process, &temporal.sites[rows[0].site as usize]).rank(), rows)));
        }
        Cells::of_pieces(pieces, threads, &level.segments, |segments, row| {
            Row::new(levels::span(segments, row.born, row.died), row.amount)
        })
    }

    /// The same in a tree in which further nodes are folded, where `node_of` says which one each has become, and in the
    /// buckets of a coarser level.
    pub fn coarser(&self, node_of: impl Fn(u32) -> u32, threads: &Threads, from: &Level, to: &Level) -> Cells {
        let of_cells = self.rows.chunk_by(|a, b| a.cell() == b.cell());
        let pieces = of_cells.map(|rows| {
            let cell = self.cells[rows[0].cell()];
            (Cell { node: node_of(cell.node), ..cell }.rank(), rows)
        });
        Cells::of_pieces(pieces.collect(), threads, &to.steps_from(from), |steps, row| {
            Row::new(levels::span(steps, row.born(), row.died()), row.amount)
        })
    }

    /// Puts together the rows of each cell, which are given by its rank; `segments` says by process what becomes of
    /// the segments in which they are.
    fn of_pieces<T>(
        mut pieces: Vec<(u64, &[T])>,
        threads: &Threads,
        segments: &[Vec<u16>],
        row: impl Fn(&[u16], &T) -> Row,
    ) -> Cells {
        pieces.sort_unstable_by_key(|&(rank, _)| rank);
        let mut cells = Cells::default();
        let mut together = Vec::new();
        for of_cell in pieces.chunk_by(|a, b| a.0 == b.0) {
            let cell = Cell::of_rank(of_cell[0].0);
            let segments = segments[threads.processes[cell.thread as usize]].as_slice();
            let mut n_summed = 0;
            for &(_, rows) in of_cell {
                together.extend(rows.iter().map(|it| row(segments, it)));
                // Many stacks may have one "other" node, which has few rows in the end.
                if together.len() > 2 * n_summed + MANY_ROWS {
                    sum_up(&mut together);
                    n_summed = together.len();
                }
            }
            sum_up(&mut together);
            cells.push(cell, &mut together);
        }
        cells
    }

    /// Adds the next cell, and takes its rows away; without any it is none.
    fn push(&mut self, cell: Cell, rows: &mut Vec<Row>) {
        if rows.is_empty() {
            return;
        }
        let number = self.cells.len() as u64;
        self.cells.push(cell);
        self.rows.extend(rows.drain(..).map(|row| Row { key: number << 32 | row.key, ..row }));
    }
}

/// Sorts rows, makes those that agree one, and drops what has come to nothing.
fn sum_up(rows: &mut Vec<Row>) {
    if !rows.is_sorted_by_key(|row| row.key) {
        rows.sort_unstable_by_key(|row| row.key);
    }
    rows.dedup_by(|row, sum| {
        let is_same = row.key == sum.key;
        if is_same {
            sum.amount += row.amount;
        }
        is_same
    });
    rows.retain(|row| row.amount != Amount::default());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use memtrace_format::AllocatorKind;
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::Temporal;
    use crate::analysis::sites::SizeClass;
    use crate::model::StackId;

    const N_STACKS: usize = 20;
    const N_BUCKETS: usize = 8;
    const GRAINS: [Grain; 2] =
        [Grain { max_threads: 9, has_size_classes: true }, Grain { max_threads: 2, has_size_classes: false }];

    /// Node, thread, allocator and class of sizes, born and died.
    type Place = ((u32, u32, u8, u8), (u16, u16));

    /// By place, what is there: the slow twin.
    fn summed(places: impl Iterator<Item = (Place, Amount)>) -> Vec<(Place, Amount)> {
        let mut sums: BTreeMap<Place, Amount> = BTreeMap::new();
        places.for_each(|(place, amount)| *sums.entry(place).or_default() += amount);
        sums.into_iter().filter(|(_, amount)| *amount != Amount::default()).collect()
    }

    fn of_parts(parts: &[Part], node_of: &[u32], threads: &Threads, grain: Grain) -> Vec<(Place, Amount)> {
        summed(parts.iter().enumerate().flat_map(|(process, Part { temporal, .. })| {
            temporal.rows.iter().map(move |row| {
                let site = temporal.sites[row.site as usize];
                let size_class = if grain.has_size_classes { site.size_class.index() as u8 } else { 0 };
                let thread = threads.number(process, site.thread);
                let cell = (node_of[site.stack.index()], thread, site.kind as u8, size_class);
                ((cell, (row.born, row.died)), row.amount)
            })
        }))
    }

    /// What cells say, in their order.
    fn told(cells: &Cells) -> Vec<(Place, Amount)> {
        let place = |row: &Row| {
            let Cell { node, thread, allocator, size_class } = cells.cells[row.cell()];
            (((node, thread, allocator, size_class), (row.born(), row.died())), row.amount)
        };
        assert!((0..cells.cells.len()).all(|cell| cells.rows.iter().any(|row| row.cell() == cell)), "no cell is empty");
        cells.rows.iter().map(place).collect()
    }

    fn temporal() -> impl Strategy<Value = Temporal> {
        let segment = 0..2 * N_BUCKETS as u16;
        let row = (0..N_STACKS, 0..6u32, 0..2usize, 0..400u64, (segment.clone(), segment), 0..3i64);
        prop::collection::vec(row, 0..60).prop_map(|rows| {
            let mut temporal = Temporal { bucket_nanos: 1, ..Temporal::default() };
            temporal.extend(N_BUCKETS);
            (0..).zip(&mut temporal.buckets).for_each(|(at, bucket)| bucket.peak_bytes = at * 7 % 5);
            for (site, (stack, thread, kind, bytes, (born, died), count)) in (0..).zip(rows) {
                temporal.sites.push(Site {
                    stack: StackId::from_index(stack),
                    process: 0,
                    thread: ThreadKey { image: 0, number: thread },
                    kind: [AllocatorKind::Malloc, AllocatorKind::Mmap][kind],
                    size_class: SizeClass::of(bytes),
                });
                // What came back is taken off again elsewhere.
                let signed = |sign: i64| Amount { bytes: sign * bytes as i64, count: sign * count };
                temporal.rows.push(IntervalRow { site, born, died, amount: signed(2) });
                temporal.rows.push(IntervalRow { site, born, died: died + 1, amount: signed(-1) });
            }
            temporal
        })
    }

    proptest! {
        #[test]
        fn cells_have_what_their_slow_twins_have(
            temporals in prop::collection::vec(temporal(), 1..4),
            nodes in prop::collection::vec(0..10u32, N_STACKS),
            further in prop::collection::vec(0..4u32, 10),
        ) {
            let part = |temporal| Part { temporal, n_events: 0, notices: Vec::new() };
            let parts: Vec<Part> = temporals.iter().cloned().map(part).collect();
            let levels = Level::all(&parts);
            let folded = |node: u32| further[node as usize];
            let folded_nodes: Vec<u32> = nodes.iter().map(|&node| folded(node)).collect();
            let mut halved: Vec<Part> = temporals.into_iter().map(part).collect();
            for level in &levels {
                for grain in GRAINS {
                    let threads = Threads::new(&parts, grain.max_threads);
                    let cells = Cells::new(&parts, &nodes, &threads, grain, level);
                    prop_assert_eq!(told(&cells), of_parts(&halved, &nodes, &threads, grain));
                    let finest = Cells::new(&parts, &nodes, &threads, grain, &levels[0]);
                    let coarser = finest.coarser(folded, &threads, &levels[0], level);
                    prop_assert_eq!(told(&coarser), of_parts(&halved, &folded_nodes, &threads, grain));
                }
                prop_assert_eq!(level.n_buckets(), halved[0].temporal.buckets.len());
                halved.iter_mut().for_each(|part| drop(part.temporal.halve()));
            }
        }
    }
}
