//! `benches/run` on the smallest scale: every kind of figure is made, judged and printed.
//!
//! It must never judge a figure: those of a test run mean nothing.

use std::process::Command;

#[path = "support/mod.rs"]
mod support;

#[test]
fn every_kind_of_row_is_measured_and_judged() {
    let python = support::pythons().last().expect("there is one");
    let mut command = Command::new(support::environment(python));
    command.arg(support::root().join("benches/compare.py")).args(["--pythons", &python.minor, "--columns", "memtrace"]);
    command.args([
        "--scale",
        "0.001",
        "--rounds",
        "1",
        "--rows",
        "deltablue;bytes, depth 10;C, 2 threads;resident, 1 thread",
    ]);
    let output = support::run(command.env("MEMTRACE_BIN", support::memtrace_path()));
    let table = String::from_utf8(output.stdout).expect("a table is text");
    let row = |name: &str| {
        let start = format!("| {name} | {} |", python.minor);
        table.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row {name} in\n{table}"))
    };
    let cells = |name: &str| row(name).split('|').map(str::trim).collect::<Vec<_>>();
    const MEMTRACE: usize = 6;
    assert!(cells("deltablue")[MEMTRACE].ends_with('x'), "{table}");
    assert!(cells("C, 2 threads")[MEMTRACE].ends_with(" ns"), "{table}");
    assert!(cells("resident, 1 thread")[MEMTRACE].ends_with(" MiB"), "{table}");
    assert!(table.contains("ns per event that native stacks add: bytes, depth 10"), "{table}");
    assert!(table.contains("real programs") && table.contains("geometric mean of 1"), "{table}");
}

#[test]
fn reading_is_measured_from_the_peak_to_the_page() {
    let python = support::pythons().last().expect("there is one");
    let mut command = Command::new(support::environment(python));
    command.arg(support::root().join("benches/reading.py")).args(["--pythons", &python.minor, "--columns", "memtrace"]);
    command.args(["--scale", "0.001", "--rounds", "1", "--rows", "small objects;live blocks"]);
    let output = support::run(command.env("MEMTRACE_BIN", support::memtrace_path()));
    let table = String::from_utf8(output.stdout).expect("a table is text");
    for name in ["small objects", "20 M live blocks"] {
        let row = table.lines().find(|line| line.starts_with(&format!("| {name} | memtrace |")));
        let row = row.unwrap_or_else(|| panic!("no row {name} in\n{table}"));
        assert!(row.contains(" ns each |") && row.contains(" MB |"), "{table}");
        for made in ["transform csv", "transform heaptrack", "diff"] {
            let row = table.lines().find(|line| line.starts_with(&format!("| {name} | {made} |")));
            assert!(row.is_some_and(|row| row.contains(" MiB |")), "{table}");
        }
    }
}
