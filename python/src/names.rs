//! Stacks as Python shows them: lists of function, file and line, the most recent call first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use memtrace::capture::follow::{Follower, Progress};
use memtrace::cli::NativeArgs;
use memtrace::commands::native::Names as Symbols;
use memtrace::model::native::NativeModule;
use memtrace::model::{Event, Frame, Joiner, Model, StackId};

use crate::lock::lock;
use crate::rows::thread_of;

/// `(function, file, line)`.
pub type Element = (String, String, u32);

/// The tables that stacks of records are numbers of. Answers from any thread.
pub struct Names {
    inner: Mutex<Inner>,
    has_native: AtomicBool,
}

struct Inner {
    tables: Tables,
    symbols: Arc<Mutex<Symbols>>,
    joiner: Joiner<'static>,
}

/// What numbers of stacks stand for.
enum Tables {
    Whole(Box<Model>),
    /// Of a log that is being written.
    Growing(Box<Follower>),
}

impl Tables {
    fn model(&self) -> &Model {
        match self {
            Tables::Whole(model) => model,
            Tables::Growing(follower) => follower.model(),
        }
    }

    fn model_mut(&mut self) -> &mut Model {
        match self {
            Tables::Whole(model) => model,
            Tables::Growing(follower) => follower.model_mut(),
        }
    }
}

impl Names {
    pub fn new(model: Model, capture: &memtrace::capture::Capture) -> Names {
        let has_native = model.has_recorded_stacks();
        let symbols = Symbols::of_capture(capture, &NativeArgs::default());
        Names::of(Tables::Whole(Box::new(model)), symbols, has_native)
    }

    /// Of a log that is read as it grows, with recorded stacks.
    pub fn following(follower: Follower) -> Names {
        Names::of(Tables::Growing(Box::new(follower)), Symbols::of_this_machine(), false)
    }

    fn of(tables: Tables, symbols: Symbols, has_native: bool) -> Names {
        let symbols = Arc::new(Mutex::new(symbols));
        let asked = Arc::clone(&symbols);
        let joiner = Joiner::new(Box::new(move |module, address| lock(&asked).of(module, address)));
        Names { inner: Mutex::new(Inner { tables, symbols, joiner }), has_native: AtomicBool::new(has_native) }
    }

    /// Hands over what was written since the last time, until `is_enough`.
    pub fn read_on(&self, take: impl FnMut(&Model, &[Event]), is_enough: impl FnMut() -> bool) -> Result<Progress> {
        let mut inner = lock(&self.inner);
        let Tables::Growing(follower) = &mut inner.tables else { return Ok(Progress::Ended) };
        let progress = follower.step(take, is_enough)?;
        self.has_native.store(follower.model().has_recorded_stacks(), Ordering::Relaxed);
        Ok(progress)
    }

    /// Lets go of a log that is being written: the tables stay as they are.
    pub fn stop_reading(&self) {
        let mut inner = lock(&self.inner);
        if let Tables::Growing(follower) = &mut inner.tables {
            let model = std::mem::replace(follower.model_mut(), Model::new(Default::default(), Default::default()));
            inner.tables = Tables::Whole(Box::new(model));
        }
    }

    fn has_native(&self) -> bool {
        self.has_native.load(Ordering::Relaxed)
    }

    /// Looks something up in the tables.
    pub fn with_model<T>(&self, look: impl FnOnce(&Model) -> T) -> T {
        look(lock(&self.inner).tables.model())
    }

    /// The numbers of the Python stack and of the native one that a stack consists of.
    pub fn parts(&self, stack: u32) -> (u32, u32) {
        if !self.has_native() {
            return (stack, 0);
        }
        let inner = lock(&self.inner);
        let stack = StackId::from_index(stack as usize);
        let model = inner.tables.model();
        (model.python_part(stack).index() as u32, model.native_part(stack).index() as u32)
    }

    /// The numbers of both parts of many stacks.
    pub fn columns(&self, stacks: Vec<u32>) -> (Vec<u32>, Vec<u32>) {
        if !self.has_native() {
            let none = vec![0; stacks.len()];
            return (stacks, none);
        }
        let inner = lock(&self.inner);
        let model = inner.tables.model();
        let part = |stack: &u32| {
            let stack = StackId::from_index(*stack as usize);
            (model.python_part(stack).index() as u32, model.native_part(stack).index() as u32)
        };
        stacks.iter().map(part).unzip()
    }

    /// The name that a thread had last; empty when it had none.
    pub fn thread(&self, tid: i64) -> String {
        self.with_model(|model| {
            let name = thread_of(tid).and_then(|thread| model.process().threads.get(thread).name);
            name.map_or(String::new(), |name| model.text(name).to_string())
        })
    }

    /// At most so many Python frames.
    pub fn python(&self, stack: u32, max: usize) -> Vec<Element> {
        let inner = lock(&self.inner);
        let (model, stack) = (inner.tables.model(), StackId::from_index(stack as usize));
        if self.has_native() {
            return model.python_from_leaf(stack).take(max).map(|id| element(model, model.frame(id))).collect();
        }
        model.frames_from_leaf(stack).take(max).map(|frame| element(model, frame)).collect()
    }

    /// At most so many native frames.
    pub fn native(&self, stack: u32, max: usize) -> Vec<Element> {
        if !self.has_native() {
            return Vec::new();
        }
        let inner = lock(&self.inner);
        let model = inner.tables.model();
        let native = model.native_part(StackId::from_index(stack as usize));
        let mut symbols = lock(&inner.symbols);
        let mut frames = Vec::new();
        for (module, address) in model.native_from_leaf(native) {
            if frames.len() >= max {
                break;
            }
            frames.extend(named(&mut symbols, module, address));
        }
        frames.truncate(max);
        frames
    }

    /// At most so many frames of both, as reports show them.
    pub fn hybrid(&self, stack: u32, max: usize) -> Vec<Element> {
        if !self.has_native() {
            return self.python(stack, max);
        }
        let mut inner = lock(&self.inner);
        let Inner { tables, joiner, .. } = &mut *inner;
        let model = tables.model_mut();
        let joined = joiner.joined(model, StackId::from_index(stack as usize));
        model.frames_from_leaf(joined).take(max).map(|frame| element(model, frame)).collect()
    }
}

/// The functions at an address, the innermost first.
fn named(symbols: &mut Symbols, module: &NativeModule, address: u64) -> impl Iterator<Item = Element> + use<> {
    let named = symbols.of(module, address);
    named.into_iter().rev().map(|named| (named.function, named.file, named.line))
}

pub fn element(model: &Model, frame: Frame) -> Element {
    let function = model.text(frame.function);
    // A Python function goes by its own name here, and not by the way to it.
    let function = match frame.is_native {
        true => function,
        false => function.rsplit_once('.').map_or(function, |(_, name)| name),
    };
    (function.to_string(), model.text(frame.file).to_string(), frame.line)
}
