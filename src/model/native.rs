//! Stacks as they were recorded, native ones and Python ones beside each other: which modules there were, where their
//! code was called, and which native stack goes with which Python stack. Nothing here has a name yet; `joined.rs` makes
//! of it what reports show.

use hashbrown::{HashMap, HashSet};
use memtrace_format::record;

use super::joined::Joiner;
use super::stacks::{FrameId, StackId, Stacks};
use super::{Event, Model};

/// What becomes of native stacks while a capture is read.
pub enum NativeStacks<'a> {
    /// Events have their Python stacks.
    LeftOut,
    /// Events have stacks that mean nothing until the model is [resolved](Model::resolved), all at once and so for less.
    Recorded,
    /// Events have what reports show, and each native stack is named as it comes.
    Named(Joiner<'a>),
}

/// What a node of the log stands for.
#[derive(Clone, Copy, Debug)]
pub struct NodeStack {
    /// What events have.
    pub shown: StackId,
    /// Among the recorded ones, if these are kept.
    pub recorded: StackId,
    /// Frames at its root that belong to what is outside of the recording and are left out.
    pub n_hidden: u32,
}

impl NodeStack {
    pub const EMPTY: NodeStack = NodeStack { shown: StackId::EMPTY, recorded: StackId::EMPTY, n_hidden: 0 };
}

impl NativeStacks<'_> {
    /// The stack with one more level.
    pub fn extend(&mut self, model: &mut Model, parent: NodeStack, level: Level) -> NodeStack {
        let NodeStack { shown, recorded, n_hidden } = parent;
        let keeps_recorded = !matches!(self, NativeStacks::LeftOut);
        let recorded = if keeps_recorded { model.native.extend(recorded, level) } else { recorded };
        let shown = match (self, level) {
            (NativeStacks::Recorded, _) => recorded,
            (NativeStacks::Named(joiner), Level::Joint(_)) => joiner.joined(model, recorded),
            (_, Level::Python(frame)) => model.stacks.extend(shown, frame),
            (_, Level::Native(_) | Level::Entry | Level::Joint(_)) => shown,
        };
        if let Level::Joint(native) = level
            && keeps_recorded
            && model.native.is_cut(native)
        {
            model.native.cut.insert(shown);
        }
        NodeStack { shown, recorded, n_hidden }
    }

    /// The stack with a level that is outside of what a `Tracker` recorded: with `None`, of what is in it.
    pub fn extend_outside(&self, parent: NodeStack, level: Level, n_outside: u32) -> Option<NodeStack> {
        let is_outside = parent.n_hidden < n_outside && parent.shown == StackId::EMPTY;
        match level {
            Level::Python(_) if is_outside => Some(NodeStack { n_hidden: parent.n_hidden + 1, ..parent }),
            Level::Entry if is_outside => Some(parent),
            _ => None,
        }
    }

    /// The stack of events whose own stack is in a lost part of the log.
    #[cold]
    pub fn lost(&mut self, model: &mut Model) -> NodeStack {
        let frame = model.intern_frame("<lost stack>", "<lost>", 0);
        self.extend(model, NodeStack::EMPTY, Level::Python(frame))
    }
}

/// A loaded object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NativeModule {
    /// As the program's `/proc/PID/maps` had it; empty for code that was in no file.
    pub path: String,
    /// Empty when it had none.
    pub build_id: Vec<u8>,
}

/// A call in native code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NativePlace {
    /// Index among the modules.
    pub module: u32,
    /// As the file counts it.
    pub address: u64,
}

/// One level of a recorded stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Python(FrameId),
    /// By its number among the places.
    Native(usize),
    /// In a Python stack, C code has entered the interpreter here; in a native one, the level before is the loop that
    /// runs Python.
    Entry,
    /// The Python stack before it goes with this native one.
    Joint(StackId),
}

/// A level in 32 bits: two say what it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackedLevel(u32);

const NATIVE: u32 = 1 << 30;
const JOINT: u32 = 1 << 31;
const ENTRY: u32 = JOINT - 1;

impl Level {
    fn packed(self) -> PackedLevel {
        let number = |index: usize, limit: u32| {
            let number = u32::try_from(index).ok().filter(|number| *number < limit);
            number.expect("fewer than 2^30 frames and 2^31 stacks fit in memory")
        };
        PackedLevel(match self {
            Level::Python(frame) => number(frame.index(), NATIVE),
            Level::Native(place) => NATIVE | number(place, NATIVE - 1),
            Level::Entry => ENTRY,
            Level::Joint(stack) => JOINT | number(stack.index(), JOINT),
        })
    }
}

