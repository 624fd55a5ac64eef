//! A log made small once its recording has ended: what was there when the heap was largest, what was never given back, and
//! how high the heap was at each sample. Called by those who finish logs.
//!
//! It is a log like any other, so whoever reads logs reads it. Its events did not happen one by one: they add up to the
//! same peak and the same leaks by thread, stack, allocator and class of sizes, at the same times.
//!
//! ```text
//!   heap       ┌ peak ┐
//!       ┌──────┘      └────┬────┐         ┌ leaks
//!   ┌───┘    "the rest"    └────┴─────────┘
//!   sample   sample     sample  sample   end
//! ```
//!
//! Nothing here may change an answer about the peak or the end; `tests.rs` compares both logs.

mod writer;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::io;
use std::ops::ControlFlow;

use anyhow::Result;
use hashbrown::HashMap;
use memtrace_format::record::{self, Alloc, Free, Mmap, Munmap, Node, PyStr, Rss, mark};
use memtrace_format::{AllocatorKind, LAUNCHER_IMAGE, Record, block_kind};

use crate::analysis::{BySite, Detail, Heap, MmapRule, SiteRow};
use crate::capture::Capture;
use crate::capture::info::{CaptureEnd, CaptureInfo, Exit};
use crate::model::facts::{Aggregated, Tracked};
use crate::model::native::Level;
use crate::model::{Action, Event, Facts, FrameId, MarkKind, Model, StackId, ThreadKey};
use writer::Writer;

/// The log that stands for a capture, as bytes of a file.
pub fn aggregated(capture: &Capture) -> Result<Vec<u8>> {
    let mut course = Course::default();
    let model = capture.read_recorded(|model, events| {
        course.take_all(model, events);
        ControlFlow::Continue(())
    })?;
    let facts = &model.process().facts;
    let info = CaptureInfo {
        memtrace_version: facts.memtrace_version.clone(),
        command_line: facts.command_line.clone(),
        argv: facts.argv.clone(),
        cwd: facts.cwd.clone(),
        python_allocators: facts.python_allocators,
        script: facts.script.clone(),
        // Frames outside are left out already.
        tracked: facts.tracked.map(|tracked| Tracked { n_hidden_frames: 0, ..tracked }),
        aggregated: Some(Aggregated { n_events: course.n_events }),
    };
    let end = facts.end.map(|end| CaptureEnd {
        unix_nanos: end.unix_nanos,
        mono_nanos: end.mono_nanos,
        exit: match (end.exit_code, end.signal) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        },
        peak_rss_bytes: end.peak_rss_bytes,
    });
    let log = Telling::new(&model)?.tell(&course)?;
    Ok(log.finish(capture.header(), &info, end.as_ref())?)
}

/// What a recording came to.
struct Course {
    heap: Heap,
    moments: Moments,
    objects: Objects,
    n_events: u64,
    /// Which program of the process runs.
    image: u16,
}

impl Default for Course {
    fn default() -> Course {
        let heap = Heap::new(MmapRule::Memory, Detail::Full);
        Course { heap, moments: Moments::default(), objects: Objects::default(), n_events: 0, image: 0 }
    }
}

impl Course {
    fn take_all(&mut self, model: &Model, events: &[Event]) {
        let mut rest = events;
        while !rest.is_empty() {
            // The heap is asked for at each sample.
            let n_until = rest.iter().position(is_of_launcher).map_or(rest.len(), |at| at + 1);
            let (now, later) = rest.split_at(n_until);
            self.heap.take_all(model, now);
            for event in now {
                self.n_events += u64::from(event.action.is_of_memory());
                self.objects.take(event);
                if event.image != LAUNCHER_IMAGE {
                    self.image = event.image;
                }
            }
            if let Some(event) = now.last().filter(|event| is_of_launcher(event)) {
                self.moments.add(Moment { event: *event, heap_bytes: self.heap.bytes(), image: self.image });
            }
            rest = later;
        }
    }
}

fn is_of_launcher(event: &Event) -> bool {
    matches!(event.action, Action::Rss { .. } | Action::Clock { .. } | Action::Mark { .. })
}

/// A sample or a mark.
#[derive(Clone, Copy)]
struct Moment {
    event: Event,
    heap_bytes: u64,
    image: u16,
}

