//! Libraries that come and go, and such with unwind information that is damaged or not there: the stacks of everybody
//! else are whole, and what a library's damage hides is left out and not guessed.

use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection};

use super::build::{Debug, build, source};
use super::recorded::{Stacks, stacks};
use super::support::{self, Scratch};
use super::written;

/// A library from `fixtures/native_stacks/parts`.
fn library(scratch: &Scratch, name: &str, source_name: &str, flags: &[&str]) -> PathBuf {
    let path = scratch.join(name);
    let mut compiler = Command::new("cc");
    compiler.args(["-g", "-O2", "-shared", "-fPIC"]).args(flags).arg("-o").arg(&path);
    support::run(compiler.arg(source("parts").join(source_name)));
    path
}

#[test]
fn a_library_at_the_place_of_another_one_has_its_own_frames() {
    let scratch = Scratch::new("native-stacks-reloaded");
    let program = build(&scratch, "libraries_come_and_go.c", "-O2", Debug::Inside);
    let with_room =
        |name: &str, room: &str| library(&scratch, name, "comes_and_goes.c", &[room, "-Wl,-Ttext-segment=0x60000000"]);
    let (small, large) = (with_room("small.so", "-DROOM=40"), with_room("large.so", "-DROOM=4000"));
    let found = stacks(&scratch, &[&program, &small, &large]);
    written::check("libraries_come_and_go.c", &source("libraries_come_and_go.c"), &found);
    for size in [1_100_000_100, 1_100_000_300] {
        let is_there = found[&size].iter().any(|frame| frame.function == "works");
        assert!(is_there, "{size}: {:?}", found[&size]);
    }
}

/// The program that calls a library, and its stacks when all is well.
struct Caller {
    scratch: Scratch,
    program: PathBuf,
    library: PathBuf,
    whole: Stacks,
}

impl Caller {
    fn new() -> Caller {
        let scratch = Scratch::new("native-stacks-damaged");
        let program = build(&scratch, "calls_a_library.c", "-O2", Debug::Inside);
        let library = library(&scratch, "library.so", "library.c", &[]);
        let whole = stacks(&scratch, &[&program, &library]);
        for (size, function) in [(12_000_002, "calls_back"), (12_000_003, "allocates")] {
            let functions: Vec<&str> = whole[&size].iter().map(|frame| &*frame.function).collect();
            let main = functions.iter().position(|function| *function == "main").unwrap();
            assert_eq!(functions[main + 1], function);
        }
        Caller { scratch, program, library, whole }
    }

    /// The program's own stacks are as ever with this library; what the library calls has a stack that is `found`.
    fn check_program(&self, what: &str, library: &Path) -> Stacks {
        let found = stacks(&self.scratch, &[&self.program, library]);
        written::check(what, &source("calls_a_library.c"), &found);
        found
    }

    /// And the stacks through the library are whole, or end where it is not known who called.
    fn check(&self, what: &str, library: &Path) {
        let found = self.check_program(what, library);
        for size in [12_000_002, 12_000_003] {
            let functions = |stacks: &Stacks| -> Vec<String> {
                stacks.get(&size).into_iter().flatten().map(|frame| frame.function.clone()).collect()
            };
            let (found, whole) = (functions(&found), functions(&self.whole));
            assert!(whole.ends_with(&found) && !found.is_empty(), "{what}: {size}: {found:?} instead of {whole:?}");
        }
    }

