//! What binutils say about the same addresses: `addr2line`, which reads DWARF with another library than ours.
//!
//! Its names are taken as the linker has them and demangled as ours are; `names.rs` looks at demangling.
//! Both sides agree but for seven things, which [`differences`] knows:
//!
//! - Where the debug information has nothing, binutils know a source file from the symbol table, without a line.
//! - Of several symbols at an address each side has its favourite.
//! - For bytes between functions, which are never executed, binutils name the function before them.
//! - Binutils call the part of a function that was moved away `main.cold`, as its symbol does.
//! - What surrounds an inlined function has its namespaces here too when only its symbol has them.
//! - Binutils call an inlined function that has no linker's name like the function that surrounds it.
//! - Binutils 2.40 take some of the files in a table of DWARF 5 for the unit's own, with the line in the other file.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use memtrace::symbols::demangle::demangle;
use memtrace::symbols::{ModuleId, NativeFrame, Options, Place, Symbols};

use super::support::{Scratch, run};

/// A function at an address, as both sides print it; `?` where they don't know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub function: String,
    pub file: String,
    pub line: u32,
}

impl std::fmt::Display for Frame {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} at {}:{}", self.function, self.file, self.line)
    }
}

/// The functions at each address, innermost first.
pub fn addr2line(file: &Path, addresses: &[u64]) -> Vec<Vec<Frame>> {
    let scratch = Scratch::new("addr2line");
    let list = scratch.join("addresses");
    let mut text = String::new();
    for address in addresses {
        writeln!(text, "@{address:#x}").unwrap();
    }
    fs::write(&list, text.replace('@', "")).unwrap();
    let output =
        run(Command::new("addr2line").args(["-a", "-i", "-f", "-e"]).arg(file).stdin(fs::File::open(&list).unwrap()));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut answers = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            answers.push(Vec::new());
            continue;
        }
        let place = lines.next().expect("a place follows each function");
        let place = place.split(" (discriminator").next().unwrap();
        let (file, number) = place.rsplit_once(':').expect("a place has a line");
        answers.last_mut().expect("an address comes first").push(Frame {
            function: if line == "??" { "?".into() } else { demangle(line) },
            file: if file == "??" { "?".into() } else { plain(file) },
            line: number.parse().unwrap_or(0),
        });
    }
    assert_eq!(answers.len(), addresses.len(), "addr2line answers each address");
    answers
}

/// Our answers, for addresses of instructions.
pub fn ours(symbols: &mut Symbols, id: &ModuleId, addresses: &[u64]) -> Vec<Vec<Frame>> {
    let mut answer = |address: &u64| {
        let frames = symbols.frames(id, Place { address: *address, is_return_address: false });
        let (outermost, inlined) = frames.split_last().expect("there is a frame");
        assert!(!outermost.is_inlined && inlined.iter().all(|frame| frame.is_inlined));
        frames.iter().map(frame).collect()
    };
    addresses.iter().map(&mut answer).collect()
}

fn frame(frame: &NativeFrame) -> Frame {
    Frame {
        function: frame.function.clone(),
        file: frame.file.as_deref().map_or_else(|| "?".to_string(), plain),
        line: frame.line.unwrap_or(0),
    }
}

/// A path without `.` and `..` in it.
fn plain(path: &str) -> String {
    let mut parts = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.display().to_string()
}

/// A file as a capture of a program that ran it would name it.
pub fn module(path: &Path) -> ModuleId {
    ModuleId { path: path.to_path_buf(), build_id: build_id(path) }
}

/// As `readelf` prints it.
pub fn build_id(path: &Path) -> Option<Vec<u8>> {
    let output = run(Command::new("readelf").arg("-n").arg(path).env("LC_ALL", "C"));
    let text = String::from_utf8_lossy(&output.stdout);
    let hex = text.lines().find_map(|line| line.trim().strip_prefix("Build ID: "))?;
    Some((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect())
}

/// Symbols that are looked for nowhere but in the files themselves and what they name.
pub fn symbols() -> Symbols {
    Symbols::new(Options { debug_folders: Vec::new(), ..Options::default() })
}

/// Addresses here and there in the code of a file, the same ones each time.
pub fn addresses(file: &Path, n_addresses: usize) -> Vec<u64> {
    let (start, len) = section(file, ".text");
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..n_addresses)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            start + state % len
        })
        .collect()
}

