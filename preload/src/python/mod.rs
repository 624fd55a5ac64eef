//! The interpreter in the program: found by its symbols, known by its version, read but never called into, but for
//! functions that return a pointer.
//!
//! # Safety
//! Dangerous: addresses of another program's functions and structures. We rely on the symbols' types as CPython's
//! headers declare them and on the layouts in `offsets.rs`. Callers get frames, or none.

mod chain;
mod chunks;
pub mod code;
mod copies;
mod cross_check;
mod holder;
mod living;
pub mod objects;
pub mod offsets;
mod references;
mod self_check;
mod thread_state;
mod walk;

pub use chain::Chain;
pub use chunks::Chunks;
pub use code::next_number as next_code_number;
pub use walk::Frame;

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use memtrace_format::record::{Python, notice};

use crate::elf::{self, Object};
use crate::guard::Guard;
use crate::install::pymem;
use crate::stacks::RawFrame;
use crate::{environment, lane, lifecycle, meta, sink, sys};
use chunks::Place;
use offsets::{Layout, Refusal};

/// What recording needs of an interpreter. Written once, before `HAS_INTERPRETER` is set.
struct Interpreter {
    object: Object,
    layout: Layout,
    runtime: usize,
    /// `PyGILState_GetThisThreadState`
    this_thread_state: usize,
    /// `PyThreadState_GetUnchecked`, before 3.13 `_PyThreadState_UncheckedGet`
    current_thread_state: usize,
    /// `PyCode_Type`
    code_type: usize,
}

struct Adopted(UnsafeCell<Interpreter>);

// SAFETY: written once, before others may look.
unsafe impl Sync for Adopted {}

static INTERPRETER: Adopted = Adopted(UnsafeCell::new(Interpreter {
    object: Object::NONE,
    layout: offsets::NONE,
    runtime: 0,
    this_thread_state: 0,
    current_thread_state: 0,
    code_type: 0,
}));
/// An interpreter was found, whether or not we can read it.
static WAS_FOUND: AtomicBool = AtomicBool::new(false);
/// `PY_VERSION_HEX` of what was found.
static VERSION: AtomicU32 = AtomicU32::new(0);
/// Whether its frames are read: one of the four below.
static STACKS: AtomicU32 = AtomicU32::new(NOT_READ);
const NOT_READ: u32 = 0;
const READ_AND_CROSS_CHECKED: u32 = 1;
const READ: u32 = 2;
const READ_AND_SELF_CHECKED: u32 = 3;

/// Words of the runtime's static structure that every event looks at; of this, as long as there is no runtime.
static NOTHING: [usize; 2] = [0; 2];
const NOTHING_PLACE: *mut usize = NOTHING.as_ptr().cast_mut();
/// The three flags of initialisation…
static INITIALISATION: AtomicPtr<usize> = AtomicPtr::new(NOTHING_PLACE);
/// …and what they were when the allocators were looked at last.
static SEEN_INITIALISATION: AtomicU64 = AtomicU64::new(0);
/// The thread state that finalises the runtime; and what it was at the last look.
static FINALIZING: AtomicPtr<usize> = AtomicPtr::new(NOTHING_PLACE);
static SEEN_FINALIZING: AtomicUsize = AtomicUsize::new(0);
/// The newest interpreter and the main one, where it matters whether there are others.
static NEWEST: AtomicPtr<usize> = AtomicPtr::new(NOTHING_PLACE);
static MAIN: AtomicPtr<usize> = AtomicPtr::new(NOTHING_PLACE);

/// What lies at a watched place now.
#[inline(always)]
fn now(place: &AtomicPtr<usize>) -> usize {
    // SAFETY: a word of the runtime's static structure, or of nothing.
    unsafe { *place.load(Ordering::Relaxed) }
}

type ThreadStateGetter = unsafe extern "C" fn() -> usize;

fn interpreter() -> &'static Interpreter {
    // SAFETY: only called after one of the flags was seen set, and not written afterwards.
    unsafe { &*INTERPRETER.0.get() }
}

