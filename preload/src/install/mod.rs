//! How hooks come to be called, beyond being exported: import tables of a running program, the loader's functions, the
//! exec family, the shell, jumps out of signal handlers, CPython's allocators.

pub mod exec;
pub mod got;
pub mod jumps;
pub mod loader;
pub mod pymem;
pub mod seccomp;
pub mod shell;
