//! The text outputs of a small log, compared with the expected ones in `fixtures/expected`.
//! `MEMTRACE_BLESS=1` rewrites them.

mod support;
#[path = "support/log.rs"]
mod testlog;

use std::path::Path;
use std::process::Output;

use memtrace_format::AllocatorKind;
use memtrace_format::record::*;
use support::{Scratch, memtrace, root};
use testlog::Log;

/// Two threads of one Python program, with a bit of everything that a log can hold.
fn sample() -> Log {
    let mut log = Log::new();
    log.header.clock = 0;
    log.meta(Record::Image(Image {
        ticks: 5,
        exe: b"/usr/bin/python3.11",
        arguments: b"/usr/bin/python3\0app.py\0--port\080\0",
    }));
    log.python();
    log.meta(Record::Notice(Notice { code: notice::DEEPBIND, text: b"/usr/lib/libdeep.so" }));
    log.code(1, "<module>", "/srv/app.py", 1);
    log.code(2, "load", "/srv/shop/data.py", 10);
    log.code(3, "loads", "/usr/lib/python3.11/json/__init__.py", 300);
    log.code(4, "_find_and_load", "<frozen importlib._bootstrap>", 1000);
    for sample in 1..=4 {
        let (ticks, mono_nanos) = (sample * 1000, 5_000_000_000 + sample * 10_000_000);
        log.launcher(Record::Clock(Clock { ticks, mono_nanos }));
        log.launcher(Record::Rss(Rss { ticks, mono_nanos, bytes: 10_000_000 + sample * 4096 }));
    }
    let main = 0xdead_beef;
    log.event(0, Record::Thread(Thread { ticks: 10, thread: 1, os_tid: 4711, pthread: main }));
    log.event(0, Record::ThreadName(ThreadName { ticks: 11, pthread: main, name: b"main \"one\"" }));
    log.node(0, 0, 1, 2);
    log.node(0, 1, 2, 4);
    log.node(0, 2, 3, 6);
    log.node(0, 1, 4, 0);
    log.alloc(0, 20, 0x1000, 1_000_000, 3);
    log.alloc(0, 30, 0x2000, 64, 2);
    log.free(0, 31, 0x2000);
    log.event(
        0,
        Record::Alloc(Alloc { ticks: 40, kind: AllocatorKind::PymallocMalloc, address: 0x3008, size: 8, stack: 4 }),
    );
    let (prot, flags) = (3, 0x22);
    let mmap = Mmap { ticks: 50, address: 0x7f00_0000_0000, len: 262_144, prot, flags, is_arena: true, stack: 1 };
    log.event(0, Record::Mmap(mmap));
    log.event(0, Record::Mmap(Mmap { ticks: 60, address: 0x7f00_1000_0000, len: 500_000, is_arena: false, ..mmap }));
    log.event(0, Record::Munmap(Munmap { ticks: 70, address: 0x7f00_1000_0000, len: 500_000, is_remap: true }));
    log.event(
        0,
        Record::Mremap(Mremap {
            ticks: 71,
            old_address: 0x7f00_1000_0000,
            address: 0x7f00_2000_0000,
            len: 700_000,
            flags: 1,
            is_arena: false,
            stack: 1,
        }),
    );
    log.free(0, 80, 0x1000);
    log.event(0, Record::Restore(Restore { ticks: 81 }));
    log.event(1, Record::Thread(Thread { ticks: 35, thread: 2, os_tid: 4712, pthread: 0xcafe }));
    log.node(1, 0, 2, 8);
    for number in 0..20 {
        log.alloc(1, 36 + number * 100, 0x9000 + number * 0x100, 100 + number, 1);
        log.free(1, 90 + number * 100, 0x9000 + number * 0x100);
    }
    log.event(1, Record::Lost(Lost { ticks: 3000, count: 3 }));
    log.alloc(1, 3500, 0xf000, 5, 0);
    log.event(0, Record::Munmap(Munmap { ticks: 3600, address: 0x7f00_2000_0000, len: 700_000, is_remap: false }));
    log.header.lost_events = 3;
    log.end();
    log
}

