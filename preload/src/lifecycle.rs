//! Whether we record: not yet, yes, or not any more. Start, end, and what a fork, an exec and an exit mean.
//!
//! ```text
//!            first hook or constructor,                fork (in the child), `end`, disk full,
//!            log named in the environment              strict seccomp, failed self-check, …
//!   idle ───────────────────────────────▶ recording ─────────────────────────────────────▶ off
//!     └──────────────────────────────────────────────────────────────────────────────────▶ off
//!            no log named, or it is not ours
//!                                         recording ◀───────────────────────────────────── off
//!                                                      `begin`, with another log
//! ```
//!
//! *Recording* is a word in a page that the kernel wipes in children of fork (`MADV_WIPEONFORK`), raw `clone`
//! included: a child finds *off* before it could write anything. A child of vfork shares memory and thread with its
//! waiting parent, so what it records is true of the parent.
//!
//! # Children
//! With [`RecordOptions::follow_fork`] the first event in a child of fork makes it a log of its own (`child`); a program
//! that it becomes, or that is spawned, is asked to by its environment (`install::exec`). A child that does nothing
//! between fork and exec has one log with the new program in it.
//!
//! # When a log ends while other threads record
//! They are not stopped, and none is waited for but those that are just going from block to block. A thread may have
//! seen *recording* before, and write its event at any time later, even when another log has begun. That does no harm:
//!
//! * *To the file.* Where the windows and the first page of the log were there is private memory now, so the event goes
//!   nowhere, and whoever is outside may pack the file and cut it off. Which windows a lane has changes under its lock
//!   only. `end` says *off* and then takes the lock of each: who has it before opens a window that `end` finds, who gets
//!   it afterwards sees *off* (or another log) and opens none. So the descriptor can be closed as well.
//! * *To the order of events.* The first page, as it is then, has a word of turns that is nobody's and that nobody gets.
//!   So the thread's next event takes the way of a full window or a lost turn, and there is asked which log it is
//!   about. That costs the usual way nothing.
//! * *To what was introduced.* Before `begin` says *recording*, code objects and modules have no numbers any more, and
//!   each lane was told that its stacks have none (`Stacks::end_log`). A thread that was just looking one up gets the old
//!   number, and then a node can't be introduced: a writer does that for the current log only, and only if that is the one
//!   that it is about. An allocation with a stack that was found before is recorded without.
//! * *To what is known of the log.* Another one takes its place in memory only when no writer is about it any more
//!   (`sink::file`).
//! * *To what is live.* Of a block that was handed out or given back in between the new log knows nothing, as of all that
//!   is older; one that it knows was handed out later, so it can't be the one that such a thread is giving back.
//!
//! # Safety
//! Dangerous: the word is reached through a pointer. It points to a static or to a page that is never unmapped.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use memtrace_format::options::{NativeStacks, RecordOptions};
use memtrace_format::{state, stop_reason};

use crate::environment;
use crate::guard::{self, Guard};
use crate::install::got;
use crate::sink::file::Log;
use crate::sink::{self, Mode};
use crate::{abi, caller, child, elf};
use crate::{lane, meta, python, sys, unwind};

static OFF: AtomicU32 = AtomicU32::new(0);
static RECORDING: AtomicPtr<AtomicU32> = AtomicPtr::new((&raw const OFF).cast_mut());
/// The same word, or one that says *off* when Python's allocators are wrapped and not to be recorded.
static RECORDING_OBJECTS: AtomicPtr<AtomicU32> = AtomicPtr::new((&raw const OFF).cast_mut());
static NEXT: AtomicU32 = AtomicU32::new(next::START);
static OPTIONS: AtomicU32 = AtomicU32::new(0);
static IMAGE: AtomicU32 = AtomicU32::new(0);
static PID: AtomicU32 = AtomicU32::new(0);

/// What an event does that finds *off*.
mod next {
    /// Looks whether the environment names a log.
    pub const START: u32 = 0;
    pub const NOTHING: u32 = 1;
    /// It is in a child of fork, or it would have found *recording*: begins a log for the child.
    pub const BEGIN_IN_CHILD: u32 = 2;
}

#[inline(always)]
pub fn is_recording() -> bool {
    // SAFETY: see the module's note.
    unsafe { (*RECORDING.load(Ordering::Relaxed)).load(Ordering::Relaxed) != 0 }
}

