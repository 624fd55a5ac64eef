//! Starting a program with the recorder in it, and staying as its parent: called by `commands::run`.
//! The program must never notice: what it could see of us (signals, descriptors, environment) is put back first.

mod start_state;
mod sys;

pub mod program;
pub mod recordable;

pub mod shim;

pub mod clock;
pub mod log;

pub mod bystander;
pub mod pty;
pub mod signals;
pub mod spawn;
pub mod watch;

pub mod family;
pub mod member;
pub mod running;
pub mod spares;
