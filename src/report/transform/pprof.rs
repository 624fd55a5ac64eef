//! A profile for `go tool pprof` and what else reads profile.proto: Go's four sample types of a heap in Go's order, one
//! sample for each site.
//!
//! `alloc_*` is everything that was ever allocated. `inuse_*` is what was alive at the moment that was asked for, the
//! peak or the end: a profile has one such moment, so each is a file of its own.
//!
//! The messages are those of `profile.proto` in github.com/google/pprof, with the fields that we write. A message cut
//! in parts is the parts one behind the other, so samples are written one by one and never stand in memory together.

use std::io::{Result, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use hashbrown::HashMap;
use prost::Message;

use super::NO_STACK;
use crate::analysis::{BySite, Site};
use crate::model::{Frame, FrameId, Model, StackId, StringId};

/// What `inuse_*` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InUse {
    AtPeak,
    AtEnd,
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
    #[prost(int64, tag = "3")]
    num: i64,
    #[prost(int64, tag = "4")]
    num_unit: i64,
}

/// Names the program. The flags say that names and lines are known, so that nobody looks for symbols in it.
#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

/// There is no `system_name`: pprof takes a name that is the same in both for one of C++ to be shortened, and nothing is
/// left of `<module>`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Writes it compressed, as pprof keeps its files. Without `in_use` nothing is in use: all were given back.
pub fn write(model: &Model, allocated: &BySite, in_use: Option<(InUse, &BySite)>, out: &mut dyn Write) -> Result<()> {
    let mut writer = Writer {
        model,
        out: GzEncoder::new(out, Compression::fast()),
        buf: Vec::new(),
        strings: HashMap::new(),
        functions: HashMap::new(),
        locations: HashMap::new(),
    };
    // The first string is the empty one.
    writer.string("")?;
    writer.head(in_use)?;
    let mut rest = in_use.map_or(&[][..], |(_, by_site)| &by_site.rows);
    for row in &allocated.rows {
        // Both are in the order of sites, and what is in use was allocated.
        let held = rest.split_first().filter(|(held, _)| held.site == row.site);
        let (held_bytes, held_count) = held.map_or((0, 0), |(held, _)| (held.bytes, held.count));
        rest = held.map_or(rest, |(_, others)| others);
        writer.sample(row.site, [row.count, row.bytes, held_count, held_bytes])?;
    }
    writer.out.finish()?;
    Ok(())
}

struct Writer<'a, W: Write> {
    model: &'a Model,
    out: GzEncoder<W>,
    buf: Vec<u8>,
    strings: HashMap<String, i64>,
    /// By name and file; `None` stands for no stack.
    functions: HashMap<Option<(StringId, StringId)>, u64>,
    /// By frame; `None` as above.
    locations: HashMap<Option<FrameId>, u64>,
}

