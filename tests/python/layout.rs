//! The shim's table of CPython's structures against each interpreter's own headers.
//!
//! A program compiled with them prints the place of every field of the table in `preload/src/python/offsets.rs`. It must
//! never pass for a field that the program does not know.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::{
    program::{build_variable, fixture, on_every_python},
    support::{self, Python, Scratch},
};

#[test]
fn the_table_of_offsets_agrees_with_each_interpreters_own_headers() {
    let source = fs::read_to_string(support::root().join("preload/src/python/offsets.rs")).expect("the table is there");
    let scratch = Scratch::new("layout");
    on_every_python(|python| {
        let table = row(&source, &python.minor);
        let headers = compiled(python, &scratch);
        let unlike = table.iter().filter(|(field, value)| headers.get(*field) != Some(*value));
        unlike
            .map(|(field, value)| format!("{field} is {value} in the table, {:?} by the headers", headers.get(field)))
            .collect()
    });
}

/// Fields and values of the row of one minor: `const PYTHON_3_12: Layout = Layout { field: value, …, ..PYTHON_3_11 };`
fn row(source: &str, minor: &str) -> BTreeMap<String, String> {
    let start = format!("const PYTHON_{}: Layout =", minor.replace('.', "_").to_uppercase());
    let (_, rest) = source.split_once(&start).unwrap_or_else(|| panic!("the table has no row for {minor}"));
    let (_, rest) = rest.split_once('{').expect("a row has a beginning");
    let (body, _) = rest.split_once("};").expect("a row has an end");
    let mut fields = BTreeMap::new();
    for entry in body.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        if let Some(base) = entry.strip_prefix("..PYTHON_") {
            for (field, value) in row(source, &base.replace('_', ".")) {
                fields.entry(field).or_insert(value);
            }
        } else {
            let (field, value) = entry.split_once(": ").expect("an entry is `field: value`");
            fields.insert(field.to_string(), value.to_string());
        }
    }
    fields
}

fn compiled(python: &Python, scratch: &Scratch) -> BTreeMap<String, String> {
    let program = scratch.join(&format!("layout-{}", python.minor));
    let include = build_variable(python, "INCLUDEPY");
    // Debian's headers lie in two folders; the system's own come before the rest of the second.
    let beside = Path::new(&include).parent().expect("headers are in a folder of the version");
    let mut compiler = Command::new("gcc");
    compiler.arg(format!("-I{include}")).arg("-idirafter").arg(beside).arg("-o").arg(&program);
    support::run(compiler.arg(fixture("layout.c")));
    let output = support::run(&mut Command::new(&program));
    let text = String::from_utf8(output.stdout).expect("it prints names and numbers");
    let pair = |line: &str| line.split_once(' ').map(|(name, value)| (name.to_string(), value.to_string()));
    text.lines().filter_map(pair).collect()
}