/// Whether there is an interpreter that concerns an allocation.
#[inline(always)]
pub fn is_there() -> bool {
    INITIALISATION.load(Ordering::Relaxed) != NOTHING_PLACE
}

/// Whether an interpreter was found, readable or not.
pub fn was_found() -> bool {
    WAS_FOUND.load(Ordering::Acquire)
}

/// The thread state that this thread runs, and whose frames may be read during this event; 0 when there is none.
pub struct State(usize);

impl State {
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        self.0 == 0
    }
}

/// The state, in the usual cases.
#[inline(always)]
pub fn state_at_hand() -> Option<State> {
    let is_usual = STACKS.load(Ordering::Acquire) == READ && now(&FINALIZING) == 0 && now(&NEWEST) == now(&MAIN);
    if is_usual { thread_state::own_at_hand().map(State) } else { None }
}

/// The state, in any case.
pub fn state(guard: &Guard) -> State {
    State(match STACKS.load(Ordering::Acquire) {
        NOT_READ => 0,
        READ_AND_CROSS_CHECKED if !passes_cross_check(guard) => 0,
        _ => thread_state(interpreter()),
    })
}

/// Brings a lane's memory of this thread's frames up to date when they lie where they lay; `false` in other cases, which
/// are for [`refresh`].
#[inline(always)]
pub fn compare(&State(state): &State, chain: &mut Chain) -> bool {
    let layout = &interpreter().layout;
    // SAFETY: the state is this thread's.
    state != 0 && unsafe { chain.compare(layout, walk::top(layout, state), place(layout, state)) }
}

/// Brings a lane's memory of this thread's frames up to date. `false` when there is no memory, or no state.
pub fn refresh(&State(state): &State, chain: &mut Chain, chunks: &Chunks) -> bool {
    let layout = &interpreter().layout;
    // SAFETY: the state is this thread's.
    state != 0 && unsafe { chain.refresh(layout, walk::top(layout, state), place(layout, state), chunks) }
}

/// Under the self-check, compares what was read with the interpreter's own account. There is a state.
#[cold]
pub fn self_check(guard: &Guard, &State(state): &State, chain: &Chain) {
    let interpreter = interpreter();
    if thread_state::own(interpreter) != thread_state::by_function(interpreter) {
        fail_self_check(guard, b"memtrace: self-check: the thread state is not what the interpreter says\n");
    }
    self_check::check(guard, &interpreter.layout, state, chain);
}

/// Where the thread's data stack is.
///
/// # Safety
/// `state` is this thread's.
#[inline(always)]
unsafe fn place(layout: &Layout, state: usize) -> Place {
    // SAFETY: fields of the state.
    match layout.state_stack_chunk {
        Some(chunk) if unsafe { *((state + layout.state_tracing) as *const i32) } == 0 => {
            Place::in_chunk(unsafe { walk::word(state + chunk) })
        }
        _ => Place::NONE,
    }
}

/// What the log says of a frame; `None` for an entry frame of the interpreter.
#[inline(always)]
pub fn shown(frame: &Frame) -> Option<RawFrame> {
    frame.raw(&interpreter().layout)
}

/// Whether C code entered the interpreter at this frame.
#[inline(always)]
pub fn is_entry(frame: &Frame) -> bool {
    frame.is_entry(&interpreter().layout)
}

/// Whether this thread's stack is as the layout says. If not, none is read any more.
#[cold]
#[inline(never)]
fn passes_cross_check(guard: &Guard) -> bool {
    let interpreter = interpreter();
    let state = thread_state(interpreter);
    if state == 0 {
        return false;
    }
    let next = match cross_check::stack(&interpreter.layout, interpreter.code_type, state) {
        Ok(true) if environment::is_self_check() => READ_AND_SELF_CHECKED,
        Ok(true) => READ,
        Ok(false) => return true,
        Err(field) => {
            if STACKS.swap(NOT_READ, Ordering::AcqRel) != NOT_READ {
                meta::notice(guard, notice::LAYOUT_MISMATCH, field.as_bytes());
            }
            return false;
        }
    };
    let _ = STACKS.compare_exchange(READ_AND_CROSS_CHECKED, next, Ordering::AcqRel, Ordering::Relaxed);
    true
}

