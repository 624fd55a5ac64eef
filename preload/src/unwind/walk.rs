//! From frame to frame: one step of unwinding, on words that lie in the thread's own stack and nowhere else.
//!
//! # Safety
//! Dangerous: reads the return address of a hook that is running.

use super::rule::{Cfa, Packed, Rule};
use crate::caller::Caller;

/// What is known of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Of a caller, the return address.
    pub pc: u64,
    pub sp: u64,
    pub bp: u64,
    pub at: At,
}

/// What is at `pc`. A whole word: a frame that is read right after only a byte of it was written keeps the processor
/// waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum At {
    /// What comes behind a call.
    Return = 0,
    /// Where a signal came in.
    Interruption = 1,
}

/// Words of a stack.
pub trait Stack {
    /// The word at an address; `None` when that is not in the stack.
    fn word(&self, address: u64) -> Option<u64>;
}

/// From where a frame goes on.
#[derive(Debug, PartialEq, Eq)]
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
        Registers { pc, sp: caller.sp as u64 + 8, bp: caller.bp as u64, at: At::Return }
    }

    /// The address by which the frame's code is known: a return address may belong to the next function already.
    #[inline(always)]
    pub fn code_address(&self) -> u64 {
        match self.at {
            At::Return => self.pc.wrapping_sub(1),
            At::Interruption => self.pc,
        }
    }

    #[inline(always)]
    pub fn step(&self, rule: Packed, stack: &impl Stack) -> Step {
        if rule.is_plain() { found(self.plain_caller(rule, stack)) } else { self.step_by(rule.unpack(), stack) }
    }

    /// The same for every rule.
    #[cold]
    #[inline(never)]
    pub fn step_by(&self, rule: Rule, stack: &impl Stack) -> Step {
        match rule {
            Rule::End => Step::End,
            Rule::Unknown => Step::Cut,
            Rule::Signal => self.interrupted(stack).map_or(Step::Cut, Step::Caller),
            Rule::Frame { cfa, rbp } => found(self.caller(cfa, rbp, stack)),
        }
    }

    /// Chooses values and not ways: which of them it is changes from frame to frame.
    #[inline(always)]
    fn plain_caller(&self, rule: Packed, stack: &impl Stack) -> Option<Registers> {
        let base = if rule.is_on_rbp() { self.bp } else { self.sp };
        let sp = base.wrapping_add_signed(rule.cfa_offset());
        if sp <= self.sp {
            return None;
        }
        let return_address = sp.wrapping_sub(8);
        let pc = stack.word(return_address)?;
        let saved = rule.rbp_offset();
        let word = stack.word(if saved == 0 { return_address } else { sp.wrapping_add_signed(saved) })?;
        let bp = if saved == 0 { self.bp } else { word };
        Some(Registers { pc, sp, bp, at: At::Return })
    }

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
        Some(Registers { pc, sp, bp, at: At::Return })
    }

    /// The `ucontext` that the kernel put on the stack (`asm/ucontext.h`, `asm/sigcontext.h`): five words, then r8 to
    /// r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    #[cold]
    #[inline(never)]
    fn interrupted(&self, stack: &impl Stack) -> Option<Registers> {
        let word = |index: u64| stack.word(self.sp.wrapping_add(8 * index));
        Some(Registers { bp: word(15)?, sp: word(20)?, pc: word(21)?, at: At::Interruption })
    }
}

#[inline(always)]
fn found(caller: Option<Registers>) -> Step {
    match caller {
        // What started a thread or a coroutine leaves no return address.
        Some(Registers { pc: 0, .. }) => Step::End,
        Some(caller) => Step::Caller(caller),
        None => Step::Cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a stack at an address of its own.
    struct Words(Vec<u64>);

    const START: u64 = 0x7000;

    impl Stack for Words {
        fn word(&self, address: u64) -> Option<u64> {
            let offset = address.checked_sub(START).filter(|offset| offset % 8 == 0)?;
            self.0.get(offset as usize / 8).copied()
        }
    }

    #[test]
    fn a_plain_step_is_the_one_of_the_whole_rule() {
        let mut state = 7u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) % n
        };
        let mut n_callers = 0;
        for _ in 0..200_000 {
            let stack =
                Words((0..1 + random(20)).map(|_| [0, START + random(200), 1 << 40][random(3) as usize]).collect());
            let place = |words: u64| START - 8 + 8 * words;
            let registers = Registers { pc: 1, sp: place(random(24)), bp: place(random(24)), at: At::Return };
            // Now and then not a whole word.
            let offset = 8 * random(14) as i32 - 16 + if random(8) == 0 { 3 } else { 0 };
            let cfa = if random(2) == 0 { Cfa::Rbp(offset) } else { Cfa::Rsp(offset) };
            let rbp = Some(8 * random(9) as i32 - 48).filter(|offset| *offset != 0);
            let rule = Packed::new(Rule::Frame { cfa, rbp });
            assert!(rule.is_plain());
            let step = registers.step(rule, &stack);
            assert_eq!(
                step,
                registers.step_by(rule.unpack(), &stack),
                "{registers:?} {:?} {:?}",
                rule.unpack(),
                stack.0
            );
            n_callers += u32::from(matches!(step, Step::Caller(_)));
        }
        assert!(n_callers > 10_000, "{n_callers} had a caller");
    }
}
