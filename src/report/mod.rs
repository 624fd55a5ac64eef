//! Outputs, one file each: a value, options and a writer. Reports never read logs.

pub mod parse;
pub mod stats;
pub mod summary;
pub mod tree;

pub mod flamegraph;
pub mod html;
mod origin;
pub mod page;
pub mod sources;

pub mod transform;
