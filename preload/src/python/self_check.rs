//! `MEMTRACE_SELF_CHECK=1`: every stack that we read is compared with the interpreter's own account of it, by calling
//! `PyThreadState_GetFrame` and `PyFrame_GetBack` where this thread holds the GIL. In 3.9 and 3.10 the running
//! instruction is asked for as the frame's attribute `f_lasti`. Slow, and it makes frame objects in
//! the program: for tests only. A difference ends the program with both stacks printed.
//!
//! # Safety
//! Dangerous: calls the C API inside an allocation. The garbage collector is off and a pending exception set aside
//! meanwhile; the guard keeps the calls' own allocations out of the log.

use core::ffi::{CStr, c_char, c_int, c_long};
use core::sync::atomic::{AtomicUsize, Ordering};

use memtrace_format::record::Node;

use super::offsets::Layout;
use super::{Chain, code, fail_self_check, walk};
use crate::elf::Object;
use crate::guard::Guard;
use crate::sink;
use crate::stacks::RawFrame;

macro_rules! functions {
    ($($field:ident: $names:expr,)*) => {
        struct Functions { $($field: AtomicUsize,)* }
        static FUNCTIONS: Functions = Functions { $($field: AtomicUsize::new(0),)* };

        /// Finds the functions of the C API that the check calls.
        pub fn find_functions(object: Object) {
            $(FUNCTIONS.$field.store(symbol(object, $names), Ordering::Release);)*
        }
    };
}

functions! {
    get_frame: [c"PyThreadState_GetFrame"],
    get_back: [c"PyFrame_GetBack"],
    get_code: [c"PyFrame_GetCode"],
    // From 3.11 on; before, the two below.
    get_lasti: [c"PyFrame_GetLasti"],
    get_attribute: [c"PyObject_GetAttrString"],
    as_long: [c"PyLong_AsLong"],
    // 3.13, before.
    current: [c"PyThreadState_GetUnchecked", c"_PyThreadState_UncheckedGet"],
    // From 3.10 on.
    gc_enable: [c"PyGC_Enable"],
    gc_disable: [c"PyGC_Disable"],
    err_fetch: [c"PyErr_Fetch"],
    err_restore: [c"PyErr_Restore"],
    dec_ref: [c"Py_DecRef"],
}

fn symbol<const N: usize>(object: Object, names: [&CStr; N]) -> usize {
    names.into_iter().find_map(|name| object.symbol(name)).unwrap_or(0)
}

/// # Safety
/// The address is that of a function of type `F`.
unsafe fn function<F: Copy>(address: &AtomicUsize) -> Option<F> {
    let address = address.load(Ordering::Acquire);
    // SAFETY: as the caller says; `F` is a function pointer.
    if address == 0 { None } else { Some(unsafe { core::mem::transmute_copy::<usize, F>(&address) }) }
}

type Getter = unsafe extern "C" fn() -> usize;
type OneToOne = unsafe extern "C" fn(usize) -> usize;
type ToInt = unsafe extern "C" fn(usize) -> c_int;
type ToLong = unsafe extern "C" fn(usize) -> c_long;
type GetAttribute = unsafe extern "C" fn(usize, *const c_char) -> usize;
type Switch = unsafe extern "C" fn() -> c_int;
type Triple = unsafe extern "C" fn(*mut usize, *mut usize, *mut usize);
type TripleBack = unsafe extern "C" fn(usize, usize, usize);
type Consumer = unsafe extern "C" fn(usize);

struct Api {
    get_frame: OneToOne,
    get_back: OneToOne,
    get_code: OneToOne,
    get_lasti: Option<ToInt>,
    get_attribute: GetAttribute,
    as_long: ToLong,
    current: Getter,
    gc_enable: Option<Switch>,
    gc_disable: Option<Switch>,
    err_fetch: Triple,
    err_restore: TripleBack,
    dec_ref: Consumer,
}

impl Api {
    fn found() -> Option<Api> {
        // SAFETY: the types are those of the C API's headers.
        unsafe {
            Some(Api {
                get_frame: function(&FUNCTIONS.get_frame)?,
                get_back: function(&FUNCTIONS.get_back)?,
                get_code: function(&FUNCTIONS.get_code)?,
                get_lasti: function(&FUNCTIONS.get_lasti),
                get_attribute: function(&FUNCTIONS.get_attribute)?,
                as_long: function(&FUNCTIONS.as_long)?,
                current: function(&FUNCTIONS.current)?,
                gc_enable: function(&FUNCTIONS.gc_enable),
                gc_disable: function(&FUNCTIONS.gc_disable),
                err_fetch: function(&FUNCTIONS.err_fetch)?,
                err_restore: function(&FUNCTIONS.err_restore)?,
                dec_ref: function(&FUNCTIONS.dec_ref)?,
            })
        }
    }
}

impl Api {
    /// The offset of a frame's running instruction, as the log has it.
    ///
    /// # Safety
    /// `frame` is a live frame, and this thread holds the GIL.
    unsafe fn offset(&self, frame: usize) -> usize {
        // SAFETY: as the caller says; the attribute is a new reference, given back.
        unsafe {
            match self.get_lasti {
                Some(get_lasti) => get_lasti(frame).max(0) as usize,
                None => {
                    let attribute = (self.get_attribute)(frame, c"f_lasti".as_ptr());
                    let lasti = (self.as_long)(attribute);
                    (self.dec_ref)(attribute);
                    u32::try_from(lasti).unwrap_or(Node::NOT_BEGUN) as usize
                }
            }
        }
    }
}

