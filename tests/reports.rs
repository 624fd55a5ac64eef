//! The text outputs of a small log, compared with the expected ones in `fixtures/expected`.
//! `MEMTRACE_BLESS=1` rewrites them.

#[path = "support/sample.rs"]
mod sample;
mod support;
#[path = "support/log.rs"]
mod testlog;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use sample::sample;
use support::{Scratch, memtrace};

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
    support::assert_expected(name, &actual);
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
    check("stats-leaks.txt", &["stats", "--leaks"]);
    check("stats-leaks.json", &["stats", "--leaks", "--json"]);
    check("stats-temporary.txt", &["stats", "--temporary-allocations"]);
    check("stats-temporary.json", &["stats", "--temporary-allocation-threshold", "0", "--json"]);
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
fn tables_show_places_by_allocator_and_thread() {
    check("table.txt", &["table", "--text"]);
    check("table-threads.txt", &["table", "--text", "--split-threads", "-r", "4"]);
    check("table-leaks.txt", &["table", "--text", "--leaks"]);
    check("table-temporary.txt", &["table", "--text", "--temporary-allocations"]);
    check("table.json", &["table", "--json", "--split-threads"]);
}

#[test]
fn rows_sum_to_the_total_and_text_has_the_same_ones_as_json() {
    let scratch = Scratch::new("reports-sums");
    let capture = scratch.join("sample.bin");
    sample().save(&capture);
    let printed = |arguments: &[&str]| String::from_utf8(run(&capture, arguments).stdout).unwrap();
    for options in [&[][..], &["--leaks"], &["--split-threads"], &["--leaks", "--split-threads"]] {
        let json: serde_json::Value =
            serde_json::from_str(&printed(&[&["table", "--json"], options].concat())).unwrap();
        let text = printed(&[&["table", "--text"], options].concat());
        let rows = json["rows"].as_array().unwrap();
        let sum = |key: &str| rows.iter().map(|row| row[key].as_u64().unwrap()).sum::<u64>();
        assert_eq!(json["total_bytes"], sum("bytes"));
        assert_eq!(json["total_allocations"], sum("allocations"));
        assert_eq!((json["total_rows"].as_u64(), text.lines().count()), (Some(rows.len() as u64), rows.len() + 1));
        for (row, line) in rows.iter().zip(text.lines().skip(1)) {
            let is_in = |key: &str| line.contains(row[key].as_str().unwrap_or_default());
            assert!(is_in("allocator") && is_in("function") && is_in("file"), "{row}\n{line}");
        }
    }
}

#[test]
fn trees_show_who_called_whom() {
    check("tree.txt", &["tree"]);
    check("tree-leaks.txt", &["tree", "--leaks"]);
    check("tree-temporary.txt", &["tree", "--temporary-allocation-threshold", "0"]);
    check("tree-biggest.txt", &["tree", "-b", "1", "--text"]);
    check("tree.json", &["tree", "-b", "2", "--json"]);
}

