//! What is read before the events: code objects, images, notices, the clock, and how the capture ended.

use std::collections::HashMap;
use std::fs::File;

use anyhow::Result;
use memtrace_format::decode::{Decoder, Problem};
use memtrace_format::encode::Deltas;
use memtrace_format::{Record, block_kind, record};

use super::blocks::{Block, LaneKey};
use super::file::read_at;
use super::info::{self, CaptureEnd, Exit};
use super::lane::Position;
use super::payload::{Payload, Scratch};
use crate::model::facts::{End, Mark, Notice, Python};
use crate::model::{MarkKind, Model, Process};

/// The longest description of an end that is believed.
const MAX_END_LEN: u64 = 64 * 1024;

/// Takes over the metadata of all blocks, and the launcher's samples into the clock.
pub fn read(file: &File, blocks: &[Block], model: &mut Model) -> Result<()> {
    Described::default().read_on(file, blocks, model)
}

/// How far the metadata of a log was read.
#[derive(Default)]
pub struct Described {
    by_lane: HashMap<LaneKey, Position>,
    scratch: Scratch,
}

impl Described {
    /// Takes over what is new in the blocks of a log.
    pub fn read_on(&mut self, file: &File, blocks: &[Block], model: &mut Model) -> Result<()> {
        for block in blocks {
            if self.is_past(block) {
                continue;
            }
            let at = self.by_lane.remove(&block.lane()).filter(|at| at.sequence == block.sequence);
            let at = each_record(file, block, at, &mut self.scratch, model, |model, record, turn| match block.kind {
                block_kind::META => describe(model, block.image, record),
                _ => tell_time(model, record, turn),
            })?;
            self.by_lane.insert(block.lane(), at);
        }
        Ok(())
    }

    /// Whether nothing of a block is to be taken over, now or any more.
    pub fn is_past(&self, block: &Block) -> bool {
        let is_known = |at: &Position| {
            block.sequence < at.sequence || block.sequence == at.sequence && block.raw_len() <= at.offset
        };
        let describes = matches!(block.kind, block_kind::META | block_kind::LAUNCHER);
        !describes || self.by_lane.get(&block.lane()).is_some_and(is_known)
    }
}

fn tell_time(model: &mut Model, record: &Record<'_>, turn: u64) {
    match record {
        Record::Clock(it) => model.process_mut().clock.add(turn, it.mono_nanos),
        Record::Rss(it) => model.process_mut().clock.add(turn, it.mono_nanos),
        Record::Mark(it) => add_mark(model, turn, it),
        _ => {}
    }
}

/// The end of the capture, when this block is one and whole.
pub fn read_end(file: &File, block: &Block) -> Option<End> {
    if block.kind != block_kind::END || block.payload_len > MAX_END_LEN {
        return None;
    }
    let mut payload = vec![0; block.payload_len as usize];
    let n_read = read_at(file, &mut payload, block.payload_offset).ok()?;
    let end = info::from_bytes::<CaptureEnd>(&payload[..n_read])?;
    let (exit_code, signal) = match end.exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Signal(signal) => (None, Some(signal)),
        Exit::Unknown => (None, None),
    };
    Some(End {
        unix_nanos: end.unix_nanos,
        mono_nanos: end.mono_nanos,
        exit_code,
        signal,
        peak_rss_bytes: end.peak_rss_bytes,
    })
}

fn add_mark(model: &mut Model, turn: u64, mark: &record::Mark<'_>) {
    let Process { facts, clock, .. } = model.process_mut();
    clock.add(turn, mark.mono_nanos);
    if let Some(kind) = MarkKind::from_number(mark.what) {
        let nanos = clock.since_start(mark.mono_nanos);
        facts.add_mark(Mark { turn, nanos, kind, name: String::from_utf8_lossy(mark.name).into_owned() });
    }
}

fn describe(model: &mut Model, image: u16, record: &Record<'_>) {
    match record {
        Record::Code(code) => model.describe_code(image, code),
        Record::Module(module) => model.describe_module(image, module),
        Record::Image(it) => {
            let exe = String::from_utf8_lossy(it.exe).into_owned();
            let arguments = it.arguments.strip_suffix(b"\0").unwrap_or(it.arguments);
            let arguments = arguments.split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
            let known = model.process_mut().facts.image_mut(image);
            known.turn = it.turn;
            known.exe = exe;
            known.arguments = if it.arguments.is_empty() { Vec::new() } else { arguments.collect() };
            let arguments = known.arguments.clone();
            model.process_mut().facts.became(arguments);
        }
        Record::Python(it) => {
            let allocator = String::from_utf8_lossy(it.allocator).into_owned();
            let python = Python { version: it.version, allocator, has_stacks: it.has_stacks };
            model.process_mut().facts.image_mut(image).python = Some(python);
        }
        Record::Notice(it) => {
            let text = String::from_utf8_lossy(it.text).into_owned();
            model.process_mut().facts.notices.push(Notice { image, code: it.code, text });
        }
        _ => {}
    }
}

/// Walks the records of one block, from a place in it on; what is damaged ends it.
fn each_record(
    file: &File,
    block: &Block,
    from: Option<Position>,
    scratch: &mut Scratch,
    model: &mut Model,
    mut take: impl FnMut(&mut Model, &Record<'_>, u64),
) -> Result<Position> {
    let sequence = block.sequence;
    let all = || Position { sequence, offset: usize::MAX, deltas: Deltas::at_block_start(block.first_turn, 0) };
    let mut payload = match Payload::open(file, block, scratch)? {
        Ok(payload) => payload,
        Err(what) => {
            model.process_mut().facts.add_damage(block.payload_offset, block.payload_len, format!("{what} (metadata)"));
            return Ok(all());
        }
    };
    if let Some(Position { offset, deltas, .. }) = from {
        payload.go_on(offset, deltas);
    }
    while !payload.is_done() {
        let mut decoder = Decoder::new(payload.bytes.get(payload.start..).unwrap_or(&[]), &mut payload.deltas);
        let problem = loop {
            match decoder.next() {
                Ok(Some(record)) => take(model, &record, decoder.deltas().turn.number),
                Ok(None) => break None,
                Err(error) => break Some(error.problem),
            }
        };
        payload.start += decoder.offset();
        match problem {
            None | Some(Problem::CutOff) if payload.has_more() => {
                if let Some(lost) = payload.fill(file)? {
                    model.process_mut().facts.add_damage(lost.offset, lost.bytes, lost.what);
                }
            }
            None => {}
            Some(_) => {
                let (offset, bytes) = payload.rest();
                model.process_mut().facts.add_damage(offset, bytes, "a record of metadata is damaged");
                return Ok(all());
            }
        }
    }
    Ok(Position { sequence, offset: payload.position(), deltas: payload.deltas })
}
