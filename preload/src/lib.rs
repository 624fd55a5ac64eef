//! The recorder inside the program: hooks → recorder → stacks and sink. Loaded by `LD_PRELOAD` into programs of any
//! kind, or late into a running one, it is a guest there.
//!
//! # Rules of living inside
//! * The program comes first: whatever fails, the program runs on. Record less, count what was lost, say why once.
//! * No allocation from the program's allocator, no lock of the program's or the loader's in an allocation, no thread
//!   of ours, no call into Python beyond reading structures, no panic.
//! * System calls are raw (`sys`), and errno stays what the real function made it.
//! * Nothing is ever unmapped or restored that another thread could still use.
//! * Unsafe code has an address: each module that needs it says at its top what is dangerous and what it promises.
//!
//! # Reading order
//! `hooks` is the table of replaced symbols; `recorder` the verbs they use; `guard` how a thread knows that it is inside;
//! `lifecycle` when anything is recorded at all, `control` who says so in a running process; `lane` what a thread writes
//! with; `stacks` and `python` where it stands, `caller`, `native` and `unwind` where in native code, `rings` what of both
//! came up before; `turns` in which order; `sink` how bytes reach the log.

#![cfg_attr(not(test), no_std)]

mod abi;
mod caller;
mod child;
mod clock;
mod control;
mod elf;
mod environment;
mod guard;
mod heap;
mod hooks;
mod install;
mod lane;
mod lifecycle;
mod lock;
mod meta;
mod native;
mod python;
mod real;
mod recorder;
mod rings;
mod sink;
mod stacks;
mod sys;
mod turns;
mod unwind;

use core::ffi::{c_char, c_int};

/// Called by the loader before all other constructors (see `build.rs`); libc itself is not initialised yet.
extern "C" fn constructor(_argc: c_int, _argv: *mut *mut c_char, environment: *mut *mut c_char) {
    if !environment.is_null() {
        lifecycle::start(environment);
        environment::clean(environment);
    }
    // Earlier constructors may have replaced the array by setting variables; `main` is handed the first one.
    let current = environment::current();
    if !current.is_null() && current != environment {
        environment::clean(current);
    }
}

/// Called by the loader when the program exits. Recording goes on: later destructors free memory too.
extern "C" fn destructor() {
    lifecycle::flush();
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static CONSTRUCTOR: extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) = constructor;

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".fini_array"))]
static DESTRUCTOR: extern "C" fn() = destructor;

/// A panic is a bug of ours. The program does not pay for it: recording ends and the thread goes on where it can't,
/// by leaving the hook for ever; a test shows that the released library holds no panic at all.
#[cfg(all(panic = "abort", not(test)))]
#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    lifecycle::switch_off();
    sys::abort()
}

// The precompiled core library names the unwinder's entry, which nothing calls when a panic aborts.
#[cfg(all(panic = "abort", not(test)))]
core::arch::global_asm!(".globl rust_eh_personality", ".hidden rust_eh_personality", "rust_eh_personality:", "ud2");

// The unwinding build exists for `cargo test` only; it links std, which brings the handler.
#[cfg(all(panic = "unwind", not(test)))]
extern crate std as _std;
