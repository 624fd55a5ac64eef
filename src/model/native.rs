//! Native stacks of a capture before they have names: which modules there were, what their frames are, and which native
//! stack goes with which Python stack.

use hashbrown::HashMap;
use memtrace_format::record;

use super::Model;
use super::stacks::{FrameId, StackId};

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

#[derive(Default)]
pub struct Native {
    modules: Vec<NativeModule>,
    by_content: HashMap<NativeModule, u32>,
    by_number: HashMap<(u16, u32), u32>,
    places: HashMap<FrameId, NativePlace>,
    joints: HashMap<FrameId, Joint>,
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
        self.extend_stack(StackId::EMPTY, frame)
    }

    pub(super) fn entry_frame(&mut self) -> FrameId {
        self.intern_frame("<entry>", "<joint>", 0)
    }

    pub(super) fn native_frame(&mut self, place: NativePlace) -> FrameId {
        let path = self.native.modules()[place.module as usize].path.clone();
        let frame = self.intern_frame(&format!("{:#x}", place.address), &path, 0);
        self.native.add_place(frame, place);
        frame
    }
}
