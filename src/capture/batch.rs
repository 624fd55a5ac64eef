//! Records in the order of time, as they are handed from the one who decodes them to the one who knows the model.
//!
//! Numbers in a batch are still those of the log: stacks are nodes of their lane, code objects are numbers of the
//! recorder. So decoding needs no table, and can run ahead on another thread.

use memtrace_format::decode::BlockEvent;
use memtrace_format::record::{self, Record};

use crate::model::{Action, Damage};

/// A stretch of the log.
#[derive(Default)]
pub struct Batch {
    /// Allocations and frees, of the lane that the steps between them say.
    pub blocks: Vec<BlockEvent>,
    /// Everything else, each in front of so many blocks.
    pub steps: Vec<(usize, Step)>,
    /// Bytes of the file whose decoding began in it.
    pub n_bytes: u64,
    text_len: usize,
}

/// What stands between allocations and frees.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// From here on it is about this lane.
    Lane {
        number: u32,
        image: u16,
    },
    /// The lane begins a block.
    Block {
        turn: u64,
        thread: u32,
        first_node: u32,
    },
    /// The lane has no more to tell.
    EndOfLane,
    Turn(u64),
    Node(record::Node),
    Object(record::Object),
    Mmap(record::Mmap),
    Mremap(record::Mremap),
    Thread(record::Thread),
    ThreadName {
        pthread: u64,
        name: Box<[u8]>,
    },
    Mark {
        mono_nanos: u64,
        what: u32,
        name: Box<[u8]>,
    },
    /// Any other event: it has neither a stack nor a text.
    Other(Action),
    Damage(Damage),
}

/// Enough that handing it over costs nothing, and little enough that it stays in the processor's caches.
const FULL: usize = if cfg!(test) { 16 } else { 8192 };
/// Bytes of texts, which a hostile log may have many of.
const FULL_OF_TEXT: usize = 256 * 1024;

impl Batch {
    pub fn push(&mut self, step: Step) {
        match &step {
            Step::ThreadName { name, .. } | Step::Mark { name, .. } => self.text_len += name.len(),
            Step::Damage(damage) => self.text_len += damage.what.len(),
            _ => {}
        }
        self.steps.push((self.blocks.len(), step));
    }

    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.blocks.len() >= FULL || self.steps.len() >= FULL || self.text_len >= FULL_OF_TEXT
    }

    /// For use again, with its memory.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.steps.clear();
        (self.n_bytes, self.text_len) = (0, 0);
    }
}

impl Step {
    /// The step that a record of events is, and whether it is an event; `None` for allocations and frees, and for
    /// metadata, which has blocks of its own.
    pub fn of(record: &Record<'_>) -> Option<Step> {
        Some(match *record {
            Record::Turn(it) => Step::Turn(it.number),
            Record::Node(it) => Step::Node(it),
            Record::Object(it) => Step::Object(it),
            Record::Mmap(it) => Step::Mmap(it),
            Record::Mremap(it) => Step::Mremap(it),
            Record::Thread(it) => Step::Thread(it),
            Record::ThreadName(it) => Step::ThreadName { pthread: it.pthread, name: it.name.into() },
            Record::Restore(_) => Step::Other(Action::Restore),
            Record::Munmap(it) => {
                Step::Other(Action::Munmap { address: it.address, len: it.len, is_remap: it.is_remap })
            }
            Record::Lost(it) => Step::Other(Action::Lost { count: it.count }),
            Record::Clock(it) => Step::Other(Action::Clock { mono_nanos: it.mono_nanos }),
            Record::Rss(it) => Step::Other(Action::Rss { mono_nanos: it.mono_nanos, bytes: it.bytes }),
            Record::Mark(it) => Step::Mark { mono_nanos: it.mono_nanos, what: it.what, name: it.name.into() },
            Record::Unknown(tag) => Step::Other(Action::Unknown { tag }),
            _ => return None,
        })
    }

    /// Whether it hands memory out, or makes an object. On equal ticks of a shared turn such events come last, because a
    /// free is stamped before the real call and an allocation after it.
    pub fn hands_out(&self) -> bool {
        matches!(self, Step::Mmap(_) | Step::Mremap(_) | Step::Object(record::Object { made_by: Some(_), .. }))
    }
}
