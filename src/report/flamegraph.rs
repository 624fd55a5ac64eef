//! What a flame graph page shows: the call tree as columns, its frames and strings, and the facts of the capture.
//! Serialized as it stands, this is the page's data; the types of `assets/profile.js` are its other description.
//!
//! A page must stay small enough for a browser whatever the capture holds. So the tree is cut where its nodes get too
//! small to be seen: the largest nodes are taken until the page is full, and what is left out stands as one "other"
//! node under the node it belongs to. Every sum stays right, and the page says what was left out.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::page::facts::Facts;
pub use super::page::facts::Reading;
use super::page::tables::{Files, Frames, MAX_NAME_CHARS, Tables, own_frame};
use super::sources::{Confidential, Sources};
use crate::analysis::Tree;
use crate::model::{FrameId, Model, StringId};

/// Which question the flame graph answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Report {
    Peak,
    Leaks,
    /// Given back before more than so many other allocations of the thread.
    Temporary {
        threshold: u64,
    },
}

pub struct FlamegraphOptions {
    pub confidential: Confidential,
    /// About how large the data may become, in bytes.
    pub budget: usize,
}

impl Default for FlamegraphOptions {
    fn default() -> FlamegraphOptions {
        FlamegraphOptions { confidential: Confidential::Default, budget: 4_000_000 }
    }
}

/// The data of the page.
#[derive(Debug, Serialize)]
pub struct Flamegraph {
    pub report: Report,
    pub facts: Facts,
    pub strings: Vec<String>,
    pub files: Files,
    pub frames: Frames,
    pub nodes: Nodes,
    pub folded: Option<Folded>,
}

/// Columns of nodes in depth-first order, the root first. Sums include everything below a node.
#[derive(Debug, Default, Serialize)]
pub struct Nodes {
    pub depth: Vec<usize>,
    pub frame: Vec<usize>,
    pub bytes: Vec<u64>,
    pub count: Vec<u64>,
}

/// What stands as "other".
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Folded {
    pub nodes: usize,
    pub bytes: u64,
    /// Every node of at least this share of the bytes or of the allocations is in the page.
    pub share: f64,
}

/// About what a node takes in the page: its own columns and those of the "other" node it may need.
const NODE_BYTES: usize = 34;
/// About what a frame takes beside its strings.
const FRAME_BYTES: usize = 20;
impl Flamegraph {
    pub fn new(
        model: &Model,
        tree: &Tree,
        report: Report,
        reading: Reading,
        options: &FlamegraphOptions,
    ) -> Flamegraph {
        let (start, end) = (model.process().facts.start_unix_nanos, model.process().facts.end);
        let recorded_until = end.map_or(start, |end| end.unix_nanos);
        let sources =
            Sources::new(options.confidential, &model.process().facts.cwd, Duration::from_nanos(recorded_until));
        let (is_kept, folded) = choose(model, tree, options.budget);
        let mut tables = Tables::new(model, sources);
        let nodes = emit(tree, &is_kept, &mut tables);
        let mut facts = Facts::new(model.process(), reading);
        facts.changed_files = tables.sources.n_changed;
        let Tables { strings, files, frames, .. } = tables;
        Flamegraph { report, facts, strings: strings.texts, files, frames, nodes, folded }
    }
}

/// Which nodes fit into the page, the largest first, and what that leaves out.
fn choose(model: &Model, tree: &Tree, budget: usize) -> (Vec<bool>, Option<Folded>) {
    let Some(root) = tree.root() else { return (Vec::new(), None) };
    let share = |index: usize| {
        let node = &tree.nodes[index];
        let of = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        of(node.bytes, root.bytes).max(of(node.count, root.count))
    };
    // No node is larger than its parent, and among equals the parent comes first: so parents are always taken before
    // their children.
    let mut by_size: Vec<(f64, usize)> = (0..tree.nodes.len()).map(|index| (share(index), index)).collect();
    by_size.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

    let mut is_kept = vec![false; tree.nodes.len()];
    let mut known = Seen::default();
    let mut size = 0;
    let mut n_kept = 0;
    for &(_, index) in &by_size {
        size += NODE_BYTES + known.cost(model, tree.nodes[index].frame);
        if size > budget && index != 0 {
            break;
        }
        is_kept[index] = true;
        n_kept += 1;
    }
    let left_out = by_size.get(n_kept).map(|&(largest, _)| {
        let is_top = |index: usize| !is_kept[index] && is_kept[tree.nodes[index].parent];
        let bytes = (1..tree.nodes.len()).filter(|&index| is_top(index)).map(|index| tree.nodes[index].bytes).sum();
        Folded { nodes: tree.nodes.len() - n_kept, bytes, share: largest }
    });
    (is_kept, left_out)
}

