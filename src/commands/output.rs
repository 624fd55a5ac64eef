//! Where a report goes: the standard output, or a file that is there whole or not at all.
//!
//! A file is created before the long work starts, without a name, in the folder of the wanted one, and gets that name
//! when it is complete. So an error or a full disk leaves nothing half-written and never costs an older report, and
//! whoever ends us, with Ctrl-C or SIGKILL, ends the file as well.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

/// The name of a report that got none: for `memtrace-app.4711.bin` and `flamegraph`, `memtrace-flamegraph-app.4711.html`
/// in the same folder. Of several captures it is the first one's, with the number of the others.
pub fn beside(capture: &Path, n_others: usize, report: &str, suffix: &str) -> PathBuf {
    let stem = capture.file_stem().unwrap_or_default().as_encoded_bytes();
    let stem = stem.strip_prefix(b"memtrace-").unwrap_or(stem);
    let mut name = OsString::from(format!("memtrace-{report}-"));
    name.push(OsStr::from_bytes(stem));
    if n_others > 0 {
        name.push(format!("-and-{n_others}-more"));
    }
    name.push(suffix);
    capture.with_file_name(name)
}

/// An output that is being made. When it is never finished, there is nothing of it.
pub struct Output {
    target: Option<Target>,
}

struct Target {
    path: PathBuf,
    file: File,
    /// What is no regular file (a terminal, a pipe, `/dev/null`) is written directly.
    has_name: bool,
    is_overwriting: bool,
}

impl Output {
    /// The file, or the standard output without one. An existing file is refused unless forced.
    pub fn create(path: Option<&Path>, force: bool) -> Result<Output> {
        let Some(path) = path else { return Ok(Output { target: None }) };
        // What a symbolic link leads to is replaced, and not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let there = fs::metadata(&path);
        let is_file = there.as_ref().is_ok_and(fs::Metadata::is_file);
        if there.as_ref().is_ok_and(fs::Metadata::is_dir) {
            bail!("cannot write {}: it is a directory", path.display());
        }
        if is_file && !force {
            bail!("cannot write {}: it exists already (use -f to overwrite it)", path.display());
        }
        let has_name = there.is_ok() && !is_file;
        let file = if has_name { OpenOptions::new().write(true).open(&path) } else { create_unnamed(&path) };
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        if let Ok(replaced) = &there
            && is_file
        {
            // Who may read what is replaced may read what comes. (Where that can't be said, the user's own rules hold.)
            let _ = file.set_permissions(replaced.permissions());
        }
        Ok(Output { target: Some(Target { path, file, has_name, is_overwriting: force }) })
    }

    /// Writes the report.
    pub fn finish(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let Some(target) = &self.target else {
            let mut out = BufWriter::new(io::stdout().lock());
            return match write(&mut out).and_then(|()| out.flush()) {
                // The reader of our pipe has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                other => other.context("cannot write to the standard output"),
            };
        };
        let named = || format!("cannot write {}", target.path.display());
        let mut out = BufWriter::new(&target.file);
        write(&mut out).and_then(|()| out.flush()).with_context(named)?;
        drop(out);
        target.give_name().with_context(named)
    }
}

impl Target {
    fn give_name(&self) -> io::Result<()> {
        if self.has_name {
            return Ok(());
        }
        if !self.is_overwriting {
            match link(&self.file, &self.path) {
                // Somebody made a file of that name meanwhile.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
                Ok(()) => return Ok(()),
                Err(_) => {}
            }
        }
        let part = part_beside(&self.path);
        let named = link(&self.file, &part).or_else(|_| copy(&self.file, &part)).and_then(|()| self.rename(&part));
        if named.is_err() {
            // Best effort: the error to tell is the first one.
            let _ = fs::remove_file(&part);
        }
        named
    }

    /// Gives a part the wanted name. A renaming, unlike a link, would not notice that there is a file.
    fn rename(&self, part: &Path) -> io::Result<()> {
        if !self.is_overwriting && self.path.exists() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        fs::rename(part, &self.path)
    }
}

/// A file in the folder of `path` that nobody sees, and that is gone when we are.
fn create_unnamed(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unnamed = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(folder);
    unnamed.or_else(|_| {
        // Some file systems have none. A file that loses its name is as good, but can't have another one later.
        let part = part_beside(path);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&part)?;
        fs::remove_file(&part)?;
        Ok(file)
    })
}

