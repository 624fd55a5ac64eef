//! Where the bytes of an ELF file come from: the file system, or memory when they were packed inside another file.
//!
//! Files are read and not mapped. A mapped file that shrinks while it is read ends the process with SIGBUS, and a
//! program's libraries do get replaced while somebody looks at its report.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

#[derive(Debug)]
pub enum Content {
    File(File),
    Memory(Vec<u8>),
}

impl Content {
    /// A regular file; never waits for one that is none.
    pub fn open(path: &Path) -> io::Result<Content> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Content::File(file))
    }

    /// Bytes; of a file as it is now.
    pub fn len(&self) -> u64 {
        match self {
            Content::File(file) => file.metadata().map_or(0, |metadata| metadata.len()),
            Content::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// The bytes of a range; `None` when they are not all there.
    pub fn read(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        if offset.checked_add(len as u64)? > self.len() {
            return None;
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        match self {
            Content::File(file) => file.read_exact_at(&mut bytes, offset).ok()?,
            Content::Memory(all) => bytes.copy_from_slice(&all[offset as usize..][..len]),
        }
        Some(bytes)
    }

    /// From its beginning, for who reads one thing after the other.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { content: self, at: 0 }
    }
}

pub struct Cursor<'content> {
    content: &'content Content,
    at: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = match self.content {
            Content::File(file) => file.read_at(buf, self.at)?,
            Content::Memory(bytes) => {
                let start = usize::try_from(self.at).unwrap_or(usize::MAX).min(bytes.len());
                (&bytes[start..]).read(buf)?
            }
        };
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(distance) => self.content.len().checked_add_signed(distance),
            SeekFrom::Current(distance) => self.at.checked_add_signed(distance),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
