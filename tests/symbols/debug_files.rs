//! Wherever a program keeps its debug information, the answers are the same; and another program's is never taken.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use memtrace::symbols::{ModuleId, Options, Place, Symbols};

use super::build::{build, build_as, tool};
use super::oracle::{Frame, addresses, build_id, module, ours, symbols};
use super::support::{Scratch, fixture};

/// A program and what we say about it while everything is in it.
struct Known {
    scratch: Scratch,
    file: PathBuf,
    id: ModuleId,
    asked: Vec<u64>,
    expected: Vec<Vec<Frame>>,
}

impl Known {
    fn new(name: &str, flags: &str) -> Known {
        let scratch = Scratch::new("debug-files");
        let file = build(&scratch, name, flags);
        let (id, asked) = (module(&file), addresses(&file, 300));
        let expected = ours(&mut symbols(), &id, &asked);
        assert!(expected.iter().any(|frames| frames.len() > 2), "some functions are inlined");
        Known { scratch, file, id, asked, expected }
    }

    fn inlined() -> Known {
        Known::new("inlined.c", "-O2")
    }

    /// Takes everything from the program that it does not need to run; the rest is in `debug`.
    fn split(&self, debug: &str) {
        let (file, debug_path) = (self.file.display(), self.scratch.join(debug));
        fs::create_dir_all(debug_path.parent().unwrap()).unwrap();
        tool(&self.scratch, &format!("objcopy --only-keep-debug {file} {debug}"));
        tool(&self.scratch, &format!("strip --strip-all {file}"));
    }

    /// Names the file with the rest in the program.
    fn link(&self, debug: &str) {
        tool(&self.scratch, &format!("objcopy --add-gnu-debuglink={debug} {}", self.file.display()));
    }

    /// Where distributions put it.
    fn by_build_id(&self) -> String {
        let hex: String = self.id.build_id.as_ref().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("debug/.build-id/{}/{}.debug", &hex[..2], &hex[2..])
    }

    fn with_debug_folder(&self) -> Symbols {
        Symbols::new(Options { debug_folders: vec![self.scratch.join("debug")], ..Options::default() })
    }

    /// The answers are the ones from before.
    fn check(&self, mut symbols: Symbols) {
        let actual = ours(&mut symbols, &self.id, &self.asked);
        assert_eq!(symbols.warnings(), [""; 0]);
        for ((address, expected), actual) in self.asked.iter().zip(&self.expected).zip(&actual) {
            assert_eq!(actual, expected, "at {address:#x}");
        }
    }

    /// What is said of a file that has lost everything.
    fn without_debug_information(&self) -> String {
        format!(
            "no debug information for {}: its functions have no lines, and those without a symbol are shown as offsets \
             (build with -g, install packages that end in -dbgsym or -debuginfo, or try --debuginfod)",
            self.file.display()
        )
    }

    /// No answer but an offset, and this is said about it.
    fn check_unknown(&self, mut symbols: Symbols, warnings: &[String]) {
        let name = self.id.path.file_name().unwrap().to_string_lossy().into_owned();
        for frames in ours(&mut symbols, &self.id, &self.asked).iter().zip(&self.asked) {
            let (frames, address) = frames;
            let function = format!("{name}+{address:#x}");
            assert_eq!(frames[..], [Frame { function, file: "?".into(), line: 0 }]);
        }
        assert_eq!(symbols.warnings(), warnings);
    }
}

#[test]
fn debug_information_is_found_by_build_id() {
    let known = Known::inlined();
    known.split(&known.by_build_id());
    known.check(known.with_debug_folder());
    // It is all that is needed.
    fs::remove_file(&known.file).unwrap();
    known.check(known.with_debug_folder());
}

#[test]
fn debug_information_is_found_by_its_link() {
    for place in ["inlined.debug", ".debug/inlined.debug", "debug/{folder}/inlined.debug"] {
        let known = Known::inlined();
        let folder = known.scratch.path().canonicalize().unwrap();
        known.split(&place.replace("{folder}", &folder.to_string_lossy()[1..]));
        known.link(&place.replace("{folder}", &folder.to_string_lossy()[1..]));
        known.check(known.with_debug_folder());
    }
}

#[test]
fn linked_debug_information_with_another_checksum_is_not_taken() {
    let known = Known::inlined();
    known.split("inlined.debug");
    known.link("inlined.debug");
    let debug = known.scratch.join("inlined.debug");
    let mut bytes = fs::read(&debug).unwrap();
    bytes.push(0);
    fs::write(&debug, bytes).unwrap();
    known.check_unknown(known.with_debug_folder(), &[known.without_debug_information()]);
}