impl<W: Write> Writer<'_, W> {
    fn head(&mut self, in_use: Option<(InUse, &BySite)>) -> Result<()> {
        let model = self.model;
        let (facts, clock) = (&model.process().facts, &model.process().clock);
        let mut sample_type = Vec::new();
        for (name, unit) in
            [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"), ("inuse_space", "bytes")]
        {
            sample_type.push(ValueType { r#type: self.string(name)?, unit: self.string(unit)? });
        }
        let period_type = ValueType { r#type: self.string("space")?, unit: self.string("bytes")? };
        let (shown, moment) = match in_use {
            Some((InUse::AtPeak, _)) => ("inuse_space", "in use: what was alive when the heap was largest"),
            Some((InUse::AtEnd, _)) => ("inuse_space", "in use: what was never given back"),
            None => ("alloc_space", "allocated: what was given back again at once"),
        };
        let exe = facts.images.first().map_or("", |image| &image.exe);
        let mapping = Mapping {
            id: 1,
            filename: self.string(exe)?,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        };
        let end = facts.end.map(|end| clock.since_start(end.mono_nanos));
        let peak = in_use.and_then(|(_, by_site)| by_site.turn).map(|turn| clock.nanos_since_start(turn));
        // Several processes are seen at a moment each, so it is the start of the first.
        let at = if model.processes().len() > 1 { None } else { peak.or(end) };
        let mut comment = vec![self.string(moment)?];
        for process in model.processes() {
            comment.push(self.string(&process.facts.command_line.join(" "))?);
        }
        let default_sample_type = self.string(shown)?;
        self.part(Profile {
            sample_type,
            mapping: vec![mapping],
            time_nanos: clamped(facts.start_unix_nanos.saturating_add(at.unwrap_or(0))),
            duration_nanos: clamped(end.unwrap_or(0)),
            period_type: Some(period_type),
            // Every allocation is counted.
            period: 1,
            comment,
            default_sample_type,
            ..Profile::default()
        })
    }

    fn sample(&mut self, site: Site, value: [u64; 4]) -> Result<()> {
        let process = &self.model.processes()[site.process as usize];
        let thread = process.threads.get(site.thread);
        let mut label = Vec::with_capacity(5);
        let (bytes, count) = (value[1], value[0].max(1));
        for (key, num, unit) in [
            ("pid", process.facts.pid.into(), ""),
            ("thread_id", thread.os_tid.into(), ""),
            // The size of one, as Go has it: `-tagfocus` selects by it.
            ("bytes", bytes / count, "bytes"),
        ] {
            let num_unit = self.string(unit)?;
            label.push(Label { key: self.string(key)?, str: 0, num: clamped(num), num_unit });
        }
        let name = thread.name.map(|name| self.model.text(name));
        for (key, text) in [("thread", name), ("allocator", Some(site.kind.name()))] {
            if let Some(text) = text {
                label.push(Label { key: self.string(key)?, str: self.string(text)?, num: 0, num_unit: 0 });
            }
        }
        let location_id = match site.stack {
            StackId::EMPTY => vec![self.location(None)?],
            stack => self.model.stack_from_leaf(stack).map(|id| self.location(Some(id))).collect::<Result<_>>()?,
        };
        let sample = Sample { location_id, value: value.map(clamped).to_vec(), label };
        self.part(Profile { sample: vec![sample], ..Profile::default() })
    }

    fn location(&mut self, id: Option<FrameId>) -> Result<u64> {
        if let Some(&known) = self.locations.get(&id) {
            return Ok(known);
        }
        let number = self.locations.len() as u64 + 1;
        self.locations.insert(id, number);
        let frame = id.map(|id| self.model.frame(id));
        let line = Line { function_id: self.function(frame)?, line: frame.map_or(0, |frame| frame.line.into()) };
        let location = Location { id: number, mapping_id: 1, line: vec![line] };
        self.part(Profile { location: vec![location], ..Profile::default() })?;
        Ok(number)
    }

    fn function(&mut self, frame: Option<Frame>) -> Result<u64> {
        let key = frame.map(|frame| (frame.function, frame.file));
        if let Some(&known) = self.functions.get(&key) {
            return Ok(known);
        }
        let number = self.functions.len() as u64 + 1;
        self.functions.insert(key, number);
        let (name, file) = key.map_or((NO_STACK, ""), |(name, file)| (self.model.text(name), self.model.text(file)));
        let (name, filename) = (self.string(name)?, self.string(file)?);
        let function = Function { id: number, name, filename };
        self.part(Profile { function: vec![function], ..Profile::default() })?;
        Ok(number)
    }

    /// The number of a string, which is written when it is new.
    fn string(&mut self, text: &str) -> Result<i64> {
        if let Some(&known) = self.strings.get(text) {
            return Ok(known);
        }
        let number = self.strings.len() as i64;
        self.strings.insert(text.to_string(), number);
        self.part(Profile { string_table: vec![text.to_string()], ..Profile::default() })?;
        Ok(number)
    }

    fn part(&mut self, part: Profile) -> Result<()> {
        self.buf.clear();
        part.encode(&mut self.buf).expect("a vector has room");
        self.out.write_all(&self.buf)
    }
}

/// The format has no numbers above this; no sum of a capture comes near it.
fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
