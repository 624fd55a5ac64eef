//! `syscall`, for one of its numbers: libseccomp restricts a program's system calls by it. All others go straight on.
//!
//! # Safety
//! Dangerous: a function without a frame that must keep all of its arguments, up to seven.

use core::arch::naked_asm;
use core::ffi::c_long;

use crate::{abi, lifecycle, real};

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn syscall(number: c_long) -> c_long {
    naked_asm!(
        "push rdi", "push rsi", "push rdx", "push rcx", "push r8", "push r9", "sub rsp, 8",
        "call {before}",
        "add rsp, 8", "pop r9", "pop r8", "pop rcx", "pop rdx", "pop rsi", "pop rdi",
        "jmp rax",
        before = sym before_syscall,
    )
}

extern "C" fn before_syscall(number: c_long) -> usize {
    if number == abi::SYS_SECCOMP {
        lifecycle::stop_for_seccomp();
    }
    real::SYSCALL.address()
}
