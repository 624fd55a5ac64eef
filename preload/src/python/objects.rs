//! Lifetimes of objects, on request: the interpreter calls us when it has made an object and before it destroys one
//! (`PyRefTracer`, CPython 3.13.3 and later). Each call is a record, and a change of the set of living objects, of which
//! the end of the tracking makes references. Never creates an object, and touches none but to take a reference at the end.
//!
//! There is one tracer in the process. One that was there before us, like tracemalloc's, is called by ours and set again
//! in the end. One that comes after us and does not call us hides objects that are destroyed: then nobody can tell which
//! ones live, and we say so.
//!
//! # Safety
//! Dangerous: functions of the interpreter by address, called by a thread that is attached to it; and a callback that the
//! interpreter may call as long as it lives. We rely on the types in `Include/cpython/object.h`. An object is in the set
//! from the call that tells of its making to the one that tells of its destruction, which comes before its memory is given
//! back; so under the lock of the set there is memory at each of its addresses.

use core::ffi::{CStr, c_int, c_void};
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use memtrace_format::answer::Survivor;

use super::living::{Drained, Living};
use super::references::{self, Taken};
use super::{VERSION, call, interpreter, is_there};
use crate::guard::Guard;
use crate::lock::{Lock, Locked};
use crate::{lane, lifecycle, note_caller, recorder, sink, sys};

/// `PyRefTracer`: an object, what happens to it, and what was given when the tracer was set.
type Tracer = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int;
type SetTracer = unsafe extern "C" fn(Option<Tracer>, *mut c_void) -> c_int;
type GetTracer = unsafe extern "C" fn(*mut *mut c_void) -> Option<Tracer>;

/// `PyRefTracer_CREATE` and `PyRefTracer_DESTROY`…
const CREATE: c_int = 0;
const DESTROY: c_int = 1;
/// …and from 3.15 on, without an object, that another tracer comes.
const TRACKER_REMOVED: c_int = 2;

/// The first one that tells of every destruction.
const FIRST_VERSION: u32 = 0x030d_0300;
/// The first one that tells a tracer when it is replaced.
const FIRST_TO_TELL: u32 = 0x030f_0000;

/// Whether objects of this recording have records.
static IS_WANTED: AtomicBool = AtomicBool::new(false);
/// The tracer that ours has replaced, null when there was none, and what it is to be given.
static PREVIOUS: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static PREVIOUS_DATA: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static SET_TRACER: AtomicUsize = AtomicUsize::new(0);
static GET_TRACER: AtomicUsize = AtomicUsize::new(0);
static GET_INTERPRETER: AtomicUsize = AtomicUsize::new(0);

/// Whether an object was destroyed that could not be taken out of the set.
static IS_MISSING: AtomicBool = AtomicBool::new(false);

struct Tracking {
    living: Living,
    /// What the last tracking has ended with.
    survivors: Drained,
    /// Objects of others are not ours to refer to.
    interpreter: usize,
    /// Whether the set has every living object that was made since the tracking began, and no other.
    is_exact: bool,
}

static TRACKING: Lock<Tracking> = Lock::new(Tracking::NONE);

impl Tracking {
    const NONE: Tracking =
        Tracking { living: Living::new(), survivors: Drained::NONE, interpreter: 0, is_exact: false };
}

/// Begins to record the lifetimes of objects. `false` when this interpreter does not tell of them, or another tracer does
/// not let us. The thread is attached.
pub fn begin() -> bool {
    let version = VERSION.load(Ordering::Relaxed);
    if !is_there() || version < FIRST_VERSION {
        return false;
    }
    let symbol = |name: &CStr| interpreter().object.symbol(name).unwrap_or(0);
    let (set, get) = (symbol(c"PyRefTracer_SetTracer"), symbol(c"PyRefTracer_GetTracer"));
    let get_interpreter = symbol(c"PyInterpreterState_Get");
    if set == 0 || get == 0 || get_interpreter == 0 {
        return false;
    }
    SET_TRACER.store(set, Ordering::Relaxed);
    GET_TRACER.store(get, Ordering::Relaxed);
    GET_INTERPRETER.store(get_interpreter, Ordering::Relaxed);
    {
        let Some(guard) = Guard::enter() else { return false };
        let mut tracking = TRACKING.lock(&guard);
        tracking.living.drain().release();
        tracking.survivors.release();
        // SAFETY: the function of this name; the thread is attached.
        (tracking.interpreter, tracking.is_exact) = (unsafe { call(get_interpreter) }, true);
        IS_MISSING.store(false, Ordering::Relaxed);
    }
    IS_WANTED.store(true, Ordering::Release);
    let (now, data) = tracer();
    // In a child of fork ours may be there already.
    if is_ours(now) {
        return true;
    }
    // One that is told may give up what it was to be given.
    let is_told = version >= FIRST_TO_TELL && !data.is_null();
    let (previous, data) = if is_told { (None, ptr::null_mut()) } else { (now, data) };
    PREVIOUS_DATA.store(data, Ordering::Relaxed);
    PREVIOUS.store(previous.map_or(ptr::null_mut(), |tracer| tracer as *mut c_void), Ordering::Release);
    let is_set = set_tracer(Some(trace), ptr::null_mut());
    if !is_set {
        forget();
    }
    is_set
}

/// Ends that. What was made since and lives has one more reference each, which is the caller's: entries in any order,
/// until the next beginning. `None` when that is not known. The thread is attached.
pub fn end() -> Option<&'static [Survivor]> {
    let (now, _) = tracer();
    let survivors = if is_ours(now) { hold_survivors() } else { None };
    IS_WANTED.store(false, Ordering::Release);
    if is_ours(now) {
        let (previous, data) = previous();
        set_tracer(previous, data);
    }
    survivors
}

