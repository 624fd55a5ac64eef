//! `memtrace flamegraph` as a command: names, refusals, which question is answered, whose source lines are shown.

#[path = "support/log.rs"]
mod log;
mod support;
#[path = "support/webpage.rs"]
mod webpage;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use log::Log;
use serde_json::json;
use support::Scratch;
use webpage::Webpage;

/// Three functions in files of this folder: `kept` is never freed, `peak` only after the peak, `short` at once.
fn capture(folder: &Path) -> Log {
    let mut log = Log::new();
    log.info.cwd = folder.to_str().unwrap().to_owned();
    log.header.start_unix_nanos = 4_000_000_000_000_000_000;
    log.python();
    for (id, (name, file)) in (1..).zip([("kept", "kept.py"), ("peak", "peak.txt"), ("short", "short.py")]) {
        log.code(id, name, file, 1);
        log.node(0, 0, id, 0);
    }
    log.alloc(0, 1, 0x1000, 100, 1);
    log.alloc(0, 2, 0x2000, 5_000, 2);
    log.free(0, 3, 0x2000);
    log.alloc(0, 4, 0x3000, 30, 3);
    log.free(0, 5, 0x3000);
    log
}

fn write(scratch: &Scratch) -> std::path::PathBuf {
    let path = scratch.join("memtrace-shop.17.bin");
    fs::write(&path, capture(scratch.path()).bytes()).unwrap();
    path
}

/// The data of the page that these arguments give.
fn data(scratch: &Scratch, arguments: &[&str]) -> Webpage {
    data_of("flamegraph", scratch, arguments)
}

fn data_of(command: &str, scratch: &Scratch, arguments: &[&str]) -> Webpage {
    let page = scratch.join("page.html");
    let capture = scratch.join("memtrace-shop.17.bin");
    support::run(support::memtrace().arg(command).arg(capture).arg("-fo").arg(&page).args(arguments));
    Webpage::new(&fs::read_to_string(page).unwrap())
}

/// Runs it, expecting a failure with this sentence.
fn refused(arguments: &[&std::ffi::OsStr], sentence: &str) {
    let output = support::memtrace().arg("flamegraph").args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", support::text(&output));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.trim_end(), sentence);
}