fn run(capture: &Path, arguments: &[&str]) -> Output {
    let (command, options) = arguments.split_first().unwrap();
    memtrace().arg(command).arg(capture).args(options).output().unwrap()
}

fn check(name: &str, arguments: &[&str]) {
    let scratch = Scratch::new(&format!("reports-{name}"));
    let capture = scratch.path().join("sample.bin");
    sample().save(&capture);
    let output = run(&capture, arguments);
    let actual = format!(
        "{}--- stderr\n{}",
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap().replace(&scratch.path().display().to_string(), "…")
    );
    assert!(output.status.success(), "{actual}");
    let path = root().join("fixtures/expected").join(name);
    if std::env::var_os("MEMTRACE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{} differs from what is expected (MEMTRACE_BLESS=1 rewrites it)\n--- expected\n{expected}\n--- actual\n{actual}",
        path.display()
    );
}

#[test]
fn parse_prints_every_record() {
    check("parse.txt", &["parse"]);
    check("parse.jsonl", &["parse", "--json"]);
}

#[test]
fn parse_leaves_out_small_allocations_and_repeats_no_stack_when_asked() {
    check("parse-min-size.jsonl", &["parse", "--json", "--min-size", "1000000"]);
    check("parse-stacks-once.jsonl", &["parse", "--json", "--stacks-once"]);
}

#[test]
fn stats_are_shown_as_text_and_json() {
    check("stats.txt", &["stats"]);
    check("stats.json", &["stats", "--json", "-n", "2"]);
    check("stats-all-mappings.json", &["stats", "--json", "--all-mappings"]);
}

#[test]
fn summaries_show_functions() {
    check("summary.txt", &["summary"]);
    check("summary-leaks.txt", &["summary", "--leaks", "--sort-column", "3"]);
    check("summary-temporary.txt", &["summary", "--temporary-allocations", "-r", "1"]);
    check("summary.json", &["summary", "--json"]);
}

#[test]
fn trees_show_who_called_whom() {
    check("tree.txt", &["tree"]);
    check("tree-leaks.txt", &["tree", "--leaks"]);
    check("tree-temporary.txt", &["tree", "--temporary-allocation-threshold", "0"]);
    check("tree-biggest.txt", &["tree", "-b", "1"]);
}

#[test]
fn a_report_file_is_whole_or_not_there() {
    let scratch = Scratch::new("reports-output");
    let capture = scratch.path().join("sample.bin");
    sample().save(&capture);
    let out = scratch.path().join("out.json");
    let out_text = out.to_str().unwrap();
    assert!(run(&capture, &["stats", "--json", "-o", out_text]).status.success());
    let whole = std::fs::read(&out).unwrap();
    let again = run(&capture, &["stats", "-o", out_text]);
    let message = String::from_utf8(again.stderr).unwrap();
    assert_eq!((again.status.code(), std::fs::read(&out).unwrap()), (Some(2), whole), "{message}");
    assert!(message.contains("it exists already (use -f to overwrite it)"), "{message}");
    assert!(run(&capture, &["stats", "-f", "-o", out_text]).status.success());
    let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_reader_that_stops_listening_is_no_error() {
    let scratch = Scratch::new("reports-pipe");
    let capture = scratch.path().join("sample.bin");
    let mut log = sample();
    for number in 0..100_000 {
        log.alloc(1, 4000 + number, 0x9000 + number * 0x100, 100 + number, 1);
    }
    log.save(&capture);
    let line = format!(
        "{} parse {} --json | head -n 1; echo ${{PIPESTATUS[0]}}",
        support::memtrace_path().display(),
        capture.display()
    );
    let output = std::process::Command::new("bash").args(["-c", &line]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!((printed.lines().nth(1), output.stderr.len()), (Some("0"), 0), "{printed}");
}
