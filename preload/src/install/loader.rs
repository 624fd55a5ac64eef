//! `dlopen`, `dlmopen`, `dlclose`, `dlsym`, `dlvsym`. All but `dlclose` end in a *jump* to the real function: it looks at
//! its return address to find its caller, whose RUNPATH, `$ORIGIN`, namespace and place in the search order count.
//! `dlsym` answers the names of the table with the hooks, so that `ctypes.CDLL("libc.so.6").malloc` is seen.
//!
//! # Safety
//! Dangerous: functions without a frame. Each saves its argument registers, keeps the stack aligned, calls a Rust
//! function, restores and jumps. The work before the jump runs where the program is about to take the loader's lock
//! itself, so taking it there adds no order of locks.

use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};

use memtrace_format::record::notice;

use crate::abi;
use crate::guard::{self, Guard};
use crate::hooks::TABLE;
use crate::install::got;
use crate::real::{self, Real};
use crate::{elf, lane, lifecycle, meta, python, sys, unwind};

/// Set when objects may have come or gone; the next call of the loader looks again.
static OBJECTS_CHANGED: AtomicU32 = AtomicU32::new(0);
const CHANGED: u32 = 1;
const IN_A_NAMESPACE: u32 = 2;

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        "push rdi", "push rsi", "sub rsp, 8",
        "call {before}",
        "add rsp, 8", "pop rsi", "pop rdi",
        "jmp rax",
        before = sym before_dlopen,
    )
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn dlmopen(namespace: isize, path: *const c_char, flags: c_int) -> *mut c_void {
    naked_asm!(
        "push rdi", "push rsi", "push rdx",
        "call {before}",
        "pop rdx", "pop rsi", "pop rdi",
        "jmp rax",
        before = sym before_dlmopen,
    )
}

/// Has no use for its caller, and so may have one of ours.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn dlclose(handle: *mut c_void) -> c_int {
    look_again();
    OBJECTS_CHANGED.fetch_max(CHANGED, Ordering::Relaxed);
    let here = 0u8;
    let is_noticed = lifecycle::has_native_stacks() && begin_unloading(&raw const here as usize);
    // SAFETY: the program's own argument.
    let result = unsafe { real::dlclose(handle) };
    if is_noticed && let Some(guard) = Guard::enter() {
        end_unloading(&guard);
    }
    result
}

/// Nothing of what is loaded is read until `end_unloading`. `false` when that is not for this call to say: it comes from
/// a destructor inside another one.
fn begin_unloading(frame: usize) -> bool {
    let Some(guard) = lifecycle::enter() else { return false };
    match lane::of_this_thread(&guard) {
        Some(lane) if lane.unloading > frame => return false,
        // One that was left without our seeing it is over when this one is.
        Some(lane) if lane.unloading != 0 => lane.unloading = frame,
        Some(lane) => {
            lane.unloading = frame;
            unwind::close(&guard);
        }
        None => unwind::close(&guard),
    }
    true
}

fn end_unloading(guard: &Guard) {
    if let Some(lane) = lane::at_hand(guard) {
        lane.unloading = 0;
    }
    unwind::reopen(guard);
}

