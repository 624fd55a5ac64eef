//! Where distributions and people put debug information that is not in the file itself.
//!
//! A file is taken only when its build-id or its checksum says that it belongs to the other one. debuginfod is asked
//! through its own program, and only when the user wants that: it tells a server which programs are looked at.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::elf::Elf;

pub struct Places<'options> {
    /// Folders like `/usr/lib/debug`.
    pub folders: &'options [PathBuf],
    /// The program that asks debuginfod servers, when that is wanted.
    pub debuginfod: Option<&'options OsStr>,
}

impl Places<'_> {
    /// The debug information of the file with a build-id.
    pub fn by_build_id(&self, build_id: &[u8]) -> Option<Elf> {
        let is_it = |elf: &Elf| elf.build_id.as_deref() == Some(build_id) && elf.has(".debug_info");
        let hex = hex(build_id);
        let (folder, name) = hex.split_at_checked(2).filter(|(_, name)| !name.is_empty())?;
        let mut paths = self.folders.iter().map(|debug| debug.join(format!(".build-id/{folder}/{name}.debug")));
        paths.find_map(|path| Elf::open(&path).ok().filter(is_it))
    }

    /// The same from a server.
    pub fn by_debuginfod(&self, build_id: &[u8], warnings: &mut Vec<String>) -> Option<Elf> {
        let program = self.debuginfod?;
        let found = Command::new(program)
            .args([OsStr::new("debuginfo"), OsStr::new(&hex(build_id))])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let output = match found {
            Ok(output) => output,
            Err(error) => {
                let mut warning = format!("cannot ask debuginfod: {}: {error}", program.display());
                if error.kind() == ErrorKind::NotFound {
                    warning += " (the package debuginfod or elfutils has it)";
                }
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
                return None;
            }
        };
        // It prints where it stored the file.
        let path = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
        Elf::open(Path::new(path.trim_end())).ok().filter(|elf| elf.build_id.as_deref() == Some(build_id))
    }

    /// The debug information that a file names: beside it, in `.debug`, or below a debug folder.
    pub fn by_link(&self, elf: &Elf) -> Option<Elf> {
        let (name, sum) = elf.debug_link()?;
        // A plain name, so that it can't lead elsewhere.
        if Path::new(&name).file_name() != Some(&name) {
            return None;
        }
        let path = elf.path.canonicalize().ok()?;
        let folder = path.parent()?;
        let below = |debug: &PathBuf| Some(debug.join(folder.strip_prefix("/").ok()?).join(&name));
        let beside = [folder.join(&name), folder.join(".debug").join(&name)];
        let mut paths = beside.into_iter().chain(self.folders.iter().filter_map(below));
        paths.find_map(|candidate| {
            let is_itself = candidate.canonicalize().is_ok_and(|candidate| candidate == path);
            let debug = (!is_itself).then(|| Elf::open(&candidate).ok())??;
            let has_the_id = debug.build_id.is_none() || debug.build_id == elf.build_id;
            (has_the_id && checksum(&debug) == Some(sum)).then_some(debug)
        })
    }

    /// The file that shares parts of its debug information with others, which `dwz` makes.
    pub fn supplement(&self, debug: &Elf, warnings: &mut Vec<String>) -> Option<Elf> {
        let (name, build_id) = debug.supplement_link()?;
        let is_it = |elf: &Elf| elf.build_id.as_deref() == Some(&build_id);
        let beside = debug.path.canonicalize().ok().and_then(|path| Some(path.parent()?.join(&name)));
        let named = beside.and_then(|path| Elf::open(&path).ok()).filter(is_it);
        named.or_else(|| self.by_build_id(&build_id)).or_else(|| self.by_debuginfod(&build_id, warnings))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The checksum of a whole file, as `.gnu_debuglink` has it.
fn checksum(elf: &Elf) -> Option<u32> {
    let mut sum = flate2::Crc::new();
    let mut cursor = elf.content().cursor();
    let mut buf = vec![0; 1 << 16];
    loop {
        match cursor.read(&mut buf).ok()? {
            0 => return Some(sum.sum()),
            len => sum.update(&buf[..len]),
        }
    }
}

/// The program of elfutils that asks the servers in `DEBUGINFOD_URLS` and keeps what they send.
pub fn debuginfod_program() -> OsString {
    OsString::from("debuginfod-find")
}