impl PackedLevel {
    pub fn level(self) -> Level {
        match self.0 {
            ENTRY => Level::Entry,
            joint if joint >= JOINT => Level::Joint(StackId::from_index((joint ^ JOINT) as usize)),
            place if place >= NATIVE => Level::Native((place ^ NATIVE) as usize),
            frame => Level::Python(FrameId::from_index(frame as usize)),
        }
    }
}

#[derive(Default)]
pub struct Native {
    modules: Vec<NativeModule>,
    by_content: HashMap<NativeModule, u32>,
    by_number: HashMap<(u16, u32), u32>,
    places: Vec<NativePlace>,
    by_place: HashMap<NativePlace, u32>,
    stacks: Stacks<PackedLevel>,
    /// By recorded stack, without the empty one.
    beginnings: Vec<Beginning>,
    /// Stacks of events whose native part has lost its beginning.
    cut: HashSet<StackId>,
}

/// How a native stack begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Whole,
    /// With a mark, behind which nothing stands yet.
    Mark,
    /// With a frame that had a caller.
    Cut,
}

impl Native {
    pub fn add_module(&mut self, image: u16, number: u32, module: NativeModule) {
        let Native { modules, by_content, .. } = self;
        let index = *by_content.entry(module).or_insert_with_key(|module| {
            modules.push(module.clone());
            modules.len() as u32 - 1
        });
        self.by_number.entry((image, number)).or_insert(index);
    }

    pub fn modules(&self) -> &[NativeModule] {
        &self.modules
    }

    pub fn places(&self) -> &[NativePlace] {
        &self.places
    }

    /// Of recorded stacks, the empty one included. A stack's parts have smaller numbers than the stack.
    pub fn n_stacks(&self) -> usize {
        self.stacks.count()
    }

    pub fn parent(&self, stack: StackId) -> StackId {
        self.stacks.parent(stack)
    }

    /// The innermost level of a recorded stack; `None` for the empty one.
    pub fn level(&self, stack: StackId) -> Option<Level> {
        self.stacks.frame(stack).map(PackedLevel::level)
    }

    pub fn extend(&mut self, parent: StackId, level: Level) -> StackId {
        let stack = self.stacks.extend(parent, level.packed());
        if stack.index() > self.beginnings.len() {
            let outer = parent.index().checked_sub(1).map(|index| self.beginnings[index]);
            self.beginnings.push(match (outer, level) {
                (None, Level::Entry) => Beginning::Mark,
                (None, _) => Beginning::Whole,
                // The loader starts the program in code of its own that nothing describes, and nobody has called that.
                (Some(Beginning::Mark), Level::Native(place)) if self.is_in_loader(place) => Beginning::Whole,
                (Some(Beginning::Mark), _) => Beginning::Cut,
                (Some(known), _) => known,
            });
        }
        stack
    }

    /// Whether a native stack begins with a frame that had a caller.
    fn is_cut(&self, native: StackId) -> bool {
        native.index().checked_sub(1).is_some_and(|index| self.beginnings[index] != Beginning::Whole)
    }

    fn is_in_loader(&self, place: usize) -> bool {
        let path = &self.modules[self.places[place].module as usize].path;
        let name = path.rsplit('/').next().unwrap_or(path);
        name.starts_with("ld-linux") || name.starts_with("ld-2.")
    }

    fn place(&mut self, image: u16, number: u32, address: u64) -> Option<usize> {
        let Native { by_number, places, by_place, .. } = self;
        let place = NativePlace { module: *by_number.get(&(image, number))?, address };
        let index = by_place.entry(place).or_insert_with(|| {
            places.push(place);
            places.len() as u32 - 1
        });
        Some(*index as usize)
    }
}

impl Model {
    /// Takes over the description of a loaded object.
    pub fn describe_module(&mut self, image: u16, module: &record::Module<'_>) {
        self.process_mut().facts.has_native_stacks = true;
        let path = String::from_utf8_lossy(module.path).into_owned();
        self.native.add_module(image, module.id, NativeModule { path, build_id: module.build_id.to_vec() });
    }

    /// What a number of the log and an offset stand for, code objects and modules alike. What was never described is a
    /// Python frame that says so.
    pub fn level_at(&mut self, image: u16, number: u32, offset: u32) -> Level {
        // Numbers are given once.
        if self.codes.cached_frame(image, number, offset).is_none()
            && let Some(place) = self.native.place(image, number, offset.into())
        {
            return Level::Native(place);
        }
        Level::Python(self.frame_at(image, number, offset))
    }

