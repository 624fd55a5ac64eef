//! The JSON that gprof2dot reads, as memray writes it: functions, and call chains from the leaf with their bytes.

use std::io::{Result, Write};

use hashbrown::HashMap;
use serde::Serialize;

use super::{NO_STACK, Sequence};
use crate::analysis::Snapshot;
use crate::model::{Model, StackId, StringId};

#[derive(Serialize)]
struct Document<E: Serialize, F: Serialize> {
    version: u32,
    costs: [Cost; 1],
    events: E,
    functions: F,
}

#[derive(Serialize)]
struct Cost {
    description: &'static str,
    unit: &'static str,
}

#[derive(Serialize)]
struct Event {
    callchain: Vec<usize>,
    cost: [u64; 1],
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    module: &'a str,
}

pub fn write(model: &Model, snapshot: &Snapshot, out: &mut dyn Write) -> Result<()> {
    // Lines of a function are one node of the graph.
    let mut numbers: HashMap<(StringId, StringId), usize> = HashMap::new();
    let mut functions = vec![Function { name: NO_STACK, module: "<unknown>" }];
    for row in &snapshot.rows {
        for frame in model.frames_from_leaf(row.stack) {
            numbers.entry((frame.function, frame.file)).or_insert_with(|| {
                functions.push(Function { name: model.text(frame.function), module: model.text(frame.file) });
                functions.len() - 1
            });
        }
    }
    let callchain = |stack: StackId| match stack {
        StackId::EMPTY => vec![0],
        _ => model.frames_from_leaf(stack).map(|frame| numbers[&(frame.function, frame.file)]).collect(),
    };
    let document = Document {
        version: 0,
        costs: [Cost { description: "Memory", unit: "bytes" }],
        events: Sequence(|| {
            snapshot.rows.iter().map(|row| Event { callchain: callchain(row.stack), cost: [row.bytes] })
        }),
        functions,
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}