/// The program is about to jump to a place where its stack pointer is `target`: perhaps out of a destructor, so that
/// `dlclose` never ends.
pub fn leave_by_jump(target: usize) {
    // A handler that interrupted us, and jumps about in itself, leaves nothing.
    if lifecycle::has_native_stacks()
        && !guard::is_held()
        && let Some(guard) = Guard::enter()
        && let Some(lane) = lane::at_hand(&guard)
        && lane.unloading != 0
        && target > lane.unloading
        && sys::signal_stack_in_use().is_none_or(|stack| !stack.contains(&target))
    {
        end_unloading(&guard);
    }
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    naked_asm!(
        "push rdi", "push rsi", "sub rsp, 8",
        "call {before}",
        "add rsp, 8", "pop rsi", "pop rdi",
        "test rax, rax",
        "jz 2f",
        "jmp rax",
        "2: mov rax, rdx",
        "ret",
        before = sym before_dlsym,
    )
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn dlvsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void {
    naked_asm!(
        "push rdi", "push rsi", "push rdx",
        "call {before}",
        // The answer comes in rdx, which is also the third argument.
        "mov rcx, rdx",
        "pop rdx", "pop rsi", "pop rdi",
        "test rax, rax",
        "jz 2f",
        "jmp rax",
        "2: mov rax, rcx",
        "ret",
        before = sym before_dlvsym,
    )
}

/// In two registers: where to jump, or 0 and the answer.
#[repr(C)]
struct Continuation {
    target: usize,
    answer: *mut c_void,
}

extern "C" fn before_dlopen(path: *const c_char, flags: c_int) -> usize {
    look_again();
    // What is patched into its tables is seen.
    if flags & abi::RTLD_DEEPBIND != 0
        && !elf::is_late()
        && !path.is_null()
        && let Some(guard) = lifecycle::enter()
    {
        // SAFETY: the program passed a C string.
        meta::notice(&guard, notice::DEEPBIND, unsafe { CStr::from_ptr(path) }.to_bytes());
    }
    OBJECTS_CHANGED.fetch_max(CHANGED, Ordering::Relaxed);
    real::DLOPEN.address()
}

extern "C" fn before_dlmopen() -> usize {
    look_again();
    OBJECTS_CHANGED.store(IN_A_NAMESPACE, Ordering::Relaxed);
    real::DLMOPEN.address()
}

extern "C" fn before_dlsym(handle: *mut c_void, name: *const c_char) -> Continuation {
    answer(&real::DLSYM, handle, name, || {
        // SAFETY: the program's own arguments.
        unsafe { real::dlsym(handle, name) }
    })
}

extern "C" fn before_dlvsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> Continuation {
    answer(&real::DLVSYM, handle, name, || {
        // SAFETY: the program's own arguments.
        unsafe { real::dlvsym(handle, name, version) }
    })
}

/// A name of the table, asked for by anyone but an interposer, is answered with the hook when the real answer is the
/// function that the hook calls. An interposer (RTLD_NEXT) asks for what comes after itself, and gets it.
fn answer(real: &Real, handle: *mut c_void, name: *const c_char, look: impl FnOnce() -> *mut c_void) -> Continuation {
    look_again();
    let jump = Continuation { target: real.address(), answer: core::ptr::null_mut() };
    if handle == abi::RTLD_NEXT || name.is_null() {
        return jump;
    }
    // SAFETY: the program passed a C string.
    let name = unsafe { CStr::from_ptr(name) };
    let Some(hook) = TABLE.iter().find(|hook| hook.name == name) else {
        return jump;
    };
    let found = look();
    let (ours, real) = (hook.replacement as *mut c_void, hook.real.address());
    // What this libc has not, nobody finds by us.
    let answer = match found {
        found if !found.is_null() && found as usize == real => ours,
        // SAFETY: the program's own name. It fails, so that `dlerror` has what to say.
        found if found == ours && real == 0 => unsafe { real::dlsym(abi::RTLD_NEXT, name.as_ptr()) },
        found => found,
    };
    Continuation { target: 0, answer }
}

/// After objects came or went: do they call us, is there an interpreter now, and are its allocators still wrapped?
fn look_again() {
    if OBJECTS_CHANGED.load(Ordering::Relaxed) != 0
        && let Some(guard) = lifecycle::enter()
    {
        match OBJECTS_CHANGED.swap(0, Ordering::Relaxed) {
            // Of several lists, the new ones do not stand at the end.
            IN_A_NAMESPACE => got::patch_all(&guard),
            _ => got::patch_new(&guard),
        }
        python::look_for_interpreter_now(&guard);
    }
}
