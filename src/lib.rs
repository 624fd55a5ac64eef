//! memtrace, the outside program as a library.
pub mod capture;
