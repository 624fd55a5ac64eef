//! CPython's allocators: the raw, mem and object domains, wrapped with what `PyMem_SetAllocator` does. The wrapper
//! forwards to the allocator that was there, with that allocator's own context, and what the inner one allocates in
//! turn is not recorded. `-X dev`, `PYTHONMALLOC` and re-initialisation replace the domains, so they are looked at again
//! whenever the runtime's state of initialisation changes and after libraries were loaded.
//!
//! There are two kinds of wrappers. Where nobody else can be using the allocators, a wrapper has a context of its own,
//! so that there may be any number. In a running interpreter other threads read function and context one after the other:
//! there only the functions are replaced, each by one store, and whatever mixture of old and new ones a thread sees gets
//! the context that all of them take. Such a wrapper is known by its domain.
//!
//! # Safety
//! Dangerous: function pointers handed to the interpreter. A wrapper's slot never moves and is filled before the wrapper
//! is handed out. Slots are not reused: a debug allocator on top may still hold an older one.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memtrace_format::AllocatorKind as Kind;
use memtrace_format::record::notice;

use crate::elf::Object;
use crate::guard::Guard;
use crate::hooks::allocate_under;
use crate::lifecycle::enter_for_objects as enter;
use crate::python::offsets::Layout;
use crate::{elf, meta, note_caller, recorder, sys};

type Pointer = *mut c_void;

/// `PyMemAllocatorEx` of `Include/cpython/pymem.h`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Allocator {
    ctx: Pointer,
    malloc: unsafe extern "C" fn(Pointer, usize) -> Pointer,
    calloc: unsafe extern "C" fn(Pointer, usize, usize) -> Pointer,
    realloc: unsafe extern "C" fn(Pointer, Pointer, usize) -> Pointer,
    free: unsafe extern "C" fn(Pointer, Pointer),
}

/// `PYMEM_DOMAIN_RAW`, `PYMEM_DOMAIN_MEM`, `PYMEM_DOMAIN_OBJ`.
const RAW: c_int = 0;
const MEM: c_int = 1;
const OBJECT: c_int = 2;
/// What a debug allocator adds to a block, in bytes: its size, a letter and forbidden bytes before it, and more of those
/// behind (`Objects/obmalloc.c`, without `PYMEM_DEBUG_SERIALNO`).
const DEBUG_PADDING: usize = 3 * size_of::<usize>();

/// A wrapped allocator.
struct Slot {
    inner: Option<Allocator>,
    /// Bytes of each block that a debug allocator above has asked for itself.
    padding: AtomicUsize,
}

/// Wrappings over the life of a program; each re-initialisation may take three.
const MAX_SLOTS: usize = 3 * 256;

struct Slots([UnsafeCell<Slot>; MAX_SLOTS]);

// SAFETY: a slot is written once, by the thread that took its number, before its address is handed out.
unsafe impl Sync for Slots {}

/// The allocators that were wrapped in a running interpreter, by domain.
struct Kept([UnsafeCell<Slot>; 3]);

// SAFETY: a slot is written once, by the thread that took it, before a wrapper that uses it is handed out.
unsafe impl Sync for Kept {}

static KEPT: Kept = Kept([const { UnsafeCell::new(Slot { inner: None, padding: AtomicUsize::new(0) }) }; 3]);
static IS_KEPT: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

static SLOTS: Slots = Slots([const { UnsafeCell::new(Slot { inner: None, padding: AtomicUsize::new(0) }) }; MAX_SLOTS]);
static N_SLOTS: AtomicUsize = AtomicUsize::new(0);
/// `PyMem_GetAllocator` and `PyMem_SetAllocator`; 0 when objects are not recorded.
static GET_ALLOCATOR: AtomicUsize = AtomicUsize::new(0);
static SET_ALLOCATOR: AtomicUsize = AtomicUsize::new(0);

type Accessor = unsafe extern "C" fn(c_int, *mut Allocator);

