//! What the records of a capture refer to: strings, frames, stacks, threads, images and time, behind small handles.
//!
//! `capture` fills it while it reads, folds use the handles, reports turn them into text. Tables only grow, so a handle
//! stays good for as long as the model lives.

pub mod clock;
pub mod code;
pub mod event;
pub mod facts;
pub mod joined;
pub mod lines;
pub mod native;
pub mod plumbing;
pub mod processes;
pub mod stacks;
pub mod strings;
pub mod threads;

pub use clock::Clock;
pub use event::{Action, Event, MarkKind};
pub use facts::{Damage, Facts};
pub use joined::{Joiner, Named, Namer};
pub use processes::{Handles, Process};
pub use stacks::{Frame, FrameId, StackId};
pub use strings::StringId;
pub use threads::{ThreadKey, Threads};

use hashbrown::HashMap;

use code::Codes;
use lines::Encoding;
use native::Native;
use stacks::{Frames, Stacks};
use strings::Strings;

/// All tables of a capture, or of several that were put together.
pub struct Model {
    /// One for each capture, in the order in which they came; there is always one.
    processes: Vec<Process>,
    strings: Strings,
    frames: Frames,
    stacks: Stacks,
    codes: Codes,
    native: Native,
    /// Of native frames: the file with their code.
    modules: HashMap<FrameId, StringId>,
}

impl Default for Model {
    fn default() -> Model {
        Model::new(Facts::default(), Clock::default())
    }
}

impl Model {
    /// Without strings, frames and stacks yet.
    pub fn new(facts: Facts, clock: Clock) -> Model {
        Model {
            processes: vec![Process { facts, clock, threads: Threads::default() }],
            strings: Strings::default(),
            frames: Frames::default(),
            stacks: Stacks::default(),
            codes: Codes::default(),
            native: Native::default(),
            modules: HashMap::new(),
        }
    }

