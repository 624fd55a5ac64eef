//! One file that the program had mapped: what can be asked about its code, opened when it is first asked.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};

use super::dwarf::{self, Damage, Dwarf, Frame};
use super::elf::Elf;
use super::lacks::Lack;
use super::separate::Places;
use super::table::Table;
use super::{ModuleId, NativeFrame, demangle};

pub struct Module {
    id: ModuleId,
    dwarf: Option<Dwarf>,
    /// The separate file with its debug information and the file itself, as far as they are here and wanted.
    elves: Vec<Elf>,
    tables: OnceCell<Vec<Table>>,
    /// What a user should know of before any address was looked up.
    lack: Option<Lack>,
    is_damage_told: bool,
}

impl Module {
    /// Opens the recorded file, or the debug information that belongs to it, or neither.
    pub fn open(id: &ModuleId, places: &Places, warnings: &mut Vec<String>) -> Module {
        let (file, lack) = match open_recorded(id) {
            Ok(elf) => (Some(elf), None),
            Err(lack) => (None, lack),
        };
        let has_own = file.as_ref().is_some_and(has_debug_information);
        let separate = if has_own { None } else { find_separate(id, file.as_ref(), places, warnings) };
        let elves: Vec<Elf> = separate.into_iter().chain(file).collect();
        // Debug information with the recorded build-id is as good as the file.
        let lack = lack.filter(|_| elves.is_empty());
        let (tables, is_damage_told) = (OnceCell::new(), false);
        let mut module = Module { id: id.clone(), dwarf: None, elves, tables, lack, is_damage_told };
        module.load_debug_information(places, warnings);
        module
    }

    fn load_debug_information(&mut self, places: &Places, warnings: &mut Vec<String>) {
        let Some(elf) = self.elves.first().filter(|elf| has_debug_information(elf)) else { return };
        let supplement = places.supplement(elf, warnings);
        if let (None, Some((link, _))) = (&supplement, elf.supplement_link()) {
            self.lack = Some(Lack::Supplement(link));
        }
        let packages: Vec<PathBuf> = self.elves.iter().map(|elf| dwarf::package_path(&elf.path)).collect();
        match Dwarf::load(elf, supplement.as_ref(), &packages) {
            Ok(dwarf) => self.dwarf = Some(dwarf),
            Err(damage) => self.tell(damage, warnings),
        }
    }

    /// What a user should know of, whether or not there were addresses without a name.
    pub fn lack(&self, has_unnamed: bool) -> Option<Lack> {
        let is_bare = !self.elves.is_empty() && !self.elves.iter().any(has_debug_information);
        // The lines of a system's library are nobody's concern as long as its functions have names.
        let is_told = is_bare && (has_unnamed || !is_of_system(&self.id.path));
        self.lack.clone().or(is_told.then_some(Lack::DebugInformation))
    }

    /// The functions at an address, innermost first; none when nobody knows it.
    pub fn frames(&mut self, address: u64, warnings: &mut Vec<String>) -> Vec<NativeFrame> {
        let found = match self.dwarf.as_ref().map(|dwarf| dwarf.frames(address)) {
            None => Vec::new(),
            Some(Ok(frames)) => frames,
            Some(Err(damage)) => {
                self.tell(damage, warnings);
                Vec::new()
            }
        };
        self.name(found, address)
    }

    /// Debug information may know the line and not the function, in assembler code for instance.
    fn name(&self, mut found: Vec<Frame>, address: u64) -> Vec<NativeFrame> {
        let mut outermost = found.pop().unwrap_or_default();
        if outermost.function.is_none() || outermost.is_short {
            let symbol = self.tables().iter().find_map(|table| table.name(address));
            // What the compiler appends to the name of a part that it has moved away.
            let is_mangled = |name: &String| name.starts_with("_Z");
            match symbol.as_ref().filter(|name| outermost.is_short && is_mangled(name)) {
                Some(full) => outermost.function = full.split('.').next().map(str::to_string),
                None => outermost.function = outermost.function.or(symbol),
            }
        }
        if outermost.function.is_none() && found.is_empty() && outermost.file.is_none() {
            return Vec::new();
        }
        let unnamed = || self.id.unnamed(address);
        let frame = |frame: Frame, is_inlined| NativeFrame {
            function: frame.function.map_or_else(unnamed, |name| demangle::demangle(&name)),
            file: frame.file,
            line: frame.line,
            is_inlined,
        };
        let mut frames: Vec<NativeFrame> = found.into_iter().map(|inlined| frame(inlined, true)).collect();
        frames.push(frame(outermost, false));
        frames
    }

    fn tables(&self) -> &[Table] {
        self.tables.get_or_init(|| {
            if let Some(full) = self.elves.iter().find_map(|elf| Table::read(elf, ".symtab")) {
                return vec![full];
            }
            // The packed symbols are those that the dynamic ones leave out.
            let packed = self.elves.iter().find_map(Elf::packed_symbols).and_then(|elf| Table::read(&elf, ".symtab"));
            let dynamic = self.elves.iter().find_map(|elf| Table::read(elf, ".dynsym"));
            packed.into_iter().chain(dynamic).collect()
        })
    }

    fn tell(&mut self, damage: Damage, warnings: &mut Vec<String>) {
        let path = self.elves.first().map_or(&self.id.path, |elf| &elf.path).display();
        let problem = match damage {
            Damage::Broken(error) => format!("debug information of {path} is damaged: {error}"),
            Damage::Endless => {
                self.dwarf = None;
                format!("debug information of {path} is damaged: it can't be read in reasonable time and memory")
            }
        };
        if !self.is_damage_told {
            warnings.push(problem);
        }
        self.is_damage_told = true;
    }
}

fn has_debug_information(elf: &Elf) -> bool {
    elf.has(".debug_info")
}

fn is_of_system(path: &Path) -> bool {
    ["/usr", "/lib", "/lib64"].iter().any(|folder| path.starts_with(folder))
}

/// The recorded file; else what is the matter with it, when a user should know.
fn open_recorded(id: &ModuleId) -> Result<Elf, Option<Lack>> {
    // What the kernel says of a file without a name; another one with its build-id may have taken its place.
    let path = id.path_without_mark();
    let elf = match Elf::open(path) {
        Ok(elf) => elf,
        // `[vdso]` has no file and is nothing to worry about.
        Err(_) if !path.is_absolute() => return Err(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Some(Lack::File));
        }
        Err(error) => return Err(Some(Lack::Reading(error.to_string()))),
    };
    let is_known = id.build_id.is_some() || path == id.path;
    if elf.build_id != id.build_id || !is_known {
        return Err(Some(Lack::Identity));
    }
    Ok(elf)
}

fn find_separate(id: &ModuleId, file: Option<&Elf>, places: &Places, warnings: &mut Vec<String>) -> Option<Elf> {
    let by_id = id.build_id.as_deref().and_then(|build_id| places.by_build_id(build_id));
    by_id.or_else(|| places.by_link(file?)).or_else(|| places.by_debuginfod(id.build_id.as_deref()?, warnings))
}
