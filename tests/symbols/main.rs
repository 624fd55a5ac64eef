//! Functions, files and lines of native addresses, compared with what binutils say about the same files.

#[path = "../support/mod.rs"]
mod support;

mod build;
mod bundle;
mod debug_files;
mod hostile;
mod names;
mod oracle;
mod real;

use build::build;
use oracle::{addr2line, addresses, differences, module, ours, symbols};
use support::Scratch;

#[test]
fn functions_and_lines_of_c_are_those_of_binutils() {
    for flags in ["-O0", "-O2", "-O2 -gdwarf-4", "-O0 -gdwarf-4", "-O2 -gdwarf-5 -gz=zlib", "-O3 -flto -gdwarf-4"] {
        check("inlined.c", flags);
    }
}

#[test]
fn functions_and_lines_of_cpp_are_those_of_binutils() {
    for flags in ["-O0", "-O2", "-O2 -gdwarf-4", "-O2 -gdwarf-4 -fdebug-types-section"] {
        check("templates.cpp", flags);
    }
}

#[test]
fn functions_and_lines_of_rust_are_those_of_binutils() {
    for flags in ["-C opt-level=0", "-C opt-level=2", "-C opt-level=2 -C symbol-mangling-version=v0"] {
        check("mangled.rs", flags);
    }
}

/// At addresses here and there in the code.
fn check(name: &str, flags: &str) {
    let scratch = Scratch::new("symbols");
    let file = build(&scratch, name, flags);
    let asked = addresses(&file, 1000);
    let mut symbols = symbols();
    let actual = ours(&mut symbols, &module(&file), &asked);
    assert_eq!(symbols.warnings(), [""; 0], "{name} {flags}");
    let source = support::fixture("symbols").join(name);
    let own_file = (!flags.contains("-gdwarf-4")).then_some(&source);
    let differences = differences(&file, own_file.map(|path| &**path), &asked, &addr2line(&file, &asked), &actual);
    assert!(differences.is_empty(), "{name} {flags}:\n{differences}");
}