    /// Notes how many of these events have a stack, and how many one without its beginning.
    pub fn count_cut(&mut self, events: &[Event]) {
        let stacks = events.iter().filter_map(|event| event.action.stack()).filter(|stack| *stack != StackId::EMPTY);
        let (mut n_stacks, mut n_cut) = (0, 0);
        for stack in stacks {
            n_stacks += 1;
            n_cut += u64::from(!self.native.cut.is_empty() && self.native.cut.contains(&stack));
        }
        let facts = &mut self.process_mut().facts;
        facts.n_stacks += n_stacks;
        facts.n_cut_stacks += n_cut;
    }

    /// A stack as events have it without its innermost level, and that level; `None` for the empty stack.
    pub fn level_of(&self, stack: StackId) -> Option<(StackId, Level)> {
        if self.has_recorded_stacks() {
            return Some((self.native.parent(stack), self.native.level(stack)?));
        }
        Some((self.parent(stack), Level::Python(self.leaf(stack)?)))
    }

    pub fn native_place(&self, place: usize) -> NativePlace {
        self.native.places[place]
    }

    pub fn native_modules(&self) -> &[NativeModule] {
        &self.native.modules
    }

    /// The Python frames of a recorded stack, from the leaf to the root.
    pub fn python_from_leaf(&self, stack: StackId) -> impl Iterator<Item = FrameId> + '_ {
        let levels = self.native.stacks.from_leaf(stack).map(PackedLevel::level);
        levels.filter_map(|level| if let Level::Python(frame) = level { Some(frame) } else { None })
    }

    /// The native stack that was recorded with a stack, the empty one if none was.
    pub fn native_part(&self, stack: StackId) -> StackId {
        if let Some(Level::Joint(native)) = self.native.level(stack) { native } else { StackId::EMPTY }
    }

    /// The recorded stack without its native one.
    pub fn python_part(&self, stack: StackId) -> StackId {
        if let Some(Level::Joint(_)) = self.native.level(stack) { self.native.parent(stack) } else { stack }
    }

    /// The calls of a native stack, from the leaf to the root: modules and addresses as their files count them.
    pub fn native_from_leaf(&self, stack: StackId) -> impl Iterator<Item = (&NativeModule, u64)> + '_ {
        let levels = self.native.stacks.from_leaf(stack).map(PackedLevel::level);
        levels.filter_map(|level| {
            let Level::Native(place) = level else { return None };
            let place = self.native.places[place];
            Some((&self.native.modules[place.module as usize], place.address))
        })
    }

    /// All calls in native code, in the order of modules and addresses.
    pub fn native_places(&self) -> Vec<(&NativeModule, u64)> {
        let mut places = self.native.places.clone();
        places.sort_unstable();
        places.into_iter().map(|place| (&self.native.modules[place.module as usize], place.address)).collect()
    }
}

#[cfg(test)]
mod tests {
    use memtrace_format::AllocatorKind;

    use super::*;
    use crate::model::Action;

    #[test]
    fn events_are_counted_whose_native_stack_has_lost_its_beginning() {
        let mut model = Model::default();
        for (id, path) in [(1, "/bin/program"), (2, "/lib64/ld-linux-x86-64.so.2")] {
            model.describe_module(0, &record::Module { id, bias: 0, path: path.as_bytes(), build_id: b"" });
        }
        let mut stack = |is_cut: bool, module: u32| {
            let mut stacks = NativeStacks::Recorded;
            let mark = stacks.extend(&mut model, NodeStack::EMPTY, Level::Entry);
            let beginning = if is_cut { mark } else { NodeStack::EMPTY };
            let (first, last) = (model.level_at(0, module, 16), model.level_at(0, 1, 32));
            let native = stacks.extend(&mut model, beginning, first);
            let native = stacks.extend(&mut model, native, last);
            // Python stacks begin with such a mark whenever there is one.
            stacks.extend(&mut model, mark, Level::Joint(native.recorded)).shown
        };
        let stacks = [stack(false, 1), stack(true, 1), stack(true, 2), StackId::EMPTY];
        let event = |stack| {
            let action = Action::Alloc { kind: AllocatorKind::Malloc, address: 1, size: 1, stack };
            Event { turn: 0, image: 0, lane: 0, thread: 1, action }
        };
        let events: Vec<Event> = stacks.into_iter().map(event).collect();
        model.count_cut(&events);
        let facts = &model.process().facts;
        // The loader's first code calls the program's constructors and is called by nobody.
        assert_eq!((facts.n_stacks, facts.n_cut_stacks), (3, 1));
    }
}
