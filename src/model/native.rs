//! Native stacks of a capture before they have names: which modules there were, what their frames are, and which native
//! stack goes with which Python stack.

use hashbrown::{HashMap, HashSet};
use memtrace_format::record;

use super::stacks::{FrameId, StackId};
use super::{Event, Model};

/// A loaded object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NativeModule {
    /// As the program's `/proc/PID/maps` had it; empty for code that was in no file.
    pub path: String,
    /// Empty when it had none.
    pub build_id: Vec<u8>,
}

/// A call in native code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NativePlace {
    /// Index among the modules.
    pub module: u32,
    /// As the file counts it.
    pub address: u64,
}

/// Both stacks of an event. The Python one has a frame of its own wherever C code entered the interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Joint {
    pub python: StackId,
    pub native: StackId,
}

/// Function and file of the frame that is a mark.
const ENTRY: (&str, &str) = ("<entry>", "<joint>");

#[derive(Default)]
pub struct Native {
    modules: Vec<NativeModule>,
    by_content: HashMap<NativeModule, u32>,
    by_number: HashMap<(u16, u32), u32>,
    places: HashMap<FrameId, NativePlace>,
    joints: HashMap<FrameId, Joint>,
    /// Stacks that stand for two, whose native one has lost its beginning.
    cut: HashSet<StackId>,
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

    pub fn module(&self, image: u16, number: u32) -> Option<u32> {
        self.by_number.get(&(image, number)).copied()
    }

    pub fn modules(&self) -> &[NativeModule] {
        &self.modules
    }

    pub fn add_place(&mut self, frame: FrameId, place: NativePlace) {
        self.places.insert(frame, place);
    }

    pub fn place(&self, frame: FrameId) -> Option<NativePlace> {
        self.places.get(&frame).copied()
    }

    pub fn add_joint(&mut self, frame: FrameId, joint: Joint) {
        self.joints.insert(frame, joint);
    }

    pub fn joint(&self, frame: FrameId) -> Option<Joint> {
        self.joints.get(&frame).copied()
    }
}

impl Model {
    /// Takes over the description of a loaded object.
    pub fn describe_module(&mut self, image: u16, module: &record::Module<'_>) {
        self.process_mut().facts.has_native_stacks = true;
        let path = String::from_utf8_lossy(module.path).into_owned();
        self.native.add_module(image, module.id, NativeModule { path, build_id: module.build_id.to_vec() });
    }

    /// Whether there are native stacks.
    pub fn has_native(&self) -> bool {
        !self.native.joints.is_empty()
    }

    /// The stack where C code entered the interpreter on top of another, and on a native one where it ran.
    pub fn entered(&mut self, parent: StackId) -> StackId {
        let frame = self.entry_frame();
        self.extend_stack(parent, frame)
    }

    /// A stack that stands for two until they are [`resolved`](Model::resolved).
    pub fn joined(&mut self, joint: Joint) -> StackId {
        let frame = self.intern_frame(&format!("<{} {}>", joint.python.index(), joint.native.index()), "<joint>", 0);
        self.native.add_joint(frame, joint);
        let stack = self.extend_stack(StackId::EMPTY, frame);
        if self.is_cut(joint.native) {
            self.native.cut.insert(stack);
        }
        stack
    }

    /// Whether a native stack begins with a frame that had a caller.
    fn is_cut(&self, native: StackId) -> bool {
        let mut outermost = [None; 2];
        for frame in self.stack_from_leaf(native) {
            outermost = [Some(frame), outermost[0]];
        }
        let [mark, first] = outermost.map(|frame| frame.map(|frame| self.frame(frame)));
        let is_mark = mark.is_some_and(|mark| (self.text(mark.function), self.text(mark.file)) == ENTRY);
        // The loader starts the program in code of its own that nothing describes, and nobody has called that.
        is_mark && !first.is_some_and(|first| is_loader(self.text(first.file)))
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

    /// All calls in native code, in the order of modules and addresses.
    pub fn native_places(&self) -> Vec<(&NativeModule, u64)> {
        let mut places: Vec<NativePlace> = self.native.places.values().copied().collect();
        places.sort_unstable_by_key(|place| (place.module, place.address));
        places.into_iter().map(|place| (&self.native.modules[place.module as usize], place.address)).collect()
    }

    pub(super) fn entry_frame(&mut self) -> FrameId {
        self.intern_frame(ENTRY.0, ENTRY.1, 0)
    }

    pub(super) fn native_frame(&mut self, place: NativePlace) -> FrameId {
        let path = self.native.modules()[place.module as usize].path.clone();
        let frame = self.intern_frame(&format!("{:#x}", place.address), &path, 0);
        self.native.add_place(frame, place);
        frame
    }
}

fn is_loader(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("ld-linux") || name.starts_with("ld-2.")
}

#[cfg(test)]
mod tests {
    use memtrace_format::AllocatorKind;

    use super::*;
    use crate::model::{Action, StackId};

    #[test]
    fn events_are_counted_whose_native_stack_has_lost_its_beginning() {
        let mut model = Model::default();
        for (id, path) in [(1, "/bin/program"), (2, "/lib64/ld-linux-x86-64.so.2")] {
            model.describe_module(0, &record::Module { id, bias: 0, path: path.as_bytes(), build_id: b"" });
        }
        let mut stack = |is_cut: bool, module: u32| {
            let native = if is_cut { model.entered(StackId::EMPTY) } else { StackId::EMPTY };
            let first = model.frame_at(0, module, 16);
            let last = model.frame_at(0, 1, 32);
            let native = model.extend_stack(native, first);
            let native = model.extend_stack(native, last);
            // Python stacks begin with such a mark whenever there is one.
            let python = model.entered(StackId::EMPTY);
            model.joined(Joint { python, native })
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
