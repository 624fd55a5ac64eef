//! What a fixture says about itself: the comment lines at its head, read into plain values.
//!
//! ```text
//! // expect: a = malloc(4001)              an allocation of this size by this function; its block is now `a`
//! // expect: free(a)
//! // expect: b = realloc(a, 8003)          free(a), then an allocation; `_` is a block that the fixture does not name
//! // expect: failed realloc(b)             free(b), then a restore
//! // expect: m = mmap(40960, none fixed)   flags in this order: none, noreserve, shared, file, fixed;
//! //                                       `at n+4096` follows when it begins inside a named mapping
//! // expect: munmap(m+4096, 8192)
//! // expect: failed munmap(m, 8192)
//! // expect: n = mremap(m, 40960, 81920)   the old range goes, the new one comes; flags dontunmap, fixed;
//! //                                       `in place` follows when the address is the old one
//! // expect: failed mremap(m, 40960)
//! // expect: t1: c = malloc(5)             the same on another thread
//! // expect: t1: is named "worker"
//! // expect: image 1                       the lines that follow belong to the program after an exec
//! // expect-order: per thread              no order between threads (otherwise the lines are the order of everything)
//! // expect-count: 1000 malloc(77), 1000 freed      for crowds: counted, not listed; `at least 1000 …` too
//! // expect-not-recorded: 4001 4003        no allocation of these sizes
//! // expect-notice: deepbind               exactly these notices, in any order
//! // expect-message: sentence              a part of what memtrace itself says on stderr
//! // expect-no-capture                    memtrace runs the program without recording it
//! // expect-lost: reason                  events may be lost, and are counted then
//! // expect-foreign-blocks: reason        blocks come or go unseen (otherwise every free is of a block that was seen)
//! // expect-exit: 3                        (0 unless said)
//! // expect-signal: 9
//! ```
//!
//! The sizes of a fixture are its own, so that the allocations of libc, the loader and stdio don't mix with them: the
//! matcher looks at the sizes that are named here and at nothing else. Lines that say how to build and run the fixture
//! are described in `fixture.rs`.

use std::collections::BTreeMap;

/// Everything that a fixture expects of its log and of its end.
#[derive(Debug, Default)]
pub struct Expectation {
    pub steps: Vec<Step>,
    pub is_ordered_per_thread: bool,
    /// By function and size.
    pub counts: BTreeMap<(String, u64), Count>,
    pub sizes_not_recorded: Vec<u64>,
    pub notices: Vec<String>,
    pub messages: Vec<String>,
    pub is_without_capture: bool,
    pub may_lose_events: bool,
    pub has_foreign_blocks: bool,
    pub ending: Ending,
}

/// One line of the expected sequence, as the matcher also writes what it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub image: u32,
    pub thread: String,
    pub text: String,
    /// The block that begins its life here.
    pub birth: Option<Birth>,
}

/// A name given by the fixture to the result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    pub name: String,
    pub function: String,
    pub size: u64,
}

/// How many allocations, and how many of them given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub is_at_least: bool,
    pub allocated: u64,
    pub freed: u64,
}

/// How the fixture ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Exit(i32),
    Signal(i32),
}

impl Default for Ending {
    fn default() -> Ending {
        Ending::Exit(0)
    }
}

/// The thread of lines that name none.
pub const MAIN: &str = "main";

