//! The descriptive parts of a log: what was run and how it ended. Written by the launcher, read by the reports;
//! the recorder inside the program never touches them.

use serde::{Deserialize, Serialize};

use crate::model::facts::Tracked;

/// How the capture came to be; stands behind the file header in postcard encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureInfo {
    /// Version of memtrace that recorded.
    pub memtrace_version: String,
    /// The command as the user gave it, behind `memtrace run [options]`: for a script, its name and arguments.
    pub command_line: Vec<String>,
    /// What was executed, interpreter first.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: String,
    pub python_allocators: bool,
    /// Path of the user's script (or package's module) when one was named, to tell its frames from those of libraries.
    pub script: Option<String>,
    /// Of a recording by the program itself. Stands behind the rest, which is all that older captures have.
    #[serde(skip)]
    pub tracked: Option<Tracked>,
}

impl CaptureInfo {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = to_bytes(self);
        bytes.extend(self.tracked.iter().flat_map(to_bytes));
        bytes
    }

    /// `None` when the bytes are no description.
    pub fn from_bytes(bytes: &[u8]) -> Option<CaptureInfo> {
        let (info, rest) = postcard::take_from_bytes::<CaptureInfo>(bytes).ok()?;
        Some(CaptureInfo { tracked: from_bytes(rest), ..info })
    }
}

/// How the capture ended; the payload of an end block in postcard encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureEnd {
    /// Wall clock, nanoseconds since 1970.
    pub unix_nanos: u64,
    /// CLOCK_MONOTONIC nanoseconds.
    pub mono_nanos: u64,
    pub exit: Exit,
    /// The largest resident set of the process, in bytes, as the kernel counted it.
    pub peak_rss_bytes: u64,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It runs on, or ended without our seeing how: we were not its parent.
    Unknown,
}

/// Encodes a description.
pub fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain structs always encode")
}

/// Decodes a description; `None` when the bytes are not one.
pub fn from_bytes<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}
