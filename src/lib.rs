//! memtrace, the outside program as a library.
#![deny(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod control;
pub mod launch;

pub mod aggregate;
pub mod attach;

pub mod analysis;
pub mod capture;
pub mod model;
pub mod report;
pub mod symbols;
pub mod terminal;
pub mod units;

// Tests of the folds and of the program write their logs with the same code.
#[cfg(test)]
extern crate self as memtrace;
#[cfg(test)]
#[path = "../tests/support/log.rs"]
mod testlog;
