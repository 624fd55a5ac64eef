//! Requests and answers, each a line of JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest line that is read.
pub const MAX_LINE_LEN: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Request {
    Status,
    /// The same, from a viewer: a program that waits for one starts then.
    Watch,
    /// A viewer has opened the log that it was told of: that may have no name, and is gone with its keeper for whoever has
    /// not.
    Opened,
    /// Has what a viewer shows come through this connection, from then on: for one that can't open the log.
    Pictures,
    /// From here on allocations and mappings are left out.
    Pause,
    Resume,
    /// Gives this moment a name.
    Mark {
        name: String,
    },
    /// Ends the recording of a process that was attached to.
    Detach,
}

/// A request as it is sent: over a port, which any user of the machine can reach, with the token that only this one can
/// read.
#[derive(Serialize, Deserialize)]
pub struct Sent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(flatten)]
    pub request: Request,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Answer {
    Status(Status),
    /// It is as was asked; whether it was not so before.
    Done {
        changed: bool,
    },
    /// Why not, as a sentence.
    Refused {
        reason: String,
    },
}

/// What only the keeper of a log knows; the rest stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The process that is recorded.
    pub pid: u32,
    pub log: PathBuf,
    /// When the log began, by which it is known from another at the same path elsewhere.
    #[serde(default)]
    pub start_unix_nanos: u64,
    pub paused: bool,
    /// Resident set in bytes; `None` when the kernel does not tell.
    pub rss_bytes: Option<u64>,
    pub peak_rss_bytes: u64,
}