/// The thread state that this thread runs, with or without the GIL; 0 when it has none.
fn thread_state(interpreter: &Interpreter) -> usize {
    let own = thread_state::own(interpreter);
    let finalizing = now(&FINALIZING);
    if finalizing != 0 && finalizing != own {
        // The finalising thread deletes the states of all others; what this thread remembers may be gone.
        return 0;
    }
    if now(&NEWEST) == now(&MAIN) { own } else { running_on_this_stack(interpreter, own) }
}

/// Up to 3.11 the thread's own state is not the running one inside a subinterpreter. The current state of the process
/// is this thread's when its C frame lies on this thread's stack; for 3.9, which has no C frames, see `holder`.
fn running_on_this_stack(interpreter: &Interpreter, own: usize) -> usize {
    // SAFETY: the function of this name and type; it reads a word.
    let current = unsafe { call(interpreter.current_thread_state) };
    if current == own || current == 0 {
        return own;
    }
    // Another thread may hold the GIL and delete that state just now: the kernel reads it for us.
    let layout = &interpreter.layout;
    let is_ours = match (layout.state_c_frame, layout.runtime_gil_holder) {
        (Some(offset), _) => {
            let here = &raw const current as usize;
            let end = if sys::tid() == sys::pid() { elf::main_stack_end() } else { lane::thread_pointer() };
            sys::read_word(current + offset).is_some_and(|c_frame| (here..end).contains(&c_frame))
        }
        (None, Some(offset)) => {
            // SAFETY: a word of the runtime's static structure.
            let holder = unsafe { *((interpreter.runtime + offset) as *const usize) };
            let is_maker = || sys::read_word(current + layout.state_thread) == Some(lane::thread_pointer());
            holder::is_ours(holder, own, current, sys::tid(), is_maker)
        }
        (None, None) => false,
    };
    if is_ours { current } else { own }
}

/// Whether this thread is attached to an interpreter: it holds the GIL, or in a free-threaded build what stands for it.
/// Only for interpreters without a current thread state of the whole process.
fn is_attached() -> bool {
    // SAFETY: the function of this name and type; it reads a word of the thread.
    unsafe { call(interpreter().current_thread_state) != 0 }
}

/// # Safety
/// `address` is that of a function which takes nothing and returns a pointer.
#[inline(always)]
unsafe fn call(address: usize) -> usize {
    // SAFETY: as the caller says.
    unsafe { core::mem::transmute::<usize, ThreadStateGetter>(address)() }
}

/// What the flags of initialisation have become when an interpreter has been (re-)initialised since the last look: then
/// its allocators may have been replaced.
#[inline(always)]
pub fn new_initialisation() -> Option<u64> {
    let flags = INITIALISATION.load(Ordering::Relaxed);
    // SAFETY: three 32-bit flags, 0 or 1, of the runtime's static structure, or nothing.
    let now = unsafe { flags.cast::<u64>().read_unaligned() | (*flags.byte_add(8).cast::<u32>() as u64) << 1 };
    (now != SEEN_INITIALISATION.load(Ordering::Relaxed)).then_some(now)
}

/// Sees to it that the allocators are wrapped when they may have been replaced.
pub fn notice_changes(guard: &Guard) {
    if let Some(now) = new_initialisation() {
        SEEN_INITIALISATION.store(now, Ordering::Relaxed);
        wrap_allocators(guard);
    }
}

/// Whether nobody else can be using the interpreter's allocators: it is not initialised yet, or this thread has the GIL
/// of one that has a GIL.
fn may_replace_allocators() -> bool {
    if !is_there() {
        return true;
    }
    let flags = INITIALISATION.load(Ordering::Relaxed);
    let interpreter = interpreter();
    // SAFETY: a flag of the runtime's static structure; then the functions of these names and types, which read a word.
    unsafe {
        let is_initialised = *flags.byte_add(4).cast::<u32>() != 0;
        let current = if is_initialised { call(interpreter.current_thread_state) } else { 0 };
        let is_ours = !interpreter.layout.has_global_current || current == call(interpreter.this_thread_state);
        !is_initialised || current != 0 && is_ours && !interpreter.layout.is_free_threaded
    }
}

