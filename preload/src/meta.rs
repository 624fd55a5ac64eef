//! The metadata of the log: images, interpreters, code objects, notices. Rare, shared by all threads, committed before
//! anything refers to it.
//!
//! # Safety
//! Dangerous: a writer is flushed through a pointer. Its lock is held meanwhile.

use core::sync::atomic::{AtomicU32, Ordering};

use memtrace_format::record::{Image, Notice, Python};
use memtrace_format::{Record, block_kind};

use crate::guard::Guard;
use crate::lock::Lock;
use crate::sink::{self, Log, Writer};
use crate::sys;
use crate::turns::Word;

/// The lane of metadata blocks.
const META_LANE: u32 = u32::MAX;

pub static META: Lock<Writer> = Lock::new(Writer::new(block_kind::META, META_LANE));

/// Writes one record of metadata; `false` when it is lost.
pub fn record(guard: &Guard, record: &Record<'_>) -> bool {
    META.lock(guard).record(guard, record)
}

/// Says what runs from now on.
pub fn image(guard: &Guard) {
    let mut exe = [0; 4096];
    let exe = sys::read_link(c"/proc/self/exe", &mut exe).unwrap_or(&[]);
    let mut arguments = [0; 4096];
    let mut len = 0;
    if let Ok(fd) = sys::open_read(c"/proc/self/cmdline") {
        len = sys::read_at(fd, &mut arguments, 0).unwrap_or(0);
        sys::close(fd);
    }
    let arguments = arguments.get(..len).unwrap_or(&[]);
    let turn = sink::header().map_or(0, |header| header.turn().look().number());
    record(guard, &Record::Image(Image { turn, exe, arguments }));
}

/// Says which interpreter was found.
pub fn python(guard: &Guard, python: Python<'_>) {
    record(guard, &Record::Python(python));
}

/// More notices than this tell nothing new.
const MAX_NOTICES: u32 = 64;
static N_NOTICES: AtomicU32 = AtomicU32::new(0);

/// Says something that the user should know ([`memtrace_format::record::notice`]).
pub fn notice(guard: &Guard, code: u32, text: &[u8]) {
    if N_NOTICES.fetch_add(1, Ordering::Relaxed) >= MAX_NOTICES {
        N_NOTICES.store(MAX_NOTICES, Ordering::Relaxed);
        return;
    }
    record(guard, &Record::Notice(Notice { code, text }));
}

/// Writes out what there is, where the log is written and not mapped.
pub fn flush(guard: &Guard, log: &Log) {
    let meta = META.lock(guard);
    // SAFETY: we hold the lock.
    unsafe { Writer::flush(&raw const *meta, guard, log) };
}

/// The log has ended.
pub fn end_log(guard: &Guard) {
    META.lock(guard).leave_log(guard);
    N_NOTICES.store(0, Ordering::Relaxed);
}

/// In a child of fork: see [`crate::lifecycle::in_child_of_hook`].
pub fn disown_in_child() {
    // SAFETY: there is one thread.
    unsafe { META.of_only_thread().disown_in_child() };
}

/// In a child of fork that begins a log of its own.
pub fn forget_all() {
    // SAFETY: nobody else is inside memtrace yet.
    unsafe { META.reset(Writer::new(block_kind::META, META_LANE)) };
    N_NOTICES.store(0, Ordering::Relaxed);
}

/// After a `siglongjmp` out of memtrace.
pub fn release_locks_if_mine() {
    // SAFETY: the writer is static.
    unsafe { Writer::release_lock_if_mine(META.as_ptr()) };
    META.release_if_mine();
}
