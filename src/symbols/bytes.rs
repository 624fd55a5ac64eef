//! The bytes of a section as `gimli` reads them: fetched from the file piece by piece, when they are asked for.
//!
//! The debug information of a large program has gigabytes, of which a report looks at a few units. A compressed section
//! is one piece. Every read asks `limits.rs` first. Pieces are kept and never fetched again, so that a file that changes
//! meanwhile can't tell two stories about the same byte.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use addr2line::gimli::{self, Error, ReaderOffsetId, Result};

use super::content::Content;
use super::limits::Limits;
use super::unpack::Compression;

/// 16 KiB: a system call each, and what the neighbours of a wanted byte cost in memory.
const PIECE_SHIFT: u32 = 14;

/// Part of a section; cheap to clone.
#[derive(Clone, Debug)]
pub struct Bytes {
    section: Arc<Section>,
    /// `at <= end <= section.len`
    at: usize,
    end: usize,
}

#[derive(Debug)]
struct Section {
    content: Arc<Content>,
    /// Where its bytes, or the packed ones, lie in the content.
    offset: u64,
    packed: Option<Packed>,
    len: usize,
    /// Pieces of `1 << piece_shift` bytes, the last one shorter.
    pieces: Box<[OnceLock<Piece>]>,
    piece_shift: u32,
    limits: Arc<Limits>,
}

/// `None` when it could not be read.
type Piece = Option<Box<[u8]>>;

#[derive(Clone, Copy, Debug)]
pub struct Packed {
    pub compression: Compression,
    pub len: usize,
}

impl Bytes {
    /// `len` bytes at an offset, unpacked ones when they are packed.
    pub fn new(content: Arc<Content>, offset: u64, len: usize, packed: Option<Packed>, limits: Arc<Limits>) -> Bytes {
        let piece_shift = if packed.is_some() { usize::BITS - 1 } else { PIECE_SHIFT };
        let n_pieces = if len == 0 { 0 } else { ((len - 1) >> piece_shift) + 1 };
        let pieces = (0..n_pieces).map(|_| OnceLock::new()).collect();
        limits.add_bytes(len as u64);
        let section = Section { content, offset, packed, len, pieces, piece_shift, limits };
        Bytes { section: Arc::new(section), at: 0, end: len }
    }

    /// No bytes.
    pub fn empty(limits: Arc<Limits>) -> Bytes {
        Bytes::new(Arc::new(Content::Memory(Vec::new())), 0, 0, None, limits)
    }

    /// The text that starts there and ends before the next zero byte, which is there.
    pub fn text_at(&self, offset: usize) -> Option<String> {
        let mut text = self.clone();
        gimli::Reader::skip(&mut text, offset).ok()?;
        let text = gimli::Reader::read_null_terminated_slice(&mut text).ok()?;
        gimli::Reader::to_string_lossy(&text).ok().map(Cow::into_owned)
    }

    fn step(&self, n_bytes: usize) -> Result<()> {
        // Sixteen bytes of a text are as much work as one number.
        if self.section.limits.allow(1 + n_bytes as u64 / 16) { Ok(()) } else { Err(Error::Io) }
    }

    fn check(&self, len: usize) -> Result<()> {
        if len > self.end - self.at { Err(Error::UnexpectedEof(gimli::Reader::offset_id(self))) } else { Ok(()) }
    }

    /// From here to the end of the piece or of these bytes; empty at the end only.
    fn stretch(&self) -> Result<&[u8]> {
        if self.at == self.end {
            return Ok(&[]);
        }
        let (piece, start) = self.section.piece(self.at).ok_or(Error::Io)?;
        piece.get(start..piece.len().min(start + (self.end - self.at))).ok_or(Error::Io)
    }
}

impl Section {
    /// The piece that holds a byte, and where in it.
    #[inline]
    fn piece(&self, at: usize) -> Option<(&[u8], usize)> {
        let index = at >> self.piece_shift;
        let piece = self.pieces.get(index)?.get_or_init(|| self.fetch(index)).as_deref()?;
        Some((piece, at - (index << self.piece_shift)))
    }

    #[cold]
    fn fetch(&self, index: usize) -> Piece {
        let bytes = match self.packed {
            Some(packed) => packed.compression.unpack(&self.content.read(self.offset, packed.len)?, self.len as u64)?,
            None => {
                let start = index << self.piece_shift;
                let len = (self.len - start).min(1 << self.piece_shift);
                self.content.read(self.offset.checked_add(start as u64)?, len)?
            }
        };
        Some(bytes.into_boxed_slice())
    }
}

impl gimli::Reader for Bytes {
    type Endian = gimli::LittleEndian;
    type Offset = usize;

    fn endian(&self) -> gimli::LittleEndian {
        gimli::LittleEndian
    }

    fn len(&self) -> usize {
        self.end - self.at
    }

    fn empty(&mut self) {
        self.end = self.at;
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.check(len)?;
        self.end = self.at + len;
        Ok(())
    }

    fn offset_from(&self, base: &Bytes) -> usize {
        self.at - base.at
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.at as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let at = usize::try_from(id.0).ok()?;
        (self.at..=self.end).contains(&at).then(|| at - self.at)
    }

    fn find(&self, byte: u8) -> Result<usize> {
        let mut rest = self.clone();
        loop {
            let stretch = rest.stretch()?;
            if stretch.is_empty() {
                return Err(Error::UnexpectedEof(self.offset_id()));
            }
            let found = stretch.iter().position(|there| *there == byte);
            let len = found.unwrap_or(stretch.len());
            rest.step(len)?;
            rest.at += len;
            if found.is_some() {
                return Ok(rest.at - self.at);
            }
        }
    }

    fn skip(&mut self, len: usize) -> Result<()> {
        self.check(len)?;
        self.step(0)?;
        self.at += len;
        Ok(())
    }

    fn split(&mut self, len: usize) -> Result<Bytes> {
        let mut first = self.clone();
        first.truncate(len)?;
        self.skip(len)?;
        Ok(first)
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        let stretch = self.stretch()?;
        self.step(self.end - self.at)?;
        if stretch.len() == self.end - self.at {
            return Ok(Cow::Borrowed(stretch));
        }
        let mut bytes = vec![0; self.end - self.at];
        self.clone().read_slice(&mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        match self.to_slice()? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Error::BadUtf8),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Error::BadUtf8),
        }
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        Ok(match self.to_slice()? {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    #[inline]
    fn read_slice(&mut self, mut buf: &mut [u8]) -> Result<()> {
        self.check(buf.len())?;
        self.step(buf.len())?;
        while !buf.is_empty() {
            let stretch = self.stretch()?;
            let len = stretch.len().min(buf.len());
            buf[..len].copy_from_slice(&stretch[..len]);
            self.at += len;
            buf = &mut buf[len..];
        }
        Ok(())
    }
}