/// The way into every hook: a guard, when this event is to be recorded.
#[inline(always)]
pub fn enter() -> Option<Guard> {
    if is_recording_or_starts() { Guard::enter() } else { None }
}

/// The way into the wrappers of Python's allocators.
#[inline(always)]
pub fn enter_for_objects() -> Option<Guard> {
    // SAFETY: see the module's note.
    let is_recording = unsafe { (*RECORDING_OBJECTS.load(Ordering::Relaxed)).load(Ordering::Relaxed) != 0 };
    if is_recording || may_start() && starts_with_object() { Guard::enter() } else { None }
}

/// The first event in a child of fork may be about an object.
#[cold]
fn starts_with_object() -> bool {
    options().python_allocators && is_recording_or_starts()
}

#[inline(always)]
pub fn is_recording_or_starts() -> bool {
    is_recording() || may_start() && start_early()
}

/// Whether an event may begin a recording: not when one has ended, so that hooks cost next to nothing then.
#[inline(always)]
fn may_start() -> bool {
    NEXT.load(Ordering::Relaxed) != next::NOTHING
}

/// How to record.
pub fn options() -> RecordOptions {
    RecordOptions::from_bits(OPTIONS.load(Ordering::Relaxed))
}

/// Whether native stacks are recorded.
pub fn has_native_stacks() -> bool {
    caller::IS_NOTED.load(Ordering::Relaxed)
}

/// The number of this program among those that the process has been.
pub fn image() -> u16 {
    IMAGE.load(Ordering::Relaxed) as u16
}

/// The process that is recorded.
pub fn pid() -> u32 {
    PID.load(Ordering::Relaxed)
}

/// Counts events that can't be recorded.
pub fn count_lost(events: u64) {
    if let Some(header) = sink::header() {
        header.lost_events().fetch_add(events, Ordering::Relaxed);
    }
}

pub fn switch_off() {
    NEXT.store(next::NOTHING, Ordering::Relaxed);
    // SAFETY: see the module's note.
    unsafe { (*RECORDING.load(Ordering::Relaxed)).store(0, Ordering::Release) }
}

/// On a libc before 2.34, whose thread library has its constructor called first instead of ours, constructors of
/// libraries may allocate before: the first of them starts the recording, as soon as the environment is there.
#[cold]
fn start_early() -> bool {
    match NEXT.load(Ordering::Relaxed) {
        next::START => {
            let environment = environment::current();
            !environment.is_null() && start(environment)
        }
        next::BEGIN_IN_CHILD => begin_in_child(),
        _ => false,
    }
}

