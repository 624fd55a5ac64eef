//! Finds how much of a capture fits into so many bytes: first stacks fold, then buckets of time are merged, and where
//! that is not enough (thousands of threads at one stack) threads and sizes are not told apart any more.

use super::Part;
use super::cells::{Cells, Grain, Threads};
use super::choose::{Chosen, Order, Shares};
use super::levels::{Counts, Level, N_COUNTED};
use super::nodes::Nodes;
use super::tables::Tables;
use crate::analysis::Temporal;
use crate::model::Model;
use crate::report::sources::Sources;

/// What there is to be fitted, and what was found out about it.
pub struct Fitting<'a> {
    model: &'a Model,
    parts: &'a [Part],
    shares: &'a Shares,
    least_share: f64,
    order: Order,
    counts: Counts,
    levels: Vec<Level>,
    /// Of the last try, from which a coarser one is made.
    laid: Option<Laid>,
}

/// Cells, and how fine they are.
#[derive(Clone)]
struct Laid {
    n_kept: usize,
    grain: Grain,
    level: usize,
    threads: Threads,
    cells: Cells,
    /// By node, a stack that stands there.
    stacks: Vec<u32>,
}

/// What stands in the page.
pub struct Fit<'a> {
    pub chosen: Chosen,
    pub tables: Tables<'a>,
    pub nodes: Nodes,
    pub threads: Threads,
    pub cells: Cells,
    /// By process, its buckets.
    pub timelines: Vec<Temporal>,
    /// Whether there would have been more to show.
    pub is_cut: bool,
}

/// About what a cell takes, a row, and a bucket of a process, in bytes of deflated data.
const CELL_BYTES: f64 = 0.8;
const ROW_BYTES: f64 = 2.5;
const BUCKET_BYTES: f64 = 10.0;
/// How much of the room stacks get at first; the rest is for what stands at them.
const SHARE_OF_NODES: f64 = 0.6;
/// Time is not made coarser than this before stacks are folded further.
const FEWEST_BUCKETS: usize = 32;
/// Stacks are not folded further than this before threads are.
const FEWEST_NODES: usize = 100;
/// From fine to coarse.
const GRAINS: [Grain; 3] = [
    Grain { max_threads: 1000, has_size_classes: true },
    Grain { max_threads: 30, has_size_classes: true },
    Grain { max_threads: 5, has_size_classes: false },
];

impl<'a> Fitting<'a> {
    pub fn new(model: &'a Model, parts: &'a [Part], shares: &'a Shares, least_share: f64) -> Fitting<'a> {
        let order = shares.order(model, least_share);
        let levels = Level::all(parts);
        let counts = Counts::new(model, parts, &levels, order.stacks());
        Fitting { model, parts, shares, least_share, order, counts, levels, laid: None }
    }

    /// What fits into about so many bytes of deflated data.
    pub fn fit(&mut self, room: f64, mut sources: Sources) -> Fit<'a> {
        let &mut Fitting { model, shares, least_share, .. } = self;
        let coarsest = self.levels.iter().position(|level| level.n_buckets() <= FEWEST_BUCKETS).unwrap_or(0);
        let mut room_of_nodes = SHARE_OF_NODES * room;
        let [mut grain, coarser @ ..] = GRAINS;
        let mut coarser = coarser.into_iter();
        loop {
            let is_finest = grain == GRAINS[0];
            let mut n_kept = self.order.n_within(room_of_nodes);
            if is_finest {
                n_kept = self.n_possible(n_kept, coarsest, room);
            }
            let chosen = self.order.first(model, n_kept);
            let mut tables = Tables::new(model, sources);
            let (nodes, node_of) = Nodes::new(model, shares, &chosen, &mut tables);
            let room_left = room - chosen.size;
            let is_possible = |&level: &usize| !is_finest || self.least_size(n_kept, level) <= room;
            let finest = (0..coarsest).find(is_possible).unwrap_or(coarsest);
            // To go back to a finer one takes as long as all else.
            let mut level = self.finer_than(n_kept, grain).map_or(finest, |laid| finest.max(laid.level));
            self.lay(&chosen, &nodes, &node_of, grain, level);
            while self.size() > room_left && level < coarsest {
                level += 1;
                self.lay(&chosen, &nodes, &node_of, grain, level);
            }
            let size = self.size();
            if size > room_left {
                if n_kept > FEWEST_NODES {
                    room_of_nodes = chosen.size * (room_left / size).clamp(0.2, 0.8);
                    sources = tables.sources;
                    continue;
                }
                if let Some(next) = coarser.next() {
                    (grain, room_of_nodes) = (next, chosen.size);
                    sources = tables.sources;
                    continue;
                }
                level = self.levels.len() - 1;
                self.lay(&chosen, &nodes, &node_of, grain, level);
            }
            let is_cut = chosen.n_folded > 0 && chosen.share >= least_share || level > 0;
            let Laid { threads, cells, .. } = self.laid.clone().expect("laid above");
            let timelines = self.levels[level].timelines.clone();
            return Fit { chosen, tables, nodes, threads, cells, timelines, is_cut };
        }
    }

