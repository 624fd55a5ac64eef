//! `memtrace transform`: each format as it is written for a small log, and a recorded program in each format opened by
//! the tool that the format is for, whose numbers are compared with those of our own reports. Where a tool is missing
//! the test says so and passes.

#[path = "support/sample.rs"]
mod sample;
mod support;
#[path = "support/log.rs"]
mod testlog;
#[path = "support/web.rs"]
mod web;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use sample::sample;
use serde_json::Value;
use support::Scratch;
use web::on_path;

// --- as written --------------------------------------------------------------------------------------------------------

/// The format of the small log as it is expected, in a text form.
fn check(name: &str, format: &str, arguments: &[&str]) {
    let scratch = Scratch::new(&format!("transform-{name}"));
    let capture = scratch.join("sample.bin");
    sample().save(&capture);
    let written = transform(&scratch, &capture, format, arguments);
    let actual = fs::read_to_string(written).unwrap();
    support::assert_expected(name, &actual);
}

/// The file that was written.
fn transform(scratch: &Scratch, capture: &Path, format: &str, arguments: &[&str]) -> PathBuf {
    let out = scratch.join(&format!("out.{format}"));
    support::run(support::memtrace().args(["transform", format, "-fo"]).arg(&out).arg(capture).args(arguments));
    out
}

#[test]
fn stacks_are_folded() {
    check("transform.folded", "folded", &[]);
    check("transform-leaks.folded", "folded", &["--leaks"]);
}

#[test]
fn speedscope_gets_three_profiles() {
    check("transform.speedscope.json", "speedscope", &[]);
    check("transform-temporary.speedscope.json", "speedscope", &["--temporary-allocations"]);
}

#[test]
fn gprof2dot_gets_call_chains() {
    check("transform.gprof2dot.json", "gprof2dot", &[]);
}

#[test]
fn the_table_tells_threads_and_allocators_apart() {
    check("transform.csv", "csv", &[]);
    check("transform-leaks.csv", "csv", &["--leaks"]);
}

#[test]
fn heaptrack_gets_every_event() {
    check("transform.heaptrack", "heaptrack", &[]);
}

#[test]
fn a_file_has_the_name_of_the_capture_and_the_suffix_of_the_format() {
    let scratch = Scratch::new("transform-names");
    let capture = scratch.join("memtrace-app.4711.bin");
    sample().save(&capture);
    for (format, name) in [
        ("gprof2dot", "memtrace-gprof2dot-app.4711.json"),
        ("csv", "memtrace-csv-app.4711.csv"),
        ("speedscope", "memtrace-speedscope-app.4711.speedscope.json"),
        ("folded", "memtrace-folded-app.4711.folded"),
        ("pprof", "memtrace-pprof-app.4711.pb.gz"),
        ("heaptrack", "memtrace-heaptrack-app.4711.zst"),
    ] {
        support::run(support::memtrace().args(["transform", format]).arg(&capture));
        assert!(scratch.join(name).metadata().unwrap().len() > 0, "{name}");
        let again = support::memtrace().args(["transform", format]).arg(&capture).output().unwrap();
        assert_eq!(again.status.code(), Some(2), "{}", support::text(&again));
    }
}

#[test]
fn several_captures_are_one_table_and_no_heaptrack_log() {
    let scratch = Scratch::new("transform-several");
    let (first, second) = (scratch.join("first.bin"), scratch.join("second.bin"));
    sample().save(&first);
    let mut log = sample();
    log.header.pid = 4712;
    log.save(&second);
    let table = |captures: &[&Path]| {
        let out = scratch.join("out.csv");
        support::run(support::memtrace().args(["transform", "csv", "-fo"]).arg(&out).args(captures));
        let text = fs::read_to_string(out).unwrap();
        let mut lines: Vec<String> = text.lines().skip(1).map(str::to_string).collect();
        lines.sort();
        lines
    };
    let mut apart = table(&[&first]);
    apart.extend(table(&[&second]));
    apart.sort();
    assert_eq!(table(&[&first, &second]), apart);
    let refused = support::memtrace().args(["transform", "heaptrack"]).args([&first, &second]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(message, "memtrace: heaptrack's format holds one process: name one capture\n");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 3, "nothing half-written is left");
}

// --- as others read it -------------------------------------------------------------------------------------------------

/// A recorded program: a few thousand allocations by five functions, beside what Python does by itself.
fn recorded(scratch: &Scratch) -> PathBuf {
    let capture = scratch.join("recorded.bin");
    let python = &support::pythons().last().unwrap().path;
    let program = support::root().join("fixtures/programs/allocations.py");
    support::run(
        support::memtrace()
            .args(["run", "-q", "--python"])
            .arg(python)
            .arg("-o")
            .arg(&capture)
            .arg(program)
            .args(["3000", "sites"]),
    );
    capture
}