impl Moment {
    /// Since the capture began.
    fn nanos(&self, model: &Model) -> u64 {
        let clock = &model.process().clock;
        match self.event.action {
            Action::Rss { mono_nanos, .. } | Action::Clock { mono_nanos } | Action::Mark { mono_nanos, .. } => {
                clock.since_start(mono_nanos)
            }
            _ => clock.nanos_since_start(self.event.turn),
        }
    }
}

/// In the order of time. A week has sixty million samples, so from [`MAX_SAMPLES`] on every second one goes.
#[derive(Default)]
struct Moments {
    moments: Vec<Moment>,
    n_samples: usize,
    /// One of so many is kept; 0 stands for 1.
    stride: usize,
    n_skipped: usize,
}

/// More than readers show.
const MAX_SAMPLES: usize = 64 * 1024;

impl Moments {
    fn add(&mut self, moment: Moment) {
        let is_mark = |moment: &Moment| matches!(moment.event.action, Action::Mark { .. });
        if is_mark(&moment) {
            return self.moments.push(moment);
        }
        self.n_skipped += 1;
        if self.n_skipped < self.stride {
            return;
        }
        self.n_skipped = 0;
        self.moments.push(moment);
        self.n_samples += 1;
        if self.n_samples > MAX_SAMPLES {
            let mut is_kept = false;
            self.moments.retain(|moment| {
                is_kept ^= !is_mark(moment);
                is_kept || is_mark(moment)
            });
            self.n_samples = self.n_samples.div_ceil(2);
            self.stride = self.stride.max(1) * 2;
        }
    }
}

/// Objects that were made and not destroyed.
#[derive(Default)]
struct Objects {
    n_made: u64,
    living: HashMap<u64, Object>,
}

#[derive(Clone, Copy)]
struct Object {
    address: u64,
    /// Counted over all that were made.
    number: u64,
    made_by: StackId,
    thread: ThreadKey,
}

impl Objects {
    fn take(&mut self, event: &Event) {
        match event.action {
            Action::ObjectMade { address, stack } => {
                let thread = ThreadKey { image: event.image, number: event.thread };
                self.living.insert(address, Object { address, number: self.n_made, made_by: stack, thread });
                self.n_made += 1;
            }
            Action::ObjectDestroyed { address } => drop(self.living.remove(&address)),
            Action::ImageStart => self.living.clear(),
            _ => {}
        }
    }

    fn in_order(&self) -> Vec<Object> {
        let mut objects: Vec<Object> = self.living.values().copied().collect();
        objects.sort_unstable_by_key(|object| object.number);
        objects
    }
}

/// Where the block is that stands for all that is not told of one by one. Other blocks begin behind it, mappings far away.
const REST: u64 = 0x1000;
const FIRST_BLOCK: u64 = 0x10000;
const FIRST_MAPPING: u64 = 1 << 46;
const PAGE: u64 = 4096;

/// Tells a course as a log.
struct Telling<'m> {
    model: &'m Model,
    log: Writer,
    turn: u64,
    threads: HashMap<ThreadKey, Nodes>,
    /// Who told last.
    teller: Option<ThreadKey>,
    /// Of code objects and modules, by image.
    images: HashMap<u16, Numbers>,
    next_block: u64,
    next_mapping: u64,
    /// The size of the block that stands for the rest, and in which image it is.
    rest: (u64, u16),
}

/// The numbers that stacks have in the lane of a thread.
#[derive(Default)]
struct Nodes {
    numbers: HashMap<StackId, u32>,
    count: u32,
}

/// What has a number in an image, and when the image was first told of.
#[derive(Default)]
struct Numbers {
    numbers: HashMap<What, u32>,
    first_turn: u64,
}

/// What a number of the log stands for: a Python frame, or a module.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Frame(usize),
    Module(u32),
}

/// Blocks of a site, the first ones a byte longer than the others.
#[derive(Clone, Copy)]
struct Blocks {
    row: SiteRow,
    start: u64,
}

impl Blocks {
    fn size(&self, index: u64) -> u64 {
        let SiteRow { bytes, count, .. } = self.row;
        bytes / count + u64::from(index < bytes % count)
    }

    fn is_mapping(&self) -> bool {
        self.row.site.kind == AllocatorKind::Mmap
    }

    /// From one to the next.
    fn step(&self) -> u64 {
        if self.is_mapping() { self.size(0).next_multiple_of(PAGE).max(PAGE) } else { 16 }
    }

