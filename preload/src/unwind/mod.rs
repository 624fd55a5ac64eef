//! Native stacks: from the registers at a hook to the frames above it, without asking the loader, libc or anybody else.
//!
//! `maps` and `modules` know what code belongs to, `eh_frame` and `cfi` read how its compiler says that a caller is
//! found, `rule` is that in one word, `rules` knows those that were needed, in `table`s; `stack` the words of the thread's
//! stack, `walk` one step, `memo` a whole stack beside the last one.

mod bytes;
mod cfi;
mod eh_frame;
mod maps;
mod memo;
mod modules;
mod rule;
mod rules;
mod stack;
mod table;
#[cfg(test)]
mod tests;
mod walk;

pub use memo::{Frame, Memo};
pub use rules::{MODULES, begin_log, close, forget_all, generation, place, reopen, rule, unmapped};
pub use stack::own_stack;
pub use walk::Registers;