/// Compares the remembered frames with a fresh walk, and that with the interpreter's account.
#[cold]
#[inline(never)]
pub fn check(guard: &Guard, layout: &Layout, state: usize, chain: &Chain) {
    let frames = chain.frames().iter().rev().filter_map(|frame| frame.raw(layout));
    // SAFETY: the state is this thread's.
    if !frames.clone().eq(unsafe { walk::frames(layout, walk::top(layout, state)) }) {
        fail_self_check(guard, b"memtrace: self-check: the remembered frames are not those of a walk\n");
    }
    // A mapping may be an arena that pymalloc is about to fill: the check's own objects would come too early.
    if !guard.is_for_mapping() {
        compare(guard, layout, state, frames);
    }
}

/// Compares `frames`, leaf first, with the interpreter's account of `state`, frame by frame.
fn compare(guard: &Guard, layout: &Layout, state: usize, frames: impl Iterator<Item = RawFrame> + Clone) {
    let Some(api) = Api::found() else {
        return;
    };
    // SAFETY: returns the state that holds the GIL (up to 3.11), or that this thread has attached (later).
    if unsafe { (api.current)() } != state {
        return;
    }
    // What the check itself allocates and maps is not recorded: the lane is in the middle of an event.
    let is_equal = with_interpreter_at_rest(&api, || walk(&api, layout, state, frames.clone(), |_, _| {}));
    if let Some(header) = sink::header() {
        header.n_self_checked().fetch_add(1, Ordering::Relaxed);
    }
    if !is_equal {
        let mut text = Text::new();
        text.push(b"memtrace: self-check: the stack that was read differs from the interpreter's\n  read            interpreter\n");
        with_interpreter_at_rest(&api, || {
            walk(&api, layout, state, frames, |ours, theirs| {
                for side in [ours, theirs] {
                    text.push(b"  ");
                    match side {
                        Some((code, offset)) => {
                            text.push_hex(code);
                            text.push(b"+");
                            text.push_hex(offset);
                        }
                        None => text.push(b"-                "),
                    }
                }
                text.push(b"\n");
            })
        });
        fail_self_check(guard, text.as_bytes());
    }
}

type Side = Option<(usize, usize)>;

/// Walks both accounts at once and shows each pair; whether all were equal.
fn walk(
    api: &Api,
    layout: &Layout,
    state: usize,
    frames: impl Iterator<Item = RawFrame>,
    mut show: impl FnMut(Side, Side),
) -> bool {
    let mut ours = frames.filter_map(|frame| visible(layout, frame));
    let mut is_equal = true;
    // SAFETY: new references, given back below; null at the end.
    unsafe {
        let mut frame = (api.get_frame)(state);
        loop {
            let theirs = (frame != 0).then(|| {
                let code = (api.get_code)(frame);
                (api.dec_ref)(code);
                (code, api.offset(frame))
            });
            let mine = ours.next();
            if mine.is_none() && theirs.is_none() {
                return is_equal;
            }
            is_equal &= mine == theirs;
            show(mine, theirs);
            if frame != 0 {
                let back = (api.get_back)(frame);
                (api.dec_ref)(frame);
                frame = back;
            }
        }
    }
}

/// What the log would say of the frame, by the same rule.
fn visible(layout: &Layout, frame: RawFrame) -> Side {
    let address = code::address(frame);
    // SAFETY: the frame keeps its code object alive.
    let first_traceable = unsafe { code::first_traceable(layout, address)? };
    code::visible_offset(layout, frame, first_traceable).map(|offset| (address, offset as usize))
}

fn with_interpreter_at_rest<T>(api: &Api, work: impl FnOnce() -> T) -> T {
    // SAFETY: this thread holds the GIL.
    unsafe {
        // Without it, in 3.9, the check makes no objects that the collector knows.
        let was_enabled = api.gc_disable.is_some_and(|disable| disable() != 0);
        let (mut kind, mut value, mut traceback) = (0, 0, 0);
        (api.err_fetch)(&mut kind, &mut value, &mut traceback);
        let result = work();
        (api.err_restore)(kind, value, traceback);
        if let (true, Some(enable)) = (was_enabled, api.gc_enable) {
            enable();
        }
        result
    }
}

/// A message of bounded length.
struct Text {
    bytes: [u8; 8192],
    len: usize,
}

impl Text {
    fn new() -> Text {
        Text { bytes: [0; 8192], len: 0 }
    }

    fn push(&mut self, more: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..).and_then(|rest| rest.get_mut(..more.len())) {
            place.copy_from_slice(more);
            self.len += more.len();
        }
    }

    fn push_hex(&mut self, number: usize) {
        let mut is_started = false;
        for shift in (0..16).rev() {
            let digit = (number >> (4 * shift) & 0xf) as u8;
            is_started |= digit != 0 || shift == 0;
            if is_started {
                self.push(&[if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }]);
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}