    /// The process whose capture this is; of several the first.
    pub fn process(&self) -> &Process {
        &self.processes[0]
    }

    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.processes[0]
    }

    /// How many Python frames at the root of a thread's stacks are outside of the part that a `Tracker` recorded.
    #[inline]
    pub fn n_frames_outside(&self, thread: ThreadKey) -> u32 {
        let Process { facts, threads, .. } = self.process();
        let tracked = facts.tracked.filter(|tracked| threads.get(thread).os_tid == tracked.os_tid);
        tracked.map_or(0, |tracked| tracked.n_hidden_frames)
    }

    /// All processes, in the order of the captures.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Whether any of them runs Python.
    pub fn runs_python(&self) -> bool {
        self.processes.iter().any(|process| process.facts.python().is_some())
    }

    /// Takes over the tables and the processes of another model that was read to its end, and
    /// [resolved](Model::resolved) if it has native stacks. What is equal becomes one;
    /// the answer says what became of each of its handles.
    pub fn absorb(&mut self, other: Model) -> Handles {
        let strings: Vec<StringId> = other.strings.iter().map(|text| self.strings.intern(text)).collect();
        let frames = other.frames.iter().map(|frame| {
            let (function, file) = (strings[frame.function.index()], strings[frame.file.index()]);
            self.frames.intern(Frame { function, file, ..frame })
        });
        let frames: Vec<FrameId> = frames.collect();
        let modules = other.modules.iter().map(|(frame, module)| (frames[frame.index()], strings[module.index()]));
        self.modules.extend(modules);
        let mut stacks = vec![StackId::EMPTY];
        for (parent, frame) in other.stacks.iter() {
            let stack = self.stacks.extend(stacks[parent.index()], frames[frame.index()]);
            stacks.push(stack);
        }
        let handles = Handles::Moved { strings, frames, stacks };
        for mut process in other.processes {
            process.threads.rename(&handles);
            self.processes.push(process);
        }
        handles
    }

    /// The text behind a handle.
    pub fn text(&self, id: StringId) -> &str {
        self.strings.get(id)
    }

    /// The handle of a text, new or known.
    pub fn intern(&mut self, text: &str) -> StringId {
        self.strings.intern(text)
    }

    pub fn frame(&self, id: FrameId) -> Frame {
        self.frames.get(id)
    }

    /// Number of distinct frames.
    pub fn n_frames(&self) -> usize {
        self.frames.count()
    }

    /// Number of stacks, the empty one included; their handles are `0..n_stacks()`, and a stack's parent always has a
    /// smaller number than the stack.
    pub fn n_stacks(&self) -> usize {
        self.stacks.count()
    }

    /// The stack without its innermost frame. The empty stack is its own parent.
    pub fn parent(&self, stack: StackId) -> StackId {
        self.stacks.parent(stack)
    }

    /// The innermost frame of a stack; `None` for the empty stack.
    pub fn leaf(&self, stack: StackId) -> Option<FrameId> {
        self.stacks.frame(stack)
    }

    /// The handles of a stack's frames from the leaf to the root.
    pub fn stack_from_leaf(&self, stack: StackId) -> impl Iterator<Item = FrameId> + '_ {
        self.stacks.from_leaf(stack)
    }

    /// The frames of a stack from the leaf to the root.
    pub fn frames_from_leaf(&self, stack: StackId) -> impl Iterator<Item = Frame> + '_ {
        self.stacks.from_leaf(stack).map(|id| self.frames.get(id))
    }

    /// `function:file:line`, as text reports show a frame.
    pub fn location(&self, frame: Frame) -> String {
        format!("{}:{}", self.text(frame.function), frame.place(self.text(frame.file)))
    }

    /// Whether the frame belongs to the machinery of `import`.
    pub fn is_import_system(&self, frame: Frame) -> bool {
        self.text(frame.file).contains("frozen importlib")
    }

    /// The handle of a frame given by its parts.
    pub fn intern_frame(&mut self, function: &str, file: &str, line: u32) -> FrameId {
        let (function, file) = (self.intern(function), self.intern(file));
        self.frames.intern(Frame { function, file, line, is_native: false })
    }

    /// The handle of a native frame given by its parts, and the file with its code.
    pub fn intern_native_frame(&mut self, function: &str, file: &str, line: u32, module: &str) -> FrameId {
        let (function, file, module) = (self.intern(function), self.intern(file), self.intern(module));
        let frame = self.frames.intern(Frame { function, file, line, is_native: true });
        self.modules.entry(frame).or_insert(module);
        frame
    }

    /// The file with the code of a native frame; of a function that several have, one of them.
    pub fn module(&self, frame: FrameId) -> Option<StringId> {
        self.modules.get(&frame).copied()
    }

    /// The handle of another model's frame.
    pub fn adopt_frame(&mut self, other: &Model, frame: Frame) -> FrameId {
        let (function, file) = (self.intern(other.text(frame.function)), self.intern(other.text(frame.file)));
        self.frames.intern(Frame { function, file, ..frame })
    }

    /// The stack that extends `parent` by one frame.
    pub fn extend_stack(&mut self, parent: StackId, frame: FrameId) -> StackId {
        self.stacks.extend(parent, frame)
    }

    /// The stack of frames written as `main>work:5`, root first, all in one file; without a number in line 1.
    #[cfg(test)]
    pub fn stack_written(&mut self, file: &str, frames: &str) -> StackId {
        frames.split('>').filter(|frame| !frame.is_empty()).fold(StackId::EMPTY, |parent, frame| {
            let (name, line) = frame.split_once(':').unwrap_or((frame, "1"));
            let frame = self.intern_frame(name, file, line.parse().unwrap());
            self.extend_stack(parent, frame)
        })
    }

    /// Takes over the description of a code object, made by the Python that is known for its image. The first description
    /// of a number stands.
    pub fn describe_code(&mut self, image: u16, code: &memtrace_format::record::Code<'_>) {
        let function = self.strings.intern(&code::decode_py_str(code.name));
        let file = self.strings.intern(&code::decode_py_str(code.file));
        let python = self.process().facts.image(image).and_then(|image| image.python.as_ref());
        let encoding = python.map_or(Encoding::Locations, |python| Encoding::of(python.version));
        self.codes.add(image, code, function, file, encoding);
    }

    /// The frame of a code object at a byte offset into its instructions. A code object that was never described is
    /// shown as such.
    pub fn frame_at(&mut self, image: u16, code: u32, offset: u32) -> FrameId {
        if let Some(frame) = self.codes.cached_frame(image, code, offset) {
            return frame;
        }
        let frame = match self.codes.locate(image, code, offset) {
            Some(frame) => self.frames.intern(frame),
            None => self.intern_frame("<unknown function>", "<unknown>", 0),
        };
        self.codes.cache_frame(image, code, offset, frame);
        frame
    }
}
