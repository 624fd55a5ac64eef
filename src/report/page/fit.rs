//! Finds how much of a capture fits into so many bytes: first stacks fold, then buckets of time are merged, and where
//! that is not enough (thousands of threads at one stack) threads and sizes are not told apart any more.

use super::Part;
use super::cells::{Cells, Grain, Threads};
use super::choose::{Chosen, Shares};
use super::nodes::Nodes;
use super::tables::Tables;
use crate::analysis::Temporal;
use crate::model::Model;
use crate::report::sources::Sources;

/// What stands in the page.
pub struct Fit<'a> {
    pub chosen: Chosen,
    pub tables: Tables<'a>,
    pub nodes: Nodes,
    pub threads: Threads,
    pub cells: Cells,
    /// By process, its buckets.
    pub timelines: Vec<Temporal>,
    is_halved: bool,
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

impl<'a> Fit<'a> {
    /// What fits into about so many bytes of deflated data.
    pub fn new(
        model: &'a Model,
        parts: &[Part],
        shares: &Shares,
        least_share: f64,
        room: f64,
        mut sources: Sources,
    ) -> Fit<'a> {
        let mut room_of_nodes = SHARE_OF_NODES * room;
        let [mut grain, coarser @ ..] = GRAINS;
        let mut coarser = coarser.into_iter();
        loop {
            let chosen = shares.choose(model, room_of_nodes, least_share);
            let mut tables = Tables::new(model, sources);
            let (nodes, node_of) = Nodes::new(model, shares, &chosen, &mut tables);
            let threads = Threads::new(parts, grain.max_threads);
            let cells = Cells::new(parts, &node_of, &threads, grain);
            let timelines = parts.iter().map(|part| part.temporal.without_rows()).collect();
            let mut fit = Fit { chosen, tables, nodes, threads, cells, timelines, is_halved: false };
            let room_left = room - fit.chosen.size;
            while fit.size() > room_left && fit.n_buckets() > FEWEST_BUCKETS {
                fit.halve();
            }
            let size = fit.size();
            if size <= room_left {
                return fit;
            }
            if fit.chosen.n_kept > FEWEST_NODES {
                room_of_nodes = fit.chosen.size * (room_left / size).clamp(0.2, 0.8);
            } else if let Some(next) = coarser.next() {
                grain = next;
            } else {
                while fit.n_buckets() > 1 {
                    fit.halve();
                }
                return fit;
            }
            sources = fit.tables.sources;
        }
    }

    pub fn n_buckets(&self) -> usize {
        self.timelines.first().map_or(0, |timeline| timeline.buckets.len())
    }

    /// Whether there would have been more to show.
    pub fn is_cut(&self, least_share: f64) -> bool {
        self.is_halved || self.chosen.n_folded > 0 && self.chosen.share >= least_share
    }

    /// About what it takes beside the stacks, in bytes of deflated data.
    fn size(&self) -> f64 {
        let n_buckets = self.timelines.len() * self.n_buckets();
        CELL_BYTES * self.cells.cells.len() as f64
            + ROW_BYTES * self.cells.rows.len() as f64
            + BUCKET_BYTES * n_buckets as f64
    }

    fn halve(&mut self) {
        let segments: Vec<Vec<u16>> = self.timelines.iter_mut().map(Temporal::halve).collect();
        self.cells.halve(&self.threads, &segments);
        self.is_halved = true;
    }
}
