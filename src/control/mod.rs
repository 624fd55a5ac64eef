//! Asking whoever keeps a log: what is recorded, pause, resume, give this moment a name. Served by the launcher of `run`
//! and `attach` between its other work, asked by `ctl` and by the live view. Whoever is not the same user gets nothing.
//!
//! A request is one line of JSON and so is the answer ([`message`]), over a Unix socket that is found by the recorded
//! process ([`place`]).

pub mod message;

pub mod place;

pub mod client;
pub mod server;
