//! What code belongs to: the loaded objects with their unwind information, as they were when somebody last looked.
//!
//! # Safety
//! Dangerous: reads the headers and the unwind information of objects where they are mapped. We rely on the mappings that
//! the kernel has just told of, and on nobody unloading them: who unloads something says so before, and nothing is read
//! until it is done (`rules`).

use memtrace_format::{Record, record};

use super::bytes::Region;
use super::eh_frame::EhFrame;
use super::maps::{Mapping, Maps};
use super::rule::Rule;
use crate::guard::Guard;
use crate::heap::{Array, Plain};
use crate::{abi, meta, python};

/// Executable memory of an object.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Module {
    start: u64,
    end: u64,
    /// What is added to the file's addresses.
    bias: u64,
    /// Its readable mapping with `.eh_frame_hdr`, and where that is; all zero without.
    segment_start: u64,
    segment_end: u64,
    header: u64,
    /// Where its ELF header is mapped; 0 when it has none.
    elf: u64,
    /// Its number in the log; 0 when it is not there yet.
    number: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Module {}

/// A mapping.
#[derive(Clone, Copy)]
#[repr(C)]
struct Span {
    start: u64,
    end: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Span {}

/// By address.
pub struct Modules {
    modules: Array<Module>,
    len: usize,
    /// Room for the next look: modules, mappings that can be read, and what the kernel says of them.
    next: Array<Module>,
    readable: Array<Span>,
    text: Array<u8>,
    /// Addresses that nobody knew, since something was looked for and found.
    n_unknown: u32,
}

impl Modules {
    pub const fn new() -> Modules {
        Modules {
            modules: Array::new(),
            len: 0,
            next: Array::new(),
            readable: Array::new(),
            text: Array::new(),
            n_unknown: 0,
        }
    }

    /// What an address of code belongs to.
    pub fn find(&self, address: u64) -> Option<&Module> {
        self.modules.slice(self.len).get(self.index(address)?)
    }

    fn index(&self, address: u64) -> Option<usize> {
        let modules = self.modules.slice(self.len);
        let index = modules.partition_point(|module| module.start <= address).checked_sub(1)?;
        modules.get(index).is_some_and(|module| address < module.end).then_some(index)
    }

    /// The number in the log of what an address belongs to, and the address in its file.
    pub fn place(&mut self, guard: &Guard, address: u64) -> Option<(u32, u32)> {
        let index = self.index(address)?;
        let module = self.modules.get_mut(index)?;
        if module.number == 0 {
            module.number = u64::from(describe(guard, &Maps::read()?, module)?);
        }
        let offset = u32::try_from(address.wrapping_sub(module.bias)).ok()?;
        Some((module.number as u32, offset))
    }

    /// Whether any of them lies in a range.
    pub fn has_any(&self, start: u64, end: u64) -> bool {
        self.modules.slice(self.len).iter().any(|module| module.start < end && start < module.end)
    }

    /// Nothing is known any more.
    pub fn forget(&mut self) {
        (self.len, self.n_unknown) = (0, 0);
    }

    /// Whether it is worth looking for an address that nobody knows: always for the first ones, and of those that follow in
    /// vain for one in many. (A program may have a great many addresses that belong to nothing.)
    pub fn is_look_due(&mut self) -> bool {
        const ALWAYS: u32 = 16;
        const ONE_IN: u32 = 64;
        self.n_unknown = self.n_unknown.wrapping_add(1);
        self.n_unknown <= ALWAYS || self.n_unknown.is_multiple_of(ONE_IN)
    }

    /// Looks for what is at an address, which gets its number.
    pub fn look_for(&mut self, guard: &Guard, address: u64) {
        let text = core::mem::replace(&mut self.text, Array::new());
        let Some(maps) = Maps::read_into(text) else { return };
        if self.look(&maps)
            && let Some(module) = self.index(address).and_then(|index| self.modules.get_mut(index))
            && module.number == 0
        {
            module.number = describe(guard, &maps, module).unwrap_or(0).into();
        }
        self.text = maps.into_memory();
    }

    /// Looks again; what is still there keeps its number. `false` without memory.
    pub fn look(&mut self, maps: &Maps) -> bool {
        let (mut n_found, mut n_readable) = (0, 0);
        let mut first: Option<Mapping<'_>> = None;
        for mapping in maps.lines() {
            if mapping.is_readable {
                if !self.readable.grow(n_readable + 1) {
                    return false;
                }
                self.readable.set(n_readable, Span { start: mapping.start, end: mapping.end });
                n_readable += 1;
            }
            let is_of_file = mapping.file.1 != 0 || mapping.path == b"[vdso]";
            // The start of a file; what else is mapped of it follows.
            if mapping.is_readable && mapping.offset == 0 && is_of_file {
                first = Some(mapping);
            }
            if !mapping.is_executable || mapping.path == b"[vsyscall]" {
                continue;
            }
            let of_file = first.filter(|first| is_of_file && first.file == mapping.file);
            let mut module = Module { start: mapping.start, end: mapping.end, ..EMPTY };
            match of_file {
                Some(first) => read_elf(&first, &mut module),
                // Code that the program made itself is counted from where it begins.
                None => module.bias = mapping.start,
            }
            // Nothing was unloaded since the last look, or it would be forgotten.
            let known = self.find(module.start).filter(|known| known.is_like(&module));
            module.number = known.map_or(0, |known| known.number);
            if !self.next.grow(n_found + 1) {
                return false;
            }
            self.next.set(n_found, module);
            n_found += 1;
        }
        let readable = self.readable.slice(n_readable);
        for module in self.next.tail_mut(0).and_then(|next| next.get_mut(..n_found)).unwrap_or(&mut []) {
            let above = readable.partition_point(|span| span.start <= module.header);
            let segment = above.checked_sub(1).and_then(|index| readable.get(index));
            if let Some(segment) = segment.filter(|segment| module.header != 0 && module.header < segment.end) {
                (module.segment_start, module.segment_end) = (segment.start, segment.end);
            }
        }
        if n_found != self.len {
            self.n_unknown = 0;
        }
        core::mem::swap(&mut self.modules, &mut self.next);
        self.len = n_found;
        true
    }
}

/// Writes a module into the log; its number.
#[cold]
fn describe(guard: &Guard, maps: &Maps, module: &Module) -> Option<u32> {
    let mapping = maps.at(module.start)?;
    let id = python::next_code_number();
    let build_id = if module.elf == 0 { None } else { build_id(maps, module) };
    let record =
        Record::Module(record::Module { id, bias: module.bias, path: mapping.path, build_id: build_id.unwrap_or(&[]) });
    meta::record(guard, &record).then_some(id)
}

const EMPTY: Module =
    Module { start: 0, end: 0, bias: 0, segment_start: 0, segment_end: 0, header: 0, elf: 0, number: 0 };

impl Module {
    /// Whether they lie in the same place and have the same layout.
    fn is_like(&self, other: &Module) -> bool {
        (self.start, self.end, self.bias, self.header) == (other.start, other.end, other.bias, other.header)
    }

