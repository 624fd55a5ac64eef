//! What stands at the nodes of a page: cells that can be filtered, and the time of what is in them.

use hashbrown::HashMap;

use super::Part;
use crate::analysis::Site;
use crate::analysis::intervals::Amount;
use crate::model::ThreadKey;

/// What a node holds for one thread, allocator and class of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    pub node: u32,
    /// Among the threads of all processes.
    pub thread: u32,
    pub allocator: u8,
    pub size_class: u8,
}

/// What came into a cell in one segment and went in one.
#[derive(Clone, Copy)]
pub struct Row {
    /// From the highest bits: the cell's number, born, died.
    key: u64,
    pub amount: Amount,
}

/// All cells, in order, with their rows.
pub struct Cells {
    pub cells: Vec<Cell>,
    pub rows: Vec<Row>,
}

/// How much of a site is told apart. Whatever a capture holds, coarse enough it fits.
#[derive(Clone, Copy, Debug)]
pub struct Grain {
    pub max_threads: usize,
    pub has_size_classes: bool,
}

/// The threads that a page knows.
pub struct Threads {
    /// By process. One without a number stands for many.
    pub of_process: Vec<Vec<ThreadKey>>,
    numbers: HashMap<(usize, ThreadKey), u32>,
    /// By process, the number of the one that stands for many.
    others: Vec<u32>,
    /// By thread of the page, its process.
    pub processes: Vec<usize>,
}

/// Stands for threads that have no place of their own. No thread has the number.
pub const OTHER_THREADS: ThreadKey = ThreadKey { image: u16::MAX, number: u32::MAX };

impl Row {
    fn new(cell: u32, born: u16, died: u16, amount: Amount) -> Row {
        Row { key: (cell as u64) << 32 | (born as u64) << 16 | died as u64, amount }
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

impl Threads {
    /// All threads that allocated; when there are too many, those with the most allocations.
    pub fn new(parts: &[Part], max_threads: usize) -> Threads {
        let mut counts: HashMap<(usize, ThreadKey), i64> = HashMap::new();
        for (process, part) in parts.iter().enumerate() {
            let mut of_sites = vec![0i64; part.temporal.sites.len()];
            part.temporal.rows.iter().for_each(|row| of_sites[row.site as usize] += row.amount.count);
            let mut latest = (OTHER_THREADS, 0);
            for (site, count) in part.temporal.sites.iter().zip(of_sites).filter(|(_, count)| *count != 0) {
                if latest.0 != site.thread {
                    *counts.entry((process, latest.0)).or_default() += latest.1;
                    latest = (site.thread, 0);
                }
                latest.1 += count;
            }
            *counts.entry((process, latest.0)).or_default() += latest.1;
            counts.remove(&(process, OTHER_THREADS));
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
    /// Of all parts, with the node of each stack.
    pub fn new(parts: &[Part], node_of: &[u32], threads: &Threads, grain: Grain) -> Cells {
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
        // Sites of all parts one behind the other, in the order of their cells.
        let sites = parts
            .iter()
            .enumerate()
            .flat_map(|(process, part)| part.temporal.sites.iter().map(move |site| (process, site)));
        let mut in_order: Vec<(Cell, u32)> =
            sites.zip(0..).map(|((process, site), at)| (cell_of(process, site), at)).collect();
        in_order.sort_unstable();
        let mut cells: Vec<Cell> = Vec::new();
        let mut numbers = vec![0u32; in_order.len()];
        for (cell, at) in in_order {
            if cells.last() != Some(&cell) {
                cells.push(cell);
            }
            numbers[at as usize] = cells.len() as u32 - 1;
        }
        let mut rows = Vec::new();
        let mut numbers = numbers.as_slice();
        for part in parts {
            let (of_sites, behind) = numbers.split_at(part.temporal.sites.len());
            numbers = behind;
            let part_rows = part.temporal.rows.iter();
            rows.extend(part_rows.map(|row| Row::new(of_sites[row.site as usize], row.born, row.died, row.amount)));
        }
        let mut cells = Cells { cells, rows };
        cells.sum_up();
        cells.drop_empty();
        cells
    }

    /// Makes each two buckets one: `segments` says by process what becomes of the segments.
    pub fn halve(&mut self, threads: &Threads, segments: &[Vec<u16>]) {
        for row in &mut self.rows {
            let segments = &segments[threads.processes[self.cells[row.cell()].thread as usize]];
            let born = segments[row.born() as usize];
            let died = if row.died() == 0 { 0 } else { 1 + segments[row.died() as usize - 1] };
            *row = Row::new(row.cell() as u32, born, died, row.amount);
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        // Segments keep their order when buckets are halved, so the rows are nearly sorted: quick for a stable sort.
        self.rows.sort_by_key(|row| row.key);
        self.rows.dedup_by(|row, sum| {
            let is_same = row.key == sum.key;
            if is_same {
                sum.amount += row.amount;
            }
            is_same
        });
        self.rows.retain(|row| row.amount != Amount::default());
    }

    /// Sites may have been seen without anything being counted there.
    fn drop_empty(&mut self) {
        let mut numbers = vec![u32::MAX; self.cells.len()];
        self.rows.iter().for_each(|row| numbers[row.cell()] = 0);
        for (number, place) in numbers.iter_mut().filter(|place| **place == 0).enumerate() {
            *place = number as u32;
        }
        let mut old = numbers.iter();
        self.cells.retain(|_| old.next().is_some_and(|&number| number != u32::MAX));
        for row in &mut self.rows {
            *row = Row::new(numbers[row.cell()], row.born(), row.died(), row.amount);
        }
    }
}
