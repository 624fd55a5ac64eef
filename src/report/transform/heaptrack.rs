//! The log of heaptrack, version 3 of its format, as `heaptrack_print` and `heaptrack_gui` read it: unlike the other
//! formats it holds every event, so it is written while the capture is read.
//!
//! ```text
//! v 10400 3                       written by heaptrack 1.4, format 3; all numbers are hexadecimal
//! X app.py --port 80              the command
//! I 1000 0                        page size, pages of the machine
//! s 4 load                        string 1, with its length
//! i 1 2 1 3 1e                    instruction 1: address, module, function, file, line
//! t 1 0                           trace 1: instruction, calling trace
//! a 40 1                          allocation 0: size, trace
//! c 3e8                           a second has passed
//! R a0                            resident pages
//! + 0                             allocation 0 happened …
//! - 0                             … and was freed
//! ```
//!
//! Frees name the kind of allocation and not its address. What heaptrack has no word for is said in these two: a block
//! that comes back after a `realloc` that failed, and what is left of a mapping that was cut, are allocations once more.

use std::io::{Result, Write};

use hashbrown::HashMap;

use super::one_line;
use crate::analysis::live::{Change, Holding};
use crate::analysis::{Live, MmapRule};
use crate::model::{Action, Event, Facts, FrameId, Model, StackId, StringId};

const PAGE_BYTES: u64 = 4096;

/// Follows the events of one capture and writes what they do. Each event is handed over with the model as it is then.
pub struct Heaptrack<W> {
    out: W,
    live: Live<StackId>,
    n_strings: u64,
    functions: HashMap<StringId, u64>,
    files: HashMap<StringId, u64>,
    /// The string that names the program, as the module of every Python frame.
    program: u64,
    /// By the name of a file with native code, its string.
    modules: HashMap<StringId, u64>,
    frames: HashMap<FrameId, u64>,
    traces: HashMap<StackId, u64>,
    /// By size and stack.
    allocations: HashMap<(u64, StackId), u64>,
    /// What the event at hand does.
    changes: Vec<(char, Holding<StackId>)>,
    millis: u64,
}

impl<W: Write> Heaptrack<W> {
    /// Begins the log, which says first whose it is.
    pub fn new(facts: &Facts, rule: MmapRule, out: W) -> Result<Heaptrack<W>> {
        let mut heaptrack = Heaptrack {
            out,
            live: Live::new(rule),
            n_strings: 0,
            functions: HashMap::new(),
            files: HashMap::new(),
            program: 0,
            modules: HashMap::new(),
            frames: HashMap::new(),
            traces: HashMap::new(),
            allocations: HashMap::new(),
            changes: Vec::new(),
            millis: 0,
        };
        writeln!(heaptrack.out, "v 10400 3")?;
        writeln!(heaptrack.out, "X {}", one_line(&facts.command_line.join(" ")))?;
        writeln!(heaptrack.out, "I {PAGE_BYTES:x} 0")?;
        heaptrack.program = heaptrack.write_string(facts.argv.first().map_or("", String::as_str))?;
        Ok(heaptrack)
    }

    pub fn take(&mut self, model: &Model, event: &Event) -> Result<()> {
        match event.action {
            Action::Clock { mono_nanos } => self.pass_time(model, mono_nanos)?,
            Action::Rss { mono_nanos, bytes } => {
                self.pass_time(model, mono_nanos)?;
                writeln!(self.out, "R {:x}", bytes / PAGE_BYTES)?;
            }
            _ => {}
        }
        let mut changes = std::mem::take(&mut self.changes);
        let stack = event.action.stack().unwrap_or(StackId::EMPTY);
        self.live.apply(model, event, stack, &mut |change| {
            changes.push(match change {
                Change::Allocated(holding, _) | Change::Restored(holding) | Change::Remains(holding) => ('+', holding),
                Change::Freed(holding) | Change::Vanished(holding) => ('-', holding),
            });
        });
        for (sign, holding) in changes.drain(..) {
            let allocation = self.allocation(model, holding)?;
            writeln!(self.out, "{sign} {allocation:x}")?;
        }
        self.changes = changes;
        Ok(())
    }