/// Starts recording when the environment names a log. Only the first call does. A library that was loaded late is
/// started by a call (`control`): the environment of a running program may be changing.
pub fn start(environment: *mut *mut c_char) -> bool {
    let is_first = NEXT.compare_exchange(next::START, next::NOTHING, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if !is_first || elf::is_late() {
        return is_recording();
    }
    let Some(request) = environment::read_request(environment) else {
        return false;
    };
    let Some(guard) = Guard::enter() else {
        return false;
    };
    begin(&guard, || Log::open(&guard, request.capture), request.options)
        || request.options.follow_fork && begin_as_child(&guard, request.capture, request.options)
}

/// In a child of fork that is followed, at its first event. Whatever other threads of the parent were in the middle of
/// was copied as it was, so all that is under a lock stays behind, and nothing of it is looked at.
#[cold]
fn begin_in_child() -> bool {
    // Inside a hook, out of which a signal handler has forked, it is too early.
    let Some(guard) = Guard::enter() else {
        return false;
    };
    let is_first =
        NEXT.compare_exchange(next::BEGIN_IN_CHILD, next::NOTHING, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let Some(log) = sink::file::current().filter(|_| is_first) else {
        return false;
    };
    let parent_pid = pid();
    PID.store(sys::pid(), Ordering::Relaxed);
    lane::forget_all(&guard);
    meta::forget_all();
    python::code::forget_all();
    python::objects::forget_living();
    unwind::forget_all();
    sink::forget_all();
    if child::takes_logs() {
        log.count_child();
        log.leave();
        return child::take(parent_pid).is_some_and(|fd| record_into(&guard, || Log::of(&guard, fd, c""), options()));
    }
    log.leave();
    begin_as_child(&guard, log.path(), options())
}

/// Records into a log that this process makes beside that of its nearest recorded ancestor.
fn begin_as_child(guard: &Guard, parent: &CStr, options: RecordOptions) -> bool {
    child::create(parent).is_some_and(|mut path| record_into(guard, || Log::open(guard, path.as_c_str()), options))
}

/// Whether what this process starts is recorded as well: in a child of vfork or fork, too.
pub fn follows_children() -> bool {
    options().follow_fork && (is_recording() || NEXT.load(Ordering::Relaxed) == next::BEGIN_IN_CHILD)
}

/// Records into a log that was made for this process, once it is open. `false` when it can't be, or something is recorded
/// already. Other threads may be running.
pub fn begin(guard: &Guard, open: impl FnOnce() -> Option<&'static Log>, options: RecordOptions) -> bool {
    let was_found = python::was_found();
    let has_begun = record_into(guard, open, options);
    if has_begun {
        if was_found && options.python_allocators {
            python::adopt_allocators(guard);
        }
        // Last, so that the first call that comes here finds all as it will stay.
        got::patch_all(guard);
    }
    has_begun
}

fn record_into(guard: &Guard, open: impl FnOnce() -> Option<&'static Log>, options: RecordOptions) -> bool {
    if is_recording() {
        return false;
    }
    // It may have ended by itself.
    end(guard);
    let Some(log) = open() else {
        return false;
    };
    let header = log.header();
    if !matches!(header.state().load(Ordering::Acquire), state::CREATED | state::RECORDING) {
        log.leave();
        return false;
    }
    let Some(word) = word_that_forks_wipe(log) else {
        log.leave();
        return false;
    };
    PID.store(sys::pid(), Ordering::Relaxed);
    OPTIONS.store(options.to_bits(), Ordering::Relaxed);
    IMAGE.store(header.n_images().fetch_add(1, Ordering::AcqRel), Ordering::Relaxed);
    header.state().store(state::RECORDING, Ordering::Release);
    python::code::begin_log(guard);
    unwind::begin_log(guard);
    wants_native_stacks(options);
    let objects = if options.python_allocators { &raw const *word } else { &raw const OFF };
    RECORDING_OBJECTS.store(objects.cast_mut(), Ordering::Relaxed);
    log.make_current();
    NEXT.store(if options.follow_fork { next::BEGIN_IN_CHILD } else { next::NOTHING }, Ordering::Relaxed);
    word.store(1, Ordering::Release);
    meta::image(guard);
    if python::was_found() {
        python::introduce(guard);
    } else {
        python::look_for_interpreter_at_start(guard);
        wants_native_stacks(options);
    }
    true
}

fn wants_native_stacks(options: RecordOptions) {
    let are_wanted = match options.native_stacks {
        NativeStacks::Never => false,
        NativeStacks::WithoutPython => !python::was_found(),
        NativeStacks::Always => true,
    };
    caller::IS_NOTED.store(are_wanted, Ordering::Relaxed);
}

/// The word of [`RECORDING`], which says *off*, in a page that the kernel wipes in children of fork.
fn word_that_forks_wipe(log: &Log) -> Option<&'static AtomicU32> {
    let word = RECORDING.load(Ordering::Acquire);
    if !core::ptr::eq(word, &raw const OFF) {
        // SAFETY: see the module's note.
        return Some(unsafe { &*word });
    }
    let Ok(page) = sys::map_anonymous(4096) else {
        log.stop(stop_reason::NO_MEMORY, sys::Errno(abi::ENOMEM));
        return None;
    };
    if let Err(errno) = sys::wipe_on_fork(page, 4096) {
        log.stop(stop_reason::OLD_KERNEL, errno);
        return None;
    }
    let word = page.cast::<AtomicU32>();
    RECORDING.store(word.as_ptr(), Ordering::Release);
    // SAFETY: the page is new and stays mapped.
    Some(unsafe { word.as_ref() })
}

/// Records no more, and lets go of the log: nothing of it is mapped or open afterwards. `false` when there is none.
/// Other threads may be running; see the module's note.
pub fn end(guard: &Guard) -> bool {
    let Some(log) = sink::file::current() else {
        return false;
    };
    if log.has_been_left() {
        return false;
    }
    // In a child of fork before its first event it is the parent's.
    if pid() != sys::pid() {
        switch_off();
        return false;
    }
    if is_recording() && log.mode() == Mode::Buffered {
        flush_all(guard, log);
    }
    switch_off();
    lane::end_log(guard);
    meta::end_log(guard);
    let header = log.header();
    let _ = header.state().compare_exchange(state::RECORDING, state::STOPPED, Ordering::AcqRel, Ordering::Relaxed);
    log.leave();
    caller::IS_NOTED.store(false, Ordering::Relaxed);
    python::release_allocators();
    true
}

/// What `fork` returned. A child may return into a hook, out of which a signal handler has forked; there it has the
/// hook's windows, or has looked whether anything is recorded and is about to enter. So they become private memory:
/// it would write into the parent's log.
pub fn in_child_of_hook(result: i32) -> i32 {
    // Handlers of the fork may have begun the child's own log.
    if result == 0 && !is_recording() {
        lane::disown_own();
        if guard::is_held() {
            meta::disown_in_child();
        }
        if let Some(log) = sink::file::current() {
            log.disown_header();
        }
    }
    result
}

/// The program is about to restrict its system calls: one of ours might kill it.
#[cold]
pub fn stop_for_seccomp() {
    if is_recording() {
        flush();
        sink::file::stop(stop_reason::SECCOMP, sys::Errno(0));
    }
}

/// The program is about to exit, or to be replaced: where the log is written and not mapped, writes out what is left.
pub fn flush() {
    if is_recording()
        && let Some(log) = sink::file::current()
        && log.mode() == Mode::Buffered
        && let Some(guard) = Guard::enter()
    {
        flush_all(&guard, log);
    }
}

fn flush_all(guard: &Guard, log: &Log) {
    lane::flush_all(guard, log);
    meta::flush(guard, log);
}

#[cfg(test)]
mod tests {
    use core::ffi::c_void;
    use std::ffi::CString;
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use memtrace_format::decode::Decoder;
    use memtrace_format::encode::Deltas;
    use memtrace_format::turn::{Turn, TurnWord};
    use memtrace_format::{AllocatorKind, BLOCK_ALIGN, BLOCK_MAGIC, HEADER_LEN, MAGIC, Record, VERSION, block_kind};

    use super::*;
    use crate::recorder;

    const OPTIONS: RecordOptions =
        RecordOptions { python_allocators: false, native_stacks: NativeStacks::Never, follow_fork: false };
    const N_LOGS: usize = 20;

    fn create(path: &Path) -> File {
        let mut header = [0u8; HEADER_LEN];
        let mut put = |offset: usize, bytes: &[u8]| header[offset..offset + bytes.len()].copy_from_slice(bytes);
        use core::mem::offset_of;
        use memtrace_format::FileHeader;
        put(offset_of!(FileHeader, magic), &MAGIC);
        put(offset_of!(FileHeader, version), &VERSION.to_le_bytes());
        put(offset_of!(FileHeader, header_len), &(HEADER_LEN as u32).to_le_bytes());
        put(offset_of!(FileHeader, pid), &std::process::id().to_le_bytes());
        put(offset_of!(FileHeader, next_offset), &(HEADER_LEN as u64).to_le_bytes());
        put(offset_of!(FileHeader, turn), &TurnWord::START.0.to_le_bytes());
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all(&header).unwrap();
        file
    }

    /// Checks all blocks: each lane begins anew and introduces its thread. The number of allocations and frees.
    fn check(bytes: &[u8]) -> u64 {
        let (mut n_events, mut offset) = (0, HEADER_LEN);
        let mut lanes = std::collections::HashMap::new();
        while let Some(block) = bytes.get(offset..).filter(|rest| rest.len() >= BLOCK_ALIGN) {
            let word = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
            // A place that was taken when the log ended.
            if block[..4] == [0; 4] {
                offset += BLOCK_ALIGN;
                continue;
            }
            assert_eq!(block[..4], BLOCK_MAGIC, "at {offset}");
            let (kind, capacity, lane, sequence) = (block[4], word(8), word(12), word(16));
            let first_turn = Turn::from_bits(u64::from_le_bytes(block[24..32].try_into().unwrap()));
            let committed = word(40) as usize;
            let next = lanes.insert((kind, lane), sequence + 1);
            assert_eq!(next.unwrap_or(0), sequence, "lane {lane}");
            let mut deltas = Deltas::at_block_start(first_turn, word(32));
            let mut decoder = Decoder::new(&block[64..64 + committed], &mut deltas);
            let mut is_first = kind == block_kind::EVENTS && sequence == 0;
            while let Some(record) = decoder.next().unwrap() {
                if is_first && !matches!(record, Record::Turn(_)) {
                    assert!(matches!(record, Record::Thread(_)), "{record:?}");
                    is_first = false;
                }
                n_events += matches!(record, Record::Alloc(_) | Record::Free(_)) as u64;
            }
            offset += capacity as usize;
        }
        n_events
    }

    #[test]
    fn a_thread_that_comes_before_recording_is_said_introduces_itself_afterwards() {
        let path = std::env::temp_dir().join(std::format!("memtrace-lifecycle-early-{}", std::process::id()));
        let file = create(&path);
        let log = Log::open(&Guard::enter().unwrap(), &CString::new(path.to_str().unwrap()).unwrap()).unwrap();
        PID.store(sys::pid(), Ordering::Relaxed);
        let word = word_that_forks_wipe(log).unwrap();
        log.make_current();
        let allocate = || {
            recorder::allocated(&Guard::enter().unwrap(), AllocatorKind::Malloc, (1usize << 40) as *mut c_void, 10);
        };
        allocate();
        word.store(1, Ordering::Release);
        allocate();
        assert!(end(&Guard::enter().unwrap()));
        let mut bytes = std::vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(check(&bytes), 1);
    }

    /// Whoever is outside cuts the file off the moment a log has ended: a thread that still writes to it would die.
    #[test]
    fn logs_follow_each_other_while_threads_record() {
        let folder = std::env::temp_dir();
        let path = |number: usize| -> PathBuf {
            folder.join(std::format!("memtrace-lifecycle-{}-{number}", std::process::id()))
        };
        let (is_over, n_recorded) = (AtomicBool::new(false), AtomicU64::new(0));
        struct AtEnd<'a>(&'a AtomicBool);
        impl Drop for AtEnd<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            let _at_end = AtEnd(&is_over);
            for number in 0..3usize {
                let (is_over, n_recorded) = (&is_over, &n_recorded);
                scope.spawn(move || {
                    let mut block = (number + 1) << 40;
                    while !is_over.load(Ordering::Relaxed) {
                        block += 64;
                        let Some(guard) = enter() else { continue };
                        recorder::allocated(&guard, AllocatorKind::Malloc, block as *mut c_void, 10);
                        recorder::freeing(&guard, AllocatorKind::Free, block as *mut c_void);
                        n_recorded.fetch_add(2, Ordering::Relaxed);
                    }
                });
            }
            let mut n_found = 0;
            for number in 0..N_LOGS {
                let file = create(&path(number));
                let name = CString::new(path(number).to_str().unwrap()).unwrap();
                let before = n_recorded.load(Ordering::Relaxed);
                let start = |guard: Guard| begin(&guard, || Log::open(&guard, &name), OPTIONS);
                assert!(start(Guard::enter().unwrap()));
                assert!(!start(Guard::enter().unwrap()), "two logs at once");
                while n_recorded.load(Ordering::Relaxed) < before + 100_000 {
                    thread::yield_now();
                }
                assert!(end(&Guard::enter().unwrap()));
                assert!(!end(&Guard::enter().unwrap()), "ended twice");
                let mut bytes = std::vec![0; file.metadata().unwrap().len() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                file.set_len(HEADER_LEN as u64).unwrap();
                let found = check(&bytes);
                assert!(found >= 90_000, "{found} events in log {number}");
                n_found += found;
                assert_eq!(file.metadata().unwrap().len(), HEADER_LEN as u64);
                std::fs::remove_file(path(number)).unwrap();
            }
            // The current one, the last, and one that each thread may be in the middle of.
            let n_places = sink::file::n_places(&Guard::enter().unwrap());
            assert!(n_places <= 2 + 3, "{n_places} places for {N_LOGS} logs");
            // At each end a thread may be in the middle of two events.
            let recorded = n_recorded.load(Ordering::Relaxed);
            assert!(n_found <= recorded && recorded - n_found <= 10 * N_LOGS as u64, "{n_found} of {recorded}");
        });
    }
}
