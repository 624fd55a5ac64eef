//! How hooks come to be called, beyond being exported: the loader's functions, the exec family, CPython's allocators.

pub mod exec;
pub mod loader;
pub mod pymem;