/// What is in the page already and so costs nothing more.
#[derive(Default)]
struct Seen {
    frames: HashSet<FrameId>,
    strings: HashSet<StringId>,
}

impl Seen {
    fn cost(&mut self, model: &Model, frame: Option<FrameId>) -> usize {
        let Some(id) = frame else { return 0 };
        if !self.frames.insert(id) {
            return 0;
        }
        let frame = model.frame(id);
        // Of a source line it is not known yet how long it will be.
        let mut cost = FRAME_BYTES + 40;
        for string in [frame.function, frame.file] {
            if self.strings.insert(string) {
                cost += model.text(string).len().min(4 * MAX_NAME_CHARS) + 3;
            }
        }
        cost
    }
}

fn emit(tree: &Tree, is_kept: &[bool], tables: &mut Tables<'_>) -> Nodes {
    let mut others: HashMap<usize, (u64, u64)> = HashMap::new();
    for (index, node) in tree.nodes.iter().enumerate() {
        if !is_kept[index] && is_kept[node.parent] {
            let other = others.entry(node.parent).or_default();
            other.0 = other.0.saturating_add(node.bytes);
            other.1 += node.count;
        }
    }
    let mut nodes = Nodes::default();
    for (index, node) in tree.nodes.iter().enumerate().filter(|&(index, _)| is_kept[index]) {
        let frame = node.frame.map_or(own_frame::ROOT, |id| tables.frame(id));
        nodes.push(node.depth, frame, node.bytes, node.count);
        if index == 0 && node.own_count > 0 {
            nodes.push(1, own_frame::NO_STACK, node.own_bytes, node.own_count);
        }
        if let Some(&(bytes, count)) = others.get(&index) {
            nodes.push(node.depth + 1, own_frame::OTHER, bytes, count);
        }
    }
    if nodes.depth.is_empty() {
        nodes.push(0, own_frame::ROOT, 0, 0);
    }
    nodes
}

