//! Speedscope's JSON: several profiles over the same frames in one file. A stack is a list of frame numbers from the
//! root, its weight is its bytes.

use std::io::{Result, Write};

use serde::Serialize;

use super::{NO_STACK, Sequence};
use crate::analysis::Snapshot;
use crate::model::{FrameId, Model, StackId};

/// One profile of the file.
pub struct Profile<'a> {
    pub name: &'a str,
    pub snapshot: &'a Snapshot,
}

pub struct SpeedscopeOptions {
    /// Which profile is shown first.
    pub active: usize,
}

#[derive(Serialize)]
struct Document<F: Serialize, P: Serialize> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: String,
    name: String,
    #[serde(rename = "activeProfileIndex")]
    active: usize,
    shared: Shared<F>,
    profiles: P,
}

#[derive(Serialize)]
struct Shared<F> {
    frames: F,
}

#[derive(Serialize)]
struct Frame<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled<'a, S: Serialize, W: Serialize> {
    r#type: &'static str,
    name: &'a str,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: S,
    weights: W,
}

pub fn write(model: &Model, profiles: &[Profile], options: &SpeedscopeOptions, out: &mut dyn Write) -> Result<()> {
    // The frame behind those of the model stands for no stack.
    let frames = Sequence(|| {
        let frames = (0..model.n_frames()).map(|index| {
            let frame = model.frame(FrameId::from_index(index));
            let line = (frame.line > 0).then_some(frame.line);
            Frame { name: model.text(frame.function), file: Some(model.text(frame.file)), line }
        });
        frames.chain([Frame { name: NO_STACK, file: None, line: None }])
    });
    let commands = model.processes().iter().map(|process| process.facts.command_line.join(" "));
    let document = Document {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: format!("memtrace {}", env!("CARGO_PKG_VERSION")),
        name: commands.collect::<Vec<_>>().join(", "),
        active: options.active,
        shared: Shared { frames },
        profiles: Sequence(|| profiles.iter().map(|profile| sampled(model, profile))),
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}

fn sampled<'a>(model: &'a Model, profile: &Profile<'a>) -> impl Serialize + 'a {
    let Profile { name, snapshot } = *profile;
    Sampled {
        r#type: "sampled",
        name,
        unit: "bytes",
        start_value: 0,
        end_value: snapshot.bytes,
        samples: Sequence(move || snapshot.rows.iter().map(move |row| sample(model, row.stack))),
        weights: Sequence(move || snapshot.rows.iter().map(|row| row.bytes)),
    }
}

fn sample(model: &Model, stack: StackId) -> Vec<usize> {
    if stack == StackId::EMPTY {
        return vec![model.n_frames()];
    }
    super::from_root(model, stack).into_iter().map(FrameId::index).collect()
}
