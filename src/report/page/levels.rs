//! How fine time can be: the buckets as they are, each two as one, each four, and so on. And what the rows of a capture
//! come to at each of these levels, so that a level at which they can't fit is not tried.

use super::Part;
use crate::analysis::Temporal;
use crate::model::Model;

/// The buckets of all processes at one level.
pub struct Level {
    pub timelines: Vec<Temporal>,
    /// By process, what has become of each segment of the finest level.
    pub segments: Vec<Vec<u16>>,
}

/// Levels that are counted for.
pub const N_COUNTED: usize = 5;

/// What stands at the stacks themselves, added up along an order of them.
pub struct Counts {
    cells: Vec<u32>,
    rows: Vec<[u32; N_COUNTED]>,
}

impl Level {
    /// From the finest to one bucket.
    pub fn all(parts: &[Part]) -> Vec<Level> {
        let timelines: Vec<Temporal> = parts.iter().map(|part| part.temporal.without_rows()).collect();
        let segments = timelines.iter().map(|it| (0..2 * it.buckets.len() as u16).collect()).collect();
        let mut levels = vec![Level { timelines, segments }];
        while let Some(finer) = levels.last().filter(|level| level.n_buckets() > 1) {
            let mut timelines = finer.timelines.clone();
            let steps = timelines.iter_mut().map(Temporal::halve);
            let segments = steps
                .zip(&finer.segments)
                .map(|(step, segments)| segments.iter().map(|&segment| step[segment as usize]).collect());
            let segments = segments.collect();
            levels.push(Level { timelines, segments });
        }
        levels
    }

    pub fn n_buckets(&self) -> usize {
        self.timelines.first().map_or(0, |timeline| timeline.buckets.len())
    }

    /// By process, what has become of each segment of a finer level.
    pub fn steps_from(&self, finer: &Level) -> Vec<Vec<u16>> {
        let of_process = |(from, to): (&Vec<u16>, &Vec<u16>)| {
            let mut steps = vec![0; 2 * finer.n_buckets()];
            from.iter().zip(to).for_each(|(&from, &to)| steps[from as usize] = to);
            steps
        };
        finer.segments.iter().zip(&self.segments).map(of_process).collect()
    }
}

/// The same birth and death where segments have become others.
pub fn span(segments: &[u16], born: u16, died: u16) -> (u16, u16) {
    (segments[born as usize], if died == 0 { 0 } else { 1 + segments[died as usize - 1] })
}

impl Counts {
    pub fn new(model: &Model, parts: &[Part], levels: &[Level], order: &[u32]) -> Counts {
        let mut cells = vec![0u32; model.n_stacks()];
        let mut rows = vec![[0u32; N_COUNTED]; model.n_stacks()];
        let mut spans = Vec::new();
        for (process, Part { temporal, .. }) in parts.iter().enumerate() {
            for of_site in temporal.rows.chunk_by(|a, b| a.site == b.site) {
                let stack = temporal.sites[of_site[0].site as usize].stack.index();
                cells[stack] += 1;
                let [finest, coarser @ ..] = &mut rows[stack];
                *finest += of_site.len() as u32;
                spans.clear();
                spans.extend(of_site.iter().map(|row| (row.born, row.died)));
                for (n_rows, level) in coarser.iter_mut().zip(&levels[1..]) {
                    // One stays one at all further levels.
                    if spans.len() > 1 {
                        let segments = &level.segments[process];
                        spans.clear();
                        spans.extend(of_site.iter().map(|row| span(segments, row.born, row.died)));
                        if !spans.is_sorted() {
                            spans.sort_unstable();
                        }
                        spans.dedup();
                    }
                    *n_rows += spans.len() as u32;
                }
            }
        }
        let (mut n_cells, mut n_rows) = (0u32, [0u32; N_COUNTED]);
        let counts = order.iter().map(|&stack| {
            n_cells += cells[stack as usize];
            n_rows.iter_mut().zip(rows[stack as usize]).for_each(|(sum, n)| *sum += n);
            (n_cells, n_rows)
        });
        let (cells, rows) = counts.unzip();
        Counts { cells, rows }
    }

    /// Cells and rows of the first so many stacks at a level.
    pub fn at(&self, n_kept: usize, level: usize) -> (usize, usize) {
        let at = n_kept - 1;
        (self.cells[at] as usize, self.rows[at][level] as usize)
    }
}
