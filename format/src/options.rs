//! What the launcher asks of the recorder, and its one encoding in the environment.
//!
//! The launcher sets the variables below beside `LD_PRELOAD`; the recorder's constructor takes all of them out again
//! and restores the user's own `LD_PRELOAD`, so the program sees the environment that it would have had.

/// Absolute path of the log, which exists and holds a valid header.
pub const CAPTURE_VAR: &str = "MEMTRACE_CAPTURE";
/// The options as a decimal number ([`RecordOptions::to_bits`]).
pub const OPTIONS_VAR: &str = "MEMTRACE_OPTIONS";
/// The user's own `LD_PRELOAD`; absent when there was none.
pub const USER_PRELOAD_VAR: &str = "MEMTRACE_LD_PRELOAD";
/// Set to 1 by the user: every captured stack is compared with the interpreter's own account of it. Left in place.
pub const SELF_CHECK_VAR: &str = "MEMTRACE_SELF_CHECK";

/// How to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordOptions {
    /// Record CPython's `PyMem`, `PyObject` and raw domains one object at a time.
    pub python_allocators: bool,
    /// Record the native stack of every event beside the Python stack.
    pub native_stacks: bool,
}

const PYTHON_ALLOCATORS: u32 = 1;
const NATIVE_STACKS: u32 = 2;

impl RecordOptions {
    pub fn to_bits(self) -> u32 {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        bit(self.python_allocators, PYTHON_ALLOCATORS) | bit(self.native_stacks, NATIVE_STACKS)
    }

    /// Unknown bits are ignored.
    pub fn from_bits(bits: u32) -> RecordOptions {
        RecordOptions { python_allocators: bits & PYTHON_ALLOCATORS != 0, native_stacks: bits & NATIVE_STACKS != 0 }
    }
}
