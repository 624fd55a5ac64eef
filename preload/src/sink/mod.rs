//! Bytes out: blocks of the log, and the writer that fills them. Called by lanes and by the metadata; it must never
//! write into a file that is not the log.
//!
//! # Safety
//! Dangerous: at the exit of a program, writers of threads that still run are flushed, and at the end of a log their
//! windows are taken away. Which windows a writer has changes under its lock only; how far one is filled is an atomic in
//! it; and where it was there is memory, of the file or not, until its writer gives that back.

mod cursor;
pub mod file;

pub use file::{Log, LogHeader, Mode, header, release_locks_if_mine};

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use memtrace_format::encode::{self, Deltas, HOT_ROOM, Hot};
use memtrace_format::record::{Alloc, Free, Munmap, Node, Thread};
use memtrace_format::turn::Turn;
use memtrace_format::{AllocatorKind, BLOCK_ALIGN, BLOCK_HEADER_LEN, BlockHeader, Record, block_kind, block_state};

use crate::guard::Guard;
use crate::lock::Lock;
use crate::turns::Turns;
use crate::{clock, lane, lifecycle, sys};
use cursor::Cursor;
use file::Window;

/// The first block of a writer is this long, in bytes, and each later one twice as long as the one before…
const FIRST_BLOCK_LEN: usize = 64 * 1024;
/// …up to this.
const MAX_BLOCK_LEN: usize = 256 * 1024;
/// Windows of that length are used again when the launcher has packed the blocks in them: so many of one writer…
const MAX_KEPT: usize = 6;
/// …and so many of all.
const MAX_KEPT_BY_ALL: u32 = 64;
/// No record may need a longer block than this.
const MAX_RECORD_LEN: usize = 64 * 1024 * 1024;

static N_KEPT: AtomicU32 = AtomicU32::new(0);

/// Writes the records of one lane. Used by one thread at a time.
pub struct Writer {
    kind: u8,
    lane: u32,
    /// The thread that later blocks name.
    pub thread: u32,
    sequence: u32,
    /// Stack nodes introduced so far.
    pub n_nodes: u32,
    /// The log that all of this is about, or null; another one than the current one when that is new. Others may ask.
    log: AtomicPtr<Log>,
    /// Held while the writer goes from block to block.
    windows: Lock<Windows>,
    cursor: Cursor,
    /// Events in the block.
    n_events: u32,
    turns: Turns,
    deltas: Deltas,
    next_len: usize,
}

/// The parts of the log that a writer has mapped.
struct Windows {
    /// That of the block.
    open: Option<Window>,
    /// Windows that stay mapped, the open one perhaps among them. Places are filled from the front and stay filled.
    kept: [Option<Window>; MAX_KEPT],
}

impl Writer {
    pub const fn new(kind: u8, lane: u32) -> Writer {
        Writer {
            kind,
            lane,
            thread: 0,
            sequence: 0,
            n_nodes: 0,
            log: AtomicPtr::new(ptr::null_mut()),
            windows: Lock::new(Windows::NONE),
            cursor: Cursor::NOWHERE,
            n_events: 0,
            turns: Turns::new(),
            deltas: Deltas::at_block_start(Turn { number: 0, is_shared: false }, 0),
            next_len: FIRST_BLOCK_LEN,
        }
    }

    /// Writes an allocation. (A function of its own, with no more arguments than there are registers for, and so is the
    /// one that it calls.)
    #[inline(never)]
    pub fn alloc(&mut self, guard: &Guard, kind: AllocatorKind, address: u64, size: u64, stack: u32) {
        if self.is_ready() {
            // SAFETY: it is.
            unsafe { self.write_hot(None, Alloc { kind, address, size, stack }) };
        } else {
            self.alloc_otherwise(guard, kind, address, size, stack);
        }
    }

    #[inline(never)]
    fn alloc_otherwise(&mut self, guard: &Guard, kind: AllocatorKind, address: u64, size: u64, stack: u32) {
        // A stack that was found while one log ended and another began is none of the new one's.
        let stack_in = |writer: &Writer| if stack <= writer.n_nodes { stack } else { 0 };
        self.hot_otherwise(guard, |writer| Alloc { kind, address, size, stack: stack_in(writer) }, true);
    }

    /// Writes a free.
    #[inline(always)]
    pub fn free(&mut self, guard: &Guard, kind: AllocatorKind, address: u64) {
        if self.is_ready() {
            // SAFETY: it is.
            unsafe { self.write_hot(None, Free { kind, address }) };
        } else {
            self.free_otherwise(guard, kind, address);
        }
    }

