//! Debug information: the functions that are inlined at an address, and the files and lines they were written in.
//!
//! `addr2line` reads the units that an address may belong to when it is asked, and keeps what it read. This file gives
//! it the sections, those of the supplementary file that several libraries share, and those of split units.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use addr2line::gimli::{self, AbbreviationsCacheStrategy, DwarfPackage};
use addr2line::{Context, LookupContinuation as _, LookupResult, SplitDwarfLoad};

use super::bytes::Bytes;
use super::elf::Elf;
use super::limits::Limits;

pub struct Dwarf {
    context: Context<Bytes>,
    package: Option<DwarfPackage<Bytes>>,
    limits: Arc<Limits>,
}

/// A function as the debug information has it, with its linker's name where it has one.
#[derive(Default)]
pub struct Frame {
    pub function: Option<String>,
    /// Whether that may be a name without its namespaces: C++ functions that no other file calls have no linker's name
    /// in the debug information.
    pub is_short: bool,
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// What could not be read.
#[derive(Debug)]
pub enum Damage {
    /// Something there makes no sense.
    Broken(gimli::Error),
    /// Reading it would take too long or too much of the stack; it should not be asked again.
    Endless,
}

impl Dwarf {
    /// The debug information in a file.
    /// `packages` are the names that a file with all its split units may have.
    pub fn load(elf: &Elf, supplement: Option<&Elf>, packages: &[PathBuf]) -> Result<Dwarf, Damage> {
        let limits = Arc::new(Limits::default());
        limits.begin_lookup();
        let damaged = |error| Damage::new(error, &limits);
        let section = |elf: &Elf, name: Option<&str>| {
            Ok(name.map_or_else(|| Bytes::empty(limits.clone()), |name| elf.bytes(name, &limits)))
        };
        let mut sections = gimli::Dwarf::load(|id| section(elf, Some(id.name()))).map_err(damaged)?;
        if let Some(supplement) = supplement {
            sections.load_sup(|id| section(supplement, Some(id.name()))).map_err(damaged)?;
        }
        sections.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
        let context = Context::from_dwarf(sections).map_err(damaged)?;
        let package = packages.iter().find_map(|path| {
            let elf = Elf::open(path).ok()?;
            DwarfPackage::load(|id| section(&elf, id.dwo_name()), Bytes::empty(limits.clone())).ok()
        });
        Ok(Dwarf { context, package, limits })
    }

    /// The functions at an address, innermost first; none when the debug information does not know it.
    pub fn frames(&self, address: u64) -> Result<Vec<Frame>, Damage> {
        self.limits.begin_lookup();
        self.read_frames(address).map_err(|error| Damage::new(error, &self.limits))
    }

    fn read_frames(&self, address: u64) -> gimli::Result<Vec<Frame>> {
        let mut lookup = self.context.find_frames(address);
        let mut found = loop {
            match lookup {
                LookupResult::Output(found) => break found?,
                LookupResult::Load { load, continuation } => lookup = continuation.resume(self.split_unit(&load)),
            }
        };
        let mut frames = Vec::new();
        while let Some(frame) = found.next()? {
            let (mut function, mut is_short) = (None, false);
            if let Some(found) = &frame.function {
                let name = found.raw_name()?.into_owned();
                is_short = !found.language.is_some_and(is_c) && !name.starts_with("_Z");
                function = Some(name);
            }
            let location = frame.location.as_ref();
            frames.push(Frame {
                function,
                is_short,
                file: location.and_then(|location| location.file).map(str::to_string),
                line: location.and_then(|location| location.line),
            });
        }
        Ok(frames)
    }

    /// The part of a unit that its compiler put into another file; `None` when it is not to be had.
    fn split_unit(&self, load: &SplitDwarfLoad<Bytes>) -> Option<Arc<gimli::Dwarf<Bytes>>> {
        if let Some(unit) = self.package.as_ref().and_then(|package| package.find_cu(load.dwo_id, &load.parent).ok()?) {
            return Some(Arc::new(unit));
        }
        let name = path(load.path.as_ref()?)?;
        let folder = load.comp_dir.as_ref().and_then(path).unwrap_or_default();
        let elf = Elf::open(&folder.join(name)).ok()?;
        let empty = || Bytes::empty(self.limits.clone());
        let section = |id: gimli::SectionId| {
            gimli::Result::Ok(id.dwo_name().map_or_else(empty, |name| elf.bytes(name, &self.limits)))
        };
        let mut sections = gimli::Dwarf::load(section).ok()?;
        let header = sections.units().next().ok()??;
        let unit = sections.unit(header).ok()?;
        if unit.dwo_id != Some(load.dwo_id) {
            return None;
        }
        sections.make_dwo(&load.parent);
        Some(Arc::new(sections))
    }
}

impl Damage {
    fn new(error: gimli::Error, limits: &Limits) -> Damage {
        if limits.is_exhausted() { Damage::Endless } else { Damage::Broken(error) }
    }
}

/// Where the split units of a file are when they are packed into one.
pub fn package_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_os_string();
    name.push(".dwp");
    PathBuf::from(name)
}

fn is_c(language: gimli::DwLang) -> bool {
    use gimli::constants::*;
    [DW_LANG_C, DW_LANG_C89, DW_LANG_C99, DW_LANG_C11, DW_LANG_C17].contains(&language)
}

fn path(bytes: &Bytes) -> Option<PathBuf> {
    let bytes = gimli::Reader::to_slice(bytes).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(&bytes)))
}