    /// Allocations at an address that was alive already: frees that were missed.
    pub fn n_missed_frees(&self) -> u64 {
        self.live.n_replaced
    }

    fn pass_time(&mut self, model: &Model, mono_nanos: u64) -> Result<()> {
        let millis = model.process().clock.since_start(mono_nanos) / 1_000_000;
        if millis > self.millis {
            self.millis = millis;
            writeln!(self.out, "c {millis:x}")?;
        }
        Ok(())
    }

    fn allocation(&mut self, model: &Model, holding: Holding<StackId>) -> Result<u64> {
        let key = (holding.bytes, holding.tag);
        if let Some(&known) = self.allocations.get(&key) {
            return Ok(known);
        }
        let trace = self.trace(model, holding.tag)?;
        // Unlike everything else these are counted from 0.
        let number = self.allocations.len() as u64;
        self.allocations.insert(key, number);
        writeln!(self.out, "a {:x} {trace:x}", holding.bytes)?;
        Ok(number)
    }

    /// The number of a stack; 0 for the empty one.
    fn trace(&mut self, model: &Model, stack: StackId) -> Result<u64> {
        // Callers have to be known first; a loop, because stacks are deep.
        let mut missing = Vec::new();
        let mut caller = stack;
        let mut trace = loop {
            let known = if caller == StackId::EMPTY { Some(0) } else { self.traces.get(&caller).copied() };
            match known {
                Some(known) => break known,
                None => missing.push(caller),
            }
            caller = model.parent(caller);
        };
        for stack in missing.into_iter().rev() {
            let instruction = match model.leaf(stack) {
                Some(frame) => self.instruction(model, frame)?,
                None => 0,
            };
            writeln!(self.out, "t {instruction:x} {trace:x}")?;
            trace = self.traces.len() as u64 + 1;
            self.traces.insert(stack, trace);
        }
        Ok(trace)
    }

    fn instruction(&mut self, model: &Model, id: FrameId) -> Result<u64> {
        if let Some(&known) = self.frames.get(&id) {
            return Ok(known);
        }
        let frame = model.frame(id);
        let (function, file) = (self.function(model, frame.function)?, self.file(model, frame.file)?);
        let module = match model.module(id) {
            Some(module) => self.module(model, module)?,
            None => self.program,
        };
        let number = self.frames.len() as u64 + 1;
        self.frames.insert(id, number);
        // The address is never shown, and only has to differ.
        writeln!(self.out, "i {number:x} {module:x} {function:x} {file:x} {:x}", frame.line)?;
        Ok(number)
    }

    fn function(&mut self, model: &Model, id: StringId) -> Result<u64> {
        if let Some(&known) = self.functions.get(&id) {
            return Ok(known);
        }
        let number = self.write_string(&function_name(model.text(id)))?;
        self.functions.insert(id, number);
        Ok(number)
    }

    fn module(&mut self, model: &Model, id: StringId) -> Result<u64> {
        if let Some(&known) = self.modules.get(&id) {
            return Ok(known);
        }
        let number = self.write_string(model.text(id))?;
        self.modules.insert(id, number);
        Ok(number)
    }

    fn file(&mut self, model: &Model, id: StringId) -> Result<u64> {
        if let Some(&known) = self.files.get(&id) {
            return Ok(known);
        }
        let number = self.write_string(model.text(id))?;
        self.files.insert(id, number);
        Ok(number)
    }

    fn write_string(&mut self, text: &str) -> Result<u64> {
        let text = one_line(text);
        writeln!(self.out, "s {:x} {text}", text.len())?;
        self.n_strings += 1;
        Ok(self.n_strings)
    }
}

/// Heaptrack shows no callers of C's `main`, and cuts what stands in angle brackets like the arguments of a template.
fn function_name(name: &str) -> String {
    match name {
        "main" => "main()".to_string(),
        _ => name.replace('<', "[").replace('>', "]"),
    }
}
