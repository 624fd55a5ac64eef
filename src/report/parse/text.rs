//! Events as people read them: one line each, with the stack below it.

use std::io::{Result, Write};

use memtrace_format::LAUNCHER_IMAGE;

use super::{Buffer, ParseOptions};
use crate::model::facts::{Facts, notice_sentence};
use crate::model::{Action, Event, MarkKind, Model, StackId};
use crate::report::printable::printable;
use crate::units;

pub struct Text<W> {
    out: Buffer<W>,
    options: ParseOptions,
}

impl<W: Write> Text<W> {
    pub fn new(out: W, options: ParseOptions) -> Text<W> {
        Text { out: Buffer::new(out), options }
    }

    pub fn begin(&mut self, facts: &Facts) -> Result<()> {
        let started = units::date(facts.start_unix_nanos);
        let parent = facts.parent_pid.map_or(String::new(), |parent| format!(", child of {parent}"));
        self.line(&format!("capture of {} (process {}{parent})", facts.command_line.join(" "), facts.pid))?;
        self.line(&format!("started {started} UTC, clock {}", facts.clock))
    }

    pub fn take(&mut self, model: &Model, event: &Event) -> Result<()> {
        if self.options.leaves_out(&event.action) {
            return Ok(());
        }
        let mut shown_stack = StackId::EMPTY;
        let told = match event.action {
            Action::Alloc { kind, address, size, stack } => {
                shown_stack = stack;
                format!("{} {address:#x} {size}", kind.name())
            }
            Action::Free { kind, address } => format!("{} {address:#x}", kind.name()),
            Action::ObjectMade { address, stack } => {
                shown_stack = stack;
                format!("object made {address:#x}")
            }
            Action::ObjectDestroyed { address } => format!("object destroyed {address:#x}"),
            Action::Restore => "restore".to_string(),
            Action::Mmap { address, len, prot, flags, is_arena, stack } => {
                shown_stack = stack;
                let arena = if is_arena { " arena" } else { "" };
                format!("mmap {address:#x} {len} prot {prot:#x} flags {flags:#x}{arena}")
            }
            Action::Munmap { address, len, is_remap } => {
                format!("munmap {address:#x} {len}{}", if is_remap { " remap" } else { "" })
            }
            Action::Mremap { old_address, address, len, flags, is_arena, stack } => {
                shown_stack = stack;
                let arena = if is_arena { " arena" } else { "" };
                format!("mremap {old_address:#x} to {address:#x} {len} flags {flags:#x}{arena}")
            }
            Action::Thread { os_tid, pthread } => format!("is kernel thread {os_tid}, pthread {pthread:#x}"),
            Action::ThreadName { pthread, name, named } => {
                let whom = named.map_or(format!("pthread {pthread:#x}"), |number| format!("thread {number}"));
                format!("names {whom} {:?}", model.text(name))
            }
            Action::Lost { count } => format!("lost {count} events"),
            Action::ImageStart => return self.image(&model.process().facts, event.image),
            Action::Clock { .. } => "clock".to_string(),
            Action::Rss { bytes, .. } => format!("rss {bytes}"),
            Action::Mark { kind, name, .. } => match kind {
                MarkKind::Named => format!("mark {:?}", model.text(name)),
                MarkKind::Paused => "recording is paused".to_string(),
                MarkKind::Resumed => "recording goes on".to_string(),
            },
            Action::Unknown { tag } => format!("record of unknown kind {tag:#x}"),
        };
        let nanos = model.process().clock.nanos_since_start(event.turn);
        let who = match event.image {
            LAUNCHER_IMAGE if matches!(event.action, Action::Mark { .. }) => "user".to_string(),
            LAUNCHER_IMAGE => "sample".to_string(),
            _ => format!("thread {}", event.thread),
        };
        let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        self.line(&format!("{seconds}.{nanos:09} {who}: {told}"))?;
        for frame in model.frames_from_leaf(shown_stack) {
            let location = model.location(frame);
            let mark = if frame.is_native { " [native]" } else { "" };
            self.line(&format!("    {location}{mark}"))?;
        }
        Ok(())
    }

    pub fn end(&mut self, facts: &Facts) -> Result<()> {
        for damage in &facts.damage {
            self.line(&format!("damage: {damage}"))?;
        }
        if facts.n_more_damage > 0 {
            self.line(&format!("damage: {} further places", facts.n_more_damage))?;
        }
        if let Some(reason) = &facts.stop_reason {
            self.line(reason)?;
        }
        if let Some(end) = &facts.end {
            let how = match (end.exit_code, end.signal) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "unknown".to_string(),
            };
            self.line(&format!("ended {} UTC, {how}", units::date(end.unix_nanos)))?;
        }
        self.out.flush()
    }

    fn image(&mut self, facts: &Facts, number: u16) -> Result<()> {
        if let Some(image) = facts.image(number) {
            self.line(&format!("image {number}: {} {}", image.exe, image.arguments.join(" ")))?;
            if let Some(python) = &image.python {
                let stacks = if python.has_stacks { "with stacks" } else { "without stacks" };
                let allocator = if python.allocator.is_empty() { "not recorded" } else { &python.allocator };
                self.line(&format!("CPython {} {stacks}, objects: {allocator}", python.version_text()))?;
            }
        }
        for notice in facts.notices.iter().filter(|notice| notice.image == number) {
            self.line(&notice_sentence(notice))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        self.out.text(&printable(line));
        self.out.text("\n");
        self.out.pass()
    }
}