/// Read the `expect` lines of a fixture's source. An error names the line.
pub fn parse(source: &str) -> Result<Expectation, String> {
    let mut expectation = Expectation::default();
    let mut image = 0;
    for (index, line) in source.lines().enumerate() {
        let Some(line) = line.trim().strip_prefix("// expect") else { continue };
        let (directive, rest) = line.split_once(':').unwrap_or((line, ""));
        let rest = rest.trim();
        let outcome = match directive {
            "" => match rest.strip_prefix("image ").map(|n| n.parse()) {
                Some(Ok(number)) => {
                    image = number;
                    Ok(())
                }
                Some(Err(_)) => Err("an image is a number".to_string()),
                None => parse_steps(rest, image).map(|steps| expectation.steps.extend(steps)),
            },
            "-order" if rest == "per thread" => {
                expectation.is_ordered_per_thread = true;
                Ok(())
            }
            "-count" => parse_count(rest).map(|(key, count)| {
                expectation.counts.insert(key, count);
            }),
            "-not-recorded" => rest.split_whitespace().try_for_each(|size| {
                expectation.sizes_not_recorded.push(parse_number(size)?);
                Ok(())
            }),
            "-notice" => {
                expectation.notices.push(rest.to_string());
                Ok(())
            }
            "-message" => {
                expectation.messages.push(rest.to_string());
                Ok(())
            }
            "-no-capture" => {
                expectation.is_without_capture = true;
                Ok(())
            }
            "-lost" => {
                expectation.may_lose_events = true;
                Ok(())
            }
            "-foreign-blocks" => {
                expectation.has_foreign_blocks = true;
                Ok(())
            }
            "-exit" => parse_number(rest).map(|code| expectation.ending = Ending::Exit(code as i32)),
            "-signal" => parse_number(rest).map(|signal| expectation.ending = Ending::Signal(signal as i32)),
            _ => Err("there is no such expectation".to_string()),
        };
        outcome.map_err(|error| format!("line {}: `{line}`: {error}", index + 1))?;
    }
    Ok(expectation)
}

/// One `expect:` line; calls that the log tells in two records become two steps.
fn parse_steps(line: &str, image: u32) -> Result<Vec<Step>, String> {
    let (thread, call) = match line.split_once(": ") {
        Some((thread, call)) if !thread.contains(['(', ' ']) => (thread, call),
        _ => (MAIN, line),
    };
    let step = |text: String| Step { image, thread: thread.to_string(), text, birth: None };
    if let Some(name) = call.strip_prefix("is named ") {
        return Ok(vec![step(format!("is named {name}"))]);
    }
    let (failed, call) = match call.strip_prefix("failed ") {
        Some(call) => (true, call),
        None => (false, call),
    };
    let (name, call) = match call.split_once(" = ") {
        Some((name, call)) => (Some(name), call),
        None => (None, call),
    };
    let (function, rest) = call.split_once('(').ok_or("a call has parentheses")?;
    let (arguments, place) = rest.split_once(')').ok_or("a call has parentheses")?;
    let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
    let birth = |size: u64| {
        name.map(|name| Birth { name: name.to_string(), function: function.to_string(), size })
            .ok_or("the result needs a name")
    };
    let born = |size: u64, flags: &str| -> Result<Step, String> {
        let birth = birth(size)?;
        let text = allocation_text(&birth.name, function, size, flags, place.trim());
        Ok(Step { birth: Some(birth), ..step(text) })
    };
    Ok(match (function, arguments.as_slice(), failed) {
        ("free", [block], false) => vec![step(format!("free({block})"))],
        ("realloc", [block], true) => vec![step(format!("free({block})")), step(RESTORE.to_string())],
        ("realloc", ["_" | "NULL", size], false) => vec![born(parse_number(size)?, "")?],
        ("realloc", [block, size], false) => {
            vec![step(format!("free({block})")), born(parse_number(size)?, "")?]
        }
        ("munmap", [range, len], _) => {
            let mut steps = vec![step(unmap_text(range, parse_number(len)?, false))];
            steps.extend(failed.then(|| step(RESTORE.to_string())));
            steps
        }
        ("mremap", [range, old_len], true) => {
            vec![step(unmap_text(range, parse_number(old_len)?, true)), step(RESTORE.to_string())]
        }
        // The old range stays, empty.
        ("mremap", [_, _, len, flags], false) if flags.starts_with("dontunmap") => {
            vec![born(parse_number(len)?, flags)?]
        }
        ("mremap", [range, old_len, len, flags @ ..], false) => vec![
            step(unmap_text(range, parse_number(old_len)?, true)),
            born(parse_number(len)?, flags.first().unwrap_or(&""))?,
        ],
        ("mmap", [len, flags @ ..], false) => vec![born(parse_number(len)?, flags.first().unwrap_or(&""))?],
        (_, [size], false) => vec![born(parse_number(size)?, "")?],
        _ => return Err("there is no such call".to_string()),
    })
}

