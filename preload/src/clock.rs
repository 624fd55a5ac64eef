//! The clock that orders the events of a shared turn: ticks of the time stamp counter, or of a counter in the log's first
//! page where the launcher found that the processors' counters can't be compared.
//!
//! # Safety
//! Dangerous: an instruction that not every processor has. The launcher checked that this one has it.

use core::arch::x86_64::{__rdtscp, _rdtsc};
use core::sync::atomic::Ordering;

use memtrace_format as format;

use crate::sink::{Log, LogHeader};

/// Now, in ticks.
///
/// `rdtscp` waits for the instructions before it, so that the stamp of an allocation is later than the allocation;
/// stores after it become visible after it, so that the stamp of a free is earlier than the free.
#[inline(always)]
pub fn now(log: &Log) -> u64 {
    if log.uses_counter() { counter(log.header()) } else { tsc() }
}

#[inline(always)]
fn tsc() -> u64 {
    let mut processor = 0;
    // SAFETY: every x86-64 processor with an invariant counter, which the launcher checked, has the instruction.
    unsafe { __rdtscp(&mut processor) / format::TICK_DIVISOR }
}

/// Cycles, to tell whether two moments of a thread are near each other.
pub fn cycles() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _rdtsc() }
}

#[cold]
fn counter(header: LogHeader) -> u64 {
    header.counter().fetch_add(1, Ordering::AcqRel)
}