#[test]
fn a_replaced_file_is_not_looked_at() {
    let known = Known::inlined();
    build_as(&known.scratch, "templates.cpp", "-O2", "other");
    assert_ne!(build_id(&known.scratch.join("other")), known.id.build_id);
    fs::rename(known.scratch.join("other"), &known.file).unwrap();
    let path = known.file.display();
    let warning =
        format!("{path} is not the file that was recorded (its build-id differs): its functions are shown as offsets");
    known.check_unknown(symbols(), &[warning]);
    // Nor when it has lost its build-id.
    tool(&known.scratch, &format!("objcopy --remove-section=.note.gnu.build-id {path}"));
    assert_eq!(symbols_warnings(&known), 1);
}

fn symbols_warnings(known: &Known) -> usize {
    let mut symbols = symbols();
    ours(&mut symbols, &known.id, &known.asked);
    symbols.warnings().len()
}

#[test]
fn debug_information_of_another_program_is_not_taken() {
    let known = Known::inlined();
    let other = build_as(&known.scratch, "inlined.c", "-O1", "other");
    let debug = known.scratch.join(&known.by_build_id());
    fs::create_dir_all(debug.parent().unwrap()).unwrap();
    fs::rename(other, debug).unwrap();
    tool(&known.scratch, &format!("strip --strip-all {}", known.file.display()));
    known.check_unknown(known.with_debug_folder(), &[known.without_debug_information()]);
}

#[test]
fn a_deleted_file_is_named_and_its_functions_are_offsets() {
    let mut known = Known::inlined();
    fs::remove_file(&known.file).unwrap();
    let warning = format!("{} is gone: its functions are shown as offsets", known.file.display());
    known.check_unknown(symbols(), std::slice::from_ref(&warning));
    // As the kernel names it in the list of mappings.
    let path = known.id.path.clone();
    let frames_of = |path: PathBuf| {
        let id = ModuleId { path, build_id: known.id.build_id.clone() };
        let mut symbols = symbols();
        let place = Place { address: 0x1234, is_return_address: true };
        (symbols.frames(&id, place)[0].function.clone(), symbols.warnings())
    };
    let marked = format!("{} (deleted)", path.display());
    assert_eq!(frames_of(marked.into()), ("inlined+0x1234".to_string(), vec![warning]));
    assert_eq!(frames_of("[vdso]".into()), ("[vdso]+0x1234".to_string(), vec![]));
    known.id.build_id = None;
}

#[test]
fn split_units_are_found_beside_the_objects_and_in_a_package() {
    for version in [4, 5] {
        let flags = format!("-O2 -gdwarf-{version}");
        let mut known = Known::new("inlined.c", &flags);
        // The compiler puts `inlined.dwo` beside its output.
        build(&known.scratch, "inlined.c", &format!("{flags} -gsplit-dwarf"));
        known.id = module(&known.file);
        known.check(symbols());
        // Binutils 2.40 end with a crash on DWARF 5; for that there is Rust's package below.
        if version == 4 {
            tool(&known.scratch, "dwp -e inlined -o inlined.dwp");
        }
        let units = files_with(known.scratch.path(), "dwo");
        assert!(!units.is_empty());
        for unit in &units {
            fs::remove_file(unit).unwrap();
        }
        if version == 4 {
            known.check(symbols());
            fs::remove_file(known.scratch.join("inlined.dwp")).unwrap();
        }
        // Without them the symbols are still there.
        let actual = ours(&mut symbols(), &known.id, &known.asked);
        for (expected, actual) in known.expected.iter().zip(&actual) {
            let (expected, actual) = (expected.last().unwrap(), actual.last().unwrap());
            assert_eq!(actual.function.split(".cold").next(), Some(&expected.function[..]));
        }
    }
}

fn files_with(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|there| there == extension)).collect()
}

#[test]
fn split_units_of_rust_are_found() {
    for (form, extension, version) in [("unpacked", "dwo", 4), ("packed", "dwp", 4), ("packed", "dwp", 5)] {
        let flags = format!("-C opt-level=1 -C codegen-units=2 -C dwarf-version={version} -C split-debuginfo=off");
        let mut known = Known::new("mangled.rs", &flags);
        build(&known.scratch, "mangled.rs", &flags.replace("=off", &format!("={form}")));
        assert!(!files_with(known.scratch.path(), extension).is_empty());
        known.id = module(&known.file);
        known.check(symbols());
    }
}

