//! One file per subcommand, each a short story over the modules that do the work.
//! Each returns the exit code, or an error that `main` prints.

pub mod load;
mod names;
pub mod native;
mod output;
pub mod pages;
mod progress;
pub mod range;
pub mod read;

pub mod aggregate;
pub mod behind;
pub mod feed;

pub mod attach;
pub mod bundle;
pub mod ctl;
pub mod diff;
pub mod flamegraph;
pub mod live;
pub mod parse;
mod remote;
pub mod run;
pub mod stats;
pub mod summary;
pub mod table;
pub mod transform;
pub mod tree;
