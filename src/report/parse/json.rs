//! One JSON object per line. The lines are assembled by hand: there are hundreds of millions of them.

use std::io::{Result, Write};

use memtrace_format::LAUNCHER_IMAGE;
use serde_json::json;

use super::{Buffer, ParseOptions};
use crate::model::facts::{Facts, RecordingState, notice_name};
use crate::model::{Action, Event, MarkKind, Model, StackId};

pub struct JsonLines<W> {
    out: Buffer<W>,
    options: ParseOptions,
    /// By frame: `["function","file",line]`, once it was needed.
    frames: Vec<Box<[u8]>>,
    /// By stack: whether its line was printed.
    announced: Vec<bool>,
    started: Vec<u16>,
}

impl<W: Write> JsonLines<W> {
    pub fn new(out: W, options: ParseOptions) -> JsonLines<W> {
        let (frames, announced, started) = (Vec::new(), Vec::new(), Vec::new());
        JsonLines { out: Buffer::new(out), options, frames, announced, started }
    }

    /// The first line: what the capture is.
    pub fn begin(&mut self, facts: &Facts) -> Result<()> {
        self.value(&json!({
            "event": "capture",
            "version": memtrace_format::VERSION,
            "memtrace_version": facts.memtrace_version,
            "pid": facts.pid,
            "parent_pid": facts.parent_pid,
            "command_line": facts.command_line,
            "argv": facts.argv,
            "cwd": facts.cwd,
            "script": facts.script,
            "clock": facts.clock,
            "python_allocators": facts.python_allocators,
            "start_unix_ns": facts.start_unix_nanos,
            "state": state_name(facts.state),
            "lost_events": facts.lost_events,
            "self_checked": facts.n_self_checked,
        }))
    }

    pub fn take(&mut self, model: &Model, event: &Event) -> Result<()> {
        if self.options.leaves_out(&event.action) {
            return Ok(());
        }
        match event.action {
            Action::Alloc { kind, address, size, stack } => {
                self.announce(model, event, stack)?;
                self.head("alloc", event);
                self.out.text(",\"kind\":\"");
                self.out.text(kind.name());
                self.out.text("\",\"address\":\"");
                self.out.hex(address);
                self.out.text("\",\"size\":");
                self.out.decimal(size);
                self.stack(model, stack)?;
            }
            Action::Free { kind, address } => {
                self.head("free", event);
                self.out.text(",\"kind\":\"");
                self.out.text(kind.name());
                self.out.text("\",\"address\":\"");
                self.out.hex(address);
                self.out.text("\"");
            }
            Action::ObjectMade { address, stack } => {
                self.announce(model, event, stack)?;
                self.head("object_made", event);
                self.address("address", address);
                self.stack(model, stack)?;
            }
            Action::ObjectDestroyed { address } => {
                self.head("object_destroyed", event);
                self.address("address", address);
            }
            Action::Restore => self.head("restore", event),
            Action::Mmap { address, len, prot, flags, is_arena, stack } => {
                self.announce(model, event, stack)?;
                self.head("mmap", event);
                self.address("address", address);
                self.number("size", len);
                self.number("prot", prot as u64);
                self.number("flags", flags as u64);
                self.flag("arena", is_arena);
                self.stack(model, stack)?;
            }
            Action::Munmap { address, len, is_remap } => {
                self.head("munmap", event);
                self.address("address", address);
                self.number("size", len);
                self.flag("remap", is_remap);
            }
            Action::Mremap { old_address, address, len, flags, is_arena, stack } => {
                self.announce(model, event, stack)?;
                self.head("mremap", event);
                self.address("old_address", old_address);
                self.address("address", address);
                self.number("size", len);
                self.number("flags", flags as u64);
                self.flag("arena", is_arena);
                self.stack(model, stack)?;
            }
            Action::Thread { os_tid, pthread } => {
                self.head("thread", event);
                self.number("os_tid", os_tid as u64);
                self.address("pthread", pthread);
            }
            Action::ThreadName { pthread, name, named } => {
                let thread = named.map_or("null".to_string(), |number| number.to_string());
                self.out.text("{\"event\":\"thread_name\",\"turn\":");
                self.out.decimal(event.turn);
                self.out.text(",\"thread\":");
                self.out.text(&thread);
                self.number("by", event.thread as u64);
                self.image(event.image);
                self.address("pthread", pthread);
                self.out.text(",\"name\":");
                self.string(model.text(name))?;
            }
            Action::Lost { count } => {
                self.head("lost", event);
                self.number("count", count);
            }
            Action::ImageStart => {
                self.started.push(event.image);
                return self.describe_image(&model.process().facts, event.image);
            }
            Action::Clock { mono_nanos } => {
                self.timed("clock", event);
                self.number("time_ns", model.process().clock.since_start(mono_nanos));
            }
            Action::Rss { mono_nanos, bytes } => {
                self.timed("rss", event);
                self.number("time_ns", model.process().clock.since_start(mono_nanos));
                self.number("bytes", bytes);
            }
            Action::Mark { mono_nanos, kind, name } => {
                match kind {
                    MarkKind::Named => self.timed("mark", event),
                    MarkKind::Paused => self.timed("pause", event),
                    MarkKind::Resumed => self.timed("resume", event),
                }
                self.number("time_ns", model.process().clock.since_start(mono_nanos));
                if kind == MarkKind::Named {
                    self.out.text(",\"name\":");
                    self.string(model.text(name))?;
                }
            }
            Action::Unknown { tag } => {
                self.head("unknown", event);
                self.number("tag", tag as u64);
            }
        }
        self.out.text("}\n");
        self.out.pass()
    }

