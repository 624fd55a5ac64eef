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
use crate::guard::Guard;
use crate::hooks::TABLE;
use crate::real::{self, Real};
use crate::{lifecycle, meta, python, unwind};

/// Set when objects may have come or gone; the next call of the loader looks again.
static OBJECTS_CHANGED: AtomicU32 = AtomicU32::new(0);

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
    OBJECTS_CHANGED.store(1, Ordering::Relaxed);
    let is_noticed =
        lifecycle::options().native_stacks && lifecycle::enter().map(|guard| unwind::close(&guard)).is_some();
    // SAFETY: the program's own argument.
    let result = unsafe { real::dlclose(handle) };
    if is_noticed && let Some(guard) = Guard::enter() {
        unwind::reopen(&guard);
    }
    result
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
    if flags & abi::RTLD_DEEPBIND != 0
        && !path.is_null()
        && let Some(guard) = lifecycle::enter()
    {
        // SAFETY: the program passed a C string.
        meta::notice(&guard, notice::DEEPBIND, unsafe { CStr::from_ptr(path) }.to_bytes());
    }
    OBJECTS_CHANGED.store(1, Ordering::Relaxed);
    real::DLOPEN.address()
}

extern "C" fn before_dlmopen() -> usize {
    look_again();
    OBJECTS_CHANGED.store(1, Ordering::Relaxed);
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
    let is_replaced = !found.is_null() && found as usize == hook.real.address();
    Continuation { target: 0, answer: if is_replaced { hook.replacement as *mut c_void } else { found } }
}

/// After objects came or went: is there an interpreter now, and are its allocators still wrapped?
fn look_again() {
    if OBJECTS_CHANGED.load(Ordering::Relaxed) != 0
        && let Some(guard) = lifecycle::enter()
    {
        OBJECTS_CHANGED.store(0, Ordering::Relaxed);
        python::look_for_interpreter_now(&guard);
    }
}