/// What a [`Step`] says when the call before it failed.
pub const RESTORE: &str = "restore";

/// How an allocation or a mapping is written, expected and seen alike.
pub fn allocation_text(name: &str, function: &str, size: u64, flags: &str, place: &str) -> String {
    let comma = if flags.is_empty() { "" } else { ", " };
    let space = if place.is_empty() { "" } else { " " };
    format!("{name} = {function}({size}{comma}{flags}){space}{place}")
}

/// How a range that goes is written, expected and seen alike.
pub fn unmap_text(range: &str, len: u64, is_remap: bool) -> String {
    let purpose = if is_remap { " for mremap" } else { "" };
    format!("munmap({range}, {len}){purpose}")
}

/// `[at least] 1000 malloc(77), 900 freed`
fn parse_count(line: &str) -> Result<((String, u64), Count), String> {
    let (is_at_least, line) = match line.strip_prefix("at least ") {
        Some(line) => (true, line),
        None => (false, line),
    };
    let (allocated, freed) = line.split_once(", ").ok_or("a count says how many are freed")?;
    let freed = freed.strip_suffix(" freed").ok_or("a count says how many are freed")?;
    let (allocated, call) = allocated.split_once(' ').ok_or("a count begins with a number")?;
    let (function, size) = call.split_once('(').ok_or("a call has parentheses")?;
    let size = size.strip_suffix(')').ok_or("a call has parentheses")?;
    let count = Count { is_at_least, allocated: parse_number(allocated)?, freed: parse_number(freed)? };
    Ok(((function.to_string(), parse_number(size)?), count))
}

fn parse_number(text: &str) -> Result<u64, String> {
    text.trim().replace('_', "").parse().map_err(|_| format!("`{text}` is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let steps = parse(source).expect("the source is well formed").steps;
        steps.iter().map(|step| format!("{}/{}: {}", step.image, step.thread, step.text)).collect()
    }

    #[test]
    fn a_realloc_is_a_free_and_an_allocation() {
        let source = "// expect: a = malloc(4001)\n// expect: b = realloc(a, 8_003)\n// expect: failed realloc(b)\n";
        assert_eq!(
            texts(source),
            [
                "0/main: a = malloc(4001)",
                "0/main: free(a)",
                "0/main: b = realloc(8003)",
                "0/main: free(b)",
                "0/main: restore"
            ]
        );
    }

    #[test]
    fn mappings_keep_their_flags_and_places() {
        let source =
            "// expect: m = mmap(40960, none fixed) at n+4096\n// expect: o = mremap(m, 40960, 8192) in place\n";
        assert_eq!(
            texts(source),
            [
                "0/main: m = mmap(40960, none fixed) at n+4096",
                "0/main: munmap(m, 40960) for mremap",
                "0/main: o = mremap(8192) in place"
            ]
        );
    }

    #[test]
    fn threads_and_images_stand_before_the_call() {
        let source =
            "// expect: t1: a = malloc(5)\n// expect: t1: is named \"x y\"\n// expect: image 1\n// expect: free(a)\n";
        assert_eq!(texts(source), ["0/t1: a = malloc(5)", "0/t1: is named \"x y\"", "1/main: free(a)"]);
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let error = parse("int x;\n// expect: malloc(3)\n").expect_err("the block has no name");
        assert_eq!(error, "line 2: `: malloc(3)`: the result needs a name");
        assert!(parse("// expect-something: 3\n").is_err());
    }
}
