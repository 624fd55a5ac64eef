//! The chosen stacks as a tree in depth-first order. What was not chosen stands as one "other" node under the last
//! stack on its way that was.

use super::choose::{Chosen, Shares};
use super::tables::{Tables, own_frame};
use crate::model::{Model, StackId};

/// Columns of nodes.
#[derive(Default)]
pub struct Nodes {
    pub depth: Vec<u32>,
    pub frame: Vec<u32>,
    /// The stack whose allocations stand there; of "other" any of them.
    pub stack: Vec<u32>,
}

/// What a chosen stack needs while the tree is laid out.
#[derive(Clone, Default)]
struct Place {
    stack: u32,
    depth: u32,
    node: u32,
    /// The "other" node; 0 without one.
    other: u32,
    /// A stack that stands as "other"; 0 without one.
    folded: u32,
    /// Its children stand there one behind the other.
    first_child: u32,
    n_children: u32,
}

impl Nodes {
    /// The tree, and by stack the number of the node at which its own allocations stand.
    pub fn new(model: &Model, shares: &Shares, chosen: &Chosen, tables: &mut Tables<'_>) -> (Nodes, Vec<u32>) {
        // By stack, the place of the nearest chosen one on the way to the root.
        let mut nearest = vec![0u32; chosen.is_kept.len()];
        let mut places = Vec::with_capacity(chosen.n_kept);
        for (index, &is_kept) in chosen.is_kept.iter().enumerate() {
            let parent = nearest[model.parent(StackId::from_index(index)).index()];
            nearest[index] = if is_kept { places.len() as u32 } else { parent };
            if is_kept {
                let depth = places.get(parent as usize).map_or(0, |parent: &Place| parent.depth + 1);
                places.push(Place { stack: index as u32, depth, ..Place::default() });
                if index > 0 {
                    places[parent as usize].n_children += 1;
                }
            } else if shares.has_any(index) {
                places[parent as usize].folded = index as u32;
            }
        }
        let children = children(model, &mut places, &nearest);

        let mut nodes = Nodes::default();
        let mut no_stack = 0;
        // The next one last.
        let mut waiting = vec![0u32];
        while let Some(index) = waiting.pop() {
            let place = &mut places[index as usize];
            let frame = model.leaf(StackId::from_index(place.stack as usize));
            let frame = frame.map_or(own_frame::ROOT, |id| tables.frame(id));
            place.node = nodes.push(place.depth, frame, place.stack);
            if index == 0 && shares.has_own_at_root() {
                no_stack = nodes.push(1, own_frame::NO_STACK, 0);
            }
            if place.folded != 0 {
                place.other = nodes.push(place.depth + 1, own_frame::OTHER, place.folded);
            }
            let (start, end) = (place.first_child as usize, (place.first_child + place.n_children) as usize);
            waiting.extend(children[start..end].iter().rev());
        }
        let node_of = chosen.is_kept.iter().zip(&nearest).enumerate().map(|(index, (&is_kept, &place))| {
            let place = &places[place as usize];
            match (index, is_kept) {
                (0, _) => no_stack,
                (_, true) => place.node,
                (_, false) => place.other,
            }
        });
        let node_of = node_of.collect();
        (nodes, node_of)
    }

    fn push(&mut self, depth: u32, frame: usize, stack: u32) -> u32 {
        self.depth.push(depth);
        self.frame.push(frame as u32);
        self.stack.push(stack);
        self.depth.len() as u32 - 1
    }
}

/// The places of all children, those of a stack together and in the order of their numbers.
fn children(model: &Model, places: &mut [Place], nearest: &[u32]) -> Vec<u32> {
    let mut n_before = 0;
    for place in places.iter_mut() {
        place.first_child = n_before;
        n_before += std::mem::take(&mut place.n_children);
    }
    let mut children = vec![0u32; n_before as usize];
    for index in 1..places.len() {
        let parent = model.parent(StackId::from_index(places[index].stack as usize));
        let parent = &mut places[nearest[parent.index()] as usize];
        children[(parent.first_child + parent.n_children) as usize] = index as u32;
        parent.n_children += 1;
    }
    children
}
