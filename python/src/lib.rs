//! The extension module `memtrace._memtrace`: captures as objects of Python, in memray's terms. The package around it
//! (`python/memtrace`) has the signatures and the documentation.
//!
//! ```text
//!   Capture ── pass      one reading when it is opened: heap at its highest and at the end, samples, numbers
//!      │
//!      ├─ ObjectRecords         lifetimes of objects
//!      └─ Records ── rows       events or sums, as columns of numbers
//!            │         temporal   the same over time
//!            │
//!            ├─ AllocationRecord, TemporalAllocationRecord ── names    stacks as lists of tuples
//!            └─ arrow           columns handed over without copying
//!
//!   Connection    the same of a recording that goes on, in this process or another one
//!
//!   Tracker ── recorder    the C functions of the library that lives in this process
//!      ├────── survivors   objects that were made meanwhile and live
//!      ├────── watcher     samples, compression, answers to readers, forked children, the end of the log
//!      └────── threads     what Python calls its threads
//! ```
//!
//! Everything here may be called from any thread; reading lets the interpreter go on.

#![deny(unsafe_code)]

mod ahead;
mod allocator;
mod arrow;
mod capture;
mod connection;
mod error;
mod lock;
mod names;
mod objects;
mod pass;
mod record;
mod recorder;
mod records;
mod rows;
mod statistics;
mod survivors;
mod temporal;
mod threads;
mod tracker;
mod watcher;

use pyo3::prelude::*;

/// What `memtrace` re-exports or builds on.
#[pymodule(gil_used = false)]
mod _memtrace {
    #[pymodule_export]
    use crate::capture::Capture;
    #[pymodule_export]
    use crate::capture::dump;
    #[pymodule_export]
    use crate::connection::Connection;
    #[pymodule_export]
    use crate::objects::ObjectRecords;
    #[pymodule_export]
    use crate::record::{AllocationRecord, Interval, TemporalAllocationRecord, TrackedObjectRecord};
    #[pymodule_export]
    use crate::records::{Records, TemporalRecords};
    #[pymodule_export]
    use crate::tracker::{Tracker, after_fork_in_child};
}
