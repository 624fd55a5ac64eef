//! Which stacks stand in the page by name. The largest do, each judged by the largest share that it and what it called
//! have of the bytes or of the allocations of the peak, the leaks or all that was ever allocated.

use super::tables::{MAX_NAME_CHARS, shortened};
use crate::model::{FrameId, Model, StackId, StringId};

/// Bytes and counts of peak, leaks and churn.
pub type Sums = [u64; 6];

/// Which of them is the most: what was ever allocated.
const CHURN_BYTES: usize = 4;

/// Of each stack of a model, what it and all it called have.
pub struct Shares {
    sums: Vec<Sums>,
    own_at_root: Sums,
}

/// The stacks at which anything was allocated, the largest first. A page has the first of them.
pub struct Order {
    stacks: Vec<u32>,
    shares: Vec<f64>,
    /// By place in the order, what all up to there take, in bytes of deflated data.
    sizes: Vec<f64>,
    /// How many have the share that was asked for.
    n_large: usize,
}

/// Stacks by their numbers.
pub struct Chosen {
    pub is_kept: Vec<bool>,
    pub n_kept: usize,
    /// About what they take, in bytes of deflated data.
    pub size: f64,
    /// Stacks that are left out, and the share of the largest of them.
    pub n_folded: usize,
    pub share: f64,
}

/// What a stack takes in the page, in bytes of deflated data: its columns…
const NODE_BYTES: f64 = 1.5;
/// …those of its frame, with the number of the source line…
const FRAME_BYTES: f64 = 4.0;
/// …the line itself, of which it is not known yet how long it will be…
const SOURCE_BYTES: f64 = 6.0;
/// …and of each text the marks around it.
const STRING_BYTES: f64 = 2.0;

impl Shares {
    /// Of the sums of each stack itself.
    pub fn new(model: &Model, mut own: Vec<Sums>) -> Shares {
        own.resize(model.n_stacks(), Sums::default());
        let own_at_root = own[0];
        // Parents have smaller numbers, so from the back every sum is complete when it is passed on.
        for index in (1..own.len()).rev() {
            let sums = own[index];
            let parent = &mut own[model.parent(StackId::from_index(index)).index()];
            for (sum, part) in parent.iter_mut().zip(sums) {
                *sum = sum.saturating_add(part);
            }
        }
        Shares { sums: own, own_at_root }
    }

    /// Whether anything was allocated there or below.
    pub fn has_any(&self, stack: usize) -> bool {
        self.sums[stack] != Sums::default()
    }

    /// Whether anything was allocated without a stack.
    pub fn has_own_at_root(&self) -> bool {
        self.own_at_root != Sums::default()
    }

    /// Of everything that was ever allocated, the bytes that were left out.
    pub fn folded_bytes(&self, model: &Model, chosen: &Chosen) -> u64 {
        let parent = |index: usize| model.parent(StackId::from_index(index)).index();
        let is_top = |index: &usize| !chosen.is_kept[*index] && chosen.is_kept[parent(*index)];
        (1..self.sums.len()).filter(is_top).map(|index| self.sums[index][CHURN_BYTES]).fold(0, u64::saturating_add)
    }

    /// The stacks with anything, the largest first.
    pub fn order(&self, model: &Model, least_share: f64) -> Order {
        let whole = self.sums[0];
        let share = |sums: &Sums| {
            let of = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
            sums.iter().zip(whole).map(|(&part, whole)| of(part, whole)).fold(0.0, f64::max)
        };
        // No stack has more than its parent, and among equals the parent comes first: so parents always come before
        // what they called.
        let shares = self.sums.iter().map(share).zip(0u32..);
        let mut by_size: Vec<(f64, u32)> = shares.filter(|&(share, index)| share > 0.0 || index == 0).collect();
        by_size.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let (shares, stacks): (Vec<f64>, Vec<u32>) = by_size.into_iter().unzip();

        let mut seen = Seen::new(model);
        let mut size = 0.0;
        let sizes = stacks.iter().map(|&index| {
            size += NODE_BYTES + seen.cost(model, model.leaf(StackId::from_index(index as usize)));
            size
        });
        let sizes = sizes.collect();
        let n_large = shares.partition_point(|&share| share >= least_share);
        Order { stacks, shares, sizes, n_large }
    }
}

impl Order {
    pub fn stacks(&self) -> &[u32] {
        &self.stacks
    }

    /// How many stacks have the least share and take no more than so many bytes of deflated data. The root always has.
    pub fn n_within(&self, room: f64) -> usize {
        self.sizes.partition_point(|&size| size <= room).min(self.n_large).max(1)
    }

    /// About what the first stacks take, in bytes of deflated data.
    pub fn size(&self, n_kept: usize) -> f64 {
        self.sizes[n_kept - 1]
    }

    /// The first so many stacks.
    pub fn first(&self, model: &Model, n_kept: usize) -> Chosen {
        let mut is_kept = vec![false; model.n_stacks()];
        self.stacks[..n_kept].iter().for_each(|&index| is_kept[index as usize] = true);
        let share = self.shares.get(n_kept).copied().unwrap_or(0.0);
        Chosen { is_kept, n_kept, size: self.size(n_kept), n_folded: self.stacks.len() - n_kept, share }
    }
}

/// What is in the page already and so costs nothing more.
struct Seen {
    frames: Marks,
    strings: Marks,
    /// To how much of their length the names of this model deflate.
    ratio: f64,
}

impl Seen {
    fn new(model: &Model) -> Seen {
        Seen { frames: Marks::default(), strings: Marks::default(), ratio: deflated_share(model) }
    }

    fn cost(&mut self, model: &Model, frame: Option<FrameId>) -> f64 {
        let Some(id) = frame else { return 0.0 };
        if !self.frames.is_new(id.index()) {
            return 0.0;
        }
        let frame = model.frame(id);
        let mut cost = FRAME_BYTES + SOURCE_BYTES;
        for string in [frame.function, frame.file] {
            if self.strings.is_new(string.index()) {
                cost += STRING_BYTES + self.ratio * model.text(string).len().min(4 * MAX_NAME_CHARS) as f64;
            }
        }
        cost
    }
}

/// Numbers that were there before.
#[derive(Default)]
struct Marks(Vec<bool>);

impl Marks {
    fn is_new(&mut self, number: usize) -> bool {
        if number >= self.0.len() {
            self.0.resize(number + 1, false);
        }
        !std::mem::replace(&mut self.0[number], true)
    }
}

/// Tried with some names from all over the model.
fn deflated_share(model: &Model) -> f64 {
    const N_TRIED: usize = 500;
    let step = (model.n_stacks() / N_TRIED).max(1);
    let frames = (1..model.n_stacks()).step_by(step).filter_map(|index| model.leaf(StackId::from_index(index)));
    let mut names: Vec<StringId> = frames.map(|frame| model.frame(frame).function).collect();
    names.sort_unstable();
    names.dedup();
    let text: String = names.into_iter().map(|name| shortened(model.text(name)) + "\",\"").collect();
    super::envelope::deflated(text.as_bytes()).len() as f64 / text.len().max(1) as f64
}