/// The functions that the domains start with: malloc's, and pymalloc's or in free-threaded builds mimalloc's.
static FIRST_RAW_MALLOC: AtomicUsize = AtomicUsize::new(0);
static FIRST_OBJECT_MALLOC: AtomicUsize = AtomicUsize::new(0);
static IS_MIMALLOC: AtomicBool = AtomicBool::new(false);

/// Whether [`adopt`] was called.
pub fn is_adopted() -> bool {
    GET_ALLOCATOR.load(Ordering::Acquire) != 0
}

/// Wraps the domains of a newly found interpreter. `false` when they can't be.
pub fn adopt(guard: &Guard, object: Object, layout: Option<&Layout>) -> bool {
    let (get, set) = (object.symbol(c"PyMem_GetAllocator"), object.symbol(c"PyMem_SetAllocator"));
    let (Some(get), Some(set), Some(layout)) = (get, set, layout) else {
        meta::notice(guard, notice::NO_PYTHON_ALLOCATORS, b"this CPython is not supported");
        return false;
    };
    IS_MIMALLOC.store(layout.is_free_threaded, Ordering::Relaxed);
    SET_ALLOCATOR.store(set, Ordering::Release);
    GET_ALLOCATOR.store(get, Ordering::Release);
    for (domain, letter, first) in [(RAW, b'r', &FIRST_RAW_MALLOC), (OBJECT, b'o', &FIRST_OBJECT_MALLOC)] {
        if let Some((found, _)) = allocator_of(domain) {
            // Interpreters that were built for debugging start with debug allocators.
            let context = found.ctx as usize;
            let is_debug = context != 0 && sys::read_word(context) == Some(letter as usize);
            let below = if is_debug { sys::read_word(context + BELOW_MALLOC) } else { None };
            first.store(below.unwrap_or(found.malloc as usize), Ordering::Relaxed);
        }
    }
    true
}

/// What [`wrap`] came to.
pub struct Wrapped {
    /// Whether the allocator that hands out objects (`pymalloc`, `malloc_debug`, …) is a new one: see [`Name::now`].
    pub has_new_name: bool,
    /// Whether all domains are wrapped, as far as they ever will be.
    pub is_complete: bool,
}

/// Wraps the domains whose allocator is not a wrapper of ours; when other threads may be using them (`is_shared`), those
/// that can be wrapped nevertheless.
///
/// Below a debug allocator, and not above it: CPython must find its own on top, or it puts another one there.
pub fn wrap(guard: &Guard, is_shared: bool) -> Wrapped {
    let mut wrapped = Wrapped { has_new_name: false, is_complete: true };
    for domain in [RAW, MEM, OBJECT] {
        let Some((found, set)) = allocator_of(domain) else { break };
        let below = below_debug_allocator(&found);
        // SAFETY: the place lies in the debug allocator's static context.
        let inner = below.map_or(found, |place| unsafe { *place });
        let padding = if below.is_some() { DEBUG_PADDING } else { 0 };
        if let Some(slot) = slot_of(&inner) {
            slot.padding.store(padding, Ordering::Relaxed);
            continue;
        }
        // With its context it can be taken out again, whatever other threads do then.
        let keeps = is_shared || elf::is_late();
        let ours = match if keeps { keep_context(domain, inner, padding) } else { None } {
            None if !is_shared => take_slot(guard, inner, padding),
            ours => ours,
        };
        let Some(mut ours) = ours else {
            wrapped.is_complete &= !is_shared;
            continue;
        };
        match below {
            // SAFETY: as above.
            Some(below) => unsafe { replace(below, &ours) },
            // SAFETY: the function of this name and type; it copies the structure, word by word or more at a time.
            None => unsafe { set(domain, &mut ours) },
        }
        if domain == OBJECT {
            NAME.store(name_of(&inner, below.is_some()).0, Ordering::Relaxed);
            wrapped.has_new_name = true;
        }
    }
    wrapped
}

