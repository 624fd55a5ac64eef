//! `memtrace diff` and `memtrace flamegraph --format svg` as commands: text, JSON, pictures, exit codes.

#[path = "support/sample.rs"]
mod sample;
mod support;
#[path = "support/log.rs"]
mod testlog;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use sample::sample;
use serde_json::Value;
use support::Scratch;

/// The small log, and one in which the program has changed: `loads` takes less, `load` has something new that stays.
fn captures(scratch: &Scratch) -> [PathBuf; 2] {
    let (base, new) = (scratch.join("base.bin"), scratch.join("new.bin"));
    sample().save(&base);
    let mut log = sample();
    log.free(0, 3601, 0x1000);
    log.alloc(0, 3602, 0x1000, 250_000, 3);
    log.alloc(0, 3603, 0x5000, 2_000_000, 2);
    log.save(&new);
    [base, new]
}

fn diff(captures: &[PathBuf; 2], arguments: &[&str]) -> Output {
    support::memtrace().arg("diff").args(captures).args(arguments).output().unwrap()
}

fn check(name: &str, arguments: &[&str]) {
    let scratch = Scratch::new(&format!("diff-{name}"));
    let output = diff(&captures(&scratch), arguments);
    assert!(output.status.success(), "{}", support::text(&output));
    let actual = String::from_utf8(output.stdout).unwrap();
    support::assert_expected(name, &actual);
}

#[test]
fn what_changed_is_shown_by_function_and_by_stack() {
    check("diff.txt", &[]);
    check("diff-leaks.txt", &["--leaks", "--lines"]);
    check("diff-churn.txt", &["--churn", "-r", "1"]);
    check("diff-normalised.txt", &["--normalise"]);
    check("diff.json", &["--json"]);
}

#[test]
fn a_capture_and_itself_do_not_differ() {
    let scratch = Scratch::new("diff-same");
    let [base, _] = captures(&scratch);
    let same = [base.clone(), base];
    for arguments in [&[][..], &["--leaks"], &["--churn", "--lines"], &["--normalise"]] {
        let text = diff(&same, arguments);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.ends_with("\nNothing changed.\n"), "{text}");
        let json = diff(&same, &[arguments, &["--json"]].concat());
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!((&json["functions"], &json["stacks"]), (&serde_json::json!([]), &serde_json::json!([])));
        assert_eq!(json["total"]["bytes"], 0);
    }
}

#[test]
fn the_sum_of_the_changes_is_the_change_of_the_total() {
    let scratch = Scratch::new("diff-sum");
    let captures = captures(&scratch);
    for arguments in [&["--json"][..], &["--json", "--leaks"], &["--json", "--churn", "--lines"]] {
        let json: Value = serde_json::from_slice(&diff(&captures, arguments).stdout).unwrap();
        let sum = |list: &Value, of: fn(&Value) -> &Value| -> i64 {
            list.as_array().unwrap().iter().map(|row| of(row).as_i64().unwrap()).sum()
        };
        assert_eq!(sum(&json["stacks"], |row| &row["bytes"]), json["total"]["bytes"].as_i64().unwrap());
        assert_eq!(sum(&json["functions"], |row| &row["own"]["bytes"]), json["total"]["bytes"].as_i64().unwrap());
        assert_eq!(sum(&json["stacks"], |row| &row["allocations"]), json["total"]["allocations"].as_i64().unwrap());
    }
}

#[test]
fn more_than_is_allowed_is_a_finding() {
    let scratch = Scratch::new("diff-fail");
    let captures = captures(&scratch);
    let more = 2_250_000 - 1_000_000;
    let code = |allowed: u64| {
        let allowed = allowed.to_string();
        diff(&captures, &["--leaks", "--fail-above", &allowed]).status.code()
    };
    assert_eq!((code(more - 1), code(more)), (Some(1), Some(0)));
    let missing = [captures[0].clone(), scratch.join("none.bin")];
    assert_eq!(diff(&missing, &["--fail-above", "0"]).status.code(), Some(2));
}

#[test]
fn pictures_are_written_beside_the_capture() {
    let scratch = Scratch::new("diff-svg");
    let captures = captures(&scratch);
    support::run(support::memtrace().arg("diff").args(&captures).args(["--format", "svg", "--leaks"]));
    let picture = fs::read_to_string(scratch.join("memtrace-diff-new.svg")).unwrap();
    assert!(picture.contains("leaks: base.bin -&gt; new.bin (red: more, blue: less)"), "{picture}");
    assert!(picture.contains("load (/srv/shop/data.py) (2,250,000 bytes, 100.00%; +88.89%)"), "{picture}");
    assert!(
        picture.contains("loads (/usr/lib/python3.11/json/__init__.py) (250,000 bytes, 11.11%; -33.33%)"),
        "{picture}"
    );
    support::run(support::memtrace().arg("flamegraph").arg(&captures[1]).args(["--format", "svg"]));
    let picture = fs::read_to_string(scratch.join("memtrace-flamegraph-new.svg")).unwrap();
    assert!(picture.contains("peak: app.py --port 80"), "{picture}");
    assert!(picture.contains("loads (/usr/lib/python3.11/json/__init__.py:303) (250,000 bytes, 11.11%)"), "{picture}");
    let counts = ["--format", "svg", "--counts", "-f"];
    support::run(support::memtrace().arg("flamegraph").arg(&captures[1]).args(counts));
    let picture = fs::read_to_string(scratch.join("memtrace-flamegraph-new.svg")).unwrap();
    assert!(picture.contains("all (4 allocations, 100%)"), "{picture}");
    let inverted = ["--format", "svg", "--inverted", "--split-threads", "--min-share", "20", "-f"];
    support::run(support::memtrace().arg("flamegraph").arg(&captures[1]).args(inverted));
    let picture = fs::read_to_string(scratch.join("memtrace-flamegraph-new.svg")).unwrap();
    assert!(picture.contains("main &quot;one&quot; (4711) (2,250,008 bytes, 100.00%)"), "{picture}");
    assert!(!picture.contains("loads (/usr/lib"), "it has 11 %: {picture}");
}
