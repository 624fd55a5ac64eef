//! A log as a stream of events in the order of time; tolerant of a cut-off end, of damage, and of a program that is
//! still writing.
//!
//! ```text
//! file ── scan ──> blocks ──> lanes ── merge ──> batches of records ──> events
//!                     └─ metadata ──> model ────────────────────────────┘
//! ```
//!
//! A log that grows is read in steps (`follow`). Up to the batches, a long log is decoded on a thread of its own.
//!
//! The file is read in pieces and never mapped: it may shrink under us. No number in it is believed before it was
//! compared with the bytes that are there.

mod ahead;
mod batch;
pub mod blocks;
pub mod count;
mod events;
mod file;
pub mod follow;
pub mod info;
mod lane;
mod merge;
mod metadata;
mod payload;
mod range;
mod search;

pub use file::Capture;

#[cfg(test)]
mod tests;