    /// A copy of the library with other bytes in the sections of its unwind information.
    fn damaged(&self, damage: impl FnOnce(&mut [u8], &mut [u8])) -> PathBuf {
        let mut bytes = std::fs::read(&self.library).unwrap();
        let (header, frames) = {
            let file = object::File::parse(&*bytes).unwrap();
            let place = |name| {
                let (start, len) = file.section_by_name(name).unwrap().file_range().unwrap();
                start as usize..(start + len) as usize
            };
            (place(".eh_frame_hdr"), place(".eh_frame"))
        };
        let (before, behind) = bytes.split_at_mut(frames.start);
        damage(&mut before[header], &mut behind[..frames.len()]);
        let path = self.scratch.join("damaged.so");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// What is written at an offset of a section.
fn put(section: &mut [u8], offset: usize, bytes: &[u8]) {
    section[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn damaged_unwind_information_hides_what_is_below_and_nothing_else() {
    let caller = Caller::new();
    type Damage = fn(&mut [u8], &mut [u8]);
    let damages: &[(&str, Damage)] = &[
        ("another version", |header, _| put(header, 0, &[7])),
        ("encodings that nobody knows", |header, _| put(header, 1, &[0xee; 3])),
        ("a table longer than the file", |header, _| put(header, 8, &[0xff; 4])),
        ("an empty table", |header, _| put(header, 8, &[0; 4])),
        ("a table that leads out of the file", |header, _| header[12..].fill(0x80)),
        ("no entries", |_, frames| frames.fill(0)),
        ("ones everywhere", |_, frames| frames.fill(0xff)),
        ("an entry longer than the section", |_, frames| put(frames, 0, &[0xf0, 0xff, 0xff, 0x7f])),
        ("an augmentation that nobody knows", |_, frames| put(frames, 9, b"zQQ")),
        ("an augmentation of endless length", |_, frames| put(frames, 12, &[0x80; 12])),
        ("an augmentation without end", |_, frames| frames[9..].fill(b'z')),
    ];
    for (what, damage) in damages {
        caller.check(what, &caller.damaged(damage));
    }
}

#[test]
fn damaged_descriptions_of_functions_hide_what_is_below() {
    let caller = Caller::new();
    let (mut entries, mut at) = (Vec::new(), 0);
    caller.damaged(|_, frames| {
        while let Some(len) = frames.get(at..at + 4).map(|len| u32::from_le_bytes(len.try_into().unwrap()) as usize) {
            if len == 0 {
                break;
            }
            if frames[at + 4..at + 8] != [0; 4] {
                entries.push((at, len));
            }
            at += 4 + len;
        }
    });
    assert!(entries.len() >= 4, "{entries:?}");
    for (at, len) in entries {
        let with = |offset: usize, bytes: &[u8]| caller.damaged(|_, frames| put(frames, at + offset, bytes));
        let program = 17;
        let room = len + 4 - program;
        caller.check("a description that is its own common part", &with(4, &4u32.to_le_bytes()));
        caller.check("a common part outside the file", &with(4, &[0xff; 4]));
        caller.check("a length of one", &with(0, &1u32.to_le_bytes()));
        caller.check("a length of two gigabytes", &with(0, &0x7fff_0000u32.to_le_bytes()));
        caller.check("endless states to remember", &with(program, &vec![0x0a; room]));
        caller.check("states that nobody remembered", &with(program, &vec![0x0b; room]));
        caller.check("an expression longer than the entry", &with(program, &[0x0f, 0xff, 0xff, 0xff, 0x7f]));
        caller.check("a frame of gigabytes", &with(program, &[0x0e, 0xff, 0xff, 0xff, 0xff, 0x07]));
        caller.check("a frame at a register that nobody saves", &with(program, &[0x0c, 0x05, 0x08]));
    }
}

/// It may say something that is well formed and wrong, so that the library's own stacks can't be known.
#[test]
fn random_unwind_information_harms_nobody_else() {
    let caller = Caller::new();
    let mut random = 7u64;
    let mut next = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    for round in 0..25 {
        let library = caller.damaged(|header, frames| {
            for _ in 0..1 << next(6) {
                let section = if next(3) == 0 { &mut *header } else { &mut *frames };
                section[next(section.len())] = [0, 0xff, 0x80, 0x7f, next(256) as u8][next(5)];
            }
        });
        caller.check_program(&format!("round {round}"), &library);
    }
}

/// The linker was told not to make the table, or there is nothing to make it of.
#[test]
fn a_library_without_a_table_hides_what_is_below() {
    let caller = Caller::new();
    let without = |name, flags: &[&str]| library(&caller.scratch, name, "library.c", flags);
    caller.check("without a table", &without("no-table.so", &["-Wl,--no-eh-frame-hdr"]));
    let flags = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    caller.check("without unwind information", &without("no-frames.so", &flags));
}

#[test]
fn a_destructor_that_jumps_out_of_dlclose_leaves_nothing_closed() {
    let scratch = Scratch::new("native-stacks-leaving");
    let program = build(&scratch, "jumps_out_of_dlclose.c", "-O2", Debug::Inside);
    let library = library(&scratch, "leaving.so", "leaving_library.c", &[]);
    let found = stacks(&scratch, &[&program, &library]);
    written::check("jumps_out_of_dlclose.c", &source("jumps_out_of_dlclose.c"), &found);
}