/// Where a section is in memory, and its bytes.
pub fn section(file: &Path, name: &str) -> (u64, u64) {
    let output = run(Command::new("readelf").args(["-S", "-W"]).arg(file).env("LC_ALL", "C"));
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.contains(&format!(" {name} "))).expect("the section is there");
    let mut fields = line[line.find(name).unwrap()..].split_whitespace().skip(2);
    let mut number = || u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
    let address = number();
    number();
    (address, number())
}

/// The addresses of a file where the answers differ in a way that nothing explains, with both, as text.
/// `own_file` is the one that binutils may take for another.
pub fn differences(
    file: &Path,
    own_file: Option<&Path>,
    addresses: &[u64],
    expected: &[Vec<Frame>],
    actual: &[Vec<Frame>],
) -> String {
    let functions = functions(file);
    let own_file = own_file.map(|path| path.display().to_string());
    let mut text = String::new();
    for ((address, expected), actual) in addresses.iter().zip(expected).zip(actual) {
        let there = functions.iter().filter(|(start, len, _)| (*start..start + len).contains(address));
        let names: Vec<&str> = there.map(|(_, _, name)| &**name).collect();
        let mut expected_here = expected.clone();
        if let ([inlined, .., outermost], [name, ..]) = (&mut expected_here[..], &actual[..])
            && inlined.function == outermost.function
        {
            inlined.function = name.function.clone();
        }
        if expected_here.len() == actual.len()
            && expected_here
                .iter()
                .zip(actual)
                .all(|(expected, actual)| is_same(expected, actual, &names, own_file.as_deref()))
        {
            continue;
        }
        writeln!(text, "{address:#x}").unwrap();
        for (side, frames) in [("expected", expected), ("actual", actual)] {
            for frame in frames {
                writeln!(text, "  {side:9}{frame}").unwrap();
            }
        }
    }
    text
}

fn is_same(expected: &Frame, actual: &Frame, names: &[&str], own_file: Option<&str>) -> bool {
    let has_symbols_file = expected.line == 0 && actual.line == 0 && actual.file == "?";
    let is_same_place = (&expected.file, expected.line) == (&actual.file, actual.line) || has_symbols_file;
    let is_mistaken = own_file == Some(&expected.file) && expected.line == actual.line;
    let is_unnamed = actual.function.contains("+0x");
    let is_same_function = expected.function.split(".cold").next() == Some(&actual.function)
        || actual.function.ends_with(&format!("::{}", expected.function))
        || (is_unnamed && names.is_empty())
        || [expected, actual].iter().all(|frame| names.contains(&&*frame.function));
    (is_same_place || is_mistaken) && is_same_function
}

/// The functions of a file as `nm` knows them; of a stripped one from its debug file.
fn functions(file: &Path) -> Vec<(u64, u64, String)> {
    let found = symbols_of(file, &[]);
    let found = if found.is_empty() { debug_file(file).map(|debug| symbols_of(&debug, &[])) } else { Some(found) };
    found.unwrap_or_default()
}

/// The functions in a file: start, length, the linker's name.
pub fn symbols_of(file: &Path, arguments: &[&str]) -> Vec<(u64, u64, String)> {
    let output = run(Command::new("nm").args(["-S", "--defined-only"]).args(arguments).arg(file));
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [start, len, "t" | "T" | "w" | "W" | "i", name] => Some((number(start), number(len), name.to_string())),
        _ => None,
    });
    lines.collect()
}

fn debug_file(file: &Path) -> Option<PathBuf> {
    let hex: String = build_id(file)?.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = PathBuf::from(format!("/usr/lib/debug/.build-id/{}/{}.debug", &hex[..2], &hex[2..]));
    path.exists().then_some(path)
}

/// The address after a function.
pub fn function_end(file: &Path, name: &str) -> u64 {
    let functions = symbols_of(file, &[]);
    let (start, len, _) = functions.iter().find(|(_, _, there)| there == name).expect("the function is there");
    start + len
}