/// What `memtrace summary --json` says.
fn summary(capture: &Path, arguments: &[&str]) -> Value {
    let output = support::run(support::memtrace().arg("summary").arg(capture).arg("--json").args(arguments));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Bytes by the text of a stack, as `memtrace transform folded` has them.
fn folded(scratch: &Scratch, capture: &Path, arguments: &[&str]) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(transform(scratch, capture, "folded", arguments)).unwrap();
    weights(text.lines())
}

/// What stands before the last space of a line, and the number behind it, summed up.
fn weights<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut weights = BTreeMap::new();
    for line in lines {
        let (stack, weight) = line.rsplit_once(' ').unwrap();
        *weights.entry(stack.to_string()).or_insert(0) += weight.parse::<u64>().unwrap();
    }
    weights
}

/// A program of `tests/tools.txt`; `None`, with the reason on stderr, where it is missing.
fn tool(name: &str) -> Option<PathBuf> {
    let found = Some(support::tools().join(name)).filter(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no {name} in {}, which tests/run makes", support::tools().display());
    }
    found
}

/// A program of this system; `None`, with the reason on stderr, where it is missing.
fn program(name: &str) -> Option<PathBuf> {
    let found = on_path(name);
    if found.is_none() {
        eprintln!("skipped: no {name} on this machine");
    }
    found
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn folded_stacks_sum_up_to_our_numbers() {
    let scratch = Scratch::new("transform-folded");
    let capture = recorded(&scratch);
    for arguments in [&[][..], &["--leaks"], &["--temporary-allocations"]] {
        let total = number(&summary(&capture, arguments)["total_bytes"]);
        assert_eq!(folded(&scratch, &capture, arguments).values().sum::<u64>(), total, "{arguments:?}");
    }
}

#[test]
fn go_tool_pprof_shows_our_numbers() {
    let Some(go) = tool("go") else { return };
    let scratch = Scratch::new("transform-pprof");
    let capture = recorded(&scratch);
    let top = |profile: &Path, sample_type: &str| {
        let mut pprof = Command::new(&go);
        pprof.args(["tool", "pprof", "-top", "-unit=B", "-nodefraction=0", "-nodecount=1000000"]);
        pprof.arg(format!("-sample_index={sample_type}")).arg(profile);
        // The program is built when it is first used, and kept.
        pprof.env("GOCACHE", support::tools().join("../go-cache")).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
        let output = support::run(pprof.env("HOME", scratch.path()));
        Top::parse(stdout(&output))
    };
    // Own bytes and allocations by the name of the function: pprof shows one line for a name.
    let own = |document: &Value| {
        let mut own: BTreeMap<String, u64> = BTreeMap::new();
        for function in document["functions"].as_array().unwrap() {
            *own.entry(function["function"].as_str().unwrap().to_string()).or_default() +=
                number(&function["own_bytes"]);
        }
        own.retain(|_, bytes| *bytes > 0);
        own
    };
    let stats = support::stats(&capture);
    for arguments in [&[][..], &["--leaks"]] {
        let profile = transform(&scratch, &capture, "pprof", arguments);
        let ours = summary(&capture, arguments);
        let in_use = top(&profile, "inuse_space");
        assert_eq!(in_use.total, number(&ours["total_bytes"]));
        assert_eq!(in_use.flat, own(&ours));
        assert_eq!(top(&profile, "inuse_objects").total, number(&ours["total_allocations"]));
        assert_eq!(top(&profile, "alloc_space").total, number(&stats["total_bytes_allocated"]));
        assert_eq!(top(&profile, "alloc_objects").total, number(&stats["total_num_allocations"]));
    }
    let temporary = transform(&scratch, &capture, "pprof", &["--temporary-allocations"]);
    let ours = summary(&capture, &["--temporary-allocations"]);
    assert_eq!(top(&temporary, "alloc_space").flat, own(&ours));
}

/// What `pprof -top` prints.
struct Top {
    total: u64,
    /// By function, those that have something of their own.
    flat: BTreeMap<String, u64>,
}

impl Top {
    fn parse(text: &str) -> Top {
        let bytes =
            |text: &str| text.trim_end_matches('B').parse::<u64>().unwrap_or_else(|_| panic!("{text} in bytes"));
        let (head, rows) = text.split_once("flat  flat%").unwrap_or_else(|| panic!("no table in\n{text}"));
        let total = head.split_once("% of ").and_then(|(_, rest)| rest.split_once(" total")).unwrap().0;
        let mut flat = BTreeMap::new();
        for row in rows.lines().skip(1) {
            let mut columns = row.split_whitespace();
            let own = bytes(columns.next().unwrap());
            let name: Vec<&str> = columns.skip(4).collect();
            *flat.entry(name.join(" ").trim_end_matches(" (inline)").to_string()).or_insert(0) += own;
        }
        flat.retain(|_, bytes| *bytes > 0);
        Top { total: bytes(total), flat }
    }
}

#[test]
fn heaptrack_print_shows_our_numbers() {
    let Some(print) = program("heaptrack_print") else { return };
    let scratch = Scratch::new("transform-heaptrack");
    let capture = recorded(&scratch);
    // Both compressions, which it tells by the suffix.
    for suffix in ["zst", "gz"] {
        let log = scratch.join(&format!("log.{suffix}"));
        support::run(support::memtrace().args(["transform", "heaptrack", "-o"]).arg(&log).arg(&capture));
        let stacks = |cost: &str| {
            let out = scratch.join("stacks.txt");
            let mut command = Command::new(&print);
            command.arg(&log).arg("-F").arg(&out).args(["--flamegraph-cost-type", cost]);
            let output = support::run(&mut command);
            assert!(!String::from_utf8_lossy(&output.stderr).contains("failed"), "{}", support::text(&output));
            weights(fs::read_to_string(out).unwrap().lines())
        };
        // It names files without their folders, and no lines; angle brackets would be cut.
        let ours = |arguments: &[&str]| {
            let mut ours: BTreeMap<String, u64> = BTreeMap::new();
            for (stack, bytes) in folded(&scratch, &capture, arguments) {
                let frames = stack.split(';').map(|frame| {
                    let (function, place) = frame.rsplit_once(" (").unwrap_or((frame, ""));
                    let file = place.trim_end_matches(')').rsplit('/').next().unwrap();
                    let file = file.rsplit_once(':').map_or(file, |(file, _)| file);
                    let function = function.replace('<', "[").replace('>', "]");
                    if function == "main" { format!("main() ({file});") } else { format!("{function} ({file});") }
                });
                let stack: String = if stack == "<no stack>" { "??".to_string() } else { frames.collect() };
                *ours.entry(stack).or_default() += bytes;
            }
            ours
        };
        let theirs = |cost: &str| {
            let mut theirs = stacks(cost);
            theirs.retain(|_, bytes| *bytes > 0);
            theirs
        };
        let (peak, leaks) = (ours(&[]), ours(&["--leaks"]));
        assert_eq!(theirs("leaked"), leaks.into_iter().filter(|(_, bytes)| *bytes > 0).collect());
        assert_eq!(theirs("peak").values().sum::<u64>(), peak.values().sum::<u64>());
        let n_allocations = number(&support::stats(&capture)["total_num_allocations"]);
        assert_eq!(stacks("allocations").values().sum::<u64>(), n_allocations);
    }
}

#[test]
fn gprof2dot_and_dot_draw_our_numbers() {
    let (Some(gprof2dot), Some(dot)) = (tool("gprof2dot"), program("dot")) else { return };
    let scratch = Scratch::new("transform-gprof2dot");
    let capture = recorded(&scratch);
    let json = transform(&scratch, &capture, "gprof2dot", &[]);
    let graph = scratch.join("graph.dot");
    support::run(Command::new(gprof2dot).args(["-n0", "-e0", "-f", "json", "-o"]).arg(&graph).arg(json));
    let drawn = support::run(Command::new(dot).arg("-Tsvg").arg(&graph));
    let drawn = stdout(&drawn);
    let ours = summary(&capture, &[]);
    let total = number(&ours["total_bytes"]) as f64;
    let mut n_compared = 0;
    for function in ours["functions"].as_array().unwrap() {
        let name = function["function"].as_str().unwrap();
        let share = |bytes: &Value| format!("{:.2}%", number(bytes) as f64 / total * 100.0);
        if !["block", "first", "fifth", "make_at_sites"].contains(&name) {
            continue;
        }
        // The texts of a node stand in elements of their own, one below the other.
        let texts: Vec<&str> = drawn.split("<text ").map(|text| text.split(['>', '<']).nth(1).unwrap_or("")).collect();
        let at = texts.iter().position(|text| *text == name).unwrap_or_else(|| panic!("{name} is not drawn"));
        assert_eq!(texts[at + 1], share(&function["total_bytes"]), "{name}");
        assert_eq!(texts[at + 2], format!("({})", share(&function["own_bytes"])), "{name}");
        n_compared += 1;
    }
    assert_eq!(n_compared, 4);
}

#[test]
fn pandas_sums_up_to_our_numbers() {
    let with_pandas = support::pythons().iter().find(|python| support::has_package(python, "pandas"));
    let Some(python) = with_pandas else { return eprintln!("skipped: no pandas on this machine") };
    let scratch = Scratch::new("transform-csv");
    let capture = recorded(&scratch);
    let table = transform(&scratch, &capture, "csv", &[]);
    let script = "import json, pandas, sys\n\
                  table = pandas.read_csv(sys.argv[1], keep_default_na=False)\n\
                  sums = lambda column: {k: int(v) for k, v in table.groupby(column)['size'].sum().items()}\n\
                  print(json.dumps([int(table['num_allocations'].sum()), sums('stack_trace'), sums('allocator')]))";
    let mut command = Command::new(support::environment(python));
    let output = support::run(command.args(["-c", script]).arg(table));
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(theirs[0], summary(&capture, &[])["total_allocations"]);
    let mut ours: BTreeMap<String, u64> = BTreeMap::new();
    for (stack, bytes) in folded(&scratch, &capture, &[]) {
        let frame = |frame: &str| {
            let (function, place) = frame.rsplit_once(" (")?;
            let (file, line) =
                place.trim_end_matches(')').rsplit_once(':').unwrap_or((place.trim_end_matches(')'), "0"));
            Some(format!("{function};{file};{line}"))
        };
        let frames: Vec<String> = stack.split(';').rev().filter_map(frame).collect();
        ours.insert(frames.join("|"), bytes);
    }
    assert_eq!(theirs[1], serde_json::to_value(&ours).unwrap());
    assert!(number(&theirs[2]["PYMALLOC_MALLOC"]) > 0, "{}", theirs[2]);
}

#[test]
fn speedscope_shows_our_numbers() {
    static MODULES: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(modules) = MODULES.get_or_init(web::modules) else { return };
    let Some(chromium) = web::chromium() else { return };
    let scratch = Scratch::new("transform-speedscope");
    let capture = recorded(&scratch);
    let profile = transform(&scratch, &capture, "speedscope", &["--leaks"]);
    let script = support::root().join("tests/transform/speedscope.mjs");
    let mut node = Command::new("node");
    node.arg(script).arg(&profile).arg(chromium).env("MEMTRACE_PAGE_MODULES", modules).env("HOME", scratch.path());
    let output = support::run(&mut node);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", support::text(&output)));
    assert_eq!(shown["opened"], "leaks (2/3)", "what was asked for is shown first");
    for (name, arguments) in [("peak (1/3)", &[][..]), ("leaks (2/3)", &["--leaks"])] {
        let mut own: BTreeMap<String, u64> = BTreeMap::new();
        for (stack, bytes) in folded(&scratch, &capture, arguments) {
            *own.entry(stack.rsplit(';').next().unwrap().to_string()).or_default() += bytes;
        }
        let mut own: Vec<u64> = own.into_values().collect();
        own.sort_unstable_by(|a, b| b.cmp(a));
        let total = number(&summary(&capture, arguments)["total_bytes"]);
        let expected: Vec<String> = own.iter().take(8).map(|&bytes| shown_by_speedscope(bytes, total)).collect();
        assert_eq!(shown[name], serde_json::json!(expected), "{name}");
    }
    let churn = number(&support::stats(&capture)["total_bytes_allocated"]);
    let written: Value = serde_json::from_slice(&fs::read(profile).unwrap()).unwrap();
    assert_eq!(written["profiles"][2]["endValue"], churn);
    assert_eq!(shown["churn (3/3)"].as_array().unwrap().len(), 8);
}

/// `4.04 MB (35%)`, in units of 1024.
fn shown_by_speedscope(bytes: u64, total: u64) -> String {
    let mut amount = bytes as f64;
    let mut units = ["B", "KB", "MB", "GB"].iter();
    let mut unit = units.next().unwrap();
    while amount >= 1024.0 {
        amount /= 1024.0;
        unit = units.next().unwrap();
    }
    // JavaScript rounds halves up, and Rust to the even neighbour.
    let amount = amount.next_up();
    let amount = if *unit == "B" { format!("{amount:.0} B") } else { format!("{amount:.2} {unit}") };
    let percent = bytes as f64 / total as f64 * 100.0;
    let percent = match percent {
        _ if bytes == total => "100%".to_string(),
        _ if percent > 99.0 => ">99%".to_string(),
        _ if percent < 0.01 => "<0.01%".to_string(),
        _ if percent < 1.0 => format!("{:.2}%", percent.next_up()),
        _ if percent < 10.0 => format!("{:.1}%", percent.next_up()),
        _ => format!("{:.0}%", percent.next_up()),
    };
    format!("{amount} ({percent})")
}