#[test]
fn packed_symbols_name_the_functions_of_a_stripped_file() {
    let known = Known::inlined();
    let file = known.file.display();
    tool(&known.scratch, &format!("objcopy --strip-debug {file} symbols"));
    // Everything but the symbols has no bytes in it, as in the packages of Fedora.
    tool(&known.scratch, "objcopy --only-keep-debug symbols mini");
    tool(&known.scratch, "xz mini");
    tool(&known.scratch, &format!("strip --strip-all {file}"));
    tool(&known.scratch, &format!("objcopy --add-section .gnu_debugdata=mini.xz {file}"));
    let actual = ours(&mut symbols(), &known.id, &known.asked);
    let mut n_named = 0;
    for (expected, actual) in known.expected.iter().zip(&actual) {
        let expected = &expected.last().unwrap().function;
        assert_eq!(actual.len(), 1);
        let actual = actual[0].function.split(".cold").next().unwrap();
        assert!(actual == expected || expected.contains("+0x"), "{actual} and not {expected}");
        n_named += usize::from(!actual.contains("+0x"));
    }
    assert!(n_named > 200, "{n_named}");
}

#[test]
fn compressed_sections_are_unpacked() {
    let known = Known::inlined();
    for form in ["zlib", "zstd"] {
        // Binutils may be too old for zstd.
        let target = format!("objcopy --compress-debug-sections={form} {}", known.file.display());
        if form == "zstd" && !has_zstd() {
            eprintln!("passed over: objcopy knows no zstd");
            continue;
        }
        tool(&known.scratch, &target);
        known.check(symbols());
        tool(&known.scratch, &format!("objcopy --decompress-debug-sections {}", known.file.display()));
    }
}

fn has_zstd() -> bool {
    let output = std::process::Command::new("objcopy").arg("--help").output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("zstd")
}

#[test]
fn what_several_files_share_is_found() {
    if std::process::Command::new("dwz").arg("--version").output().is_err() {
        eprintln!("passed over: dwz is not here");
        return;
    }
    let known = Known::new("templates.cpp", "-O1");
    build_as(&known.scratch, "templates.cpp", "-O2", "other");
    tool(&known.scratch, "dwz -m common.debug -M common.debug templates other");
    assert!(known.scratch.join("common.debug").exists());
    known.check(symbols());
    // Among those by build-id, as in a container.
    let common = known.scratch.join("common.debug");
    let hex: String = build_id(&common).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let by_id = known.scratch.join(&format!("debug/.build-id/{}/{}.debug", &hex[..2], &hex[2..]));
    fs::create_dir_all(by_id.parent().unwrap()).unwrap();
    fs::rename(&common, &by_id).unwrap();
    known.check(known.with_debug_folder());
    // Not found: the symbols answer, and it is said.
    let mut without = symbols();
    let actual = ours(&mut without, &known.id, &known.asked);
    assert!(actual.iter().any(|frames| frames[0].function.starts_with("shapes::")));
    assert_eq!(without.warnings()[0], {
        let path = known.file.display();
        format!("common.debug is not here: functions in {path} are named by its symbols")
    });
}

#[test]
fn a_server_is_asked_only_when_that_is_wanted() {
    let known = Known::inlined();
    known.split("stored");
    let log = known.scratch.join("log");
    let finder = known.scratch.join("debuginfod-find");
    let script =
        format!("#!/bin/sh\necho \"$@\" >> {}\necho {}\n", log.display(), known.scratch.join("stored").display());
    fs::write(&finder, script).unwrap();
    fs::set_permissions(&finder, fs::Permissions::from_mode(0o755)).unwrap();
    known.check_unknown(symbols(), &[known.without_debug_information()]);
    assert!(!log.exists());
    let options = || Options { debuginfod: Some(finder.clone().into()), ..Options::default() };
    known.check(Symbols::new(options()));
    let hex: String = known.id.build_id.as_ref().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(fs::read_to_string(&log).unwrap(), format!("debuginfo {hex}\n"), "once");
    fs::remove_file(&finder).unwrap();
    let mut symbols = Symbols::new(options());
    ours(&mut symbols, &known.id, &known.asked);
    let warnings = symbols.warnings();
    assert_eq!((warnings.len(), &warnings[0]), (2, &known.without_debug_information()));
    assert!(warnings[1].starts_with("cannot ask debuginfod: "), "{warnings:?}");
}

#[test]
fn a_return_address_belongs_to_the_call() {
    let known = Known::inlined();
    let source = fs::read_to_string(fixture("symbols/inlined.c")).unwrap();
    // The call of `fails` is the last thing in `gives_up`.
    let call = 1 + source.lines().position(|line| line.contains("fails(why);")).unwrap() as u32;
    let end = super::oracle::function_end(&known.file, "gives_up");
    let mut symbols = symbols();
    let mut at = |address, is_return_address| {
        let frames = symbols.frames(&known.id, Place { address, is_return_address });
        (frames[0].function.clone(), frames[0].line)
    };
    assert_eq!(at(end, true), ("gives_up".to_string(), Some(call)));
    assert_ne!(at(end, false).0, "gives_up");
    assert_eq!(at(end - 1, false), ("gives_up".to_string(), Some(call)));
}
