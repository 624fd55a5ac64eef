//! The capture's description, short enough for its place behind the file header.

use memtrace_format::{FileHeader, HEADER_LEN};

use crate::capture::info::CaptureInfo;

/// The encoded description, shortened until it fits behind the file header: first the arguments, which can be
/// megabytes, then whatever else is long.
pub fn fitting(info: &CaptureInfo) -> Vec<u8> {
    const ROOM: usize = HEADER_LEN - size_of::<FileHeader>();
    let mut info = info.clone();
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
