//! Where a text report goes: the standard output, or a file that is there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A file is created before the long work starts, under a name of its own beside the wanted one, and takes the
/// wanted name when it is complete.
pub struct Output {
    target: Option<Target>,
}

struct Target {
    path: PathBuf,
    part: PathBuf,
    file: File,
}

impl Output {
    /// The file, or the standard output without one. An existing file is refused unless forced.
    pub fn create(path: Option<&Path>, force: bool) -> Result<Output> {
        let Some(path) = path else { return Ok(Output { target: None }) };
        if path.is_dir() {
            bail!("cannot write {}: it is a directory", path.display());
        }
        if path.exists() && !force {
            bail!("cannot write {}: it exists already (use -f to overwrite it)", path.display());
        }
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&part);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Output { target: Some(Target { path: path.to_path_buf(), part, file }) })
    }

    /// Writes the report.
    pub fn finish(mut self, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let Some(target) = &mut self.target else {
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
        fs::rename(&target.part, &target.path).with_context(named)?;
        self.target = None;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(target) = &self.target {
            let _ = fs::remove_file(&target.part);
        }
    }
}
