//! `longjmp` and its kin: a signal handler may leave by one, and the hook that it interrupted then never ends; so may the
//! destructor of a library, and `dlclose` never ends. They are hooked to give back what those hold; otherwise they are
//! the real functions.
//!
//! # Safety
//! Dangerous: functions without a frame, and a look into glibc's `jmp_buf`. On x86-64 its seventh word is the stack
//! pointer to return to, xored with a secret of the thread control block and rotated (glibc's `PTR_MANGLE`, the same
//! since 2005). With another layout we would keep or drop a guard wrongly, and lose events; nothing is written there.

use core::arch::{asm, naked_asm};

use crate::install::loader;
use crate::{guard, real};

macro_rules! jump {
    ($name:ident, $real:ident, $before:ident) => {
        extern "C" fn $before(buffer: *const usize) -> usize {
            // SAFETY: the program passes a filled `jmp_buf`.
            let target = unsafe { stack_pointer_in(buffer) };
            guard::leave_by_jump(target);
            loader::leave_by_jump(target);
            real::$real.address()
        }

        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name(buffer: *const usize, value: i32) -> ! {
            naked_asm!(
                "push rdi", "push rsi", "sub rsp, 8",
                "call {before}",
                "add rsp, 8", "pop rsi", "pop rdi",
                "jmp rax",
                before = sym $before,
            )
        }
    };
}

jump!(longjmp, LONGJMP, before_longjmp);
jump!(_longjmp, UNDERSCORE_LONGJMP, before_underscore_longjmp);
jump!(siglongjmp, SIGLONGJMP, before_siglongjmp);
jump!(__longjmp_chk, LONGJMP_CHK, before_longjmp_chk);

/// Which word of a `jmp_buf` is the stack pointer.
const STACK_POINTER: usize = 6;
const ROTATION: u32 = 17;

/// Where the stack pointer will be after the jump.
///
/// # Safety
/// `buffer` is a filled `jmp_buf`.
unsafe fn stack_pointer_in(buffer: *const usize) -> usize {
    // SAFETY: as the caller says.
    let mangled = unsafe { buffer.add(STACK_POINTER).read() };
    let secret: usize;
    // SAFETY: reads a word of the thread control block.
    unsafe { asm!("mov {}, qword ptr fs:[0x30]", out(reg) secret, options(nostack, preserves_flags, pure, readonly)) };
    mangled.rotate_right(ROTATION) ^ secret
}
