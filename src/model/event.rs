//! One thing that happened, as folds see it: records of all lanes in the order of time, with handles of the model in
//! the place of lane numbers.

use memtrace_format::AllocatorKind;
use memtrace_format::record::mark;

use super::stacks::StackId;
use super::strings::StringId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub turn: u64,
    /// The program of the process, counted by exec; `LAUNCHER_IMAGE` for samples from outside.
    pub image: u16,
    /// Which lane of the capture, counted over all images: [`Action::Restore`] undoes the last free of the same lane.
    pub lane: u32,
    /// The thread's number in its image, from 1; 0 when no thread did it.
    pub thread: u32,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Alloc {
        kind: AllocatorKind,
        address: u64,
        size: u64,
        stack: StackId,
    },
    Free {
        kind: AllocatorKind,
        address: u64,
    },
    /// A Python object was made. Its memory is told of by itself.
    ObjectMade {
        address: u64,
        stack: StackId,
    },
    /// A Python object is about to be destroyed.
    ObjectDestroyed {
        address: u64,
    },
    /// The lane's last free or munmap did not happen.
    Restore,
    Mmap {
        address: u64,
        len: u64,
        prot: u32,
        flags: u32,
        is_arena: bool,
        stack: StackId,
    },
    Munmap {
        address: u64,
        len: u64,
        is_remap: bool,
    },
    Mremap {
        old_address: u64,
        address: u64,
        len: u64,
        flags: u32,
        is_arena: bool,
        stack: StackId,
    },
    /// The lane is another thread's from here on.
    Thread {
        os_tid: u32,
        pthread: u64,
    },
    ThreadName {
        pthread: u64,
        name: StringId,
        /// The number of the thread that has this `pthread_t` now; `None` when it has not shown up yet.
        named: Option<u32>,
    },
    Lost {
        count: u64,
    },
    /// The event's image starts: whatever was alive in the one before is gone with it.
    ImageStart,
    Clock {
        mono_nanos: u64,
    },
    Rss {
        mono_nanos: u64,
        bytes: u64,
    },
    /// A moment that the user marked, or a pause's begin or end.
    Mark {
        mono_nanos: u64,
        kind: MarkKind,
        name: StringId,
    },
    /// A record of a kind that this memtrace does not know.
    Unknown {
        tag: u8,
    },
}

/// What happened at a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// The user gave the moment a name.
    Named,
    /// From here on allocations and mappings are left out…
    Paused,
    /// …up to here.
    Resumed,
}

impl MarkKind {
    /// Of a number of the log; `None` for one that this memtrace does not know.
    pub fn from_number(number: u32) -> Option<MarkKind> {
        match number {
            mark::NAMED => Some(MarkKind::Named),
            mark::PAUSED => Some(MarkKind::Paused),
            mark::RESUMED => Some(MarkKind::Resumed),
            _ => None,
        }
    }
}

impl Action {
    /// The stack of an event that has one.
    #[inline]
    pub fn stack(&self) -> Option<StackId> {
        match *self {
            Action::Alloc { stack, .. }
            | Action::Mmap { stack, .. }
            | Action::Mremap { stack, .. }
            | Action::ObjectMade { stack, .. } => Some(stack),
            _ => None,
        }
    }

    /// Whether it hands memory out or gives it back.
    #[inline]
    pub fn is_of_memory(&self) -> bool {
        use Action::{Alloc, Free, Mmap, Mremap, Munmap};
        matches!(self, Alloc { .. } | Free { .. } | Mmap { .. } | Munmap { .. } | Mremap { .. })
    }
}
