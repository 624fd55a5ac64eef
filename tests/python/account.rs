//! The interpreter's own account of its stacks (`fixtures/python/expect.py`) and its comparison with a capture.
//!
//! Called by the tests of Python programs. It must never take a missing or a second allocation of a size for a match.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use serde::Deserialize;
use serde_json::Value;

use crate::support;

/// Function, file and line.
pub type Frame = (String, String, u32);

/// One line of the account; the fields are described in `expect.py`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    pid: u32,
    #[serde(default)]
    size: u64,
    /// The kernel's number; 0 for any.
    thread: u64,
    #[serde(default)]
    stack: Vec<Frame>,
    kind: Option<String>,
    #[serde(default)]
    native: bool,
    #[serde(default)]
    only_python: bool,
    freed: Option<bool>,
    count: Option<u64>,
    thread_name: Option<String>,
}

/// Which of a program's allocations a recording has.
#[derive(Clone, Copy, PartialEq)]
pub enum Level {
    /// All, and each object is one.
    Objects,
    /// Objects are seen when they are large enough for C's `malloc`.
    Malloc,
    /// Objects need not be seen: the interpreter makes them in memory of the kernel's, as mimalloc does.
    Native,
}

/// Reads an account; its lines are whole however the program ended.
pub fn read(path: &Path) -> Vec<Expected> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("no account {}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

/// What a capture holds of the things that the account speaks of.
#[derive(Default)]
struct Recorded {
    pid: u64,
    by_size: HashMap<u64, Vec<Allocation>>,
    /// The kernel's numbers of threads, by image and our number.
    threads: HashMap<(u64, u64), u64>,
    thread_names: Vec<(u64, String)>,
    /// Versions of the interpreters whose stacks are read, and their allocators.
    pythons: Vec<(String, String)>,
    has_ended: bool,
    problems: Vec<String>,
}

struct Allocation {
    kind: String,
    os_tid: u64,
    stack: Vec<Frame>,
    is_freed: bool,
}

/// Every difference between the account and the capture, as sentences; none when all is well.
///
/// Last the interpreter's version, and the names that its allocators may have.
pub fn differences(
    expected: &[Expected],
    capture: &Path,
    level: Level,
    (version, allocators): (&str, &[&str]),
) -> Vec<String> {
    assert!(!expected.is_empty(), "the program gave no account at all");
    let mut recorded = read_capture(expected, capture);
    let mut problems = std::mem::take(&mut recorded.problems);
    if !recorded.has_ended {
        problems.push("the capture has no end".into());
    }
    let allocators = if level == Level::Objects { allocators } else { &[""] };
    let is_expected = |(seen, allocator): &(String, String)| seen == version && allocators.contains(&&**allocator);
    if recorded.pythons.is_empty() || !recorded.pythons.iter().all(is_expected) {
        problems.push(format!("pythons {:?} instead of {version} with {allocators:?}", recorded.pythons));
    }
    // Children write accounts too, and are not in the parent's capture: their sizes are the parent's next ones, so an
    // event of theirs in the wrong place shows up as a second allocation of a size.
    let expected: Vec<&Expected> = expected.iter().filter(|line| line.pid as u64 == recorded.pid).collect();
    if expected.is_empty() {
        problems.push(format!("no line of the account is of process {}, which was recorded", recorded.pid));
    }
    for line in expected {
        if let Some(problem) = difference(line, &recorded, level) {
            problems.push(problem);
        }
    }
    problems
}

fn difference(expected: &Expected, recorded: &Recorded, level: Level) -> Option<String> {
    let size = expected.size;
    if let Some(name) = &expected.thread_name {
        let has_name = recorded.thread_names.iter().any(|(thread, seen)| *thread == expected.thread && seen == name);
        let seen = &recorded.thread_names;
        return (!has_name).then(|| format!("thread {} is not named {name:?}; names: {seen:?}", expected.thread));
    }
    let all = recorded.by_size.get(&size).map(Vec::as_slice).unwrap_or_default();
    if level == Level::Native && !expected.native && (all.is_empty() || expected.only_python) {
        return None;
    }
    if let Some(count) = expected.count {
        let count = if expected.only_python && level != Level::Objects { 0 } else { count };
        let matching: Vec<&Allocation> = all.iter().filter(|allocation| allocation.stack == expected.stack).collect();
        if matching.len() as u64 != count {
            let n_matching = matching.len();
            let stack = show(&expected.stack);
            return Some(format!("{n_matching} allocations of {size} bytes instead of {count} by\n{stack}"));
        }
        return matching.iter().find_map(|allocation| unlike(expected, allocation, level));
    }
    match all {
        [] => Some(format!("no allocation of {size} bytes; expected by\n{}", show(&expected.stack))),
        [one] => unlike(expected, one, level),
        more => {
            let stacks: Vec<String> = more.iter().map(|one| format!("{}\n{}", one.kind, show(&one.stack))).collect();
            Some(format!("{} allocations of {size} bytes instead of one:\n{}", more.len(), stacks.join("\n")))
        }
    }
}

fn unlike(expected: &Expected, seen: &Allocation, level: Level) -> Option<String> {
    let size = expected.size;
    if seen.stack != expected.stack {
        return Some(format!("another stack for {size} bytes\n{}", compare(&expected.stack, &seen.stack)));
    }
    if expected.thread != 0 && seen.os_tid != expected.thread {
        return Some(format!("{size} bytes by thread {} instead of {}", seen.os_tid, expected.thread));
    }
    if let Some(kind) = &expected.kind {
        let kind = match level == Level::Objects && !expected.native {
            true => format!("pymalloc_{kind}"),
            false => kind.clone(),
        };
        if seen.kind != kind {
            return Some(format!("{size} bytes by {} instead of {kind}", seen.kind));
        }
    }
    match expected.freed {
        Some(is_freed) if is_freed != seen.is_freed => {
            let word = if seen.is_freed { "were given back" } else { "were never given back" };
            Some(format!("{size} bytes {word}; allocated by\n{}", show(&expected.stack)))
        }
        _ => None,
    }
}

fn read_capture(expected: &[Expected], capture: &Path) -> Recorded {
    let smallest = expected.iter().map(|line| line.size).filter(|size| *size > 0).min().unwrap_or_default();
    let mut parse = support::memtrace()
        .arg("parse")
        .arg(capture)
        .args(["--json", "--no-native", "--min-size", &smallest.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("memtrace starts");
    let mut recorded = Recorded::default();
    let mut by_size: HashMap<u64, Vec<Allocation>> = expected.iter().map(|line| (line.size, Vec::new())).collect();
    // Where the living allocations of interest are: size and position, by address.
    let mut live: HashMap<String, (u64, usize)> = HashMap::new();
    let cares_for_frees = expected.iter().any(|line| line.freed.is_some());
    let mut output = BufReader::new(parse.stdout.take().expect("stdout is a pipe"));
    let mut bytes = Vec::new();
    while output.read_until(b'\n', &mut bytes).expect("a pipe can be read") > 0 {
        // Most lines by far, and hardly one of them matters.
        if bytes.starts_with(br#"{"event":"free""#) && !cares_for_frees {
            bytes.clear();
            continue;
        }
        let line = String::from_utf8(std::mem::take(&mut bytes)).expect("JSON is UTF-8");
        if line.starts_with(r#"{"event":"free""#) {
            let address = line.split(r#""address":""#).nth(1).and_then(|rest| rest.split('"').next());
            if let Some((size, position)) = live.remove(address.unwrap_or_default()) {
                by_size.get_mut(&size).expect("it was put there")[position].is_freed = true;
            }
            continue;
        }
        let event: Value = match serde_json::from_str(&line) {
            Ok(event) => event,
            Err(error) => panic!("{error} in {}", line.chars().take(2000).collect::<String>()),
        };
        let number = |key: &str| event[key].as_u64().unwrap_or_default();
        let string = |key: &str| event[key].as_str().unwrap_or_default().to_string();
        match event["event"].as_str().unwrap_or_default() {
            "capture" => recorded.pid = number("pid"),
            "thread" => {
                recorded.threads.insert((number("image"), number("thread")), number("os_tid"));
            }
            "thread_name" => {
                let thread = recorded.threads.get(&(number("image"), number("thread"))).copied().unwrap_or_default();
                recorded.thread_names.push((thread, string("name")));
            }
            // The program before an exec is gone with all its memory.
            "image" => live.clear(),
            "alloc" => {
                let address = string("address");
                live.remove(&address);
                if let Some(allocations) = by_size.get_mut(&number("size")) {
                    live.insert(address, (number("size"), allocations.len()));
                    let os_tid = recorded.threads.get(&(number("image"), number("thread")));
                    allocations.push(Allocation {
                        kind: string("kind"),
                        os_tid: os_tid.copied().unwrap_or_default(),
                        stack: Deserialize::deserialize(&event["stack"]).expect("a stack is a list of frames"),
                        is_freed: false,
                    });
                }
            }
            "python" if event["stacks"] == true => recorded.pythons.push((string("version"), string("allocator"))),
            "damage" | "lost" | "notice" => recorded.problems.push(line),
            "end" => recorded.has_ended = true,
            _ => {}
        }
    }
    let output = parse.wait_with_output().expect("memtrace ends");
    if !output.status.success() {
        recorded.problems.push(format!("parse ended with {}\n{}", output.status, support::text(&output)));
    }
    recorded.by_size = by_size;
    recorded
}

/// A stack for a person; the middle of a deep one is left out.
fn show(stack: &[Frame]) -> String {
    let frame = |(function, file, line): &Frame| {
        let cut = |text: &str| text.chars().take(200).collect::<String>();
        format!("    {}:{}:{line}", cut(function), cut(file))
    };
    let mut lines: Vec<String> = stack.iter().take(12).map(frame).collect();
    if stack.len() > 16 {
        lines.push(format!("    … {} frames", stack.len() - 16));
    }
    lines.extend(stack.iter().skip(12.max(stack.len().saturating_sub(4))).map(frame));
    match lines.is_empty() {
        true => "    (no Python stack)".into(),
        false => lines.join("\n"),
    }
}

fn compare(expected: &[Frame], seen: &[Frame]) -> String {
    let n_same = expected.iter().zip(seen).take_while(|(one, other)| one == other).count();
    format!(
        "  expected ({} frames)\n{}\n  seen ({} frames)\n{}\n  frame {n_same} is the first that differs",
        expected.len(),
        show(&expected[n_same.saturating_sub(1).min(expected.len())..]),
        seen.len(),
        show(&seen[n_same.saturating_sub(1).min(seen.len())..])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Frame> {
        names.iter().map(|name| (name.to_string(), "file.py".to_string(), 1)).collect()
    }

    fn check(expected: Value, seen: &[(&str, &[&str])], problem: Option<&str>) {
        let expected: Expected = serde_json::from_value(expected).unwrap();
        let allocations = seen.iter().map(|(kind, names)| Allocation {
            kind: kind.to_string(),
            os_tid: 5,
            stack: stack(names),
            is_freed: true,
        });
        let by_size = HashMap::from([(expected.size, allocations.collect())]);
        let recorded = Recorded { by_size, ..Recorded::default() };
        let found = difference(&expected, &recorded, Level::Objects);
        match problem {
            None => assert_eq!(found, None),
            Some(problem) => assert!(found.clone().unwrap_or_default().contains(problem), "{found:?}"),
        }
    }

    fn line(more: Value) -> Value {
        let mut line = serde_json::json!({"pid": 1, "size": 9, "thread": 5, "stack": [["f", "file.py", 1]]});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    }

    #[test]
    fn the_comparison_finds_every_kind_of_difference() {
        let none = || line(serde_json::json!({}));
        check(none(), &[("malloc", &["f"])], None);
        check(none(), &[], Some("no allocation of 9 bytes"));
        check(none(), &[("malloc", &["f"]), ("malloc", &["f"])], Some("2 allocations of 9 bytes instead of one"));
        check(none(), &[("malloc", &["g"])], Some("another stack"));
        check(none(), &[("malloc", &["f", "g"])], Some("frame 1 is the first that differs"));
        check(line(serde_json::json!({"thread": 6})), &[("malloc", &["f"])], Some("by thread 5 instead of 6"));
        check(line(serde_json::json!({"kind": "malloc"})), &[("malloc", &["f"])], Some("instead of pymalloc_malloc"));
        check(line(serde_json::json!({"kind": "malloc", "native": true})), &[("malloc", &["f"])], None);
        check(line(serde_json::json!({"freed": false})), &[("malloc", &["f"])], Some("were given back"));
        check(line(serde_json::json!({"count": 2})), &[("malloc", &["f"])], Some("1 allocations"));
        check(line(serde_json::json!({"count": 1})), &[("malloc", &["f"]), ("malloc", &["g"])], None);
        check(line(serde_json::json!({"thread_name": "x"})), &[], Some("is not named"));
    }
}