/// Takes the wrappers out again that were put into a running interpreter, unless somebody has wrapped these since. As when
/// they were put in, the contexts stay. Whoever is inside of one, or has kept it, finds it doing nothing.
pub fn unwrap() {
    for (domain, ours) in [RAW, MEM, OBJECT].into_iter().zip(&WITH_CONTEXT) {
        let Some((found, set)) = allocator_of(domain) else { break };
        let below = below_debug_allocator(&found);
        // SAFETY: as in `wrap`.
        let wrapper = below.map_or(found, |place| unsafe { *place });
        // SAFETY: once a wrapper has been handed out, the slot is not written again.
        let kept = KEPT.0.get(domain as usize).and_then(|place| unsafe { &*place.get() }.inner);
        let Some(mut inner) = kept.filter(|inner| Allocator { ctx: inner.ctx, ..*ours }.is(&wrapper)) else { continue };
        match below {
            // SAFETY: as in `wrap`.
            Some(below) => unsafe { replace(below, &inner) },
            // SAFETY: as in `wrap`.
            None => unsafe { set(domain, &mut inner) },
        }
    }
}

/// The wrapper around an allocator, with a context of its own.
fn take_slot(guard: &Guard, inner: Allocator, padding: usize) -> Option<Allocator> {
    let number = N_SLOTS.fetch_add(1, Ordering::AcqRel);
    let Some(place) = SLOTS.0.get(number) else {
        N_SLOTS.store(MAX_SLOTS + 1, Ordering::Release);
        if number == MAX_SLOTS {
            meta::notice(guard, notice::NO_PYTHON_ALLOCATORS, b"the interpreter was initialised too often");
        }
        return None;
    };
    // SAFETY: the slot is this call's alone.
    unsafe { *place.get() = Slot { inner: Some(inner), padding: AtomicUsize::new(padding) } };
    Some(Allocator { ctx: place.get().cast(), ..OURS })
}

/// The wrapper around an allocator, with that allocator's context; `None` when the domain had another one before.
fn keep_context(domain: c_int, inner: Allocator, padding: usize) -> Option<Allocator> {
    let (place, is_kept) = (KEPT.0.get(domain as usize)?, IS_KEPT.get(domain as usize)?);
    let slot = Slot { inner: Some(inner), padding: AtomicUsize::new(padding) };
    if !is_kept.swap(true, Ordering::AcqRel) {
        // SAFETY: the slot is this call's alone.
        unsafe { *place.get() = slot };
        // SAFETY: filled now, and not written again.
    } else if !unsafe { &*place.get() }.inner.as_ref().is_some_and(|kept| kept.is(&inner)) {
        return None;
    }
    Some(Allocator { ctx: inner.ctx, ..*WITH_CONTEXT.get(domain as usize)? })
}

/// # Safety
/// `place` is an allocator that others may be using.
unsafe fn replace(place: *mut Allocator, ours: &Allocator) {
    // SAFETY: as the caller says. The context comes first: where it is another one, nobody else is using it.
    unsafe {
        (&raw mut (*place).ctx).write_volatile(ours.ctx);
        (&raw mut (*place).malloc).write_volatile(ours.malloc);
        (&raw mut (*place).calloc).write_volatile(ours.calloc);
        (&raw mut (*place).realloc).write_volatile(ours.realloc);
        (&raw mut (*place).free).write_volatile(ours.free);
    }
}

/// `debug_alloc_api_t` (`Objects/obmalloc.c`): a letter, then the allocator below: its context, its `malloc`, …
const BELOW: usize = size_of::<usize>();
const BELOW_MALLOC: usize = 2 * size_of::<usize>();

/// Where a debug allocator keeps the one below it; `None` when this is another kind of allocator.
fn below_debug_allocator(found: &Allocator) -> Option<*mut Allocator> {
    if found.ctx.is_null() || slot_of(found).is_some() {
        return None;
    }
    // Another allocator's context has another word there, or can't be read.
    let malloc = sys::read_word(found.ctx as usize + BELOW_MALLOC)?;
    let first = [&FIRST_RAW_MALLOC, &FIRST_OBJECT_MALLOC].map(|first| first.load(Ordering::Relaxed));
    let is_debug =
        first.contains(&malloc) || [&OURS].into_iter().chain(&WITH_CONTEXT).any(|ours| ours.malloc as usize == malloc);
    is_debug.then(|| (found.ctx as usize + BELOW) as *mut Allocator)
}