/// Sees to it that the allocators are wrapped, and says so in the log when they are new.
fn wrap_allocators(guard: &Guard) {
    let wrapped = pymem::wrap(guard, !may_replace_allocators());
    // The next event asks again, unless other threads may be allocating for good.
    if !wrapped.is_complete && !interpreter().layout.is_free_threaded {
        SEEN_INITIALISATION.store(u64::MAX, Ordering::Relaxed);
    }
    if wrapped.has_new_name {
        introduce(guard);
    }
}

/// Says which interpreter there is, if one was found.
pub fn introduce(guard: &Guard) {
    if was_found() {
        let version = VERSION.load(Ordering::Relaxed);
        let has_stacks = STACKS.load(Ordering::Relaxed) != NOT_READ;
        meta::python(guard, Python { version, allocator: pymem::Name::now().text().as_bytes(), has_stacks });
    }
}

/// Sees to it that the allocators are wrapped, also when an earlier recording had no use for that.
pub fn adopt_allocators(guard: &Guard) {
    let interpreter = interpreter();
    if is_there() && (pymem::is_adopted() || pymem::adopt(guard, interpreter.object, Some(&interpreter.layout))) {
        wrap_allocators(guard);
    }
}

/// Leaves the allocators of a running interpreter to themselves again.
pub fn release_allocators() {
    if is_there() {
        pymem::unwrap();
    }
}

/// What the runtime's finalising thread state has become since the last look.
#[inline(always)]
pub fn new_finalizing() -> Option<usize> {
    let now = now(&FINALIZING);
    (now != SEEN_FINALIZING.load(Ordering::Relaxed)).then_some(now)
}

/// Called before memory is given back. The thread that finalises the interpreter deletes the thread states and frames
/// of all others, while those may run on without the GIL: before the first block goes, it waits for reads of frames
/// that have begun. Later ones find the runtime finalising and read nothing.
pub fn notice_end(guard: &Guard) {
    let Some(now) = new_finalizing() else {
        return;
    };
    if now != 0 && sys::barrier_in_all_threads() {
        lane::wait_for_readers(guard);
    }
    // Last: who sees it need not wait.
    SEEN_FINALIZING.store(now, Ordering::Relaxed);
}

/// Looks among the objects that the program started with, or that it has by now.
pub fn look_for_interpreter_at_start(guard: &Guard) {
    if elf::is_late() {
        look_for_interpreter_now(guard);
    } else if let Some(found) = elf::find_at_start(Found::look) {
        adopt(guard, &found);
    }
}

/// Looks among the objects that are loaded now, and sees to it that the allocators of a known one are wrapped.
pub fn look_for_interpreter_now(guard: &Guard) {
    if was_found() {
        wrap_allocators(guard);
        return;
    }
    let mut path = [0; sink::file::MAX_PATH];
    let found = elf::find_now(|loaded| {
        let found = Found::look(loaded.object)?;
        path.get_mut(..loaded.name.count_bytes())?.copy_from_slice(loaded.name.to_bytes());
        Some(found)
    });
    if let (Some(found), Ok(path)) = (found, CStr::from_bytes_until_nul(&path))
        && guard.in_allocator(|| elf::pin(path))
    {
        adopt(guard, &found);
    }
}

/// An object that holds an interpreter.
struct Found {
    object: Object,
    version: u32,
    runtime: usize,
}

impl Found {
    fn look(object: Object) -> Option<Found> {
        // From 3.7 on.
        let runtime = object.symbol(c"_PyRuntime")?;
        Some(Found { object, version: version_of(object), runtime })
    }

    /// The address of a function or variable of the interpreter as the program sees it: a program that refers to a
    /// variable of a library has a copy of its own, which the library uses too.
    fn symbol(&self, name: &CStr) -> Option<usize> {
        elf::program().and_then(|program| program.symbol(name)).or_else(|| self.object.symbol(name))
    }
}