#[test]
fn the_page_is_written_beside_the_capture_and_never_over_another() {
    let scratch = Scratch::new("flamegraph");
    let capture = write(&scratch);
    let output = support::run(support::memtrace().arg("flamegraph").arg(&capture).current_dir("/"));
    let page = scratch.join("memtrace-flamegraph-shop.17.html");
    assert!(page.is_file(), "{}", support::text(&output));
    assert!(output.stdout.is_empty());
    let sentence = format!("memtrace: cannot write {}: it exists already (use -f to overwrite it)", page.display());
    fs::write(&page, "mine").unwrap();
    refused(&[capture.as_os_str()], &sentence);
    assert_eq!(fs::read(&page).unwrap(), b"mine");
    support::run(support::memtrace().arg("flamegraph").arg("-f").arg(&capture));
    assert!(fs::read_to_string(&page).unwrap().starts_with("<!doctype html>"));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn what_is_no_capture_is_refused_in_one_sentence_and_leaves_nothing() {
    let scratch = Scratch::new("flamegraph");
    let none = scratch.join("none.bin");
    refused(&[none.as_os_str()], &format!("memtrace: cannot read {}: there is no such file", none.display()));
    let text = scratch.join("text.bin");
    fs::write(&text, "just some text").unwrap();
    refused(&[text.as_os_str()], &format!("memtrace: cannot read {}: it is not a memtrace capture", text.display()));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
}

#[test]
fn the_page_shows_the_peak_or_what_was_asked_for() {
    let scratch = Scratch::new("flamegraph");
    write(&scratch);
    assert_eq!(data(&scratch, &[]).stacks(), ["peak 5000 1", "kept 100 1"]);
    assert_eq!(data(&scratch, &["--leaks"]).stacks(), ["kept 100 1"]);
    assert_eq!(data(&scratch, &["--temporary-allocations"]).stacks(), ["peak 5000 1", "short 30 1"]);
    let zero = data(&scratch, &["--temporary-allocation-threshold", "0"]);
    assert_eq!(zero.stacks(), ["peak 5000 1", "short 30 1"]);
    assert_eq!((&zero.header["open"]["tab"], &zero.header["temporary_threshold"]), (&"temporary".into(), &0.into()));
    let facts = &zero.header["processes"][0]["facts"];
    assert_eq!(facts["peak_bytes"], 5100, "the peak of the heap is a fact in every report");
}

#[test]
fn options_say_which_view_is_open_first() {
    let scratch = Scratch::new("flamegraph");
    write(&scratch);
    let open = |arguments: &[&str]| data(&scratch, arguments).header["open"].clone();
    let plain = json!({ "tab": "peak", "inverted": false, "split_threads": false, "temporal": false, "range": null, "table": false, "compares": null });
    assert_eq!(open(&["--no-web"]), plain);
    let mut other = plain.clone();
    for (key, value) in [("tab", json!("leaks")), ("inverted", true.into()), ("temporal", true.into())] {
        other[key] = value;
    }
    assert_eq!(open(&["--leaks", "--inverted", "--temporal"]), other);
    let mut split = plain;
    split["split_threads"] = true.into();
    assert_eq!(open(&["--split-threads"]), split);
    split["table"] = true.into();
    let table = data_of("table", &scratch, &["--split-threads"]);
    assert_eq!((&table.header["open"], table.stacks()), (&split, data(&scratch, &[]).stacks()));
}

#[test]
fn a_temporal_page_of_temporary_allocations_is_refused() {
    let scratch = Scratch::new("flamegraph");
    let capture = write(&scratch);
    for option in ["--temporary-allocations", "--temporary-allocation-threshold=3"] {
        let arguments = [capture.as_os_str(), "--temporal".as_ref(), option.as_ref()];
        refused(&arguments, "memtrace: Can't create a temporal flame graph of temporary allocations");
    }
}

#[test]
fn limits_fold_stacks_and_time() {
    let scratch = Scratch::new("flamegraph");
    write(&scratch);
    let folded = data(&scratch, &["--min-share", "40%"]);
    // Of the leaks, the first is all there is; the third is a third of all allocations.
    assert_eq!(folded.stacks(), ["peak 5000 1", "kept 100 1"]);
    assert_eq!((&folded.header["folded"]["nodes"], &folded.header["folded"]["bytes"]), (&json!(1), &json!(30)));
    assert_eq!(folded.header["limits"]["threshold"], 0.4);
    assert_eq!(data(&scratch, &["--max-memory-records", "1"]).header["n_buckets"], 1);
}

#[test]
fn options_that_mean_nothing_for_the_format_are_refused() {
    let scratch = Scratch::new("flamegraph");
    let capture = write(&scratch);
    let picture = "is for the page: a picture has no time line (leave out --format svg)";
    let time_line = [("--temporal", "--temporal"), ("--max-memory-records", "--max-memory-records=9")];
    for (name, option) in time_line {
        let arguments = [capture.as_os_str(), "--format=svg".as_ref(), option.as_ref()];
        refused(&arguments, &format!("memtrace: {name} {picture}"));
    }
    let counts = [capture.as_os_str(), "--counts".as_ref()];
    refused(&counts, "memtrace: --counts is for pictures: the page shows both (add --format svg)");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing was written");
}

#[test]
fn source_lines_are_shown_unless_they_may_be_secret() {
    let scratch = Scratch::new("flamegraph");
    write(&scratch);
    for (name, text) in [("kept.py", "  keep(it)  "), ("peak.txt", "password = 1"), ("short.py", "</script>")] {
        fs::write(scratch.join(name), text).unwrap();
        fs::set_permissions(scratch.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(data(&scratch, &[]).stacks(), ["peak 5000 1", "kept 100 1 keep(it)"]);
    assert_eq!(data(&scratch, &["--confidential-files", "all"]).stacks(), ["peak 5000 1", "kept 100 1"]);
    let none = data(&scratch, &["--confidential-files", "none"]);
    assert_eq!(none.stacks(), ["peak 5000 1 password = 1", "kept 100 1 keep(it)"]);
    let short = data(&scratch, &["--temporary-allocation-threshold", "0"]);
    assert_eq!(short.stacks(), ["peak 5000 1", "short 30 1 </script>"]);
}