impl Nodes {
    fn push(&mut self, depth: usize, frame: usize, bytes: u64, count: u64) {
        self.depth.push(depth);
        self.frame.push(frame);
        self.bytes.push(bytes);
        self.count.push(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Row, Snapshot};
    use crate::model::StackId;

    /// A model and the snapshot of these stacks, given from the root: `("main;work", bytes, count)`.
    fn tree_of(stacks: &[(&str, u64, u64)]) -> (Model, Tree) {
        let mut model = Model::default();
        let mut rows = Vec::new();
        for &(stack, bytes, count) in stacks {
            let mut id = StackId::EMPTY;
            for name in stack.split(';').filter(|name| !name.is_empty()) {
                let frame = model.intern_frame(name, &format!("/srv/{name}.py"), 7);
                id = model.extend_stack(id, frame);
            }
            rows.push(Row { stack: id, bytes, count });
        }
        rows.sort_by_key(|row| row.stack);
        let (bytes, count) = (rows.iter().map(|row| row.bytes).sum(), rows.iter().map(|row| row.count).sum());
        let tree = Tree::new(&model, &Snapshot { rows, bytes, count, turn: None });
        (model, tree)
    }

    fn graph_of(stacks: &[(&str, u64, u64)], budget: usize) -> Flamegraph {
        let (model, tree) = tree_of(stacks);
        let options = FlamegraphOptions { budget, ..Default::default() };
        Flamegraph::new(&model, &tree, Report::Peak, Reading::default(), &options)
    }

    /// The nodes as text, one line each.
    fn shown(graph: &Flamegraph) -> String {
        let Nodes { depth, frame, bytes, count } = &graph.nodes;
        let name = |node: usize| &graph.strings[graph.frames.function[frame[node]]];
        let line =
            |node: usize| format!("{}{} {} {}\n", "  ".repeat(depth[node]), name(node), bytes[node], count[node]);
        (0..depth.len()).map(line).collect()
    }

    const STACKS: [(&str, u64, u64); 4] = [("", 5, 1), ("main", 10, 2), ("main;work", 60, 3), ("main;rest", 25, 4)];

    #[test]
    fn a_node_holds_what_is_below_it_and_no_stack_is_a_node_too() {
        let graph = graph_of(&STACKS, usize::MAX);
        assert_eq!(shown(&graph), "all 100 10\n  no Python stack 5 1\n  main 95 9\n    work 60 3\n    rest 25 4\n");
        assert_eq!(graph.folded, None);
    }

    #[test]
    fn what_does_not_fit_is_folded_without_changing_a_sum() {
        let stacks: Vec<(String, u64, u64)> = (0..300)
            .map(|n| (format!("main;f{}", n % 10), 1000 - n, 1))
            .chain([("main;deep;er".into(), 7, 1)])
            .collect();
        let stacks: Vec<_> = stacks.iter().map(|(stack, bytes, count)| (stack.as_str(), *bytes, *count)).collect();
        let mut merged = std::collections::BTreeMap::<&str, (u64, u64)>::new();
        for &(stack, bytes, count) in &stacks {
            let entry = merged.entry(stack).or_default();
            *entry = (entry.0 + bytes, entry.1 + count);
        }
        let stacks: Vec<_> = merged.into_iter().map(|(stack, (bytes, count))| (stack, bytes, count)).collect();
        let total: u64 = stacks.iter().map(|row| row.1).sum();
        for budget in [0, 300, 700, 1000, 1300] {
            let graph = graph_of(&stacks, budget);
            let folded = graph.folded.expect("the budget is too small for all");
            assert_eq!(graph.nodes.bytes[0], total);
            let leaves = (0..graph.nodes.depth.len())
                .filter(|&node| graph.nodes.depth.get(node + 1).is_none_or(|&next| next <= graph.nodes.depth[node]));
            assert_eq!(leaves.map(|node| graph.nodes.bytes[node]).sum::<u64>(), total, "budget {budget}");
            let others: Vec<u64> = (0..graph.nodes.depth.len())
                .filter(|&node| graph.nodes.frame[node] == own_frame::OTHER)
                .map(|node| graph.nodes.bytes[node])
                .collect();
            assert_eq!(others.iter().sum::<u64>(), folded.bytes);
            assert!(folded.share > 0.0 && folded.nodes > 0);
            let n_kept = graph.nodes.depth.len() - others.len();
            assert_eq!(n_kept + folded.nodes, stacks.len() + 3, "budget {budget}");
        }
    }

    #[test]
    fn a_small_node_with_many_allocations_stays() {
        let graph = graph_of(&[("main;big", 1_000_000, 1), ("main;many", 1, 1_000_000), ("main;tiny", 1, 1)], 480);
        let text = shown(&graph);
        assert!(text.contains("big") && text.contains("many") && !text.contains("tiny"), "{text}");
    }

    #[test]
    fn nothing_allocated_is_a_lone_root() {
        assert_eq!(shown(&graph_of(&[], usize::MAX)), "all 0 0\n");
    }

    #[test]
    fn many_stacks_with_long_names_stay_within_the_budget() {
        let mut model = Model::default();
        let mut rows = Vec::new();
        let mut parents = vec![StackId::EMPTY];
        for n in 0..200_000u64 {
            let name = format!("{}_{}", "long_name".repeat(30), n % 50_000);
            let frame = model.intern_frame(&name, &format!("/srv/{}/{}.py", "folder".repeat(20), n % 1000), 1);
            let stack = model.extend_stack(parents[(n / 3) as usize], frame);
            parents.push(stack);
            rows.push(Row { stack, bytes: 1 + n % 977, count: 1 });
        }
        let bytes = rows.iter().map(|row| row.bytes).sum();
        let count = rows.len() as u64;
        let tree = Tree::new(&model, &Snapshot { rows, bytes, count, turn: None });
        let graph = Flamegraph::new(&model, &tree, Report::Peak, Reading::default(), &FlamegraphOptions::default());
        let len = serde_json::to_string(&graph).unwrap().len();
        assert!((2_000_000..5_000_000).contains(&len), "{len} bytes");
        assert_eq!(graph.nodes.bytes[0], bytes);
    }
}