    /// What could not be read, and how the capture ended.
    pub fn end(&mut self, facts: &Facts) -> Result<()> {
        for image in &facts.images {
            if !self.started.contains(&image.number) {
                self.describe_image(facts, image.number)?;
            }
        }
        for damage in &facts.damage {
            let (text, offset, bytes) = (damage.to_string(), damage.offset, damage.bytes);
            self.value(&json!({"event": "damage", "text": text, "offset": offset, "bytes": bytes}))?;
        }
        if facts.n_more_damage > 0 {
            let text = format!("{} further places are damaged", facts.n_more_damage);
            self.value(&json!({"event": "damage", "text": text}))?;
        }
        if let Some(reason) = &facts.stop_reason {
            self.value(&json!({"event": "stopped", "text": reason}))?;
        }
        if let Some(end) = &facts.end {
            self.value(&json!({
                "event": "end",
                "exit_code": end.exit_code,
                "signal": end.signal,
                "peak_rss_bytes": end.peak_rss_bytes,
                "end_unix_ns": end.unix_nanos,
                "lost_events": facts.lost_events,
            }))?;
        }
        self.out.flush()
    }

    fn describe_image(&mut self, facts: &Facts, number: u16) -> Result<()> {
        if let Some(image) = facts.image(number) {
            let (turn, exe, arguments) = (image.turn, &image.exe, &image.arguments);
            let line = json!({"event": "image", "image": number, "turn": turn, "exe": exe, "arguments": arguments});
            self.value(&line)?;
            if let Some(python) = &image.python {
                self.value(&json!({
                    "event": "python",
                    "image": number,
                    "version": python.version_text(),
                    "allocator": python.allocator,
                    "stacks": python.has_stacks,
                }))?;
            }
        }
        for notice in facts.notices.iter().filter(|notice| notice.image == number) {
            let (name, text) = (notice_name(notice.code), &notice.text);
            self.value(
                &json!({"event": "notice", "image": number, "notice": name, "code": notice.code, "text": text}),
            )?;
        }
        Ok(())
    }

    fn value(&mut self, value: &serde_json::Value) -> Result<()> {
        serde_json::to_writer(&mut self.out.bytes, value)?;
        self.out.text("\n");
        self.out.pass()
    }

    /// `{"event":…,"turn":…,"thread":…`
    #[inline]
    fn head(&mut self, name: &str, event: &Event) {
        self.timed(name, event);
        self.number("thread", event.thread as u64);
        self.image(event.image);
    }

    #[inline]
    fn timed(&mut self, name: &str, event: &Event) {
        self.out.text("{\"event\":\"");
        self.out.text(name);
        self.out.text("\",\"turn\":");
        self.out.decimal(event.turn);
    }

    #[inline]
    fn image(&mut self, image: u16) {
        if image != 0 && image != LAUNCHER_IMAGE {
            self.number("image", image as u64);
        }
    }

    fn key(&mut self, key: &str) {
        self.out.text(",\"");
        self.out.text(key);
        self.out.text("\":");
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        self.out.decimal(number);
    }

    fn address(&mut self, key: &str, address: u64) {
        self.key(key);
        self.out.text("\"");
        self.out.hex(address);
        self.out.text("\"");
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.text(if value { "true" } else { "false" });
    }

    fn string(&mut self, text: &str) -> Result<()> {
        Ok(serde_json::to_writer(&mut self.out.bytes, text)?)
    }

    /// With `stacks_once`: the line of a stack that was not seen before.
    fn announce(&mut self, model: &Model, event: &Event, stack: StackId) -> Result<()> {
        if !self.options.stacks_once || stack == StackId::EMPTY {
            return Ok(());
        }
        if stack.index() >= self.announced.len() {
            self.announced.resize(stack.index() + 1, false);
        }
        if !std::mem::replace(&mut self.announced[stack.index()], true) {
            self.out.text("{\"event\":\"stack\"");
            self.image(event.image);
            self.number("id", stack.index() as u64);
            self.key("stack");
            self.frames(model, stack)?;
            self.out.text("}\n");
        }
        Ok(())
    }

    fn stack(&mut self, model: &Model, stack: StackId) -> Result<()> {
        self.key("stack");
        if self.options.stacks_once {
            self.out.decimal(stack.index() as u64);
            return Ok(());
        }
        self.frames(model, stack)
    }

    fn frames(&mut self, model: &Model, stack: StackId) -> Result<()> {
        self.out.text("[");
        let mut is_first = true;
        for id in model.stack_from_leaf(stack) {
            if id.index() >= self.frames.len() {
                self.frames.resize(id.index() + 1, Box::default());
            }
            let rendered = &mut self.frames[id.index()];
            if rendered.is_empty() {
                let frame = model.frame(id);
                let (function, file) = (model.text(frame.function), model.text(frame.file));
                *rendered = match frame.is_native {
                    true => serde_json::to_vec(&(function, file, frame.line, "native"))?.into(),
                    false => serde_json::to_vec(&(function, file, frame.line))?.into(),
                };
            }
            if !std::mem::take(&mut is_first) {
                self.out.bytes.push(b',');
            }
            self.out.bytes.extend_from_slice(rendered);
        }
        self.out.text("]");
        Ok(())
    }
}

fn state_name(state: RecordingState) -> &'static str {
    match state {
        RecordingState::Created => "created",
        RecordingState::Recording => "recording",
        RecordingState::Stopped => "stopped",
        RecordingState::Ended => "ended",
    }
}
