//! From frame to frame: one step of unwinding, on words that lie in the thread's own stack and nowhere else.
//!
//! # Safety
//! Dangerous: reads the return address of a hook that is running.

use super::rule::{Cfa, Rule};
use crate::caller::Caller;

/// What is known of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Of a caller, the return address.
    pub pc: u64,
    pub sp: u64,
    pub bp: u64,
    /// `pc` is where a signal came in, and not behind a call.
    pub is_interrupted: bool,
}

/// Words of a stack.
pub trait Stack {
    /// The word at an address; `None` when that is not in the stack.
    fn word(&self, address: u64) -> Option<u64>;
}

/// From where a frame goes on.
pub enum Step {
    Caller(Registers),
    /// It was the outermost one.
    End,
    /// It can't be followed.
    Cut,
}

impl Registers {
    /// Those of a function that called a hook, when it will go on.
    #[inline(always)]
    pub fn of_caller(caller: Caller) -> Registers {
        // SAFETY: a hook's return address lies where its stack pointer was when it was entered, and it has not returned.
        let pc = unsafe { *(caller.sp as *const u64) };
        Registers { pc, sp: caller.sp as u64 + 8, bp: caller.bp as u64, is_interrupted: false }
    }

    /// The address by which the frame's code is known: a return address may belong to the next function already.
    #[inline(always)]
    pub fn code_address(&self) -> u64 {
        if self.is_interrupted { self.pc } else { self.pc.wrapping_sub(1) }
    }

    #[inline(always)]
    pub fn step(&self, rule: Rule, stack: &impl Stack) -> Step {
        match rule {
            Rule::End => Step::End,
            Rule::Unknown => Step::Cut,
            Rule::Signal => self.interrupted(stack).map_or(Step::Cut, Step::Caller),
            Rule::Frame { cfa, rbp } => match self.caller(cfa, rbp, stack) {
                // What started a thread or a coroutine leaves no return address.
                Some(Registers { pc: 0, .. }) => Step::End,
                Some(caller) => Step::Caller(caller),
                None => Step::Cut,
            },
        }
    }

    #[inline(always)]
    fn caller(&self, cfa: Cfa, rbp: Option<i32>, stack: &impl Stack) -> Option<Registers> {
        let at = |register: u64, offset: i32| register.wrapping_add_signed(offset.into());
        let sp = match cfa {
            Cfa::Rsp(offset) => at(self.sp, offset),
            Cfa::Rbp(offset) => at(self.bp, offset),
            Cfa::AtRsp(offset) => stack.word(at(self.sp, offset))?,
            Cfa::AtRbp(offset) => stack.word(at(self.bp, offset))?,
            Cfa::Plt(second) => at(self.sp, if self.pc & 15 >= second.into() { 16 } else { 8 }),
        };
        // Frames lie above each other, so this always ends.
        if sp <= self.sp {
            return None;
        }
        let pc = stack.word(sp.wrapping_sub(8))?;
        let bp = match rbp {
            Some(offset) => stack.word(at(sp, offset))?,
            None => self.bp,
        };
        Some(Registers { pc, sp, bp, is_interrupted: false })
    }

    /// The `ucontext` that the kernel put on the stack (`asm/ucontext.h`, `asm/sigcontext.h`): five words, then r8 to
    /// r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    #[cold]
    #[inline(never)]
    fn interrupted(&self, stack: &impl Stack) -> Option<Registers> {
        let word = |index: u64| stack.word(self.sp.wrapping_add(8 * index));
        Some(Registers { bp: word(15)?, sp: word(20)?, pc: word(21)?, is_interrupted: true })
    }
}
