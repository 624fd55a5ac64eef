//! What each function holds, alone and with everything it called.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::{BySite, Row, Snapshot, Tree};
use crate::model::{Model, StringId, ThreadKey};

/// One function of one file; all its lines together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// `None` for allocations without a stack.
    pub name: Option<(StringId, StringId)>,
    /// In the function and in what it called; counted once where it calls itself.
    pub total_bytes: u64,
    pub own_bytes: u64,
    /// Allocations in the function and in what it called.
    pub count: u64,
}

/// All functions of a tree, the largest total first.
pub fn by_function(model: &Model, tree: &Tree) -> Vec<Function> {
    let mut functions: HashMap<Option<(StringId, StringId)>, (Function, u32)> = HashMap::new();
    // Functions on the way from the root to the current node.
    let mut path = Vec::new();
    for node in &tree.nodes {
        while path.len() > node.depth {
            let left = path.pop().flatten();
            if let Some((_, n_open)) = functions.get_mut(&left) {
                *n_open -= 1;
            }
        }
        let name = node.frame.map(|id| model.frame(id)).map(|frame| (frame.function, frame.file));
        let empty = Function { name, total_bytes: 0, own_bytes: 0, count: 0 };
        let (function, n_open) = functions.entry(name).or_insert((empty, 0));
        function.own_bytes += node.own_bytes;
        let (bytes, count) = match name {
            // The root calls nothing: its own are the allocations without a stack.
            None => (node.own_bytes, node.own_count),
            Some(_) => (node.bytes, node.count),
        };
        if *n_open == 0 {
            function.total_bytes += bytes;
            function.count += count;
        }
        *n_open += 1;
        path.push(name);
    }
    let mut functions: Vec<_> = functions.into_values().map(|(function, _)| function).collect();
    functions.retain(|function| function.count > 0);
    functions.sort_by_key(|function| (std::cmp::Reverse(function.total_bytes), function.name));
    functions
}

/// The functions of each thread, in the order of the threads.
pub fn by_thread(model: &Model, by_site: &BySite) -> Vec<(ThreadKey, Vec<Function>)> {
    let mut threads: BTreeMap<ThreadKey, Vec<Row>> = BTreeMap::new();
    for row in &by_site.rows {
        let rows = threads.entry(row.site.thread).or_default();
        rows.push(Row { stack: row.site.stack, bytes: row.bytes, count: row.count });
    }
    let functions = |rows| by_function(model, &Tree::new(model, &Snapshot::summed(rows, None)));
    threads.into_iter().map(|(thread, rows)| (thread, functions(rows))).collect()
}
