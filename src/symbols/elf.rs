//! One ELF file: which sections it has, its build-id, and which other files it names.
//!
//! The headers are read at once, the sections when they are asked for. A file that is none of ours (32 bits, another
//! byte order) is an error like one that is damaged.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::elf::{self, FileHeader64};
use object::read::elf::{
    CompressionHeader as _, FileHeader as _, NoteIterator, ProgramHeader as _, SectionHeader as _,
};
use object::{LittleEndian as Le, ReadCache, ReadRef};

use super::bytes::{Bytes, Packed};
use super::content::Content;
use super::limits::Limits;
use super::unpack::{self, Compression};

/// What a section of links or of packed symbols may have.
const MAX_WHOLE_SECTION: u64 = 256 << 20;

#[derive(Debug)]
pub struct Elf {
    pub path: PathBuf,
    /// What the linker wrote into the file to tell it from others.
    pub build_id: Option<Vec<u8>>,
    content: Arc<Content>,
    sections: Vec<Section>,
}

/// A section as its header has it; nothing in it is checked.
#[derive(Debug, Default)]
pub struct Section {
    pub name: Vec<u8>,
    /// Where it is in the memory of the program.
    pub address: u64,
    pub size: u64,
    pub is_code: bool,
    /// The number of the section with the names, for a table of symbols.
    pub link: usize,
    /// Whether the file has its bytes; separate debug files have those of a few.
    is_here: bool,
    offset: u64,
    packed: Option<Packed>,
}

impl Elf {
    /// Reads the headers of a file.
    pub fn open(path: &Path) -> io::Result<Elf> {
        Elf::parse(path, Content::open(path)?)
    }

    /// The same for a file inside another one.
    pub fn inside(&self, bytes: Vec<u8>) -> io::Result<Elf> {
        Elf::parse(&self.path, Content::Memory(bytes))
    }

    fn parse(path: &Path, content: Content) -> io::Result<Elf> {
        let headers = {
            let cache = ReadCache::new(content.cursor());
            Headers::read(&cache).map_err(|error| io::Error::other(error.to_string()))?
        };
        let Headers { build_id, sections } = headers;
        Ok(Elf { path: path.to_path_buf(), build_id, content: Arc::new(content), sections })
    }

    pub fn content(&self) -> &Content {
        &self.content
    }

    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Whether the file has a section of this name with bytes in it.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A section for reading here and there; without bytes when there is none.
    pub fn bytes(&self, name: &str, limits: &Arc<Limits>) -> Bytes {
        self.find(name).map_or_else(|| Bytes::empty(limits.clone()), |section| self.bytes_of(section, limits))
    }

    /// The same for one of the sections.
    pub fn bytes_of(&self, section: &Section, limits: &Arc<Limits>) -> Bytes {
        match usize::try_from(section.size) {
            Ok(len) if section.is_here => {
                Bytes::new(self.content.clone(), section.offset, len, section.packed, limits.clone())
            }
            _ => Bytes::empty(limits.clone()),
        }
    }

    /// All bytes of a small section that is not compressed.
    pub fn whole(&self, section: &Section) -> Option<Vec<u8>> {
        let is_wanted = section.is_here && section.packed.is_none() && section.size <= MAX_WHOLE_SECTION;
        is_wanted.then(|| self.content.read(section.offset, section.size as usize))?
    }

    /// The name of the file with the debug information, and its checksum.
    pub fn debug_link(&self) -> Option<(OsString, u32)> {
        let bytes = self.whole(self.find(".gnu_debuglink")?)?;
        let (name, rest) = split_at_zero(&bytes)?;
        // The checksum is aligned to four bytes, counted from the start.
        let padding = (4 - (name.len() + 1) % 4) % 4;
        let sum = rest.get(padding..padding + 4)?;
        Some((OsString::from_vec(name.to_vec()), u32::from_le_bytes(sum.try_into().ok()?)))
    }

    /// The path of the file that `dwz` moved common debug information to, and its build-id.
    pub fn supplement_link(&self) -> Option<(PathBuf, Vec<u8>)> {
        let bytes = self.whole(self.find(".gnu_debugaltlink")?)?;
        let (path, build_id) = split_at_zero(&bytes)?;
        Some((PathBuf::from(OsString::from_vec(path.to_vec())), build_id.to_vec()))
    }

    /// The file with the symbols that are not in the dynamic table, as Fedora packs it into its libraries.
    pub fn packed_symbols(&self) -> Option<Elf> {
        let packed = self.whole(self.find(".gnu_debugdata")?)?;
        self.inside(unpack::unpack_xz(&packed)?).ok()
    }

    fn find(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.is_here && section.name == name.as_bytes())
    }
}

struct Headers {
    build_id: Option<Vec<u8>>,
    sections: Vec<Section>,
}

impl Headers {
    fn read<'data, R: ReadRef<'data>>(data: R) -> object::read::Result<Headers> {
        let header = FileHeader64::<Le>::parse(data)?;
        let endian = header.endian()?;
        // A file may have lost its table of sections and still run.
        let mut build_id = None;
        let mut sections = Vec::new();
        if let Ok(table) = header.sections(endian, data) {
            for section in table.iter() {
                if build_id.is_none() {
                    build_id = section.notes(endian, data).ok().flatten().and_then(find_build_id);
                }
                let name = table.section_name(endian, section).unwrap_or_default();
                sections.push(Section::read(section, name, data));
            }
        }
        if build_id.is_none() {
            let segments = header.program_headers(endian, data).unwrap_or_default();
            let mut notes = segments.iter().filter_map(|segment| segment.notes(endian, data).ok().flatten());
            build_id = notes.find_map(find_build_id);
        }
        Ok(Headers { build_id, sections })
    }
}

impl Section {
    fn read<'data, R: ReadRef<'data>>(header: &elf::SectionHeader64<Le>, name: &[u8], data: R) -> Section {
        let mut section = Section {
            name: name.to_vec(),
            address: header.sh_addr.get(Le),
            size: header.sh_size.get(Le),
            is_code: header.sh_flags(Le).contains(elf::SHF_EXECINSTR),
            link: header.sh_link.get(Le) as usize,
            is_here: header.sh_type(Le) != elf::SHT_NOBITS,
            offset: header.sh_offset.get(Le),
            packed: None,
        };
        let is_inside = data.len().is_ok_and(|len| section.offset.saturating_add(section.size) <= len);
        if !section.is_here || !is_inside {
            return Section { is_here: false, ..section };
        }
        match header.compression(Le, data) {
            Ok(None) => {}
            Ok(Some((packing, offset, len))) => {
                let compression = match packing.ch_type(Le) {
                    elf::ELFCOMPRESS_ZLIB => Some(Compression::Zlib),
                    elf::ELFCOMPRESS_ZSTD => Some(Compression::Zstd),
                    _ => None,
                };
                section.is_here = compression.is_some();
                section.packed = compression.map(|compression| Packed { compression, len: len as usize });
                section.size = packing.ch_size.get(Le);
                section.offset = offset;
            }
            Err(_) => section.is_here = false,
        }
        section
    }
}

fn find_build_id<'data>(mut notes: NoteIterator<'data, FileHeader64<Le>>) -> Option<Vec<u8>> {
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(Le) == elf::NT_GNU_BUILD_ID {
            return Some(note.desc().to_vec());
        }
    }
    None
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
