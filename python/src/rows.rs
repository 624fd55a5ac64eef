//! Records as columns of numbers: every event of a capture, or sums over sites.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use hashbrown::HashMap;
use memtrace::analysis::{BySite, SiteRow};
use memtrace::capture::Capture;
use memtrace::model::{Action, Event, Model, StackId, ThreadKey};
use memtrace_format::AllocatorKind;

use crate::ahead::FULL;

/// Columns of equal length.
#[derive(Default)]
pub struct Rows {
    pub tid: Vec<i64>,
    pub address: Vec<u64>,
    pub size: Vec<u64>,
    pub allocator: Vec<u8>,
    pub n_allocations: Vec<u64>,
    /// As the model of the capture's first reading numbers them.
    pub stack: Vec<u32>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub tid: i64,
    pub address: u64,
    pub size: u64,
    pub allocator: u8,
    pub n_allocations: u64,
    pub stack: u32,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.tid.len()
    }

    pub fn get(&self, index: usize) -> Option<Row> {
        Some(Row {
            tid: *self.tid.get(index)?,
            address: self.address[index],
            size: self.size[index],
            allocator: self.allocator[index],
            n_allocations: self.n_allocations[index],
            stack: self.stack[index],
        })
    }

    pub fn push(&mut self, row: Row) {
        self.tid.push(row.tid);
        self.address.push(row.address);
        self.size.push(row.size);
        self.allocator.push(row.allocator);
        self.n_allocations.push(row.n_allocations);
        self.stack.push(row.stack);
    }

    fn with_capacity(n: usize) -> Rows {
        Rows {
            tid: Vec::with_capacity(n),
            address: Vec::with_capacity(n),
            size: Vec::with_capacity(n),
            allocator: Vec::with_capacity(n),
            n_allocations: Vec::with_capacity(n),
            stack: Vec::with_capacity(n),
        }
    }

    /// Sums by stack and allocator, and by thread unless `merges_threads`: then the thread is the first one that the
    /// table has. In the order of the table.
    pub fn of_sites(table: &BySite, merges_threads: bool) -> Rows {
        let mut rows = Rows::default();
        let mut known: HashMap<(StackId, AllocatorKind, Option<ThreadKey>), usize> = HashMap::new();
        for SiteRow { site, bytes, count } in &table.rows {
            let key = (site.stack, site.kind, (!merges_threads).then_some(site.thread));
            let index = *known.entry(key).or_insert_with(|| {
                let (tid, stack) = (tid(site.thread), site.stack.index() as u32);
                let allocator = site.kind as u8;
                rows.push(Row { tid, address: 0, size: 0, allocator, n_allocations: 0, stack });
                rows.len() - 1
            });
            rows.size[index] = rows.size[index].saturating_add(*bytes);
            rows.n_allocations[index] += count;
        }
        rows
    }
}

/// A thread as one number. Threads of a later program of the same process come after all of the first.
pub fn tid(thread: ThreadKey) -> i64 {
    i64::from(thread.image) << 32 | i64::from(thread.number)
}

/// The thread with that number.
pub fn thread_of(tid: i64) -> Option<ThreadKey> {
    Some(ThreadKey { image: u16::try_from(tid >> 32).ok()?, number: tid as u32 })
}

/// Knows which events are records.
#[derive(Default)]
pub struct Numbering {
    arenas: HashSet<u64>,
}

impl Numbering {
    /// Whether an event is about memory of which the parts are recorded as well: where CPython's allocator puts objects.
    #[inline]
    pub fn is_of_arena(&mut self, model: &Model, event: &Event) -> bool {
        match event.action {
            Action::Mmap { address, is_arena: true, .. } => {
                let is_counted_apart = model.process().facts.records_python_objects(event.image);
                if is_counted_apart {
                    self.arenas.insert(address);
                }
                is_counted_apart
            }
            Action::Munmap { address, .. } if !self.arenas.is_empty() => self.arenas.remove(&address),
            _ => false,
        }
    }
}

/// Reads a capture a second time and hands over its events, until `send` breaks off.
pub fn of_events(
    capture: &Capture,
    undone: &Arc<HashSet<u64>>,
    mut send: impl FnMut(Rows) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let mut rows = Rows::with_capacity(FULL);
    let (mut numbering, mut n_events) = (Numbering::default(), 0);
    let take = |model: &Model, events: &[Event]| {
        for event in events {
            let number = n_events;
            n_events += 1;
            if let Some(row) = row(event)
                && !(numbering.is_of_arena(model, event) || !undone.is_empty() && undone.contains(&number))
            {
                rows.push(row);
            }
        }
        if rows.len() + events.len() <= FULL {
            return ControlFlow::Continue(());
        }
        send(std::mem::replace(&mut rows, Rows::with_capacity(FULL)))
    };
    capture.read_recorded(take)?;
    if rows.len() > 0 {
        let _ = send(rows);
    }
    Ok(())
}

#[inline]
fn row(event: &Event) -> Option<Row> {
    let (kind, address, size, stack) = match event.action {
        Action::Alloc { kind, address, size, stack } => (kind, address, size, stack),
        Action::Free { kind, address } => (kind, address, 0, StackId::EMPTY),
        Action::Mmap { address, len, stack, .. } | Action::Mremap { address, len, stack, .. } => {
            (AllocatorKind::Mmap, address, len, stack)
        }
        Action::Munmap { address, len, .. } => (AllocatorKind::Munmap, address, len, StackId::EMPTY),
        _ => return None,
    };
    Some(Row {
        tid: tid(ThreadKey { image: event.image, number: event.thread }),
        address,
        size,
        allocator: kind as u8,
        n_allocations: 1,
        stack: stack.index() as u32,
    })
}