fn link(file: &File, path: &Path) -> io::Result<()> {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, open.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

fn copy(mut file: &File, path: &Path) -> io::Result<()> {
    file.rewind()?;
    let mut out = OpenOptions::new().write(true).create_new(true).open(path)?;
    io::copy(&mut file, &mut out).map(drop)
}

/// A hidden name that is short whatever the wanted one is: that may be as long as a name can be.
fn part_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let digest = name.iter().fold(0u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    path.with_file_name(format!(".memtrace-{digest:08x}.{}.part", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_stands_beside_its_capture_under_its_name() {
        let name = |capture: &str| beside(Path::new(capture), 0, "flamegraph", ".html").to_str().unwrap().to_owned();
        assert_eq!(name("/tmp/memtrace-app.4711.bin"), "/tmp/memtrace-flamegraph-app.4711.html");
        assert_eq!(name("out.bin"), "memtrace-flamegraph-out.html");
        assert_eq!(name("runs/out"), "runs/memtrace-flamegraph-out.html");
        assert_eq!(name("memtrace-.bin"), "memtrace-flamegraph-.html");
        let several = beside(Path::new("a.1.bin"), 2, "csv", ".csv");
        assert_eq!(several.to_str(), Some("memtrace-csv-a.1-and-2-more.csv"));
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("memtrace-output-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn create(path: &Path, force: bool) -> Result<Output> {
        Output::create(Some(path), force)
    }

    fn finish(output: Output, text: &str) -> Result<()> {
        output.finish(|out| out.write_all(text.as_bytes()))
    }

    #[test]
    fn a_finished_output_is_the_only_file_left() {
        let folder = folder("finished");
        let output = create(&folder.join("page.html"), false).unwrap();
        assert_eq!(names(&folder), [""; 0]);
        finish(output, "whole").unwrap();
        assert_eq!(names(&folder), ["page.html"]);
        assert_eq!(fs::read(folder.join("page.html")).unwrap(), b"whole");
    }

    #[test]
    fn a_failed_output_leaves_the_older_file_as_it_was() {
        let folder = folder("failed");
        let path = folder.join("page.html");
        fs::write(&path, "older").unwrap();
        let failure = |out: &mut dyn Write| {
            out.write_all(b"half")?;
            Err(io::Error::other("no space"))
        };
        let error = create(&path, true).unwrap().finish(failure).unwrap_err();
        assert_eq!(format!("{error:#}"), format!("cannot write {}: no space", path.display()));
        drop(create(&path, true).unwrap());
        assert_eq!(names(&folder), ["page.html"]);
        assert_eq!(fs::read(&path).unwrap(), b"older");
    }

    #[test]
    fn an_existing_file_is_refused_unless_forced() {
        let folder = folder("existing");
        let path = folder.join("page.html");
        fs::write(&path, "older").unwrap();
        let error = create(&path, false).err().unwrap();
        let expected = format!("cannot write {}: it exists already (use -f to overwrite it)", path.display());
        assert_eq!(error.to_string(), expected);
        finish(create(&path, true).unwrap(), "newer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten() {
        let folder = folder("meanwhile");
        let path = folder.join("page.html");
        let output = create(&path, false).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        assert!(finish(output, "ours").is_err());
        assert_eq!(names(&folder), ["page.html"]);
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = folder("link");
        fs::write(folder.join("there.html"), "older").unwrap();
        std::os::unix::fs::symlink("there.html", folder.join("page.html")).unwrap();
        finish(create(&folder.join("page.html"), true).unwrap(), "newer").unwrap();
        assert!(folder.join("page.html").is_symlink());
        assert_eq!(fs::read(folder.join("there.html")).unwrap(), b"newer");
    }

    #[test]
    fn a_name_may_be_as_long_as_names_can_be() {
        let path = folder("long").join(format!("{}.html", "x".repeat(250)));
        finish(create(&path, false).unwrap(), "whole").unwrap();
        assert!(path.is_file());
    }

    #[test]
    fn where_files_need_names_the_content_is_copied() {
        let folder = folder("copied");
        let part = part_beside(&folder.join("page.html"));
        let mut file = create_unnamed(&folder.join("page.html")).unwrap();
        file.write_all(b"whole").unwrap();
        copy(&file, &part).unwrap();
        let mut target = Target { path: folder.join("page.html"), file, has_name: false, is_overwriting: false };
        target.rename(&part).unwrap();
        assert_eq!(fs::read(folder.join("page.html")).unwrap(), b"whole");
        copy(&target.file, &part).unwrap();
        assert!(target.rename(&part).is_err());
        target.is_overwriting = true;
        target.rename(&part).unwrap();
        assert_eq!(names(&folder), ["page.html"]);
    }

    #[test]
    fn folders_and_missing_folders_are_refused_at_once() {
        let folder = folder("folders");
        let error = create(&folder, true).err().unwrap();
        assert!(error.to_string().ends_with("it is a directory"), "{error}");
        assert!(create(&folder.join("none/page.html"), false).is_err());
    }

    #[test]
    fn a_device_is_written_directly() {
        finish(create(Path::new("/dev/null"), false).unwrap(), "gone").unwrap();
        assert!(Path::new("/dev/null").exists());
    }
}
