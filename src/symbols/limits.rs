//! What reading the debug information of one module may cost, so that no file can hold up or end a report.
//!
//! DWARF is full of references, and a few bytes can ask for endless work: range lists shared by every function, a line
//! table for each unit that names it, inlined functions nested until the stack is used up. `addr2line` follows them all.
//! Its readers (`bytes.rs`) therefore ask here before each step, and an error is the answer when it is enough.
//!
//! The debug information of CPython's library and of the C library, asked for 5000 addresses, take half a step to three
//! quarters of one per byte, lookups included.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Each byte that is there may be read in as many steps, over all lookups together.
const STEPS_PER_BYTE: u64 = 8;
/// What each lookup may take besides.
const STEPS_PER_LOOKUP: u64 = 64 << 10;
/// How much of the stack a lookup may use; threads that Rust starts have 2 MiB.
const MAX_STACK_BYTES: usize = 1 << 20;

/// Shared by all readers of one module's debug information, which one thread at a time uses.
#[derive(Debug, Default)]
pub struct Limits {
    steps_left: AtomicU64,
    stack_base: AtomicUsize,
    is_exhausted: AtomicBool,
}

impl Limits {
    /// There are so many more bytes to read.
    pub fn add_bytes(&self, len: u64) {
        self.add_steps(len.saturating_mul(STEPS_PER_BYTE));
    }

    /// A lookup begins here, on this stack.
    #[inline(never)]
    pub fn begin_lookup(&self) {
        self.add_steps(STEPS_PER_LOOKUP);
        self.stack_base.store(stack_pointer(), Relaxed);
    }

    /// Whether these steps may be taken; each of them is a read of a few bytes.
    #[inline]
    pub fn allow(&self, n_steps: u64) -> bool {
        let left = self.steps_left.load(Relaxed);
        // Not an atomic subtraction: it costs more than the read, and there is one thread.
        self.steps_left.store(left.saturating_sub(n_steps), Relaxed);
        let stack_used = self.stack_base.load(Relaxed).saturating_sub(stack_pointer());
        let is_allowed = left >= n_steps && stack_used < MAX_STACK_BYTES;
        if !is_allowed {
            self.is_exhausted.store(true, Relaxed);
        }
        is_allowed
    }

    /// Whether a step was refused.
    pub fn is_exhausted(&self) -> bool {
        self.is_exhausted.load(Relaxed)
    }

    fn add_steps(&self, n_steps: u64) {
        self.steps_left.store(self.steps_left.load(Relaxed).saturating_add(n_steps), Relaxed);
    }
}

/// Where the stack stands, near enough.
#[inline(always)]
fn stack_pointer() -> usize {
    let mark = 0_u8;
    (&raw const mark).addr()
}