    /// Of so many stacks, as many as can fit at a level; some are taken in any case.
    fn n_possible(&self, n_kept: usize, level: usize, room: f64) -> usize {
        let (mut low, mut high) = (FEWEST_NODES.min(n_kept), n_kept);
        while low < high {
            let middle = high - (high - low) / 2;
            if self.least_size(middle, level) <= room { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// What the first stacks take at least, without what is folded.
    fn least_size(&self, n_kept: usize, level: usize) -> f64 {
        let (n_cells, n_rows) = self.counts.at(n_kept, level.min(N_COUNTED - 1));
        self.order.size(n_kept) + self.size_of(n_cells, n_rows, level)
    }

    /// About what the cells and buckets take that were laid last, in bytes of deflated data.
    fn size(&self) -> f64 {
        self.laid.as_ref().map_or(0.0, |laid| self.size_of(laid.cells.cells.len(), laid.cells.rows.len(), laid.level))
    }

    fn size_of(&self, n_cells: usize, n_rows: usize, level: usize) -> f64 {
        let n_buckets = self.parts.len() * self.levels[level].n_buckets();
        CELL_BYTES * n_cells as f64 + ROW_BYTES * n_rows as f64 + BUCKET_BYTES * n_buckets as f64
    }

    /// What was laid last, where it knows more stacks and as much of them.
    fn finer_than(&self, n_kept: usize, grain: Grain) -> Option<&Laid> {
        self.laid.as_ref().filter(|laid| laid.grain == grain && laid.n_kept >= n_kept)
    }

    /// Makes the cells of the chosen stacks, from those that were made last where these are finer.
    fn lay(&mut self, chosen: &Chosen, nodes: &Nodes, node_of: &[u32], grain: Grain, level: usize) {
        let is_finer = self.finer_than(chosen.n_kept, grain).is_some_and(|laid| laid.level <= level);
        let (threads, cells) = match self.laid.take().filter(|_| is_finer) {
            Some(Laid { threads, cells, stacks, level: from, .. }) => {
                let node_of = |node: u32| node_of[stacks[node as usize] as usize];
                let cells = cells.coarser(node_of, &threads, &self.levels[from], &self.levels[level]);
                (threads, cells)
            }
            None => {
                let threads = Threads::new(self.parts, grain.max_threads);
                let cells = Cells::new(self.parts, node_of, &threads, grain, &self.levels[level]);
                (threads, cells)
            }
        };
        self.laid = Some(Laid { n_kept: chosen.n_kept, grain, level, threads, cells, stacks: nodes.stack.clone() });
    }
}

impl Fit<'_> {
    pub fn n_buckets(&self) -> usize {
        self.timelines.first().map_or(0, |timeline| timeline.buckets.len())
    }
}