/// The domain's allocator now, and the function that sets one.
fn allocator_of(domain: c_int) -> Option<(Allocator, Accessor)> {
    let (get, set) = (GET_ALLOCATOR.load(Ordering::Acquire), SET_ALLOCATOR.load(Ordering::Acquire));
    if get == 0 {
        return None;
    }
    let mut found = OURS;
    // SAFETY: the functions of these names and this type. They copy a structure and allocate nothing.
    unsafe {
        let (get, set) = (transmute::<usize, Accessor>(get), transmute::<usize, Accessor>(set));
        get(domain, &mut found);
        Some((found, set))
    }
}

/// CPython's own `_PyMem_GetCurrentAllocatorName` needs an initialised runtime from 3.12 on.
fn name_of(allocator: &Allocator, is_debug: bool) -> Name {
    let malloc = allocator.malloc as usize;
    let is = |first: &AtomicUsize| malloc == first.load(Ordering::Relaxed);
    let kind = match (is(&FIRST_RAW_MALLOC), is(&FIRST_OBJECT_MALLOC), IS_MIMALLOC.load(Ordering::Relaxed)) {
        (true, _, _) => 1,
        (_, true, false) => 2,
        (_, true, true) => 3,
        _ => return Name(7),
    };
    Name(if is_debug { kind + 3 } else { kind })
}

/// What hands out objects.
#[derive(Clone, Copy)]
pub struct Name(usize);

const NAMES: [&str; 8] =
    ["", "malloc", "pymalloc", "mimalloc", "malloc_debug", "pymalloc_debug", "mimalloc_debug", "custom"];

/// That of the last allocator that was wrapped.
static NAME: AtomicUsize = AtomicUsize::new(0);

impl Name {
    /// The present one; without text before there is one.
    pub fn now() -> Name {
        Name(NAME.load(Ordering::Relaxed))
    }

    pub fn text(self) -> &'static str {
        NAMES.get(self.0).copied().unwrap_or("")
    }
}

/// The wrapped allocator, when this is a wrapper of ours.
fn slot_of(allocator: &Allocator) -> Option<&'static Slot> {
    if ptr::fn_addr_eq(allocator.malloc, OURS.malloc) {
        // SAFETY: such a wrapper's context is a slot.
        return Some(unsafe { slot(allocator.ctx) });
    }
    let domain = WITH_CONTEXT.iter().position(|ours| ptr::fn_addr_eq(allocator.malloc, ours.malloc))?;
    // SAFETY: filled before such a wrapper was handed out.
    Some(unsafe { &*KEPT.0.get(domain)?.get() })
}

/// What a wrapper's context is.
///
/// # Safety
/// `ctx` is what `take_slot` handed out.
#[inline(always)]
unsafe fn slot(ctx: Pointer) -> &'static Slot {
    // SAFETY: slots are static.
    unsafe { &*ctx.cast::<Slot>() }
}

impl Allocator {
    fn is(&self, other: &Allocator) -> bool {
        self.ctx == other.ctx
            && ptr::fn_addr_eq(self.malloc, other.malloc)
            && ptr::fn_addr_eq(self.calloc, other.calloc)
            && ptr::fn_addr_eq(self.realloc, other.realloc)
            && ptr::fn_addr_eq(self.free, other.free)
    }
}

impl Slot {
    /// The allocator behind the wrapper.
    #[inline(always)]
    fn inner(&self) -> &Allocator {
        // SAFETY: slots are filled before their address is handed out.
        unsafe { self.inner.as_ref().unwrap_unchecked() }
    }

    /// What the interpreter asked for, when `size` was asked of us.
    #[inline(always)]
    fn requested(&self, size: usize) -> usize {
        size.saturating_sub(self.padding.load(Ordering::Relaxed))
    }
}

