//! Outputs, one file each: a value, options and a writer. Reports never read logs.

pub mod diff;
pub mod parse;
pub mod stats;
pub mod stems;
pub mod summary;
pub mod table;
pub mod tree;

pub mod cut;
pub mod html;
pub mod origin;
pub mod page;
pub mod printable;
pub mod sources;
pub mod svg;

pub mod transform;