    /// Where each is, and how long.
    fn each(self) -> impl Iterator<Item = (u64, u64)> {
        (0..self.row.count).map(move |index| (self.start + index * self.step(), self.size(index)))
    }
}

impl<'m> Telling<'m> {
    fn new(model: &'m Model) -> io::Result<Telling<'m>> {
        Ok(Telling {
            model,
            log: Writer::new()?,
            turn: 0,
            threads: HashMap::new(),
            teller: None,
            images: HashMap::new(),
            next_block: FIRST_BLOCK,
            next_mapping: FIRST_MAPPING,
            rest: (0, 0),
        })
    }

    fn tell(mut self, course: &Course) -> io::Result<Writer> {
        let (peak, leaks) = (course.heap.peak_by_site(), course.heap.end_by_site());
        let moments = &course.moments.moments;
        let (before, after) = moments.split_at(moments.partition_point(|it| Some(it.event.turn) < peak.turn));
        for moment in before {
            self.stand_for(moment.heap_bytes, moment.image)?;
            self.moment(moment)?;
        }
        let mut held = self.peak(&peak)?;
        for moment in after {
            // As long as it is as high as that, it is the peak.
            if moment.heap_bytes != peak.bytes {
                if !held.is_empty() {
                    self.clock(moment.nanos(self.model))?;
                }
                self.give_back(std::mem::take(&mut held))?;
                self.stand_for(moment.heap_bytes, moment.image)?;
            }
            self.moment(moment)?;
        }
        self.clock(self.model.process().clock.last_nanos())?;
        if leaks.bytes != peak.bytes {
            self.give_back(held)?;
            self.stand_for(0, self.rest.1)?;
            self.hold(&leaks)?;
        }
        self.objects(&course.objects.in_order())?;
        self.main_thread()?;
        self.describe()?;
        Ok(self.log)
    }

    /// All that makes the peak happens at one moment: on the time line there is nothing between it and the rest.
    fn peak(&mut self, peak: &BySite) -> io::Result<Vec<Blocks>> {
        let Some(turn) = peak.turn else { return Ok(Vec::new()) };
        let nanos = self.model.process().clock.nanos_since_start(turn);
        self.clock(nanos)?;
        self.stand_for(0, self.rest.1)?;
        let held = self.hold(peak)?;
        self.clock(nanos)?;
        Ok(held)
    }

    /// Has everything outside of what is told one by one be one block.
    fn stand_for(&mut self, bytes: u64, image: u16) -> io::Result<()> {
        if self.rest == (bytes, image) {
            return Ok(());
        }
        let nobody = |image| ThreadKey { image, number: 0 };
        if self.rest.0 > 0 {
            self.event(nobody(self.rest.1), &Record::Free(Free { kind: AllocatorKind::Free, address: REST }))?;
        }
        if bytes > 0 {
            let rest = Alloc { kind: AllocatorKind::Malloc, address: REST, size: bytes, stack: 0 };
            self.event(nobody(image), &Record::Alloc(rest))?;
        }
        self.rest = (bytes, image);
        Ok(())
    }

    /// Allocates what a table says.
    fn hold(&mut self, table: &BySite) -> io::Result<Vec<Blocks>> {
        let mut held = Vec::new();
        for &row in table.rows.iter().filter(|row| row.count > 0) {
            let mut blocks = Blocks { row, start: self.next_block };
            let next = if blocks.is_mapping() { &mut self.next_mapping } else { &mut self.next_block };
            blocks.start = *next;
            *next += row.count * blocks.step();
            let (thread, kind) = (row.site.thread, row.site.kind);
            let stack = self.node(thread, row.site.stack)?;
            for (address, size) in blocks.each() {
                let record = match blocks.is_mapping() {
                    true => Record::Mmap(mapping(address, size, stack)),
                    false => Record::Alloc(Alloc { kind, address, size, stack }),
                };
                self.event(thread, &record)?;
            }
            held.push(blocks);
        }
        Ok(held)
    }

    /// Empty blocks come last: while nothing else has gone, the heap without them is as high as with them.
    fn give_back(&mut self, mut held: Vec<Blocks>) -> io::Result<()> {
        held.sort_by_key(|blocks| Reverse(blocks.row.bytes > 0));
        for blocks in held {
            let kind = match blocks.row.site.kind {
                AllocatorKind::PymallocMalloc | AllocatorKind::PymallocCalloc | AllocatorKind::PymallocRealloc => {
                    AllocatorKind::PymallocFree
                }
                _ => AllocatorKind::Free,
            };
            for (address, size) in blocks.each() {
                let record = match blocks.is_mapping() {
                    true => Record::Munmap(Munmap { address, len: size, is_remap: false }),
                    false => Record::Free(Free { kind, address }),
                };
                self.event(blocks.row.site.thread, &record)?;
            }
        }
        Ok(())
    }

    fn objects(&mut self, objects: &[Object]) -> io::Result<()> {
        for &Object { address, made_by, thread, .. } in objects {
            let made_by = Some(self.node(thread, made_by)?);
            self.event(thread, &Record::Object(record::Object { address, made_by }))?;
        }
        Ok(())
    }

    fn moment(&mut self, moment: &Moment) -> io::Result<()> {
        match moment.event.action {
            Action::Rss { mono_nanos, bytes } => self.launcher(&Record::Rss(Rss { mono_nanos, bytes })),
            Action::Clock { mono_nanos } => self.launcher(&Record::Clock(record::Clock { mono_nanos })),
            Action::Mark { mono_nanos, kind, name } => {
                let what = match kind {
                    MarkKind::Named => mark::NAMED,
                    MarkKind::Paused => mark::PAUSED,
                    MarkKind::Resumed => mark::RESUMED,
                };
                let name = self.model.text(name).as_bytes();
                self.launcher(&Record::Mark(record::Mark { mono_nanos, what, name }))
            }
            _ => Ok(()),
        }
    }

    /// Says what time it is, since the capture began.
    fn clock(&mut self, nanos: u64) -> io::Result<()> {
        let start = self.model.process().clock.start_mono_nanos();
        self.launcher(&Record::Clock(record::Clock { mono_nanos: start.saturating_add(nanos) }))
    }

    fn launcher(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.teller = None;
        self.turn += 1;
        self.log.put((block_kind::LAUNCHER, LAUNCHER_IMAGE, 0), self.turn, record)
    }

    /// Of a thread that reports may want to name though nothing of its is told.
    fn main_thread(&mut self) -> io::Result<()> {
        let Facts { tracked, pid, .. } = self.model.process().facts;
        let main = self.model.process().threads.with_os_tid(tracked.map_or(pid, |tracked| tracked.os_tid));
        main.map_or(Ok(()), |thread| self.introduce(thread))
    }

    /// An event of a thread, which has its turn then.
    fn event(&mut self, thread: ThreadKey, record: &Record<'_>) -> io::Result<()> {
        if self.teller != Some(thread) {
            self.teller = Some(thread);
            self.turn += 1;
            self.introduce(thread)?;
        }
        self.log.put(lane(thread), self.turn, record)
    }

    /// Says who a thread is, when it is first told of.
    fn introduce(&mut self, thread: ThreadKey) -> io::Result<()> {
        if self.threads.contains_key(&thread) {
            return Ok(());
        }
        self.threads.insert(thread, Nodes::default());
        self.images.entry(thread.image).or_insert_with(|| Numbers { first_turn: self.turn, ..Numbers::default() });
        let known = self.model.process().threads.get(thread);
        // Nobody else has it: there is one thread for each.
        let pthread = thread.number.into();
        let said = record::Thread { thread: thread.number, os_tid: known.os_tid, pthread };
        self.log.put(lane(thread), self.turn, &Record::Thread(said))?;
        if let Some(name) = known.name {
            let name = self.model.text(name).as_bytes();
            self.log.put(lane(thread), self.turn, &Record::ThreadName(record::ThreadName { pthread, name }))?;
        }
        Ok(())
    }

    /// The number of a stack in the lane of a thread.
    fn node(&mut self, thread: ThreadKey, stack: StackId) -> io::Result<u32> {
        self.introduce(thread)?;
        // From the leaf to what is known, and back.
        let mut way = Vec::new();
        let mut at = stack;
        let mut number = loop {
            if let Some(&known) = self.threads[&thread].numbers.get(&at) {
                break known;
            }
            let Some((parent, level)) = self.model.level_of(at) else { break 0 };
            way.push((at, level));
            at = parent;
        };
        for (stack, level) in way.into_iter().rev() {
            let (code, offset) = match level {
                Level::Entry => (Node::NO_CODE, 0),
                // Native stacks have no such level, so this goes one level deep.
                Level::Joint(native) => (Node::NO_CODE, self.node(thread, native)?),
                Level::Python(frame) => (self.number(thread.image, What::Frame(frame.index())), Node::NOT_BEGUN),
                Level::Native(place) => {
                    let place = self.model.native_place(place);
                    (self.number(thread.image, What::Module(place.module)), place.address as u32)
                }
            };
            let nodes = self.threads.entry(thread).or_default();
            // Nothing was recorded beside the Python stack.
            if !(matches!(level, Level::Joint(_)) && offset == 0) {
                self.log.put(lane(thread), self.turn, &Record::Node(Node { parent: number, code, offset }))?;
                nodes.count += 1;
                number = nodes.count;
            }
            nodes.numbers.insert(stack, number);
        }
        Ok(number)
    }

    fn number(&mut self, image: u16, what: What) -> u32 {
        let numbers = &mut self.images.entry(image).or_default().numbers;
        let next = numbers.len() as u32 + 1;
        *numbers.entry(what).or_insert(next)
    }

    /// What the numbers stand for, and the programs of the process.
    fn describe(&mut self) -> io::Result<()> {
        let facts = &self.model.process().facts;
        let images = std::mem::take(&mut self.images);
        let mut put = |image, record: &Record<'_>| self.log.put((block_kind::META, image, 0), 0, record);
        for image in &facts.images {
            let arguments: Vec<u8> = image.arguments.iter().flat_map(|it| it.bytes().chain([0])).collect();
            let turn = images.get(&image.number).map_or(0, |numbers| numbers.first_turn);
            let said = record::Image { turn, exe: image.exe.as_bytes(), arguments: &arguments };
            put(image.number, &Record::Image(said))?;
            if let Some(python) = &image.python {
                let (version, allocator) = (python.version, python.allocator.as_bytes());
                put(
                    image.number,
                    &Record::Python(record::Python { version, allocator, has_stacks: python.has_stacks }),
                )?;
            }
        }
        for notice in &facts.notices {
            let said = record::Notice { code: notice.code, text: notice.text.as_bytes() };
            put(notice.image, &Record::Notice(said))?;
        }
        for (image, Numbers { numbers, .. }) in images {
            let mut numbers: Vec<(u32, What)> = numbers.into_iter().map(|(what, number)| (number, what)).collect();
            numbers.sort_unstable_by_key(|(number, _)| *number);
            for (id, what) in numbers {
                match what {
                    What::Frame(frame) => {
                        let frame = self.model.frame(FrameId::from_index(frame));
                        let (name, file) = (self.model.text(frame.function), self.model.text(frame.file));
                        let (name, file) = (PyText::new(name), PyText::new(file));
                        // A function that begins where the frame is: so it needs no table.
                        let (first_line, name, file) = (frame.line, name.as_py_str(), file.as_py_str());
                        put(image, &Record::Code(record::Code { id, first_line, name, file, line_table: &[] }))?;
                    }
                    What::Module(module) => {
                        let module = &self.model.native_modules()[module as usize];
                        let (path, build_id) = (module.path.as_bytes(), module.build_id.as_slice());
                        put(image, &Record::Module(record::Module { id, bias: 0, path, build_id }))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn lane(thread: ThreadKey) -> writer::LaneKey {
    (block_kind::EVENTS, thread.image, thread.number)
}

/// Of memory: private, anonymous, writable.
fn mapping(address: u64, len: u64, stack: u32) -> Mmap {
    const PROT_READ_WRITE: u32 = 3;
    const MAP_PRIVATE_ANONYMOUS: u32 = 0x22;
    Mmap { address, len, prot: PROT_READ_WRITE, flags: MAP_PRIVATE_ANONYMOUS, is_arena: false, stack }
}

/// A text as the interpreter would have it.
struct PyText {
    width: u8,
    bytes: Vec<u8>,
}

impl PyText {
    fn new(text: &str) -> PyText {
        let latin1: Option<Vec<u8>> = text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect();
        match latin1 {
            Some(bytes) => PyText { width: 1, bytes },
            None => PyText { width: 4, bytes: text.chars().flat_map(|it| u32::from(it).to_le_bytes()).collect() },
        }
    }

    fn as_py_str(&self) -> PyStr<'_> {
        PyStr { width: self.width, bytes: &self.bytes }
    }
}
