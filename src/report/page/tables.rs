//! The tables that nodes refer to: files, frames with their source lines, and every text once.

use hashbrown::HashMap;
use serde::Serialize;

use crate::model::{Frame, FrameId, Model, StringId};
use crate::report::origin::{self, Kind, role};
use crate::report::sources::Sources;

/// Columns of files: the path as a number of a string, and what `origin` says of it.
#[derive(Debug, Default, Serialize)]
pub struct Files {
    pub path: Vec<usize>,
    pub kind: Vec<u8>,
    pub role: Vec<u8>,
}

/// Columns of frames. `source` is the running line's text; 0, the empty string, where it is not shown.
#[derive(Debug, Default, Serialize)]
pub struct Frames {
    pub function: Vec<usize>,
    pub file: Vec<usize>,
    pub line: Vec<u32>,
    pub source: Vec<usize>,
}

/// Frames of our own, before those of the program.
pub mod own_frame {
    pub const ROOT: usize = 0;
    pub const NO_STACK: usize = 1;
    pub const OTHER: usize = 2;
}

/// Names longer than this are cut. No person wrote them, and a page has better uses for its bytes.
pub const MAX_NAME_CHARS: usize = 1000;

/// The tables while they grow.
pub struct Tables<'a> {
    model: &'a Model,
    pub sources: Sources,
    pub strings: Strings,
    pub files: Files,
    pub frames: Frames,
    /// By path, and whether its code is native.
    file_of: HashMap<(StringId, bool), usize>,
    frame_of: HashMap<FrameId, usize>,
}

/// Every text once; number 0 is the empty one.
pub struct Strings {
    pub texts: Vec<String>,
    known: HashMap<String, usize>,
}

impl Strings {
    fn intern(&mut self, text: &str) -> usize {
        if let Some(&known) = self.known.get(text) {
            return known;
        }
        let number = self.texts.len();
        self.texts.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }
}

impl<'a> Tables<'a> {
    pub fn new(model: &'a Model, sources: Sources) -> Tables<'a> {
        let mut tables = Tables {
            model,
            sources,
            strings: Strings { texts: vec![String::new()], known: HashMap::from([(String::new(), 0)]) },
            files: Files::default(),
            frames: Frames::default(),
            file_of: HashMap::new(),
            frame_of: HashMap::new(),
        };
        let own = [("all", Kind::Root), ("no Python stack", Kind::Unknown), ("other", Kind::Other)];
        for (name, kind) in own {
            let file = tables.add_file("", kind, role::NONE);
            tables.add_frame(name, file, 0, "");
        }
        tables
    }

    /// The number of a frame in the page.
    pub fn frame(&mut self, id: FrameId) -> usize {
        if let Some(&known) = self.frame_of.get(&id) {
            return known;
        }
        let model = self.model;
        let frame = model.frame(id);
        let Frame { function, file, line, is_native } = frame;
        let path = model.text(file);
        let file = match self.file_of.get(&(file, is_native)) {
            Some(&known) => known,
            None => {
                let (kind, role) = origin::of_frame(model, frame);
                let number = self.add_file(path, kind, role);
                self.file_of.insert((file, is_native), number);
                number
            }
        };
        let source = self.sources.line(path, line);
        let number = self.add_frame(model.text(function), file, line, &source);
        self.frame_of.insert(id, number);
        number
    }

    fn add_file(&mut self, path: &str, kind: Kind, role: u8) -> usize {
        self.files.path.push(self.strings.intern(&shortened(path)));
        self.files.kind.push(kind as u8);
        self.files.role.push(role);
        self.files.path.len() - 1
    }

    fn add_frame(&mut self, function: &str, file: usize, line: u32, source: &str) -> usize {
        self.frames.function.push(self.strings.intern(&shortened(function)));
        self.frames.file.push(file);
        self.frames.line.push(line);
        self.frames.source.push(self.strings.intern(source));
        self.frames.function.len() - 1
    }
}

/// A name with its middle left out when it is too long: both ends of a path or a qualified name tell something.
pub fn shortened(name: &str) -> String {
    let n_chars = name.chars().count();
    if n_chars <= MAX_NAME_CHARS {
        return name.to_owned();
    }
    let head: String = name.chars().take(MAX_NAME_CHARS / 2).collect();
    let tail: String = name.chars().skip(n_chars - MAX_NAME_CHARS / 2).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_too_long_keeps_both_ends() {
        let name = shortened(&format!("start{}end", "ß".repeat(5000)));
        assert_eq!(name.chars().count(), MAX_NAME_CHARS + 1);
        assert!(name.starts_with("start") && name.ends_with("end"));
    }
}
