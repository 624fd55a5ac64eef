//! A log as an iterator of records.
pub mod info;
