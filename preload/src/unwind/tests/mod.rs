//! The parts of unwinding beside what others make of the same bytes and the same stacks.

mod real;
mod rules;
