//! What belongs to one process alone, and how the tables of several captures become one.

use super::clock::Clock;
use super::facts::Facts;
use super::stacks::{FrameId, StackId};
use super::strings::StringId;
use super::threads::Threads;

/// One process: its capture's facts, and what their turns and thread numbers mean.
#[derive(Default)]
pub struct Process {
    pub facts: Facts,
    pub clock: Clock,
    pub threads: Threads,
}

/// What became of a model's handles when another model absorbed it.
#[derive(Clone)]
pub enum Handles {
    /// They are good there as they are.
    Same,
    /// By the number that they had.
    Moved { strings: Vec<StringId>, frames: Vec<FrameId>, stacks: Vec<StackId> },
}

impl Handles {
    /// What became of them when what became of them changed once more.
    pub fn then(self, next: &Handles) -> Handles {
        match self {
            Handles::Same => next.clone(),
            Handles::Moved { strings, frames, stacks } => Handles::Moved {
                strings: strings.into_iter().map(|id| next.string(id)).collect(),
                frames: frames.into_iter().map(|id| next.frame(id)).collect(),
                stacks: stacks.into_iter().map(|id| next.stack(id)).collect(),
            },
        }
    }

    pub fn string(&self, id: StringId) -> StringId {
        match self {
            Handles::Same => id,
            Handles::Moved { strings, .. } => strings[id.index()],
        }
    }

    pub fn frame(&self, id: FrameId) -> FrameId {
        match self {
            Handles::Same => id,
            Handles::Moved { frames, .. } => frames[id.index()],
        }
    }

    pub fn stack(&self, id: StackId) -> StackId {
        match self {
            Handles::Same => id,
            Handles::Moved { stacks, .. } => stacks[id.index()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Model, ThreadKey};
    use super::*;

    /// A process with a named thread and one stack, behind a frame of its own.
    fn model(pid: u32, functions: &[&str]) -> (Model, StackId) {
        let mut model = Model::new(Facts { pid, ..Facts::default() }, Clock::default());
        let mut stack = StackId::EMPTY;
        for function in functions {
            let frame = model.intern_frame(function, "app.py", 1);
            stack = model.extend_stack(stack, frame);
        }
        let name = model.intern(&format!("worker of {pid}"));
        model.process_mut().threads.appear(MAIN, pid, 0xa);
        model.process_mut().threads.name(MAIN, 0xa, name);
        (model, stack)
    }

    const MAIN: ThreadKey = ThreadKey { image: 0, number: 1 };

    fn shown(model: &Model, stack: StackId) -> Vec<&str> {
        model.frames_from_leaf(stack).map(|frame| model.text(frame.function)).collect()
    }

    #[test]
    fn equal_stacks_of_two_processes_become_one() {
        let (mut merged, first) = model(1, &["main", "parse"]);
        let (second, common) = model(2, &["main", "parse"]);
        let handles = merged.absorb(second);
        assert_eq!(handles.stack(common), first);
        let (third, other) = model(3, &["boot", "main", "parse"]);
        let n_stacks = merged.n_stacks();
        let handles = merged.absorb(third);
        assert_eq!(shown(&merged, handles.stack(other)), ["parse", "main", "boot"]);
        assert_eq!((n_stacks, merged.n_stacks(), merged.n_frames()), (3, 6, 3));
        assert_eq!(handles.stack(StackId::EMPTY), StackId::EMPTY);
        assert_eq!(merged.parent(handles.stack(other)), handles.stack(StackId::from_index(2)));
    }

    #[test]
    fn every_process_keeps_its_facts_and_threads() {
        let (mut merged, _) = model(1, &["main"]);
        merged.absorb(model(2, &["other"]).0);
        let names = merged.processes().iter().map(|process| {
            let thread = process.threads.get(MAIN);
            (process.facts.pid, thread.os_tid, merged.text(thread.name.unwrap()))
        });
        assert_eq!(names.collect::<Vec<_>>(), [(1, 1, "worker of 1"), (2, 2, "worker of 2")]);
    }
}