/// `PY_VERSION_HEX` of the interpreter in an object; 0 when it does not say.
fn version_of(object: Object) -> u32 {
    // From 3.11 on.
    if let Some(address) = object.symbol(c"Py_Version") {
        // SAFETY: `const unsigned long Py_Version`.
        return unsafe { *(address as *const u64) as u32 };
    }
    let Some(address) = object.symbol(c"Py_GetVersion") else {
        return 0;
    };
    // SAFETY: the function of this name and type. Before 3.11 it prints constants into a buffer of its own, also when
    // nothing is initialised, and always the same.
    let text = unsafe { CStr::from_ptr(call(address) as *const c_char) };
    offsets::version_number(text.to_bytes())
}

fn adopt(guard: &Guard, found: &Found) {
    if WAS_FOUND.swap(true, Ordering::AcqRel) {
        return;
    }
    VERSION.store(found.version, Ordering::Relaxed);
    let code_type = found.symbol(c"PyCode_Type").unwrap_or(0);
    let layout = offsets::of(found.version, found.runtime).and_then(|layout| {
        let checked = cross_check::code_type(&layout, code_type);
        checked.map(|()| layout).map_err(Refusal::Mismatch)
    });
    let layout = match layout {
        Ok(layout) => Some(layout),
        Err(refusal) => {
            let mut text = [0; 64];
            meta::notice(guard, refusal.notice(), refusal.text(found.version, &mut text));
            None
        }
    };
    let has_stacks = layout.is_some_and(|layout| use_layout(found, layout, code_type));
    meta::python(guard, Python { version: found.version, allocator: b"", has_stacks });
    if lifecycle::options().python_allocators && pymem::adopt(guard, found.object, layout.as_ref()) {
        wrap_allocators(guard);
    }
}

fn use_layout(found: &Found, layout: Layout, code_type: usize) -> bool {
    let symbol = |name: &CStr| found.symbol(name).unwrap_or(0);
    let interpreter = Interpreter {
        object: found.object,
        layout,
        runtime: found.runtime,
        this_thread_state: symbol(c"PyGILState_GetThisThreadState"),
        current_thread_state: found
            .symbol(c"PyThreadState_GetUnchecked")
            .unwrap_or_else(|| symbol(c"_PyThreadState_UncheckedGet")),
        code_type,
    };
    let is_whole = interpreter.this_thread_state != 0 && interpreter.current_thread_state != 0;
    if is_whole {
        if environment::is_self_check() {
            self_check::find_functions(found.object);
        }
        // SAFETY: `WAS_FOUND` was set by this call only, and nobody reads before the flags below are set.
        unsafe { *INTERPRETER.0.get() = interpreter };
        let watch =
            |place: &AtomicPtr<usize>, offset| place.store((found.runtime + offset) as *mut usize, Ordering::Relaxed);
        watch(&INITIALISATION, layout.runtime_preinitialized);
        // A process with other threads waits 5 to 30 ms for it: there it is for whoever needs the barrier.
        if !elf::is_late() {
            sys::register_barrier();
        }
        watch(&FINALIZING, layout.runtime_finalizing);
        if layout.has_global_current {
            watch(&NEWEST, layout.runtime_newest);
            watch(&MAIN, layout.runtime_main);
        }
        code::watch_deaths(&layout, code_type);
        if let Some(offset) = layout.interpreter_discards {
            copies::watch_discards(found.runtime + layout.runtime_main, offset);
        }
        STACKS.store(READ_AND_CROSS_CHECKED, Ordering::Release);
    }
    is_whole
}

/// Says that the self-check failed, with what it saw, and ends the program.
pub fn fail_self_check(guard: &Guard, text: &[u8]) -> ! {
    sys::write_to_stderr(text);
    meta::notice(guard, notice::SELF_CHECK, text);
    sink::file::stop(memtrace_format::stop_reason::SELF_CHECK_FAILED, sys::Errno(0));
    sys::abort()
}