#[test]
fn several_captures_are_read_as_one() {
    let scratch = Scratch::new("reports-several");
    let (first, second) = (scratch.path().join("first.bin"), scratch.path().join("second.bin"));
    sample().save(&first);
    let mut log = sample();
    log.header.pid = 4712;
    log.header.start_unix_nanos += 1_000_000_000;
    log.alloc(1, 4000, 0xf000, 10, 0);
    log.save(&second);
    let json = |captures: &[&Path]| -> serde_json::Value {
        let output = memtrace().args(["stats", "--json", "-n", "1000"]).args(captures).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (one, other, both) = (json(&[&first]), json(&[&second]), json(&[&first, &second]));
    let number = |value: &serde_json::Value, path: &str| value.pointer(path).unwrap().as_u64().unwrap();
    for sum in
        ["/total_num_allocations", "/total_bytes_allocated", "/metadata/peak_memory", "/metadata/total_allocations"]
    {
        assert_eq!(number(&both, sum), number(&one, sum) + number(&other, sum), "{sum}");
    }
    assert_eq!(both["metadata"]["total_frames"], one["metadata"]["total_frames"]);
    assert_eq!(both["metadata"]["start_time"], one["metadata"]["start_time"]);
    for command in ["summary", "tree", "stats"] {
        let output = memtrace().arg(command).args([&first, &second]).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{message}");
        let lost = |pid: u32| format!("memtrace: app.py ({pid}): 3 events could not be recorded\n");
        assert!(message.contains(&lost(4711)) && message.contains(&lost(4712)), "{command}: {message}");
    }
    let missing = memtrace().args(["tree".as_ref(), first.as_os_str(), "/no/such".as_ref()]).output().unwrap();
    let message = String::from_utf8(missing.stderr).unwrap();
    assert_eq!(
        (missing.status.code(), message.as_str()),
        (Some(2), "memtrace: cannot read /no/such: there is no such file\n")
    );
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
fn whoever_is_interrupted_leaves_nothing() {
    let scratch = Scratch::new("reports-interrupted");
    let capture = scratch.path().join("sample.bin");
    let mut log = sample();
    log.capacity = 1 << 20;
    for number in 0..2_000_000 {
        log.alloc(1, 4000 + number / 1000, 0x9000 + number * 0x100, 100, 1);
    }
    log.save(&capture);
    let page = scratch.path().join("page.html");
    let interrupt = |signal: i32| {
        let mut child = memtrace().arg("flamegraph").arg(&capture).arg("-o").arg(&page).spawn().unwrap();
        let fds = format!("/proc/{}/fd", child.id());
        let is_ours = |path: PathBuf| path.parent() == Some(scratch.path()) && path != capture;
        let has_output = || {
            let entries = std::fs::read_dir(&fds).into_iter().flatten().flatten();
            entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(is_ours)
        };
        while !has_output() && child.try_wait().unwrap().is_none() {}
        // SAFETY: it is our child, and was not waited for when it still ran.
        unsafe { libc::kill(child.id() as i32, signal) };
        let ended = child.wait().unwrap().signal();
        let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        if ended.is_some() {
            assert_eq!((ended, left.len()), (Some(signal), 1), "{left:?}");
        } else {
            // It was faster than we.
            std::fs::remove_file(&page).unwrap();
        }
        ended.is_some()
    };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        assert!((0..50).any(|_| interrupt(signal)), "nothing ended by signal {signal}");
    }
}

#[test]
fn parse_prints_a_part_of_the_time() {
    let scratch = Scratch::new("reports-range");
    let capture = scratch.path().join("sample.bin");
    sample().save(&capture);
    let turns = |options: &[&str]| -> Vec<u64> {
        let output = run(&capture, &[&["parse", "--json"], options].concat());
        let lines = String::from_utf8(output.stdout).unwrap();
        let events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let events = events.filter(|event| event["event"] == "alloc" || event["event"] == "free");
        events.map(|event| event["turn"].as_u64().unwrap()).collect()
    };
    // A turn of the sample is ten microseconds.
    let (all, part) = (turns(&[]), turns(&["--from", "0.001", "--to", "0.01"]));
    assert_eq!(part, all.iter().copied().filter(|turn| (100..1000).contains(turn)).collect::<Vec<_>>());
    assert!(!part.is_empty() && part.len() < all.len());
    assert_eq!(turns(&["--to", "1e30"]), all);
    assert_eq!(turns(&["--from", "1000000"]), [0; 0]);
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

#[test]
fn missed_frees_are_told() {
    let scratch = Scratch::new("reports-missed");
    let capture = scratch.path().join("sample.bin");
    let mut log = sample();
    log.alloc(1, 4000, 0xf000, 10, 0);
    log.save(&capture);
    let expected = "memtrace: 1 blocks were handed out again without a free: their frees are not in the capture\n";
    for command in ["stats", "summary", "tree"] {
        let message = String::from_utf8(run(&capture, &[command]).stderr).unwrap();
        assert!(message.ends_with(expected), "{command}: {message}");
    }
}
