//! The flame graph page, opened in a browser and used: `page/check.mjs` does what a person would do. Also the types of
//! its script. Both need npm, which fetches the two programs that they run into the target folder; without npm or
//! Chromium the tests say so and pass.

#[path = "support/log.rs"]
mod log;
mod support;
#[path = "support/web.rs"]
mod web;
#[path = "support/worst.rs"]
mod worst;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use log::Log;
use memtrace_format::AllocatorKind;
use memtrace_format::record::{Alloc, Clock, Mark, Module, Record, Rss, Thread, ThreadName, mark};
use support::Scratch;
use web::{chromium, modules, on_path};

#[test]
fn the_page_can_be_read_and_used() {
    let Some(modules) = modules() else { return };
    let Some(chromium) = chromium() else { return };
    let scratch = Scratch::new("page");
    let make = |log: Log, name: &str, arguments: &[&str]| {
        let (capture, page) = (scratch.join(name).with_extension("bin"), scratch.join(name));
        fs::write(&capture, log.bytes()).unwrap();
        support::run(support::memtrace().arg("flamegraph").arg(capture).arg("-o").arg(page).args(arguments));
    };
    make(shop(), "shop.html", &[]);
    make(shop(), "empty.html", &["--leaks"]);
    make(deep(), "deep.html", &[]);
    make(busy(), "busy.html", &[]);
    make(busy(), "marked.html", &["--from", "loaded <b>", "--to", "served"]);
    make(mixed(), "native.html", &[]);
    make(mixed(), "python.html", &["--no-native"]);
    let later = scratch.join("later.bin");
    fs::write(&later, shop_with(700_000, 0).bytes()).unwrap();
    let mut diff = support::memtrace();
    diff.arg("diff").arg(scratch.join("shop.bin")).arg(later).args(["--format", "html", "-o"]);
    support::run(diff.arg(scratch.join("diff.html")));
    in_browser("check.mjs", scratch.path(), &chromium, &modules);
}

#[test]
fn the_page_of_a_real_program_says_what_the_other_reports_say() {
    let Some(modules) = modules() else { return };
    let Some(chromium) = chromium() else { return };
    let Some(python) = support::pythons().iter().rfind(|python| support::has_package(python, "pandas")) else {
        return eprintln!("skipped: no Python with pandas on this machine");
    };
    let scratch = Scratch::new("page-real");
    let capture = scratch.join("real.bin");
    let mut record = support::memtrace();
    record.arg("run").arg("-o").arg(&capture).arg("--python").arg(support::environment(python));
    support::run(record.arg(support::fixture("programs/pandas_frames.py")).arg("20000"));
    support::run(support::memtrace().arg("flamegraph").arg(&capture).arg("-o").arg(scratch.join("real.html")));
    let stats = support::run(support::memtrace().arg("stats").arg("--json").arg(&capture));
    fs::write(scratch.join("stats.json"), stats.stdout).unwrap();
    in_browser("real.mjs", scratch.path(), &chromium, &modules);
}

#[test]
fn the_page_of_a_tenth_of_the_worst_capture_is_small_and_right() {
    open_worst(100_000);
}

#[test]
#[ignore = "long tier"]
fn the_page_of_the_worst_capture_is_small_and_right() {
    open_worst(1_000_000);
}

fn open_worst(n_stacks: u32) {
    let scratch = Scratch::new("page-worst");
    let (capture, page) = (scratch.join("worst.bin"), scratch.join("worst.html"));
    let (log, expected) = worst::worst(n_stacks);
    log.save(&capture);
    drop(log);
    fs::write(scratch.join("worst.json"), expected.to_string()).unwrap();
    support::run(support::memtrace().arg("flamegraph").arg(&capture).arg("-o").arg(&page));
    let len = fs::metadata(&page).unwrap().len();
    assert!(len < 5_000_000, "the page has {len} bytes");
    println!("    {n_stacks} stacks: a page of {len} bytes");
    let (Some(modules), Some(chromium)) = (modules(), chromium()) else { return };
    in_browser("worst.mjs", scratch.path(), &chromium, &modules);
}

#[test]
fn the_plot_library_is_the_one_of_its_package() {
    let Some(modules) = modules() else { return };
    for file in ["uPlot.iife.min.js", "uPlot.min.css"] {
        let ours = fs::read(support::root().join("src/report/assets/vendor").join(file)).unwrap();
        assert!(ours == fs::read(modules.join("node_modules/uplot/dist").join(file)).unwrap(), "{file} differs");
    }
    let licence = fs::read(support::root().join("src/report/assets/vendor/uPlot.LICENSE")).unwrap();
    assert!(licence == fs::read(modules.join("node_modules/uplot/LICENSE")).unwrap());
}

