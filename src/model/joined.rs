//! One stack out of the native and the Python stack of an event: where the interpreter's loop ran, its frame makes room
//! for the Python frames that it ran.

use hashbrown::HashMap;

use super::native::{Joint, Native, NativeModule};
use super::processes::Handles;
use super::stacks::{FrameId, StackId, Stacks};
use super::{Model, StringId};

/// What a native frame is.
pub struct Named {
    /// Function, file and line, the outermost first: what was inlined comes behind.
    pub frames: Vec<(String, String, u32)>,
    /// Whether it is the interpreter's loop. Asked only of stacks in which the recorder has marked none.
    pub is_loop: bool,
}

/// Frames that are put together at most, of all stacks: only a damaged log has more. The stacks behind that show Python.
const MAX_FRAMES: usize = 1 << 27;

struct Joiner<'a, F> {
    tables: Native,
    entry: FrameId,
    name: F,
    /// What each native frame is, and whether it is the loop.
    names: HashMap<FrameId, (Vec<FrameId>, bool)>,
    joined: Stacks,
    n_frames: usize,
    old: &'a Stacks,
}

impl Model {
    /// The same with one stack for each two that were joined.
    pub fn resolved(mut self, name: impl FnMut(&NativeModule, u64) -> Named) -> (Model, Handles) {
        let (tables, old) = (std::mem::take(&mut self.native), std::mem::take(&mut self.stacks));
        let (entry, joined) = (self.entry_frame(), Stacks::default());
        let mut joiner = Joiner { tables, entry, name, names: HashMap::new(), joined, n_frames: 0, old: &old };
        let mut stacks = vec![StackId::EMPTY];
        for (parent, frame) in old.iter() {
            stacks.push(match joiner.tables.joint(frame) {
                Some(joint) => joiner.join(&mut self, joint),
                None => joiner.joined.extend(stacks[parent.index()], frame),
            });
        }
        self.stacks = joiner.joined;
        let strings = (0..self.strings.count()).map(StringId::from_index).collect();
        let frames = (0..self.frames.count()).map(FrameId::from_index).collect();
        (self, Handles::Moved { strings, frames, stacks })
    }
}

impl<F: FnMut(&NativeModule, u64) -> Named> Joiner<'_, F> {
    fn join(&mut self, model: &mut Model, joint: Joint) -> StackId {
        let python = self.root_first(joint.python);
        let native = if self.n_frames < MAX_FRAMES { self.root_first(joint.native) } else { Vec::new() };
        // With nothing in front of it, a mark says that the beginning is missing.
        let native = native.strip_prefix(&[self.entry]).unwrap_or(&native);
        self.n_frames += python.len() + native.len();
        native.iter().for_each(|frame| self.learn(model, *frame));
        let native = self.with_loops(native);
        // Nothing is on the outside of the first entry. What was entered last may not have begun.
        let entry = self.entry;
        let mut groups = python.split(|frame| *frame == entry).peekable();
        groups.next_if(|outermost| outermost.is_empty());
        let (n_groups, n_loops) = (groups.clone().count(), native.iter().filter(|(_, is_loop)| *is_loop).count());
        // Both end with the innermost. What is left of the outer ones has lost its counterpart.
        let mut stack = StackId::EMPTY;
        for group in groups.by_ref().take(n_groups.saturating_sub(n_loops)) {
            stack = self.extend(stack, group);
        }
        let mut n_without = n_loops.saturating_sub(n_groups);
        for (frame, is_loop) in native {
            let has_group = is_loop && n_without == 0;
            n_without -= usize::from(is_loop && n_without > 0);
            stack = match groups.next_if(|_| has_group) {
                Some(group) => self.extend(stack, group),
                None => {
                    let names = self.names.get(&frame).map(|(names, _)| names.clone()).unwrap_or_default();
                    self.extend(stack, &names)
                }
            };
        }
        stack
    }

    fn root_first(&self, stack: StackId) -> Vec<FrameId> {
        let mut frames: Vec<FrameId> = self.old.from_leaf(stack).collect();
        frames.reverse();
        frames
    }

    /// The native frames, and which of them are the interpreter's loop's. Where the recorder has marked one, no other is.
    fn with_loops(&self, frames: &[FrameId]) -> Vec<(FrameId, bool)> {
        let is_marked = frames.contains(&self.entry);
        let mut found: Vec<(FrameId, bool)> = Vec::with_capacity(frames.len());
        for &frame in frames {
            match found.last_mut() {
                Some((_, is_loop)) if frame == self.entry => *is_loop = true,
                _ => found.push((frame, !is_marked && self.names.get(&frame).is_some_and(|(_, is_loop)| *is_loop))),
            }
        }
        found
    }

    fn learn(&mut self, model: &mut Model, frame: FrameId) {
        if let Some(place) = self.tables.place(frame)
            && !self.names.contains_key(&frame)
        {
            let named = (self.name)(&self.tables.modules()[place.module as usize], place.address);
            let frames = named.frames.iter().map(|(function, file, line)| model.intern_frame(function, file, *line));
            self.names.insert(frame, (frames.collect(), named.is_loop));
        }
    }

    fn extend(&mut self, stack: StackId, frames: &[FrameId]) -> StackId {
        frames.iter().fold(stack, |stack, frame| self.joined.extend(stack, *frame))
    }
}