/// What the recording before has left is not wanted by the next one.
pub fn forget() {
    IS_WANTED.store(false, Ordering::Release);
}

/// In a child of fork that begins a log of its own: objects have records there as well, but the set may be half changed.
pub fn forget_living() {
    // SAFETY: nobody else is inside memtrace yet.
    unsafe { TRACKING.reset(Tracking::NONE) };
}

/// After a `siglongjmp` out of memtrace.
pub fn release_lock_if_mine() {
    TRACKING.release_if_mine();
}

#[unsafe(naked)]
unsafe extern "C" fn trace(object: *mut c_void, event: c_int, data: *mut c_void) -> c_int {
    note_caller!(trace_body)
}

unsafe extern "C" fn trace_body(object: *mut c_void, event: c_int, _data: *mut c_void) -> c_int {
    if IS_WANTED.load(Ordering::Acquire) && lifecycle::is_recording_or_starts() {
        take(object as u64, event);
    }
    match previous() {
        // It was told when ours was set.
        (Some(previous), data) if event != TRACKER_REMOVED => {
            // SAFETY: what the interpreter would have called.
            unsafe { previous(object, event, data) }
        }
        _ => 0,
    }
}

fn take(address: u64, event: c_int) {
    let Some(guard) = lifecycle::enter() else {
        // An allocator that is written in Python, if anything. What is made there is not recorded.
        if event != CREATE {
            IS_MISSING.store(true, Ordering::Release);
        }
        return;
    };
    match event {
        CREATE => made(&guard, address),
        DESTROY => {
            recorder::destroying(&guard, address);
            lock(&guard).living.remove(address);
        }
        TRACKER_REMOVED => lock(&guard).is_exact = false,
        _ => {}
    }
}

fn made(guard: &Guard, address: u64) {
    if sink::header().is_some_and(|header| header.is_paused()) {
        return;
    }
    recorder::made(guard, address);
    // SAFETY: the functions of these names, which read a word of the thread; the second one when it is attached.
    let here = unsafe {
        if call(interpreter().current_thread_state) == 0 { 0 } else { call(GET_INTERPRETER.load(Ordering::Relaxed)) }
    };
    let mut tracking = lock(guard);
    if here == tracking.interpreter && !tracking.living.insert(address) {
        tracking.is_exact = false;
    }
}

/// The set, without asking the kernel who we are.
fn lock(guard: &Guard) -> Locked<'static, Tracking> {
    match lane::at_hand(guard) {
        Some(lane) => TRACKING.lock_as(lane.thread(), guard),
        None => TRACKING.lock(guard),
    }
}

/// Takes a reference to each object of the set.
fn hold_survivors() -> Option<&'static [Survivor]> {
    /// In an entry's number, for a reference that is perhaps none.
    const PERHAPS: u64 = 1 << 63;
    let interpreter = interpreter();
    let inc_ref = interpreter.object.symbol(c"Py_IncRef")?;
    let guard = Guard::enter()?;
    let mut tracking = TRACKING.lock(&guard);
    let is_exact = core::mem::replace(&mut tracking.is_exact, false);
    let mut survivors = tracking.living.drain();
    if !is_exact || IS_MISSING.load(Ordering::Acquire) || !lifecycle::is_recording() {
        survivors.release();
        return None;
    }
    let (is_shared, mut has_perhaps) = (interpreter.layout.is_free_threaded, false);
    survivors.retain(|entry| {
        // SAFETY: the object is in the set, whose lock we have; with a GIL, this thread has it.
        let taken = unsafe {
            match is_shared {
                true => references::take_shared(entry.address, inc_ref),
                false => references::take(entry.address, inc_ref),
            }
        };
        if taken == Taken::Perhaps {
            has_perhaps = true;
            entry.number |= PERHAPS;
        }
        taken != Taken::No
    });
    if has_perhaps {
        let has_passed = sys::barrier_in_all_threads();
        survivors.retain(|entry| {
            let is_sure = entry.number & PERHAPS == 0;
            entry.number &= !PERHAPS;
            // SAFETY: as above.
            is_sure || has_passed && unsafe { references::is_held(entry.address) }
        });
    }
    tracking.survivors = survivors;
    let entries = tracking.survivors.entries();
    // SAFETY: they stay where they are until the next beginning, whatever becomes of the lock.
    Some(unsafe { core::slice::from_raw_parts(entries.as_ptr(), entries.len()) })
}

/// The tracer that is set now, and what it is given.
fn tracer() -> (Option<Tracer>, *mut c_void) {
    let get = GET_TRACER.load(Ordering::Relaxed);
    let mut data = ptr::null_mut();
    if get == 0 {
        return (None, data);
    }
    // SAFETY: the function of this name and type; the thread is attached.
    let tracer = unsafe { transmute::<usize, GetTracer>(get)(&mut data) };
    (tracer, data)
}

fn set_tracer(tracer: Option<Tracer>, data: *mut c_void) -> bool {
    // SAFETY: the function of this name and type, which was found before; the thread is attached.
    unsafe { transmute::<usize, SetTracer>(SET_TRACER.load(Ordering::Relaxed))(tracer, data) == 0 }
}

fn is_ours(tracer: Option<Tracer>) -> bool {
    tracer.is_some_and(|tracer| ptr::fn_addr_eq(tracer, trace as Tracer))
}

fn previous() -> (Option<Tracer>, *mut c_void) {
    // SAFETY: a tracer, or null, which is none.
    let tracer = unsafe { transmute::<*mut c_void, Option<Tracer>>(PREVIOUS.load(Ordering::Acquire)) };
    (tracer, PREVIOUS_DATA.load(Ordering::Relaxed))
}
