//! Where an event comes from, as registers tell it: noted at the very entry of a hook, before the compiler touches
//! anything, and only when native stacks are wanted.
//!
//! # Safety
//! Dangerous: functions without a frame, which store two registers in the lane of their thread and jump on. Only `rax` is
//! used, which belongs to nobody at a function's entry. A thread inside memtrace notes nothing: what it was called for
//! stands.

use core::sync::atomic::AtomicBool;

use crate::{lane, lifecycle};

/// Whether native stacks are wanted. Set before the first event.
pub static IS_NOTED: AtomicBool = AtomicBool::new(false);

/// What a hook found when it was entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Caller {
    /// Where the return address lies; 0 when nothing was noted yet.
    pub sp: usize,
    pub bp: usize,
}

impl Caller {
    /// Whether it was noted for what is going on now: by a function that is still running.
    pub fn is_above_us(self) -> bool {
        const FAR: usize = 1 << 16;
        let here = &raw const self as usize;
        self.sp >= here && self.sp - here < FAR
    }
}

/// The same for a thread that has no lane yet.
pub extern "C" fn note_first(sp: usize, bp: usize) {
    if let Some(guard) = lifecycle::enter()
        && let Some(lane) = lane::of_this_thread(&guard)
    {
        lane.caller = Caller { sp, bp };
    }
}

/// Notes the caller of a hook and goes on to its body, with all arguments where they were.
#[macro_export]
macro_rules! note_caller {
    ($body:path) => {
        core::arch::naked_asm!(
            "cmp byte ptr [rip + {is_noted}], 0",
            "jne 2f",
            "jmp {body}",
            "2: mov rax, qword ptr [rip + memtrace_tls@GOTTPOFF]",
            "cmp qword ptr fs:[rax], 0",
            "jne 3f",
            "mov rax, qword ptr fs:[rax + 8]",
            "test rax, rax",
            "jz 4f",
            "mov qword ptr [rax], rsp",
            "mov qword ptr [rax + 8], rbp",
            "3: jmp {body}",
            "4: push rdi", "push rsi", "push rdx", "push rcx", "push r8", "push r9", "sub rsp, 8",
            "lea rdi, [rsp + 56]",
            "mov rsi, rbp",
            "call {note_first}",
            "add rsp, 8", "pop r9", "pop r8", "pop rcx", "pop rdx", "pop rsi", "pop rdi",
            "jmp {body}",
            note_first = sym $crate::caller::note_first,
            is_noted = sym $crate::caller::IS_NOTED,
            body = sym $body,
        )
    };
}