#[test]
fn numbers_names_and_trees_are_shown_right() {
    let Some(node) = on_path("node") else { return eprintln!("skipped: no node on this machine") };
    // Without a package that says so, node takes no file for a module.
    let scratch = Scratch::new("page-units");
    fs::write(scratch.join("package.json"), r#"{"type": "module"}"#).unwrap();
    let units = fs::read_dir(support::root().join("tests/page/units")).unwrap().map(|entry| entry.unwrap().path());
    for script in scripts().into_iter().chain(units) {
        fs::copy(&script, scratch.join(script.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    for name in ["text.mjs", "sums.mjs", "trees.mjs"] {
        let output = support::run(Command::new(&node).arg(scratch.join(name)));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n", "{name}");
    }
}

#[test]
fn the_types_of_the_script_are_right() {
    let Some(modules) = modules() else { return };
    let mut tsc = Command::new("node");
    tsc.arg(modules.join("node_modules/typescript/bin/tsc")).args(["--noEmit", "--allowJs", "--checkJs", "--strict"]);
    tsc.args(["--noUnusedLocals", "--noUnusedParameters", "--target", "es2022", "--module", "es2022"]);
    tsc.args(["--moduleResolution", "bundler", "--lib", "es2022,dom,dom.iterable"]);
    // In that folder, so that no types of packages that lie above the checkout come in.
    support::run(tsc.args(scripts()).current_dir(modules));
}

/// The modules of the page's script.
fn scripts() -> Vec<PathBuf> {
    let assets = support::root().join("src/report/assets");
    let mut scripts: Vec<PathBuf> = fs::read_dir(assets).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "js"));
    assert!(!scripts.is_empty());
    scripts
}

/// What `page/check.mjs` expects, as a capture.
fn shop() -> Log {
    shop_with(500_000, 200_000)
}

/// The same, in which `load` and `dumps` allocate so much.
fn shop_with(loaded: u64, dumped: u64) -> Log {
    let mut log = Log::new();
    log.python();
    let app = "/srv/shop/app.py";
    let hostile = "</script><script>window.hacked = true</script>";
    let codes = [
        ("<module>", app, 3),
        ("main", app, 20),
        ("load", app, 30),
        ("dumps", "/usr/lib/python3.11/json/__init__.py", 238),
        ("_find_and_load", "<frozen importlib._bootstrap>", 1360),
        ("<module>", "/srv/env/lib/python3.11/site-packages/pkg/__init__.py", 5),
        ("fib", app, 40),
        (hostile, "/srv/\u{85}<img src=x onerror=alert(1)>.py", 1),
    ];
    for (id, (name, file, line)) in (1..).zip(codes) {
        log.code(id, name, file, line);
    }
    // Parent, code, and how many lines behind the first one of the function.
    let nodes = [
        (0, 1, 7), // 1: app.py:10
        (1, 2, 0), // 2: main:20
        (2, 3, 0), // 3: load:30
        (1, 2, 1), // 4: main:21
        (4, 4, 0), // 5: dumps:238
        (0, 1, 0), // 6: app.py:3
        (6, 5, 0), // 7: importlib
        (7, 6, 0), // 8: pkg/__init__.py:5
        (0, 1, 8), // 9: app.py:11
        (9, 7, 0), // 10: fib:40
        (10, 7, 0),
        (11, 7, 0), // 12
        (6, 8, 0),  // 13: hostile, called from app.py:3
    ];
    for (parent, code, lines) in nodes {
        log.node(0, parent, code, 2 * lines);
    }
    let allocations = [
        (0, 1_000),
        (3, loaded),
        (3, 25_000),
        (3, 25_000),
        (5, dumped),
        (8, 50_000),
        (8, 50_000),
        (8, 50_000),
        (10, 9_000),
        (12, 40_000),
        (13, 50_000),
    ];
    for (n, (stack, size)) in (1..).zip(allocations) {
        log.alloc(0, n, n * 0x10_0000, size, stack);
    }
    for n in 1..=11 {
        log.free(0, 100 + n, n * 0x10_0000);
    }
    log.end();
    log
}

/// What `page/checks/native.mjs` expects: an extension module that allocates. No file of these is on any machine.
fn mixed() -> Log {
    let mut log = Log::new();
    log.python();
    log.code(1, "<module>", "/srv/shop/app.py", 3);
    log.code(2, "main", "/srv/shop/app.py", 20);
    let (python, hot) = (3, 4);
    let files = [(python, "/nowhere/libpython3.13.so.1.0"), (hot, "/nowhere/site-packages/hot/_hot.so")];
    for (id, path) in files {
        log.meta(Record::Module(Module { id, bias: 0, path: path.as_bytes(), build_id: b"" }));
    }
    // Parent, code and offset; or parent, 0 and the native stack that goes with it, or 0 where the loop is entered.
    let nodes = [
        (0, python, 0x100),
        (1, python, 0x200),
        (2, 0, 0),
        (3, hot, 0x10),
        (4, hot, 0x20),
        (0, 0, 0),
        (6, 1, 0),
        (7, 2, 0),
        (8, 0, 5), // 9: <module>, main, _hot.so+0x10, _hot.so+0x20
        (8, 0, 4), // 10: <module>, main, _hot.so+0x10
        (8, 0, 3), // 11: <module>, main
        (3, hot, 0x30),
        (7, 0, 12), // 13: <module>, _hot.so+0x30
        (0, hot, 0x40),
        (0, 0, 14), // 15: _hot.so+0x40
    ];
    for (parent, code, offset) in nodes {
        log.node(0, parent, code, offset);
    }
    for (n, (stack, size)) in (1..).zip([(9, 400_000), (10, 300_000), (11, 100_000), (13, 150_000), (15, 50_000)]) {
        log.alloc(0, n, n * 0x10_0000, size, stack);
    }
    log.end();
    log
}

/// What `page/checks/time.mjs` expects: ten seconds of two threads, a turn for each millisecond.
fn busy() -> Log {
    let mut log = Log::new();
    log.python();
    for second in 1..=10 {
        let (turn, mono_nanos) = (second * 1000, log.header.start_mono_nanos + second * 1_000_000_000);
        log.launcher(turn, Record::Clock(Clock { mono_nanos }));
        log.launcher(turn, Record::Rss(Rss { mono_nanos, bytes: 20_000_000 }));
        let marked = match second {
            2 => Some((mark::NAMED, "loaded <b>")),
            6 => Some((mark::NAMED, "served")),
            8 => Some((mark::PAUSED, "")),
            9 => Some((mark::RESUMED, "")),
            _ => None,
        };
        if let Some((what, name)) = marked {
            log.launcher(turn, Record::Mark(Mark { mono_nanos, what, name: name.as_bytes() }));
        }
    }
    let app = "/srv/app.py";
    let pandas = "/srv/env/lib/python3.11/site-packages/pandas/io.py";
    let codes = [("<module>", app, 10), ("cache", app, 20), ("read", pandas, 7), ("loop", app, 30), ("late", app, 40)];
    for (id, (name, file, line)) in (1..).zip(codes) {
        log.code(id, name, file, line);
    }
    let (main, loader) = (0xaaaa, 0xbbbb);
    log.event(0, 1, Record::ThreadName(ThreadName { pthread: main, name: b"MainThread" }));
    log.event(0, 2, Record::Thread(Thread { thread: 1, os_tid: 4711, pthread: main }));
    log.event(1, 3, Record::ThreadName(ThreadName { pthread: loader, name: b"loader" }));
    log.event(1, 4, Record::Thread(Thread { thread: 2, os_tid: 4712, pthread: loader }));
    // A module's line and what it calls there: nodes 1 and 2, 3 and 4 and so on, of which the loader has its own.
    for (call, code) in [(0, 2), (2, 4), (3, 5)] {
        log.node(0, 0, 1, 2 * call);
        let module = [1, 3, 5][[0, 2, 3].iter().position(|&it| it == call).unwrap()];
        log.node(0, module, code, 0);
    }
    log.node(1, 0, 1, 2);
    log.node(1, 1, 3, 0);
    let mut alloc = |lane, at, kind, address, size, stack| {
        log.event(lane, at, Record::Alloc(Alloc { kind, address, size, stack }));
    };
    alloc(0, 1000, AllocatorKind::Malloc, 0x10_0000, 1_000_000, 2);
    alloc(1, 3000, AllocatorKind::AlignedAlloc, 0x1000_0000, 8_000_000, 2);
    log.free(1, 5000, 0x1000_0000);
    for n in 0..1000 {
        log.alloc(0, 6000 + n / 10, 0x3000_0000 + n * 0x1000, 1000, 4);
        log.free(0, 6000 + n / 10, 0x3000_0000 + n * 0x1000);
    }
    let late = Alloc { kind: AllocatorKind::Calloc, address: 0x2000_0000, size: 3_000_000, stack: 6 };
    log.event(0, 7000, Record::Alloc(late));
    log.end();
    log
}

/// A recursion of 2 000 calls with a million bytes at its end, and 30 000 functions with ten bytes each.
fn deep() -> Log {
    let mut log = Log::new();
    log.capacity = 1 << 20;
    log.python();
    log.code(1, "down", "/srv/deep.py", 1);
    log.code(2, "bottom", "/srv/deep.py", 9);
    for parent in 0..2000 {
        log.node(0, parent, 1, 0);
    }
    log.node(0, 2000, 2, 0);
    log.alloc(0, 1, 0x1000, 1_000_000, 2001);
    for n in 0..30_000 {
        log.code(3 + n, &format!("small_{n}"), &format!("/srv/{}/small.py", n % 100), 1);
        log.node(0, 0, 3 + n, 0);
        log.alloc(0, 2, 0x10_0000 + 0x10 * u64::from(n), 10, 2002 + n);
    }
    log.end();
    log
}

/// Runs a script of `tests/page`, which prints a line for each check.
fn in_browser(script: &str, folder: &Path, chromium: &Path, modules: &Path) {
    let mut node = Command::new("node");
    node.arg(support::root().join("tests/page").join(script)).arg(folder).arg(chromium);
    print!("{}", support::text(&support::run(node.env("MEMTRACE_PAGE_MODULES", modules).env("HOME", folder))));
}