    #[inline(never)]
    fn free_otherwise(&mut self, guard: &Guard, kind: AllocatorKind, address: u64) {
        self.hot_otherwise(guard, |_| Free { kind, address }, false);
    }

    /// Whether there is room for a hot record, and the lane has the turn alone.
    #[inline(always)]
    fn is_ready(&self) -> bool {
        self.cursor.hot_turn().is_some_and(|turn| self.turns.is_ours_alone(turn))
    }

    /// At the end of a block, when the turn must be taken, under a shared turn, or in a pause.
    #[inline(always)]
    fn hot_otherwise<R: Hot>(&mut self, guard: &Guard, record: impl FnOnce(&Writer) -> R, hands_out: bool) {
        let Some(now) = self.now(guard) else {
            return;
        };
        if hands_out && self.turns.is_paused() {
            return;
        }
        if self.cursor.hot_turn().is_none() && !self.next_block(guard, HOT_ROOM) {
            return;
        }
        let now = self.deltas.turn.is_shared.then_some(now);
        let record = record(self);
        // SAFETY: there was room, or there is a new block.
        unsafe { self.write_hot(now, record) };
    }

    /// # Safety
    /// There is room for a hot record.
    #[inline(always)]
    unsafe fn write_hot(&mut self, now: Option<u64>, record: impl Hot) {
        // SAFETY: as the caller says.
        let out = unsafe { self.cursor.hot_room() };
        let len = record.encode(out, &mut self.deltas, now);
        self.n_events += 1;
        self.cursor.commit(len);
    }

    /// Sees to it that the lane has a turn; the ticks now, if the turn needs any. `None` when recording has ended.
    #[inline(always)]
    fn now(&mut self, guard: &Guard) -> Option<u64> {
        if !self.cursor.turn().is_some_and(|turn| self.turns.is_ours(turn)) && !self.take_turn(guard) {
            return None;
        }
        Some(if self.deltas.turn.is_shared { clock::now(self.log()?) } else { 0 })
    }

    /// `false` when it can't be written.
    #[cold]
    #[inline(never)]
    fn take_turn(&mut self, guard: &Guard) -> bool {
        let Some(log) = self.see_to_log(guard) else {
            return false;
        };
        if !self.turns.take(log.header().turn(), self.lane, clock::cycles()) {
            return false;
        }
        self.turns.pause(log.header().is_paused());
        match encode::turn(self.cursor.room(), &mut self.deltas, self.turns.turn()) {
            Some(written) => {
                self.cursor.commit(written);
                true
            }
            // A block says in its header which turn it starts under.
            None => self.next_block(guard, HOT_ROOM),
        }
    }

