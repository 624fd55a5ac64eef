//! CPython's allocators: the raw, mem and object domains, wrapped with what `PyMem_SetAllocator` does. The wrapper
//! forwards to the allocator that was there, with that allocator's own context, and what the inner one allocates in
//! turn is not recorded. `-X dev`, `PYTHONMALLOC` and re-initialisation replace the domains, so they are looked at again
//! whenever the runtime's state of initialisation changes and after libraries were loaded.
//!
//! # Safety
//! Dangerous: function pointers handed to the interpreter. A wrapper's context is a slot that never moves and is filled
//! before it is handed out. Slots are not reused: a debug allocator on top may still hold an older one.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use memtrace_format::AllocatorKind as Kind;
use memtrace_format::record::notice;

use crate::elf::Object;
use crate::guard::Guard;
use crate::lifecycle::enter;
use crate::{meta, recorder, sys};

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
/// Wrappings over the life of a program; each re-initialisation may take three.
const MAX_SLOTS: usize = 3 * 256;

struct Slots([UnsafeCell<Option<Allocator>>; MAX_SLOTS]);

// SAFETY: a slot is written once, by the thread that took its number, before its address is handed out.
unsafe impl Sync for Slots {}

static SLOTS: Slots = Slots([const { UnsafeCell::new(None) }; MAX_SLOTS]);
static N_SLOTS: AtomicUsize = AtomicUsize::new(0);
/// `PyMem_GetAllocator` and `PyMem_SetAllocator`; 0 when objects are not recorded.
static GET_ALLOCATOR: AtomicUsize = AtomicUsize::new(0);
static SET_ALLOCATOR: AtomicUsize = AtomicUsize::new(0);

type Accessor = unsafe extern "C" fn(c_int, *mut Allocator);

/// The functions that the domains start with: malloc's, pymalloc's.
static FIRST_RAW_MALLOC: AtomicUsize = AtomicUsize::new(0);
static FIRST_OBJECT_MALLOC: AtomicUsize = AtomicUsize::new(0);

/// Wraps the domains of a newly found interpreter. `false` when they can't be.
pub fn adopt(guard: &Guard, object: Object, is_known: bool) -> bool {
    let (get, set) = (object.symbol(c"PyMem_GetAllocator"), object.symbol(c"PyMem_SetAllocator"));
    let (Some(get), Some(set), true) = (get, set, is_known) else {
        meta::notice(guard, notice::NO_PYTHON_ALLOCATORS, b"this CPython is not supported");
        return false;
    };
    SET_ALLOCATOR.store(set, Ordering::Release);
    GET_ALLOCATOR.store(get, Ordering::Release);
    for (domain, first) in [(RAW, &FIRST_RAW_MALLOC), (OBJECT, &FIRST_OBJECT_MALLOC)] {
        if let Some((found, _)) = allocator_of(domain) {
            first.store(found.malloc as usize, Ordering::Relaxed);
        }
    }
    true
}

/// Wraps the domains whose allocator is not a wrapper of ours. The name of the allocator that hands out objects
/// (`pymalloc`, `malloc_debug`, …) when it is a new one.
pub fn wrap(guard: &Guard) -> Option<&'static str> {
    let mut name = None;
    for domain in [RAW, MEM, OBJECT] {
        let (found, set) = allocator_of(domain)?;
        if ptr::fn_addr_eq(found.malloc, OURS.malloc) {
            continue;
        }
        let slot = N_SLOTS.fetch_add(1, Ordering::AcqRel);
        let Some(place) = SLOTS.0.get(slot) else {
            N_SLOTS.store(MAX_SLOTS + 1, Ordering::Release);
            if slot == MAX_SLOTS {
                meta::notice(guard, notice::NO_PYTHON_ALLOCATORS, b"the interpreter was initialised too often");
            }
            return None;
        };
        // SAFETY: the slot is this call's alone.
        unsafe { *place.get() = Some(found) };
        let mut ours = Allocator { ctx: place.get().cast(), ..OURS };
        // SAFETY: the function of this name and type; it copies the structure.
        unsafe { set(domain, &mut ours) };
        if domain == OBJECT {
            name = Some(name_of(&found));
        }
    }
    name
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
fn name_of(allocator: &Allocator) -> &'static str {
    let is_debug = !allocator.ctx.is_null();
    // The context of a debug allocator is `debug_alloc_api_t` (`Objects/obmalloc.c`): a letter, then the allocator
    // below. Another allocator's own context has another word there, or can't be read.
    let below = if is_debug { sys::read_word(allocator.ctx as usize + 16) } else { Some(allocator.malloc as usize) };
    let is = |first: &AtomicUsize| below == Some(first.load(Ordering::Relaxed));
    match (is(&FIRST_RAW_MALLOC), is(&FIRST_OBJECT_MALLOC), is_debug) {
        (true, _, false) => "malloc",
        (true, _, true) => "malloc_debug",
        (_, true, false) => "pymalloc",
        (_, true, true) => "pymalloc_debug",
        _ => "custom",
    }
}

const OURS: Allocator = Allocator { ctx: ptr::null_mut(), malloc, calloc, realloc, free };

/// The allocator behind a wrapper.
///
/// # Safety
/// `ctx` is what `wrap` handed out.
#[inline(always)]
unsafe fn inner(ctx: Pointer) -> &'static Allocator {
    // SAFETY: slots are static, and filled before their address is handed out.
    unsafe { (*ctx.cast::<Option<Allocator>>()).as_ref().unwrap_unchecked() }
}

#[inline(always)]
fn allocate(kind: Kind, size: usize, real: impl FnOnce() -> Pointer) -> Pointer {
    let Some(guard) = enter() else {
        return real();
    };
    let block = guard.in_allocator(real);
    recorder::allocated(&guard, kind, block, size);
    block
}

unsafe extern "C" fn malloc(ctx: Pointer, size: usize) -> Pointer {
    // SAFETY: the interpreter's own arguments, here and below.
    allocate(Kind::PymallocMalloc, size, || unsafe {
        let inner = inner(ctx);
        (inner.malloc)(inner.ctx, size)
    })
}

unsafe extern "C" fn calloc(ctx: Pointer, count: usize, size: usize) -> Pointer {
    // SAFETY: as in `malloc`.
    allocate(Kind::PymallocCalloc, count.wrapping_mul(size), || unsafe {
        let inner = inner(ctx);
        (inner.calloc)(inner.ctx, count, size)
    })
}

/// Never frees: size 0 gives a block too, so null is a failure.
unsafe extern "C" fn realloc(ctx: Pointer, block: Pointer, size: usize) -> Pointer {
    // SAFETY: as in `malloc`.
    let real = || unsafe {
        let inner = inner(ctx);
        (inner.realloc)(inner.ctx, block, size)
    };
    let Some(guard) = enter() else {
        return real();
    };
    recorder::freeing(&guard, Kind::PymallocFree, block);
    let new = guard.in_allocator(real);
    if new.is_null() && !block.is_null() {
        recorder::restored(&guard);
    } else {
        recorder::allocated(&guard, Kind::PymallocRealloc, new, size);
    }
    new
}

unsafe extern "C" fn free(ctx: Pointer, block: Pointer) {
    // SAFETY: as in `malloc`.
    let real = || unsafe {
        let inner = inner(ctx);
        (inner.free)(inner.ctx, block)
    };
    match enter() {
        None => real(),
        Some(guard) => {
            recorder::freeing(&guard, Kind::PymallocFree, block);
            guard.in_allocator(real);
        }
    }
}
