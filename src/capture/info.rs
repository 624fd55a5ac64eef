//! The descriptive parts of a log: what was run and how it ended. Written by the launcher, read by the reports;
//! the recorder inside the program never touches them.

use memtrace_format::{FileHeader, HEADER_LEN};
use serde::{Deserialize, Serialize};

use crate::model::facts::{Aggregated, Tracked};

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
    /// Of a recording by the program itself. This and the next stand behind the rest, where one of them is there.
    #[serde(skip)]
    pub tracked: Option<Tracked>,
    /// Of a log whose events stand for those that were recorded.
    #[serde(skip)]
    pub aggregated: Option<Aggregated>,
}

impl CaptureInfo {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = to_bytes(self);
        if self.tracked.is_some() || self.aggregated.is_some() {
            bytes.extend(to_bytes(&(self.tracked, self.aggregated)));
        }
        bytes
    }

    /// `None` when the bytes are no description.
    pub fn from_bytes(bytes: &[u8]) -> Option<CaptureInfo> {
        let (info, rest) = postcard::take_from_bytes::<CaptureInfo>(bytes).ok()?;
        let (tracked, aggregated) = from_bytes(rest).unwrap_or_default();
        Some(CaptureInfo { tracked, aggregated, ..info })
    }

    /// The encoded description, shortened until it fits behind the file header: first the arguments, which can be
    /// megabytes, then whatever else is long.
    pub fn to_fitting_bytes(&self) -> Vec<u8> {
        const ROOM: usize = HEADER_LEN - size_of::<FileHeader>();
        let mut info = self.clone();
        let mut longest = ROOM;
        loop {
            let bytes = info.to_bytes();
            if bytes.len() <= ROOM {
                return bytes;
            }
            longest /= 2;
            for list in [&mut info.command_line, &mut info.argv] {
                shorten_list(list, longest);
            }
            for text in [Some(&mut info.cwd), info.script.as_mut()].into_iter().flatten() {
                shorten(text, longest);
            }
        }
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

/// Keeps the first `len` bytes of a list of texts.
fn shorten_list(list: &mut Vec<String>, len: usize) {
    let mut room = len;
    let n_whole = list.iter().take_while(|text| {
        let fits = text.len() < room;
        room = room.saturating_sub(text.len() + 1);
        fits
    });
    let n_whole = n_whole.count();
    if n_whole < list.len() {
        list.truncate(n_whole);
        list.push("…".into());
    }
}

fn shorten(text: &mut String, len: usize) {
    if text.len() > len {
        text.truncate(text.floor_char_boundary(len));
        text.push('…');
    }
}
