//! The call tree of the largest allocating stacks, as text and as JSON.

use std::cmp::Reverse;
use std::io::{Result, Write};

use serde::Serialize;

use super::printable::printable;
use super::stems::{Guide, Stems};
use crate::analysis::{Measure, Snapshot, Tree};
use crate::model::Model;
use crate::units;

pub struct TreeOptions {
    /// Stacks that are shown, the largest ones.
    pub biggest_allocs: usize,
    /// What makes one larger than another.
    pub measure: Measure,
}

/// What of a snapshot is shown.
pub fn biggest(snapshot: &Snapshot, options: &TreeOptions) -> Snapshot {
    let mut rows = snapshot.rows.clone();
    rows.sort_by_key(|row| match options.measure {
        Measure::Bytes => (Reverse(row.bytes), Reverse(row.count), row.stack),
        Measure::Count => (Reverse(row.count), Reverse(row.bytes), row.stack),
    });
    rows.truncate(options.biggest_allocs);
    rows.sort_by_key(|row| row.stack);
    Snapshot::new(rows.into_iter(), snapshot.turn)
}

/// One line a frame.
pub fn text(model: &Model, snapshot: &Snapshot, tree: &Tree, n_left_out: usize, out: &mut dyn Write) -> Result<()> {
    let stems = Stems::new(tree);
    for (index, node) in tree.nodes.iter().enumerate() {
        for guide in stems.guides(index) {
            let guide: &str = match guide {
                Guide::Branch => "├─ ",
                Guide::LastBranch => "└─ ",
                Guide::Beside => "│  ",
                Guide::Below => "   ",
            };
            out.write_all(guide.as_bytes())?;
        }
        let name = match node.frame {
            None => "<all>".to_string(),
            Some(id) => model.location(model.frame(id)),
        };
        let (bytes, share) = (units::bytes(node.bytes), units::share(node.bytes, snapshot.bytes));
        let plural = if node.count == 1 { "" } else { "s" };
        writeln!(out, "{bytes} ({share}, {} allocation{plural}) {}", units::count(node.count), printable(&name))?;
    }
    if n_left_out > 0 {
        writeln!(out, "({} further stacks with smaller allocations)", units::count(n_left_out as u64))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Document<'a> {
    total_bytes: u64,
    total_allocations: u64,
    total_stacks: usize,
    shown_stacks: usize,
    nodes: Vec<Node<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    id: usize,
    parent: Option<usize>,
    function: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    bytes: u64,
    allocations: u64,
    own_bytes: u64,
    own_allocations: u64,
}

/// The same as one JSON document. Nodes are a list in which a parent stands before its children: stacks may be deeper
/// than parsers nest.
pub fn json(model: &Model, snapshot: &Snapshot, tree: &Tree, n_left_out: usize, out: &mut dyn Write) -> Result<()> {
    let nodes = tree.nodes.iter().enumerate().map(|(id, node)| {
        let frame = node.frame.map(|id| model.frame(id));
        Node {
            id,
            parent: (id > 0).then_some(node.parent),
            function: frame.map(|frame| model.text(frame.function)),
            file: frame.map(|frame| model.text(frame.file)),
            line: frame.map(|frame| frame.line),
            bytes: node.bytes,
            allocations: node.count,
            own_bytes: node.own_bytes,
            own_allocations: node.own_count,
        }
    });
    let document = Document {
        total_bytes: snapshot.bytes,
        total_allocations: snapshot.count,
        total_stacks: snapshot.rows.len(),
        shown_stacks: snapshot.rows.len() - n_left_out,
        nodes: nodes.collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}
