//! The libraries that programs really have, with the debug information that this machine has for them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;

use memtrace::symbols::demangle::demangle;
use memtrace::symbols::{Options, Symbols};

use super::oracle::{Frame, addr2line, addresses, differences, module, ours, symbols, symbols_of};
use super::support::{environment, pythons, run};

/// CPython's own builds carry their debug information, and Debian's C library has it in a package.
#[test]
fn real_debug_information_is_read_as_binutils_do() {
    let mut n_libraries = 0;
    for file in libraries() {
        let asked = addresses(&file, 500);
        let mut symbols = Symbols::new(Options::default());
        let actual = ours(&mut symbols, &module(&file), &asked);
        if actual.iter().flatten().all(|frame| frame.line == 0) {
            eprintln!("passed over: no debug information for {}", file.display());
            continue;
        }
        n_libraries += 1;
        assert_eq!(symbols.warnings(), [""; 0]);
        let expected = addr2line(&file, &asked);
        let differences = differences(&file, None, &asked, &without_files(&expected), &without_files(&actual));
        assert!(differences.is_empty(), "{}:\n{differences}", file.display());
        // Binutils take some files for the unit's own, see `oracle.rs`.
        let pairs = expected.iter().flatten().zip(actual.iter().flatten()).filter(|(_, actual)| actual.line > 0);
        let n_frames = pairs.clone().count();
        let other_files: Vec<_> = pairs.filter(|(one, other)| once(&one.file) != other.file).collect();
        assert!(other_files.len() * 20 < n_frames, "{}: {other_files:#?} of {n_frames}", file.display());
    }
    assert!(n_libraries > 0, "no library has debug information");
}

fn without_files(answers: &[Vec<Frame>]) -> Vec<Vec<Frame>> {
    let without = |frame: &Frame| Frame { file: "?".into(), ..frame.clone() };
    answers.iter().map(|frames| frames.iter().map(without).collect()).collect()
}

/// Binutils join a relative folder to itself: `malloc/malloc/malloc.c`.
fn once(path: &str) -> &str {
    match path.split_once('/') {
        Some((folder, rest)) if rest.starts_with(&format!("{folder}/")) => rest,
        _ => path,
    }
}

#[test]
fn real_symbols_are_those_of_nm() {
    for file in libraries() {
        let asked = addresses(&file, 500);
        let actual = ours(&mut symbols(), &module(&file), &asked);
        if actual.iter().flatten().any(|frame| frame.line > 0) {
            continue;
        }
        let static_table = symbols_of(&file, &[]);
        let table = if static_table.is_empty() { symbols_of(&file, &["-D"]) } else { static_table };
        let mut n_named = 0;
        let mut wrong = String::new();
        for (address, frames) in asked.iter().zip(&actual) {
            let names: Vec<String> = table
                .iter()
                .filter(|(start, len, _)| (*start..start + len).contains(address))
                .map(|(_, _, name)| demangle(name.split('@').next().unwrap()))
                .collect();
            let name = &frames[0].function;
            if names.is_empty() != name.contains("+0x") || !(names.is_empty() || names.contains(name)) {
                wrong += &format!("\n{address:#x}: {name} and not one of {names:?}");
            }
            n_named += usize::from(!names.is_empty());
        }
        assert!(wrong.is_empty(), "{}:{wrong}", file.display());
        assert!(n_named > 0, "{}", file.display());
    }
}

/// The C and C++ libraries, those of the interpreters, and numpy's.
fn libraries() -> Vec<PathBuf> {
    let output = run(Command::new("ldconfig").arg("-p"));
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.trim().split_once(" => ")).filter(|(name, _)| {
        name.contains("x86-64") && ["libc.so.6 ", "libstdc++.so.6 "].iter().any(|start| name.starts_with(start))
    });
    let mut found: Vec<PathBuf> = lines.map(|(_, path)| PathBuf::from(path)).collect();
    for python in pythons() {
        let script = "import sysconfig as s; print(s.get_config_var('LIBDIR') + '/' + s.get_config_var('INSTSONAME'))";
        let output = run(Command::new(&python.path).args(["-c", script]));
        found.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let script = "import numpy._core._multiarray_umath as m; print(m.__file__)";
    let numpy = pythons().iter().find_map(|python| {
        let output = Command::new(environment(python)).args(["-c", script]).output().ok()?;
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    });
    found.push(PathBuf::from(numpy.expect("an environment has numpy").trim()));
    // Some interpreters have a static library only, and some files have several names.
    let mut seen = HashSet::new();
    found.retain(|path| path.to_string_lossy().contains(".so"));
    found.retain(|path| path.canonicalize().is_ok_and(|path| seen.insert(path)));
    found
}
