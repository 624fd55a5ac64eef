//! Native stacks of programs whose stacks are known, alone and joined with the Python ones. Every one of them is also
//! compared with a fresh walk while it is recorded.

mod build;
mod ctypes;
mod cython;
mod libraries;
mod memray;
mod outside;
mod programs;
mod python;
mod recorded;
#[path = "../support/mod.rs"]
mod support;
mod written;