    /// The rule at an instruction of this module, read where the loader mapped it.
    ///
    /// # Safety
    /// The module has not been unloaded.
    pub unsafe fn rule(&self, address: u64) -> Rule {
        if self.segment_end == 0 {
            return Rule::Unknown;
        }
        // SAFETY: a readable mapping, as the kernel told, which is still there.
        let segment = unsafe { region(self.segment_start, self.segment_end) };
        let rule = EhFrame::new(segment, self.header).and_then(|frames| frames.rule(address));
        rule.unwrap_or(Rule::Unknown)
    }
}

/// # Safety
/// The range is mapped and can be read, for as long as the region is used.
unsafe fn region<'a>(start: u64, end: u64) -> Region<'a> {
    // SAFETY: as the caller says.
    let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, end.saturating_sub(start) as usize) };
    Region { start, bytes }
}

/// The note that the linker made (`NT_GNU_BUILD_ID`).
fn build_id<'a>(maps: &Maps, module: &Module) -> Option<&'a [u8]> {
    let first = maps.at(module.elf).filter(|first| first.is_readable)?;
    // SAFETY: a readable mapping, as the kernel has just told.
    let header = unsafe { region(first.start, first.end) };
    let mut build_id = None;
    each_segment(header, |kind, _, address, len| {
        if kind != abi::PT_NOTE || build_id.is_some() {
            return;
        }
        let address = address.wrapping_add(module.bias);
        let Some(mapping) = maps.at(address).filter(|mapping| mapping.is_readable) else { return };
        // SAFETY: as above.
        let region: Region<'a> = unsafe { region(mapping.start, mapping.end) };
        build_id = region.cursor(address).and_then(|mut cursor| cursor.take(len)).and_then(note);
    });
    build_id
}

/// `Elf64_Nhdr` (`elf.h`): lengths of name and content, the kind, then both, each filled up to whole words.
fn note(region: Region<'_>) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let mut cursor = region.beginning();
    loop {
        let (name_len, len, kind) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let name = cursor.take(u64::from(name_len).next_multiple_of(4))?;
        let content = cursor.take(u64::from(len).next_multiple_of(4))?;
        if kind == NT_GNU_BUILD_ID && name.bytes == b"GNU\0" {
            return content.bytes.get(..len as usize);
        }
    }
}

/// Fills in what the ELF header says, which begins at the start of a mapping (`elf.h`, `Elf64_Ehdr` and `Elf64_Phdr`).
fn read_elf(first: &Mapping<'_>, module: &mut Module) {
    const PAGE: u64 = 4096;
    // SAFETY: a readable mapping, as the kernel has just told.
    let region = unsafe { region(first.start, first.end) };
    let (mut bias, mut header) = (None, None);
    each_segment(region, |kind, offset, address, _| match kind {
        abi::PT_LOAD if bias.is_none() && offset / PAGE == 0 => {
            bias = Some(first.start.wrapping_sub(address & !(PAGE - 1)))
        }
        abi::PT_GNU_EH_FRAME => header = Some(address),
        _ => {}
    });
    if let Some(bias) = bias {
        (module.elf, module.bias) = (first.start, bias);
        module.header = header.map_or(0, |header: u64| header.wrapping_add(bias));
    }
}

/// Kind, offset, address and length of each segment of the object whose header begins a region.
fn each_segment(region: Region<'_>, mut take: impl FnMut(u32, u64, u64, u64)) -> Option<()> {
    const LEN: u64 = 56;
    if region.beginning().array::<16>()?.first_chunk() != Some(b"\x7fELF\x02\x01") {
        return None;
    }
    let at = |offset: u64| region.cursor(region.start.checked_add(offset)?);
    let (segments, len, n_segments) = (at(0x20)?.u64()?, at(0x36)?.u16()?, at(0x38)?.u16()?);
    if u64::from(len) != LEN {
        return None;
    }
    for index in 0..u64::from(n_segments) {
        let mut segment = at(segments.checked_add(index * LEN)?)?;
        let (kind, _flags, offset, address) = (segment.u32()?, segment.u32()?, segment.u64()?, segment.u64()?);
        let _physical = segment.u64()?;
        take(kind, offset, address, segment.u64()?);
    }
    Some(())
}
