//! The life of every block in a capture: nothing is given back that was not handed out, and nothing is handed out twice.
//!
//! Fed with the lines of `memtrace parse --json`. It must never excuse a difference: the order of events across
//! threads is what is examined.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Read},
    path::Path,
    process::Stdio,
};

use crate::support;

/// What became of the blocks of a capture.
#[derive(Default)]
pub struct Account {
    blocks: HashMap<u64, u64>,
    /// Mappings that are alive: where each ends.
    mappings: BTreeMap<u64, u64>,
    /// By thread: what its last release took, for a restore.
    last_released: HashMap<u64, Released>,
    image: u64,
    pub n_allocated: u64,
    /// Those of the program's own sizes ([`is_counted`]): allocated and freed.
    pub counted: (u64, u64),
    problems: Vec<String>,
    n_problems: u64,
    has_ended: bool,
}

enum Released {
    Block(u64, u64),
    Mappings(Vec<(u64, u64)>),
}

/// As in `fixtures/torture/blocks.cpp`.
fn is_counted(size: u64) -> bool {
    size > 2000 && size % 16 == 5
}

impl Account {
    /// That of a capture.
    pub fn of(capture: &Path) -> Account {
        let mut parse = support::memtrace();
        parse
            .args(["parse", "--json", "--stacks-once", "--no-native"])
            .arg(capture)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut parse = parse.spawn().expect("memtrace starts");
        let account = Account::of_lines(BufReader::with_capacity(1 << 20, parse.stdout.take().expect("piped")));
        let mut complaints = String::new();
        parse.stderr.take().expect("piped").read_to_string(&mut complaints).expect("complaints are text");
        let status = parse.wait().expect("memtrace ends");
        assert!(status.success(), "parse ended with {status}\n{complaints}");
        account
    }

    fn of_lines(input: impl BufRead) -> Account {
        let mut account = Account::default();
        for line in input.lines() {
            let line = line.expect("parse prints text");
            account.take(&line);
        }
        account
    }

    /// Everything that is wrong, as sentences; the first few of them.
    pub fn problems(mut self) -> Vec<String> {
        if !self.has_ended {
            self.problems.push("the capture has no end".into());
        }
        if self.n_problems > self.problems.len() as u64 {
            self.problems.push(format!("{} problems in all", self.n_problems));
        }
        self.problems
    }

