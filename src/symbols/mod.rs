//! Turns addresses of native code into functions, files and lines, after the fact and outside the program.
//!
//! ```text
//!   Symbols ── a bundle that came with the capture (bundle)
//!      │
//!      └─ Module ── the file itself, or its debug information (separate), both ELF (elf, content, unpack)
//!            ├─ Dwarf ── addr2line over Bytes that are read when asked for (dwarf, bytes, limits)
//!            └─ Table ── symbols, where there is no debug information (table)
//! ```
//!
//! Called for the addresses that are about to be shown. It must never give a name that is not the code's: a file that is
//! not the one that was recorded is not looked at, and what nobody knows is called `libfoo.so+0x1234`. Nor may a file,
//! whatever is in it, end the process or hold it up.

pub mod bundle;
pub mod demangle;

mod bytes;
mod content;
mod dwarf;
mod elf;
mod lacks;
mod limits;
mod module;
mod separate;
mod table;
mod unpack;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bundle::Bundle;
use module::Module;
use separate::Places;

pub use separate::debuginfod_program;

/// A file with code that the program had mapped, as the capture names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleId {
    pub path: PathBuf,
    /// What the linker wrote into it; `None` when it had none, and then a file that has one is another file.
    pub build_id: Option<Vec<u8>>,
}

/// Where to look for symbols.
#[derive(Debug)]
pub struct Options {
    /// Folders with separate debug information.
    pub debug_folders: Vec<PathBuf>,
    /// The program that asks debuginfod servers ([`debuginfod_program`]); `None` asks nobody.
    pub debuginfod: Option<OsString>,
    /// What was packed on the machines of the captures.
    pub bundles: Vec<Bundle>,
}

/// One function at an address. The code of an inlined one lies inside the next one's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NativeFrame {
    /// As it was written; `libfoo.so+0x1234` when nobody knows.
    pub function: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub is_inlined: bool,
}

/// Answers for addresses, each of which is looked up once.
pub struct Symbols {
    options: Options,
    by_id: HashMap<ModuleId, usize>,
    modules: Vec<Asked>,
    answers: HashMap<(usize, Place), Answer>,
    warnings: Vec<String>,
}

/// A module that was asked about.
struct Asked {
    id: ModuleId,
    /// Opened when no bundle has the answer.
    module: Option<Module>,
    /// Whether an address in it is known by nothing but its offset.
    has_unnamed: bool,
}

/// An address in a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// As the ELF file counts it: the program counter without the load bias.
    pub address: u64,
    /// A return address belongs to the call before it, which may be the last thing of its line and even of its function.
    pub is_return_address: bool,
}

struct Answer {
    frames: Vec<NativeFrame>,
    is_known: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { debug_folders: vec!["/usr/lib/debug".into()], debuginfod: None, bundles: Vec::new() }
    }
}

impl Symbols {
    pub fn new(options: Options) -> Symbols {
        Symbols { options, by_id: HashMap::new(), modules: Vec::new(), answers: HashMap::new(), warnings: Vec::new() }
    }

    /// The functions at a place, innermost first; at least one.
    pub fn frames(&mut self, module: &ModuleId, place: Place) -> &[NativeFrame] {
        &self.answer(module, place).frames
    }

    /// The same; `None` where only an offset can be shown.
    pub fn known_frames(&mut self, module: &ModuleId, place: Place) -> Option<&[NativeFrame]> {
        let answer = self.answer(module, place);
        answer.is_known.then_some(&answer.frames[..])
    }

    /// Sentences about what could not be used, one for all files of which the same is to be said.
    pub fn warnings(&self) -> Vec<String> {
        // What a bundle has nothing to say about was not known where it was packed either.
        let is_packed = |id: &ModuleId| self.options.bundles.iter().any(|bundle| bundle.has(id));
        let lacks = self.modules.iter().filter(|asked| !is_packed(&asked.id)).filter_map(|asked| {
            let module = asked.module.as_ref()?;
            Some((module.lack(asked.has_unnamed)?, asked.id.path_without_mark()))
        });
        let mut sentences = lacks::sentences(lacks);
        sentences.extend(self.warnings.iter().cloned());
        sentences
    }

    fn answer(&mut self, id: &ModuleId, place: Place) -> &Answer {
        let index = self.module_index(id);
        if !self.answers.contains_key(&(index, place)) {
            let mut frames = self.look_up(index, place);
            let is_known = !frames.is_empty();
            if !is_known {
                self.modules[index].has_unnamed = true;
                frames.push(NativeFrame {
                    function: id.unnamed(place.address),
                    file: None,
                    line: None,
                    is_inlined: false,
                });
            }
            self.answers.insert((index, place), Answer { frames, is_known });
        }
        &self.answers[&(index, place)]
    }

    fn look_up(&mut self, index: usize, place: Place) -> Vec<NativeFrame> {
        let Symbols { options, modules, warnings, .. } = self;
        let Asked { id, module, .. } = &mut modules[index];
        if let Some(frames) = options.bundles.iter().find_map(|bundle| bundle.frames(id, place)) {
            return frames;
        }
        let places = Places { folders: &options.debug_folders, debuginfod: options.debuginfod.as_deref() };
        let module = module.get_or_insert_with(|| Module::open(id, &places, warnings));
        module.frames(place.code_address(), warnings)
    }

    fn module_index(&mut self, id: &ModuleId) -> usize {
        if let Some(index) = self.by_id.get(id) {
            return *index;
        }
        let index = self.modules.len();
        self.modules.push(Asked { id: id.clone(), module: None, has_unnamed: false });
        self.by_id.insert(id.clone(), index);
        index
    }
}

impl Place {
    /// An address of the instruction that was being executed.
    fn code_address(self) -> u64 {
        self.address.saturating_sub(u64::from(self.is_return_address))
    }
}

impl ModuleId {
    /// How an address without a function is called.
    fn unnamed(&self, address: u64) -> String {
        let path = self.path_without_mark();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        format!("{name}+{address:#x}")
    }

    /// The path as it was before the kernel marked it as deleted.
    fn path_without_mark(&self) -> &Path {
        let bytes = self.path.as_os_str().as_bytes();
        Path::new(OsStr::from_bytes(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_up_may_happen_on_any_thread() {
        fn is_send<T: Send>() {}
        is_send::<Symbols>();
    }

    #[test]
    fn a_file_without_a_name_keeps_its_last_one() {
        let check = |path: &str, expected: &str| {
            let id = ModuleId { path: path.into(), build_id: None };
            assert_eq!(id.unnamed(0x1234), expected);
        };
        check("/usr/lib/libfoo.so.1", "libfoo.so.1+0x1234");
        check("/usr/lib/libfoo.so.1 (deleted)", "libfoo.so.1+0x1234");
        check("[vdso]", "[vdso]+0x1234");
        check("", "+0x1234");
    }
}
