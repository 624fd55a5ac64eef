//! What the recorder's C functions return: how `memtrace_start(log, options, shim)` and `memtrace_stop()` ended. Whoever
//! calls them, from outside or from the Python package, puts it into words.

/// Done.
pub const DONE: i32 = 0;
/// This thread is in the middle of an event; another one, or a little later, will do.
pub const BUSY: i32 = 1;
/// The process is being recorded already.
pub const RECORDING: i32 = 2;
/// There is nothing to stop.
pub const NOT_RECORDING: i32 = 3;
/// The log can't be opened and mapped; the errno stands in the bits from [`ERRNO_SHIFT`] on.
pub const NO_LOG: i32 = 4;
/// The log is of another process or version, or was used before; or the kernel lacks memory, or wipe-on-fork pages
/// (before Linux 4.14). The log may say which ([`stop_reason`](crate::header::stop_reason)).
pub const REFUSED: i32 = 5;

/// An object that was made while lifetimes were recorded, and lives when that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Survivor {
    /// Counted from 1 in the order in which objects were made.
    pub number: u64,
    pub address: u64,
}

pub const ERRNO_SHIFT: u32 = 8;

/// One of the numbers above, and the errno or 0.
pub fn parts(answer: i32) -> (i32, i32) {
    (answer & ((1 << ERRNO_SHIFT) - 1), answer >> ERRNO_SHIFT)
}