/// The functions of a kind of wrappers. `$find` tells from the context that they are called with which slot it is, and
/// which context the allocator behind it takes.
macro_rules! wrappers {
    ($kind:ident, |$ctx:ident| $find:expr) => {
        mod $kind {
            use super::*;

            pub const FUNCTIONS: Allocator = Allocator { ctx: ptr::null_mut(), malloc, calloc, realloc, free };

            #[unsafe(naked)]
            unsafe extern "C" fn malloc(ctx: Pointer, size: usize) -> Pointer {
                note_caller!(malloc_body)
            }

            unsafe extern "C" fn malloc_body($ctx: Pointer, size: usize) -> Pointer {
                let (slot, ctx) = $find;
                let inner = slot.inner();
                // SAFETY: the interpreter's own arguments, here and below.
                allocate_under(enter(), Kind::PymallocMalloc, slot.requested(size), || unsafe {
                    (inner.malloc)(ctx, size)
                })
            }

            #[unsafe(naked)]
            unsafe extern "C" fn calloc(ctx: Pointer, count: usize, size: usize) -> Pointer {
                note_caller!(calloc_body)
            }

            unsafe extern "C" fn calloc_body($ctx: Pointer, count: usize, size: usize) -> Pointer {
                let (slot, ctx) = $find;
                let inner = slot.inner();
                let requested = slot.requested(count.wrapping_mul(size));
                // SAFETY: as in `malloc`.
                allocate_under(enter(), Kind::PymallocCalloc, requested, || unsafe { (inner.calloc)(ctx, count, size) })
            }

            #[unsafe(naked)]
            unsafe extern "C" fn realloc(ctx: Pointer, block: Pointer, size: usize) -> Pointer {
                note_caller!(realloc_body)
            }

            /// Never frees: size 0 gives a block too, so null is a failure.
            unsafe extern "C" fn realloc_body($ctx: Pointer, block: Pointer, size: usize) -> Pointer {
                let (slot, ctx) = $find;
                let inner = slot.inner();
                // SAFETY: as in `malloc`.
                let real = || unsafe { (inner.realloc)(ctx, block, size) };
                let Some(guard) = enter() else {
                    return real();
                };
                recorder::freeing(&guard, Kind::PymallocFree, block);
                let new = guard.in_allocator(real);
                if new.is_null() && !block.is_null() {
                    recorder::restored(&guard);
                } else {
                    recorder::allocated(&guard, Kind::PymallocRealloc, new, slot.requested(size));
                }
                new
            }

            unsafe extern "C" fn free($ctx: Pointer, block: Pointer) {
                let (slot, ctx) = $find;
                let inner = slot.inner();
                // SAFETY: as in `malloc`.
                let real = || unsafe { (inner.free)(ctx, block) };
                match enter() {
                    None => real(),
                    Some(guard) => {
                        recorder::freeing(&guard, Kind::PymallocFree, block);
                        guard.in_allocator(real);
                    }
                }
            }
        }
    };
}

// SAFETY: wrappers of this kind are handed out with a slot for their context.
wrappers!(by_context, |ctx| {
    let slot = unsafe { slot(ctx) };
    (slot, slot.inner().ctx)
});
wrappers!(raw, |ctx| (kept(RAW), ctx));
wrappers!(mem, |ctx| (kept(MEM), ctx));
wrappers!(object, |ctx| (kept(OBJECT), ctx));

const OURS: Allocator = by_context::FUNCTIONS;
const WITH_CONTEXT: [Allocator; 3] = [raw::FUNCTIONS, mem::FUNCTIONS, object::FUNCTIONS];

/// The allocator of a domain that was wrapped in a running interpreter.
#[inline(always)]
fn kept(domain: c_int) -> &'static Slot {
    // SAFETY: there are three domains, and the slot was filled before the wrapper was handed out.
    unsafe { &*KEPT.0.get_unchecked(domain as usize).get() }
}