    fn take(&mut self, line: &str) {
        // Millions of short lines of known keys: looked into and not parsed.
        let event = text(line, r#""event":""#).unwrap_or_default();
        if is_of_program(event) {
            self.enter(number(line, r#""image":"#));
        }
        match event {
            "alloc" => self.allocated(line),
            "free" => self.freed(line),
            "restore" => self.restored(line),
            "mmap" => self.mapped(line, number(line, r#""flags":"#) & MAP_FIXED == 0),
            // The kernel chooses a free place here, too; where it stays, its old range was unmapped just before.
            "mremap" => self.mapped(line, number(line, r#""flags":"#) & MREMAP_FIXED == 0),
            "munmap" => self.unmapped(line),
            "capture" if number(line, r#""lost_events":"#) > 0 => self.complain(line.to_string()),
            "lost" | "damage" | "notice" => self.complain(line.to_string()),
            "end" => self.has_ended = true,
            _ => {}
        }
    }

    /// The program before an exec is gone with all its memory.
    fn enter(&mut self, image: u64) {
        if image != self.image {
            self.image = image;
            (self.blocks, self.mappings, self.last_released) = Default::default();
        }
    }

    fn allocated(&mut self, line: &str) {
        let (address, size) = (address(line), number(line, r#""size":"#));
        self.n_allocated += 1;
        self.counted.0 += is_counted(size) as u64;
        if let Some(old) = self.blocks.insert(address, size) {
            self.complain(format!("handed out while {old} bytes of it were in use: {line}"));
        }
    }

    fn freed(&mut self, line: &str) {
        let address = address(line);
        match self.blocks.remove(&address) {
            Some(size) => {
                self.counted.1 += is_counted(size) as u64;
                self.last_released.insert(thread(line), Released::Block(address, size));
            }
            None => self.complain(format!("given back and never handed out: {line}")),
        }
    }

    fn mapped(&mut self, line: &str, is_in_free_space: bool) {
        let (start, len) = (address(line), number(line, r#""size":"#));
        let taken = self.cut(start, start + pages(len));
        if is_in_free_space && !taken.is_empty() {
            self.complain(format!("mapped over {taken:x?}, which were in use: {line}"));
        }
        self.mappings.insert(start, start + pages(len));
    }

    fn unmapped(&mut self, line: &str) {
        let start = address(line);
        let taken = self.cut(start, start + pages(number(line, r#""size":"#)));
        self.last_released.insert(thread(line), Released::Mappings(taken));
    }

    fn restored(&mut self, line: &str) {
        match self.last_released.remove(&thread(line)) {
            Some(Released::Block(address, size)) => {
                self.counted.1 -= is_counted(size) as u64;
                if self.blocks.insert(address, size).is_some() {
                    self.complain(format!("restored to where another block is: {line}"));
                }
            }
            Some(Released::Mappings(mappings)) => self.mappings.extend(mappings),
            None => self.complain(format!("restored and never given back: {line}")),
        }
    }

    /// Takes a range out of the mappings: the parts that were in it.
    fn cut(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let from = self.mappings.range(..start).next_back().map_or(start, |(&from, _)| from);
        let touched: Vec<(u64, u64)> = self.mappings.range(from..end).map(|(&from, &to)| (from, to)).collect();
        let mut taken = Vec::new();
        for (from, to) in touched.into_iter().filter(|&(_, to)| to > start) {
            self.mappings.remove(&from);
            if from < start {
                self.mappings.insert(from, start);
            }
            if end < to {
                self.mappings.insert(end, to);
            }
            taken.push((from.max(start), to.min(end)));
        }
        taken
    }

    fn complain(&mut self, problem: String) {
        const KEPT: usize = 5;
        self.n_problems += 1;
        if self.problems.len() < KEPT {
            self.problems.push(problem);
        }
    }
}

const MAP_FIXED: u64 = 0x10;
const MREMAP_FIXED: u64 = 2;

fn is_of_program(event: &str) -> bool {
    matches!(event, "alloc" | "free" | "restore" | "mmap" | "mremap" | "munmap")
}

/// The kernel takes whole pages.
fn pages(len: u64) -> u64 {
    len.next_multiple_of(4096)
}

fn thread(line: &str) -> u64 {
    number(line, r#""thread":"#)
}

fn address(line: &str) -> u64 {
    let text = text(line, r#""address":"0x"#).unwrap_or_default();
    u64::from_str_radix(text, 16).unwrap_or_else(|error| panic!("{error} in {line}"))
}

/// The number behind this key; 0 when it is not there.
fn number(line: &str, key: &str) -> u64 {
    let Some(start) = line.find(key) else { return 0 };
    let rest = &line[start + key.len()..];
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    rest[..end].parse().unwrap_or_else(|error| panic!("{error} in {line}"))
}

/// What stands behind this key up to the next quotation mark.
fn text<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = &line[line.find(key)? + key.len()..];
    Some(&rest[..rest.find('"')?])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first problem of these lines, empty when there is none.
    fn check(lines: &[&str], problem: &str) {
        let end = r#"{"event":"end"}"#;
        let problems = Account::of_lines(format!("{}\n{end}\n", lines.join("\n")).as_bytes()).problems().join("\n");
        assert!(problems.contains(problem) && problems.is_empty() == problem.is_empty(), "{problems:?}");
    }

    const ALLOC: &str = r#"{"event":"alloc","turn":1,"thread":1,"kind":"malloc","address":"0x10","size":2005}"#;
    const FREE: &str = r#"{"event":"free","turn":2,"thread":2,"kind":"free","address":"0x10"}"#;
    const RESTORE: &str = r#"{"event":"restore","turn":3,"thread":2}"#;

    #[test]
    fn every_block_is_handed_out_and_given_back_in_turn() {
        check(&[ALLOC, FREE, ALLOC, FREE], "");
        check(&[FREE], "given back and never handed out");
        check(&[ALLOC, FREE, FREE], "given back and never handed out");
        check(&[ALLOC, ALLOC], "handed out while 2005 bytes");
        check(&[ALLOC, FREE, RESTORE, FREE, ALLOC], "");
        check(&[ALLOC, FREE, ALLOC, RESTORE], "restored to where another block is");
        check(&[RESTORE], "restored and never given back");
    }

    #[test]
    fn a_mapping_comes_to_lie_where_nothing_is() {
        let map = r#"{"event":"mmap","thread":1,"address":"0x10000","size":8000,"prot":3,"flags":34,"arena":false}"#;
        let fixed = r#"{"event":"mmap","thread":1,"address":"0x10000","size":8000,"prot":3,"flags":50,"arena":false}"#;
        let half = r#"{"event":"munmap","thread":2,"address":"0x11000","size":4096,"remap":false}"#;
        let whole = r#"{"event":"munmap","thread":2,"address":"0x10000","size":8192,"remap":false}"#;
        check(&[map, fixed, whole, map], "");
        check(&[map, half, map], "mapped over [(10000, 11000)]");
        check(&[map, whole, RESTORE, map], "mapped over");
    }

    #[test]
    fn losses_damages_and_notices_are_problems() {
        check(&[r#"{"event":"damage","text":"torn"}"#], "torn");
        check(&[r#"{"event":"lost","thread":1,"count":3}"#], "lost");
        check(&[r#"{"event":"capture","lost_events":7}"#], "7");
        check(&[r#"{"event":"notice","image":0,"notice":"self_check","text":"x"}"#], "self_check");
        check(&[r#"{"event":"capture","lost_events":0}"#], "");
    }
}
