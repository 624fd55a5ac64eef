//! The text of source lines for reports, where it may be shown.
//!
//! Reports get passed on, so the lines of a file are shown only when it is unlikely to hold a secret. The rules and the
//! three choices are memray's: a Python file is taken for code, and a file that anybody may read or that can be executed
//! for no secret. Beyond that, a file that changed after the recording is left out, because its lines would be wrong.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whose lines are withheld.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confidential {
    /// Every file's.
    All,
    /// No file's.
    None,
    /// Those of files that are neither Python files, nor executable, nor readable by anybody.
    #[default]
    Default,
}

/// Looks up source lines, reading each file once.
pub struct Sources {
    confidential: Confidential,
    /// What relative paths are relative to.
    cwd: PathBuf,
    /// Files that changed later than this are left out.
    recorded_until: Duration,
    files: HashMap<String, Result<Lines, Missing>>,
    /// How many files were left out because they changed after the recording.
    pub n_changed: usize,
}

/// Why the lines of a file are not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The code never was in a file: built in, generated, or typed.
    NoFile,
    /// There is no such file here (any more), or none that holds text.
    NotThere,
    /// Confidential.
    Withheld,
    /// Its lines would be wrong.
    Changed,
}

/// A file's text and where its lines end.
struct Lines {
    text: String,
    ends: Vec<usize>,
}

/// A module of more than this is a table of data and not code that anyone reads.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// What is shown of a line.
const MAX_LINE_CHARS: usize = 160;

impl Sources {
    /// `recorded_until` is the time since 1970.
    pub fn new(confidential: Confidential, cwd: &str, recorded_until: Duration) -> Sources {
        Sources { confidential, cwd: cwd.into(), recorded_until, files: HashMap::new(), n_changed: 0 }
    }

    /// With the text of code that is in no file, by the names that frames have.
    pub fn with_typed(mut self, texts: &HashMap<String, String>) -> Sources {
        self.files.extend(texts.iter().map(|(file, text)| (file.clone(), Ok(Lines::new(text.clone())))));
        self
    }

    /// The text of a line, counted from 1, without the space around it; empty when there is none to show.
    pub fn line(&mut self, file: &str, line: u32) -> String {
        // Such a file need not be text: it may be the library of a function whose source nobody knows.
        if line == 0 {
            return String::new();
        }
        match self.lines(file) {
            Ok(lines) => shortened(lines.get(line).unwrap_or_default().trim()),
            Err(_) => String::new(),
        }
    }

    /// The lines of a range, counted from 1, as they stand in the file; those that it does not have are left out.
    pub fn excerpt(&mut self, file: &str, range: RangeInclusive<u32>) -> Result<Vec<(u32, String)>, Missing> {
        let lines = self.lines(file)?;
        Ok(range.map_while(|line| Some((line, shortened(lines.get(line)?.trim_end())))).collect())
    }

    fn lines(&mut self, file: &str) -> Result<&Lines, Missing> {
        if self.confidential == Confidential::All {
            return Err(Missing::Withheld);
        }
        if !self.files.contains_key(file) {
            if file.is_empty() || file.starts_with('<') {
                return Err(Missing::NoFile);
            }
            let lines = self.read(file);
            self.files.insert(file.to_owned(), lines);
        }
        self.files[file].as_ref().map_err(|&missing| missing)
    }

