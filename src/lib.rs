//! memtrace, the outside program as a library.
pub mod cli;
pub mod commands;
pub mod launch;

pub mod capture;
