//! Names without debug information: what symbols are taken for, and how they are written.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use memtrace::symbols::Place;
use memtrace::symbols::demangle::demangle;

use super::build::build;
use super::oracle::{module, section, symbols};
use super::support::{Scratch, run};

#[test]
fn a_symbol_answers_for_its_own_bytes() {
    let scratch = Scratch::new("names");
    let file = build(&scratch, "assembler.s", "-g0 -shared -nostdlib");
    let (start, _) = section(&file, ".text");
    let (mut symbols, id) = (symbols(), module(&file));
    let mut at = |offset| {
        let place = Place { address: start + offset, is_return_address: false };
        symbols.frames(&id, place)[0].function.clone()
    };
    let beyond = format!("assembler+{:#x}", start + 3);
    let names: Vec<String> = (0..7).map(&mut at).collect();
    assert_eq!(names, ["sized", "sized", "sized", &beyond, &format!("assembler+{:#x}", start + 4), "label", "label"]);
}

#[test]
fn cpp_names_are_those_of_cxxfilt() {
    let scratch = Scratch::new("names");
    let file = build(&scratch, "templates.cpp", "-O0");
    let output = run(Command::new("nm").args(["--defined-only", "--format=just-symbols"]).arg(&file));
    let mangled = String::from_utf8_lossy(&output.stdout).into_owned();
    let list = scratch.join("names");
    fs::write(&list, &mangled).unwrap();
    let output = run(Command::new("c++filt").arg("--no-params").stdin(fs::File::open(&list).unwrap()));
    let expected = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut wrong = BTreeMap::new();
    let mut n_names = 0;
    for (name, expected) in mangled.lines().zip(expected.lines()).filter(|(name, _)| name.starts_with("_ZN")) {
        n_names += 1;
        let actual = demangle(name);
        if bare(&actual) != bare(expected) {
            wrong.insert(name, format!("\n  {name}\n  {expected}\n  {actual}"));
        }
    }
    assert!(n_names > 400, "{n_names}");
    assert!(wrong.is_empty(), "{} of {n_names}:{}", wrong.len(), wrong.into_values().collect::<String>());
}

/// A name without blanks, and numbers without their types.
fn bare(name: &str) -> String {
    name.replace(' ', "").replace("0ul", "0").replace("1ul", "1")
}