    fn read(&mut self, file: &str) -> Result<Lines, Missing> {
        let path = self.cwd.join(file);
        let metadata = fs::metadata(&path).map_err(|_| Missing::NotThere)?;
        // Opening a pipe would wait for a writer.
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(Missing::NotThere);
        }
        if self.confidential == Confidential::Default && is_confidential(&path, metadata.permissions().mode()) {
            return Err(Missing::Withheld);
        }
        let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
        if Duration::from_secs(seconds) > self.recorded_until {
            self.n_changed += 1;
            return Err(Missing::Changed);
        }
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
        read.map_err(|_| Missing::NotThere)?;
        Ok(Lines::new(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

impl Lines {
    fn new(text: String) -> Lines {
        let ends = text.match_indices('\n').map(|(at, _)| at).chain([text.len()]).collect();
        Lines { text, ends }
    }

    fn get(&self, line: u32) -> Option<&str> {
        let index = (line as usize).checked_sub(1)?;
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] + 1 };
        Some(&self.text[start..end])
    }
}

fn is_confidential(path: &Path, mode: u32) -> bool {
    let is_python = path.extension().is_some_and(|extension| extension == "py");
    let is_executable = mode & 0o111 != 0;
    let is_public = mode & 0o004 != 0;
    !(is_python || is_executable || is_public)
}

fn shortened(line: &str) -> String {
    match line.char_indices().nth(MAX_LINE_CHARS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for each test, gone when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("memtrace-sources-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str, mode: u32) {
            let path = self.0.join(name);
            fs::write(&path, format!("first of {name}\n  second of {name}  \n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn sources(&self, confidential: Confidential) -> Sources {
            Sources::new(confidential, self.0.to_str().unwrap(), Duration::MAX)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn by_default_only_lines_of_code_and_of_public_files_are_shown() {
        let folder = Folder::new("default");
        for (name, mode) in [("code.py", 0o600), ("tool", 0o700), ("public.txt", 0o644), ("secret.txt", 0o640)] {
            folder.file(name, mode);
        }
        let mut sources = folder.sources(Confidential::Default);
        assert_eq!(sources.line("code.py", 2), "second of code.py");
        assert_eq!(sources.line("tool", 1), "first of tool");
        assert_eq!(sources.line("public.txt", 1), "first of public.txt");
        assert_eq!(sources.line("secret.txt", 1), "");
        assert_eq!(folder.sources(Confidential::None).line("secret.txt", 1), "first of secret.txt");
        assert_eq!(folder.sources(Confidential::All).line("code.py", 1), "");
    }

    #[test]
    fn lines_that_are_not_there_are_empty() {
        let folder = Folder::new("missing");
        folder.file("code.py", 0o600);
        let mut sources = folder.sources(Confidential::Default);
        for (file, line) in [("code.py", 0), ("code.py", 9), ("none.py", 1), ("<string>", 1), ("", 1), (".", 1)] {
            assert_eq!(sources.line(file, line), "", "{file}:{line}");
        }
    }

    #[test]
    fn code_that_was_typed_has_lines_when_they_are_told() {
        let folder = Folder::new("typed");
        let typed = HashMap::from([("<input-1>".to_owned(), "first\n  second".to_owned())]);
        let mut sources = folder.sources(Confidential::Default).with_typed(&typed);
        assert_eq!([1, 2, 3].map(|line| sources.line("<input-1>", line)), ["first", "second", ""]);
        assert_eq!(sources.line("<input-2>", 1), "");
        assert_eq!(folder.sources(Confidential::All).with_typed(&typed).line("<input-1>", 1), "");
    }

    #[test]
    fn a_file_that_changed_after_the_recording_shows_no_lines() {
        let folder = Folder::new("changed");
        folder.file("code.py", 0o600);
        let mut sources = Sources::new(Confidential::Default, folder.0.to_str().unwrap(), Duration::from_secs(1));
        assert_eq!(sources.line("code.py", 1), "");
        assert_eq!(sources.n_changed, 1);
    }

    #[test]
    fn an_excerpt_ends_with_the_file_and_keeps_its_indents() {
        let folder = Folder::new("excerpt");
        folder.file("code.py", 0o600);
        let mut sources = folder.sources(Confidential::Default);
        let lines = [(1, "first of code.py".to_owned()), (2, "  second of code.py".to_owned())];
        assert_eq!(sources.excerpt("code.py", 2..=2), Ok(lines[1..].to_vec()));
        // Behind the last line break there is an empty line.
        assert_eq!(sources.excerpt("code.py", 1..=9), Ok([&lines[..], &[(3, String::new())]].concat()));
        assert_eq!(sources.excerpt("<string>", 1..=1), Err(Missing::NoFile));
        assert_eq!(sources.excerpt("none.py", 1..=1), Err(Missing::NotThere));
        assert_eq!(folder.sources(Confidential::All).excerpt("code.py", 1..=1), Err(Missing::Withheld));
    }

    #[test]
    fn a_very_long_line_is_cut_between_characters() {
        assert_eq!(shortened(&"ä".repeat(MAX_LINE_CHARS)), "ä".repeat(MAX_LINE_CHARS));
        assert_eq!(shortened(&"ä".repeat(500)), format!("{}…", "ä".repeat(MAX_LINE_CHARS)));
    }
}