    #[inline(always)]
    fn log(&self) -> Option<&'static Log> {
        // SAFETY: a log stays where it is as long as a writer is about it.
        unsafe { self.log.load(Ordering::Relaxed).as_ref() }
    }

    fn set_log(&mut self, log: Option<&'static Log>) {
        let log = log.map_or(ptr::null(), ptr::from_ref);
        self.log.store(log.cast_mut(), Ordering::Relaxed);
    }

    /// Whether a writer is about a log.
    ///
    /// # Safety
    /// `writer` is alive.
    pub unsafe fn is_about(writer: *const Writer, log: &Log) -> bool {
        // SAFETY: as the caller says.
        let own = unsafe { &(*writer).log };
        ptr::eq(own.load(Ordering::Acquire), log)
    }

    /// Whether what was introduced is known in the log that is written now.
    #[inline(always)]
    fn is_of_current_log(&self) -> bool {
        self.log().is_some_and(Log::is_current)
    }

    /// Sees to it that the writer is about the current log. `None` when nothing is recorded.
    pub fn see_to_log(&mut self, guard: &Guard) -> Option<&'static Log> {
        let log = file::current()?;
        if self.log().is_some_and(|own| ptr::eq(own, log)) {
            return Some(log);
        }
        self.begin_log(guard, log).then_some(log)
    }

    /// Begins anew: nothing that was written is in this log. `false` when it has ended, or has not quite begun: a thread
    /// that is in the middle of an event of the last one may come before *recording* is said.
    #[cold]
    fn begin_log(&mut self, guard: &Guard, log: &'static Log) -> bool {
        self.leave_log(guard);
        self.set_log(Some(log));
        let is_introduced = self.introduce(guard);
        if !is_introduced {
            self.set_log(None);
        }
        is_introduced
    }

    /// Forgets its log, which has ended.
    pub fn leave_log(&mut self, guard: &Guard) {
        self.cursor = Cursor::NOWHERE;
        self.windows.lock(guard).release();
        self.set_log(None);
        (self.sequence, self.n_nodes, self.n_events) = (0, 0, 0);
        (self.turns, self.next_len) = (Turns::new(), FIRST_BLOCK_LEN);
        self.deltas = Deltas::at_block_start(self.turns.turn(), 0);
    }

    /// Another thread writes from now on.
    pub fn begin_thread(&mut self, guard: &Guard, thread: u32) {
        self.thread = thread;
        if self.is_of_current_log() {
            self.introduce(guard);
        } else {
            // Which introduces it.
            self.see_to_log(guard);
        }
    }

    /// Says who writes. `false` when it can't be written.
    fn introduce(&mut self, guard: &Guard) -> bool {
        let (thread, pthread) = (self.thread, lane::thread_pointer() as u64);
        self.kind != block_kind::EVENTS
            || self.record(guard, &Record::Thread(Thread { thread, os_tid: sys::tid(), pthread }))
    }

    /// Introduces a stack node; its number, or 0 when it could not be written. Its parent and its code were introduced in
    /// the log that this writer is about, so when that is not the current one any more there is nothing to introduce.
    pub fn node(&mut self, guard: &Guard, node: &Node) -> u32 {
        if !lifecycle::is_recording() || !self.is_of_current_log() || !self.write(guard, 0, &Record::Node(*node)) {
            return 0;
        }
        self.n_nodes += 1;
        self.n_nodes
    }

    /// Writes any record, in a block of its own length if need be. `false` when it is lost.
    pub fn record(&mut self, guard: &Guard, record: &Record<'_>) -> bool {
        if self.see_to_log(guard).is_none() {
            return false;
        }
        let now = if record.is_event() { self.now(guard) } else { Some(0) };
        let instead = if self.turns.is_paused() { in_a_pause(record) } else { None };
        now.is_some_and(|now| self.write(guard, now, instead.as_ref().unwrap_or(record)))
    }

    fn write(&mut self, guard: &Guard, now: u64, record: &Record<'_>) -> bool {
        let mut len = HOT_ROOM;
        while len <= MAX_RECORD_LEN {
            if let Some(written) = encode::record(self.cursor.room(), &mut self.deltas, now, record) {
                self.n_events += record.is_counted() as u32;
                self.cursor.commit(written);
                return true;
            }
            if !self.next_block(guard, len) {
                return false;
            }
            len = len.saturating_mul(8).max(FIRST_BLOCK_LEN);
        }
        false
    }

    /// Closes the block and opens one with room for `len` bytes of payload. `false` when recording has ended.
    #[cold]
    #[inline(never)]
    fn next_block(&mut self, guard: &Guard, len: usize) -> bool {
        let Some(log) = self.log() else {
            return false;
        };
        let mut windows = self.windows.lock(guard);
        // Whoever ends a log asks for the lock afterwards: from here on it waits for us, or has ended it before.
        if !lifecycle::is_recording() || !log.is_current() {
            return false;
        }
        let committed = self.cursor.committed();
        self.cursor = Cursor::NOWHERE;
        windows.close(guard, log, committed, self.n_events);
        let capacity = self.next_len.max((len + BLOCK_HEADER_LEN).next_multiple_of(BLOCK_ALIGN));
        let Some(mut window) = windows.released(capacity).or_else(|| log.open_block(guard, capacity)) else {
            return false;
        };
        // Once a block, a lane that shares its turn tries whether it still must.
        let turn = self.turns.end_sharing(log.header().turn(), self.lane).unwrap_or(self.turns.turn());
        let header = BlockHeader {
            kind: self.kind,
            image: lifecycle::image(),
            capacity: capacity as u32,
            lane: self.lane,
            sequence: self.sequence,
            thread: self.thread,
            first_turn: turn.to_bits(),
            first_node: self.n_nodes,
            ..BlockHeader::OPEN
        };
        window.write_header(&header.checked());
        self.sequence += 1;
        self.n_events = 0;
        self.deltas = Deltas::at_block_start(turn, self.n_nodes);
        self.next_len = (self.next_len * 2).min(MAX_BLOCK_LEN);
        self.cursor = Cursor::of(&mut window, &log.header());
        windows.open = Some(window);
        // In a child that was forked out of the middle of this, the window is the parent's.
        lifecycle::is_recording()
    }

    /// In [`Mode::Buffered`], writes out what the open block holds. The thread of the lane may go on writing.
    ///
    /// # Safety
    /// `writer` is alive.
    pub unsafe fn flush(writer: *const Writer, guard: &Guard, log: &Log) {
        // SAFETY: which windows there are changes under the lock only; how far they are filled is an atomic in them.
        let windows = unsafe { &(*writer).windows }.lock(guard);
        if let Some(window) = &windows.open {
            log.flush(guard, window, window.committed().load(Ordering::Acquire) as usize);
        }
    }

    /// The log has ended: puts private memory where the windows are. The thread of the lane may be in the middle of an
    /// event, and writes it there.
    ///
    /// # Safety
    /// `writer` is alive.
    pub unsafe fn disown(writer: *const Writer, guard: &Guard) {
        // SAFETY: as in `flush`.
        unsafe { &(*writer).windows }.lock(guard).disown();
    }

    /// The same in a child of fork, for the hook that it came out of: what is written from now on is nobody's.
    ///
    /// # Safety
    /// There is one thread.
    pub unsafe fn disown_in_child(&self) {
        // SAFETY: as the caller says.
        unsafe { self.windows.of_only_thread() }.disown();
    }

    /// After a `siglongjmp` out of memtrace.
    ///
    /// # Safety
    /// `writer` is alive.
    pub unsafe fn release_lock_if_mine(writer: *const Writer) {
        // SAFETY: as the caller says.
        unsafe { &(*writer).windows }.release_if_mine();
    }
}

