//! Files that are damaged, or made to do harm, or change while they are read: the answer is an offset or a symbol, and
//! it comes.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use memtrace::symbols::{ModuleId, Place, Symbols};

use super::build::{build, build_as, tool};
use super::oracle::{addresses, build_id, module, section, symbols};
use super::support::Scratch;

#[test]
fn damaged_files_end_nothing() {
    let scratch = Scratch::new("hostile");
    let plain = build(&scratch, "inlined.c", "-O2");
    let cpp = build_as(&scratch, "templates.cpp", "-O1 -gdwarf-4", "cpp");
    let compressed = build_as(&scratch, "inlined.c", "-O2 -gz=zlib", "compressed");
    let split = build_as(&scratch, "inlined.c", "-O2 -gsplit-dwarf", "split");
    fs::copy(&plain, scratch.join("mini")).unwrap();
    tool(&scratch, "strip --strip-debug mini");
    tool(&scratch, "xz --keep mini");
    let stripped = scratch.join("stripped");
    fs::copy(&plain, &stripped).unwrap();
    tool(&scratch, "strip --strip-all stripped");
    tool(&scratch, "objcopy --add-section .gnu_debugdata=mini.xz stripped");
    for (file, n_rounds) in [(&plain, 300), (&cpp, 40), (&compressed, 100), (&split, 100), (&stripped, 100)] {
        let (bytes, asked, build_id) = (fs::read(file).unwrap(), addresses(file, 20), build_id(file));
        let damaged = scratch.join("damaged");
        let id = ModuleId { path: damaged.clone(), build_id };
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 0..n_rounds {
            let mut bytes = bytes.clone();
            for _ in 0..=round % 30 {
                let at = random.below(bytes.len());
                bytes[at] = match random.below(4) {
                    0 => 0xff,
                    1 => 0,
                    _ => random.below(256) as u8,
                };
            }
            if round % 7 == 0 {
                bytes.truncate(random.below(bytes.len()));
            }
            fs::write(&damaged, &bytes).unwrap();
            ask(&mut symbols(), &id, &asked);
        }
    }
}

#[test]
fn damaged_debug_information_leaves_the_symbols() {
    let scratch = Scratch::new("hostile");
    let file = build(&scratch, "inlined.c", "-O2");
    let offset = section_offset(&file, ".debug_info");
    // The version of the first unit, and with it of all.
    OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&[99, 99], offset + 4).unwrap();
    let (mut symbols, id) = (symbols(), module(&file));
    let place = Place { address: super::oracle::function_end(&file, "squares"), is_return_address: true };
    assert_eq!(symbols.frames(&id, place)[0].function, "squares");
    assert_eq!(symbols.warnings().len(), 1, "{:?}", symbols.warnings());
    let start = format!("debug information of {} is damaged: ", file.display());
    assert!(symbols.warnings()[0].starts_with(&start), "{:?}", symbols.warnings());
}

#[test]
fn a_million_functions_inlined_into_one_another_do_not_end_the_stack() {
    check_refused("nested.s", "nested");
}

#[test]
fn endless_debug_information_comes_to_an_end() {
    check_refused("endless.s", "endless");
}

/// The debug information is given up, once, and the symbol answers.
fn check_refused(name: &str, function: &str) {
    let scratch = Scratch::new("hostile");
    let file = build(&scratch, name, "-g0 -shared -nostdlib");
    let (start, _) = section(&file, ".text");
    let (mut symbols, id) = (symbols(), module(&file));
    for offset in 0..2 {
        let frames = symbols.frames(&id, Place { address: start + offset, is_return_address: false });
        assert_eq!((frames.len(), &frames[0].function[..]), (1, function));
    }
    let path = file.display();
    let warning = format!("debug information of {path} is damaged: it can't be read in reasonable time and memory");
    assert_eq!(symbols.warnings(), [warning]);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_ends_nothing() {
    let scratch = Scratch::new("hostile");
    let file = build(&scratch, "templates.cpp", "-O2");
    let (id, asked) = (module(&file), addresses(&file, 100));
    let mut symbols = symbols();
    ask(&mut symbols, &id, &asked[..1]);
    OpenOptions::new().write(true).open(&file).unwrap().set_len(5000).unwrap();
    ask(&mut symbols, &id, &asked);
}

#[test]
fn what_is_no_library_is_not_waited_for() {
    let scratch = Scratch::new("hostile");
    tool(&scratch, "mkfifo fifo");
    fs::write(scratch.join("empty"), "").unwrap();
    fs::write(scratch.join("text"), "#!/bin/sh\n").unwrap();
    let mut other = fs::read("/proc/self/exe").unwrap();
    // The class of 32-bit files.
    other[4] = 1;
    fs::write(scratch.join("other"), other).unwrap();
    for name in ["fifo", "empty", "text", "other", "."] {
        let id = ModuleId { path: scratch.join(name), build_id: None };
        check_offset(&id);
    }
    for path in ["/dev/zero", "/proc/self/mem", "//anon", "", "[heap]"] {
        check_offset(&ModuleId { path: path.into(), build_id: Some(vec![1, 2, 3]) });
    }
}

fn check_offset(id: &ModuleId) {
    let mut symbols = symbols();
    let frames = symbols.frames(id, Place { address: u64::MAX, is_return_address: true });
    assert!(frames[0].function.ends_with("+0xffffffffffffffff"), "{frames:?}");
    assert!(symbols.warnings().len() <= 1);
}

fn ask(symbols: &mut Symbols, id: &ModuleId, asked: &[u64]) {
    for address in asked {
        let frames = symbols.frames(id, Place { address: *address, is_return_address: true });
        assert!(!frames.is_empty());
    }
    // Each thing is said once.
    assert!(symbols.warnings().len() <= 2, "{:?}", symbols.warnings());
}

/// Where the bytes of a section are in the file.
fn section_offset(file: &Path, name: &str) -> u64 {
    let output = super::support::run(std::process::Command::new("readelf").args(["-S", "-W"]).arg(file));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains(&format!(" {name} "))).expect("the section is there");
    let field = line[line.find(name).unwrap()..].split_whitespace().nth(3).unwrap();
    u64::from_str_radix(field, 16).unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