#[cfg(test)]
mod tests {
    use memtrace_format::record;

    use super::*;

    /// A native stack of calls at these addresses, root first; `*` behind one marks the loop, as the recorder does.
    fn native(model: &mut Model, calls: &str) -> StackId {
        calls.split_whitespace().fold(StackId::EMPTY, |stack, call| {
            let (address, mark) = call.split_at(call.find('*').unwrap_or(call.len()));
            let frame = address.parse().ok().map(|address| model.frame_at(0, 1, address));
            let stack = frame.map_or(stack, |frame| model.extend_stack(stack, frame));
            if mark.is_empty() { stack } else { model.entered(stack) }
        })
    }

    /// A Python stack in which `|` says where C code has entered the interpreter.
    fn python(model: &mut Model, frames: &str) -> StackId {
        frames.split_whitespace().fold(StackId::EMPTY, |stack, frame| match frame {
            "|" => model.entered(stack),
            function => {
                let frame = model.intern_frame(function, "app.py", 1);
                model.extend_stack(stack, frame)
            }
        })
    }

    /// The joined stack, with `c1` for the call at 1; 50 and more are the loop by name, and 7 has an inlined function.
    fn join(native_calls: &str, python_frames: &str) -> String {
        let mut model = Model::default();
        model.describe_module(0, &record::Module { id: 1, bias: 0, path: b"/usr/lib/libc.so", build_id: b"" });
        let joint = Joint { native: native(&mut model, native_calls), python: python(&mut model, python_frames) };
        let stack = model.joined(joint);
        let name = |module: &NativeModule, address: u64| {
            assert_eq!(module.path, "/usr/lib/libc.so");
            let mut frames = vec![(format!("c{address}"), String::new(), 0)];
            if address == 7 {
                frames.push(("inlined".into(), String::new(), 0));
            }
            Named { frames, is_loop: address >= 50 }
        };
        let (model, handles) = model.resolved(name);
        let mut functions: Vec<&str> =
            model.frames_from_leaf(handles.stack(stack)).map(|frame| model.text(frame.function)).collect();
        functions.reverse();
        functions.join(" ")
    }

    #[test]
    fn python_frames_take_the_place_of_the_loop_that_ran_them() {
        assert_eq!(join("1 50 2 51 3", "| main work | key"), "c1 main work c2 key c3");
        assert_eq!(join("1 8* 2 9* 3", "| main work | key"), "c1 main work c2 key c3");
        assert_eq!(join("1 7 2", ""), "c1 c7 inlined c2");
        assert_eq!(join("", "| main | work"), "main work");
        assert_eq!(join("1 8* 2 9* 3", "| main work |"), "c1 main work c2 c3");
    }

    #[test]
    fn a_mark_in_front_of_all_says_that_the_beginning_is_missing() {
        assert_eq!(join("* 1 50 2", "| main"), "c1 main c2");
        assert_eq!(join("* 1 8* 2", "| main"), "c1 main c2");
        assert_eq!(join("*", "| main"), "main");
    }

    #[test]
    fn where_the_recorder_has_marked_loops_names_count_for_nothing() {
        assert_eq!(join("1 50 8* 2", "| main"), "c1 c50 main c2");
    }

    #[test]
    fn what_has_lost_its_counterpart_is_on_the_outside() {
        assert_eq!(join("1 50 2", "| main | work | key"), "main work c1 key c2");
        assert_eq!(join("1 50 2 51 3", "| key"), "c1 c50 c2 key c3");
        assert_eq!(join("1 2", "| main"), "main c1 c2");
    }
}