impl Windows {
    const NONE: Windows = Windows { open: None, kept: [None; MAX_KEPT] };

    /// All of them, the open one perhaps twice.
    fn all(&self) -> impl Iterator<Item = &Window> {
        self.kept.iter().chain([&self.open]).flatten()
    }

    fn disown(&self) {
        self.all().for_each(Window::disown);
    }

    fn close(&mut self, guard: &Guard, log: &Log, committed: usize, n_events: u32) {
        let Some(window) = self.open.take() else {
            return;
        };
        window.n_events().store(n_events, Ordering::Relaxed);
        if self.keep(log, window) {
            window.state().store(block_state::KEPT, Ordering::Release);
        } else {
            window.state().store(block_state::CLOSED, Ordering::Release);
            log.flush(guard, &window, committed);
            window.unmap();
        }
    }

    /// `false` when the window is not to be used again: only those of full length are, and a few at a time.
    fn keep(&mut self, log: &Log, window: Window) -> bool {
        let is_packed = log.mode() == Mode::Mapped && log.header().releases_windows();
        if !is_packed || window.len() != MAX_BLOCK_LEN {
            return false;
        }
        let Some(place) = self.kept.iter_mut().find(|kept| kept.is_none_or(|kept| kept == window)) else {
            return false;
        };
        if place.is_none() && N_KEPT.fetch_add(1, Ordering::Relaxed) >= MAX_KEPT_BY_ALL {
            N_KEPT.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        *place = Some(window);
        true
    }

    /// One of the kept windows, if it is for a block of this length and the launcher is done with it. It stays among
    /// them, so that a child of fork disowns it from here on; one that was forked before has nothing to write.
    fn released(&self, capacity: usize) -> Option<Window> {
        let released = self.kept.iter().flatten().find(|kept| kept.len() == capacity && kept.is_released());
        released.copied().filter(|_| lifecycle::is_recording())
    }

    /// Gives all of them back, once they are private memory.
    fn release(&mut self) {
        if let Some(open) = self.open.filter(|open| !self.kept.contains(&Some(*open))) {
            open.unmap();
        }
        let n_kept = self.kept.iter().flatten().count() as u32;
        self.kept.iter().flatten().for_each(|kept| kept.unmap());
        N_KEPT.fetch_sub(n_kept, Ordering::Relaxed);
        *self = Windows::NONE;
    }
}

/// What is written of a mapping in a pause: whatever was at its place before is gone.
fn in_a_pause(record: &Record<'_>) -> Option<Record<'static>> {
    let (address, len) = match record {
        Record::Mmap(it) => (it.address, it.len),
        Record::Mremap(it) => (it.address, it.len),
        _ => return None,
    };
    Some(Record::Munmap(Munmap { address, len, is_remap: false }))
}

/// In a child of fork that begins a log of its own.
pub fn forget_all() {
    N_KEPT.store(0, Ordering::Relaxed);
    file::forget_all();
}

/// A field of a mapped structure that others change too.
///
/// # Safety
/// `place` is aligned, inside a live mapping, and only accessed atomically.
unsafe fn shared_u32<'a>(place: *mut u8) -> &'a AtomicU32 {
    // SAFETY: as the caller says.
    unsafe { AtomicU32::from_ptr(place.cast()) }
}
