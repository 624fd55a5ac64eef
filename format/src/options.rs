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
    pub native_stacks: NativeStacks,
    /// Record children as well, and theirs, each into a log of its own.
    pub follow_fork: bool,
}

/// Whether the native stack of every event is recorded beside the Python stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeStacks {
    Never,
    /// In a program that starts without an interpreter, and so has no other stacks. The recorder looks: of a file that
    /// starts one (`env`, a shell script) only the program that it becomes can tell.
    WithoutPython,
    Always,
}

const PYTHON_ALLOCATORS: u32 = 1;
const NATIVE_STACKS: u32 = 2;
const NATIVE_STACKS_WITHOUT_PYTHON: u32 = 4;
const FOLLOW_FORK: u32 = 8;

impl RecordOptions {
    pub fn to_bits(self) -> u32 {
        let native_stacks = match self.native_stacks {
            NativeStacks::Never => 0,
            NativeStacks::WithoutPython => NATIVE_STACKS_WITHOUT_PYTHON,
            NativeStacks::Always => NATIVE_STACKS,
        };
        let flag = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        native_stacks | flag(self.python_allocators, PYTHON_ALLOCATORS) | flag(self.follow_fork, FOLLOW_FORK)
    }

    /// Unknown bits are ignored.
    pub fn from_bits(bits: u32) -> RecordOptions {
        let native_stacks = match (bits & NATIVE_STACKS, bits & NATIVE_STACKS_WITHOUT_PYTHON) {
            (0, 0) => NativeStacks::Never,
            (0, _) => NativeStacks::WithoutPython,
            _ => NativeStacks::Always,
        };
        let (python_allocators, follow_fork) = (bits & PYTHON_ALLOCATORS != 0, bits & FOLLOW_FORK != 0);
        RecordOptions { python_allocators, native_stacks, follow_fork }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_their_number() {
        for (python_allocators, follow_fork) in [(false, false), (false, true), (true, false), (true, true)] {
            for native_stacks in [NativeStacks::Never, NativeStacks::WithoutPython, NativeStacks::Always] {
                let options = RecordOptions { python_allocators, native_stacks, follow_fork };
                assert_eq!(RecordOptions::from_bits(options.to_bits()), options);
            }
        }
    }
}
