//! The functions that a symbol table names: what is left when there is no debug information.
//!
//! A symbol answers for the bytes that it says are its own, so what a stripped file does not name stays without a name
//! instead of getting the neighbour's. A label of assembler code without a size reaches to the next symbol.

use std::cmp::Reverse;
use std::sync::Arc;

use object::elf::{self, Sym64};
use object::{LittleEndian as Le, pod};

use super::bytes::Bytes;
use super::elf::Elf;
use super::limits::Limits;

/// How many functions that end before an address are looked at for one around them.
const MAX_NESTED: usize = 1000;

pub struct Table {
    /// By address, one each.
    symbols: Vec<Symbol>,
    names: Bytes,
    limits: Arc<Limits>,
}

#[derive(Clone, Copy)]
struct Symbol {
    start: u64,
    end: u64,
    /// The largest `end` of this one and all before it.
    reach: u64,
    name: u32,
    /// How well known it is; odd when the symbol has a size.
    rank: u8,
}

impl Symbol {
    fn has_size(&self) -> bool {
        self.rank & 1 == 1
    }
}

impl Table {
    /// The table in a section `.symtab` or `.dynsym`, if it is there.
    pub fn read(elf: &Elf, section_name: &str) -> Option<Table> {
        let sections = elf.sections();
        let section = sections.iter().find(|section| section.name == section_name.as_bytes())?;
        let bytes = elf.whole(section)?;
        let limits = Arc::new(Limits::default());
        let names = elf.bytes_of(sections.get(section.link)?, &limits);
        let n_symbols = bytes.len() / size_of::<Sym64<Le>>();
        let (entries, _) = pod::slice_from_bytes::<Sym64<Le>>(&bytes, n_symbols).ok()?;
        let mut symbols: Vec<Symbol> = entries
            .iter()
            .filter_map(|entry| {
                let section = sections.get(usize::from(entry.st_shndx.get(Le).0))?;
                let (start, size) = (entry.st_value.get(Le), entry.st_size.get(Le));
                let kind = entry.st_type();
                let is_function = kind == elf::STT_FUNC || kind == elf::STT_GNU_IFUNC;
                let rank = match (is_function, entry.st_bind()) {
                    (true, elf::STB_GLOBAL) => 3,
                    (true, elf::STB_WEAK) => 2,
                    (true, _) => 1,
                    // Local ones are the targets of jumps.
                    (false, elf::STB_GLOBAL | elf::STB_WEAK) if kind == elf::STT_NOTYPE => 0,
                    _ => return None,
                };
                if !section.is_code || entry.st_name.get(Le) == 0 {
                    return None;
                }
                // Of those without a size the end of the section is the first bound.
                let section_end = section.address.saturating_add(section.size);
                let end = if size == 0 { section_end } else { start.saturating_add(size) };
                Some(Symbol { start, end, reach: 0, name: entry.st_name.get(Le), rank: rank << 1 | u8::from(size > 0) })
            })
            .collect();
        // The last one of those with the same start stays: the best known, and the one with a size.
        symbols.sort_by_key(|symbol| (symbol.start, symbol.rank, symbol.end, Reverse(symbol.name)));
        Some(Table { symbols: choose(&symbols, &names), names, limits })
    }

    /// The name of the function with the code at an address, as the linker knows it.
    pub fn name(&self, address: u64) -> Option<String> {
        self.limits.begin_lookup();
        let after = self.symbols.partition_point(|symbol| symbol.start <= address);
        let before = self.symbols[..after].iter().rev().take(MAX_NESTED);
        // The innermost one: functions can have others inside them.
        let symbol = before.take_while(|symbol| symbol.reach > address).find(|symbol| symbol.end > address)?;
        text(symbol, &self.names)
    }
}

/// One symbol for each start, with ends and reaches.
fn choose(all: &[Symbol], names: &Bytes) -> Vec<Symbol> {
    let mut chosen: Vec<Symbol> = Vec::new();
    let mut sized_reach = 0;
    for group in all.chunk_by(|one, other| one.start == other.start) {
        let best = group.last().expect("a group has one at least");
        let equals = group.iter().filter(|symbol| symbol.rank == best.rank && symbol.end == best.end);
        let best = match equals.clone().count() {
            1 => *best,
            _ => *equals.min_by_key(|symbol| taste(&text(symbol, names).unwrap_or_default())).unwrap_or(best),
        };
        // A label inside a function is not another function.
        if best.has_size() {
            sized_reach = sized_reach.max(best.end);
        } else if best.start < sized_reach {
            continue;
        }
        chosen.push(best);
    }
    let mut next_start = u64::MAX;
    for symbol in chosen.iter_mut().rev() {
        if !symbol.has_size() {
            symbol.end = symbol.end.min(next_start);
        }
        next_start = symbol.start;
    }
    let mut reach = 0;
    for symbol in &mut chosen {
        reach = reach.max(symbol.end);
        symbol.reach = reach;
    }
    chosen
}

fn text(symbol: &Symbol, names: &Bytes) -> Option<String> {
    names.text_at(symbol.name as usize).filter(|name| !name.is_empty())
}

/// The smallest is the name that people know: `malloc` and not `__libc_malloc`, which is the same.
fn taste(name: &str) -> (usize, usize, String) {
    let n_underscores = name.bytes().take_while(|byte| *byte == b'_').count();
    (n_underscores, name.len(), name.to_string())
}
