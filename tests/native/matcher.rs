//! Writes what a log holds in the words of the fixture's expectation, so that the two are compared as text.
//!
//! Blocks get the names that the fixture gives them: the n-th allocation of a size by a function is the n-th one that
//! is expected. The same line names the thread. What nobody expected is called `?` and so stands out.

use std::collections::{BTreeMap, HashMap};

use super::events::{Event, Log, What};
use super::expect::{self, Count, Expectation, Step, allocation_text, unmap_text};

/// Compare a log with what is expected of it; the error shows both as text.
pub fn compare(expectation: &Expectation, log: &Log) -> Result<(), String> {
    let mut complaints = Vec::new();
    let seen = retell(expectation, log, &mut complaints);

    let (expected, actual) = (sorted_texts(expectation, &expectation.steps), sorted_texts(expectation, &seen.steps));
    if expected != actual {
        complaints.push(side_by_side(&expected, &actual));
    }
    for (key, expected) in &expectation.counts {
        let actual = seen.counts.get(key).copied().unwrap_or_default();
        let is_right = match expected.is_at_least {
            true => actual.allocated >= expected.allocated && actual.freed >= expected.freed,
            false => actual.allocated == expected.allocated && actual.freed == expected.freed,
        };
        if !is_right {
            complaints.push(format!("{}({}): expected {expected:?}, actual {actual:?}", key.0, key.1));
        }
    }
    let (mut expected_notices, mut notices) = (expectation.notices.clone(), log.notices.clone());
    expected_notices.sort();
    notices.sort();
    if expected_notices != notices {
        complaints.push(format!("notices: expected {expected_notices:?}, actual {notices:?}"));
    }
    if !log.damage.is_empty() {
        complaints.push(format!("the capture is damaged: {:?}", log.damage));
    }
    if log.n_lost > 0 && !expectation.may_lose_events {
        complaints.push(format!("{} events are lost", log.n_lost));
    }
    const MAX_SHOWN: usize = 10;
    if complaints.len() > MAX_SHOWN {
        let n_more = complaints.len() - MAX_SHOWN;
        complaints.truncate(MAX_SHOWN);
        complaints.push(format!("and {n_more} more"));
    }
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
}

/// What the log says about the fixture's own blocks.
#[derive(Default)]
struct Seen {
    steps: Vec<Step>,
    counts: BTreeMap<(String, u64), Count>,
}

/// A named mapping or what is left of it.
struct Piece {
    start: u64,
    end: u64,
    /// Where the mapping began when it was made.
    base: u64,
    name: String,
}

/// How a block of the heap is known.
enum Block {
    Named(String),
    Counted((String, u64)),
    /// Not of the fixture's sizes.
    Other,
}

fn retell(expectation: &Expectation, log: &Log, complaints: &mut Vec<String>) -> Seen {
    let mut seen = Seen::default();
    let mut names = Names::new(expectation);
    let threads = name_threads(expectation, log);
    let wants_thread_names = expectation.steps.iter().any(|step| step.text.starts_with("is named "));

    let mut image = 0;
    let mut blocks: HashMap<u64, Block> = HashMap::new();
    let mut pieces: Vec<Piece> = Vec::new();
    // By thread: what its last free gave back, for a restore.
    let mut last_freed: HashMap<Option<u32>, Undo> = HashMap::new();
    for event in &log.events {
        if event.image != image {
            image = event.image;
            (blocks, pieces, last_freed) = Default::default();
        }
        let thread = event.thread.and_then(|thread| threads.get(&(image, thread)).cloned());
        let thread = thread.unwrap_or_else(|| "another thread".to_string());
        let mut tell = |text: String| seen.steps.push(Step { image, thread: thread.clone(), text, birth: None });
        match &event.what {
            What::Alloc { function, address, size } => {
                if expectation.sizes_not_recorded.contains(size) {
                    tell(allocation_text("?", function, *size, "", ""));
                }
                let key = (function.clone(), *size);
                let block = if expectation.counts.contains_key(&key) {
                    seen.counts.entry(key.clone()).or_default().allocated += 1;
                    Block::Counted(key)
                } else if let Some(name) = names.next(image, function, *size) {
                    tell(allocation_text(&name, function, *size, "", ""));
                    Block::Named(name)
                } else {
                    Block::Other
                };
                if blocks.insert(*address, block).is_some() && !expectation.has_foreign_blocks {
                    complaints.push(format!("{function}({size}) got the address {address:#x}, which is in use"));
                }
            }
            What::Free { function, address } => {
                let block = blocks.remove(address);
                match &block {
                    Some(Block::Named(name)) => tell(format!("{function}({name})")),
                    Some(Block::Counted(key)) => seen.counts.entry(key.clone()).or_default().freed += 1,
                    Some(Block::Other) => (),
                    None if expectation.has_foreign_blocks => (),
                    None => complaints.push(format!("{function} of {address:#x}, which nobody allocated")),
                }
                last_freed.insert(event.thread, Undo::Block(*address, block));
            }
            What::Restore => match last_freed.remove(&event.thread) {
                Some(Undo::Block(address, Some(block))) => {
                    match &block {
                        Block::Named(_) => tell(expect::RESTORE.to_string()),
                        Block::Counted(key) => seen.counts.entry(key.clone()).or_default().freed -= 1,
                        Block::Other => (),
                    }
                    blocks.insert(address, block);
                }
                Some(Undo::Block(_, None)) => (),
                Some(Undo::Pieces(old)) => {
                    tell(expect::RESTORE.to_string());
                    pieces.extend(old);
                }
                None => complaints.push("a restore without a free before it".to_string()),
            },
            What::Mmap { address, len, prot, flags } => {
                let place = place_of(&pieces, *address).map(|place| format!("at {place}")).unwrap_or_default();
                cut(&mut pieces, *address, *len);
                if let Some(name) = names.next(image, "mmap", *len) {
                    tell(allocation_text(&name, "mmap", *len, &mmap_flags(*prot, *flags), &place));
                    pieces.push(Piece { start: *address, end: address + len, base: *address, name });
                } else if !place.is_empty() {
                    tell(allocation_text("?", "mmap", *len, &mmap_flags(*prot, *flags), &place));
                }
            }
            What::Munmap { address, len, is_remap } => {
                last_freed.remove(&event.thread);
                if let Some(place) = place_of(&pieces, *address) {
                    tell(unmap_text(&place, *len, *is_remap));
                    let old = cut(&mut pieces, *address, *len);
                    last_freed.insert(event.thread, Undo::Pieces(old));
                } else {
                    last_freed.insert(event.thread, Undo::Block(0, None));
                }
            }
            What::Mremap { old_address, address, len, flags } => {
                let place = if old_address == address { "in place" } else { "" };
                cut(&mut pieces, *address, *len);
                if let Some(name) = names.next(image, "mremap", *len) {
                    tell(allocation_text(&name, "mremap", *len, mremap_flags(*flags), place));
                    pieces.push(Piece { start: *address, end: address + len, base: *address, name });
                }
            }
            What::ThreadName(name) if wants_thread_names => tell(format!("is named {name:?}")),
            What::ThreadName(_) => (),
        }
    }
    seen
}

/// What a restore brings back.
enum Undo {
    Block(u64, Option<Block>),
    Pieces(Vec<Piece>),
}

/// The names that are still to be given, by image, function and size.
struct Names {
    waiting: HashMap<(u32, String, u64), std::collections::VecDeque<String>>,
}

impl Names {
    fn new(expectation: &Expectation) -> Names {
        let mut waiting: HashMap<_, std::collections::VecDeque<String>> = HashMap::new();
        for step in &expectation.steps {
            if let Some(birth) = &step.birth {
                let key = (step.image, birth.function.clone(), birth.size);
                waiting.entry(key).or_default().push_back(birth.name.clone());
            }
        }
        Names { waiting }
    }

    /// The name of the next such block; `?` when there are more than expected, nothing when none is.
    fn next(&mut self, image: u32, function: &str, size: u64) -> Option<String> {
        if let Some(names) = self.waiting.get_mut(&(image, function.to_string(), size)) {
            return Some(names.pop_front().unwrap_or_else(|| "?".to_string()));
        }
        // The size is the fixture's, so a call that nobody expected is worth telling.
        let is_known = self.waiting.keys().any(|(_, _, expected)| *expected == size);
        is_known.then(|| "?".to_string())
    }
}

/// The names of threads: whoever makes the first block expected of `t1` is `t1`.
fn name_threads(expectation: &Expectation, log: &Log) -> HashMap<(u32, u32), String> {
    let mut queues: HashMap<(u32, &str, u64), std::collections::VecDeque<&str>> = HashMap::new();
    for step in &expectation.steps {
        if let Some(birth) = &step.birth {
            let key = (step.image, birth.function.as_str(), birth.size);
            queues.entry(key).or_default().push_back(&step.thread);
        }
    }
    let mut threads = HashMap::new();
    for Event { image, thread, what } in &log.events {
        let (function, size) = match what {
            What::Alloc { function, size, .. } => (function.as_str(), *size),
            What::Mmap { len, .. } => ("mmap", *len),
            What::Mremap { len, .. } => ("mremap", *len),
            _ => continue,
        };
        if let (Some(thread), Some(queue)) = (thread, queues.get_mut(&(*image, function, size)))
            && let Some(name) = queue.pop_front()
        {
            threads.entry((*image, *thread)).or_insert_with(|| name.to_string());
        }
    }
    threads
}

/// `m+4096`, when the address lies in a named mapping.
fn place_of(pieces: &[Piece], address: u64) -> Option<String> {
    let piece = pieces.iter().rev().find(|piece| (piece.start..piece.end).contains(&address))?;
    let offset = address - piece.base;
    Some(if offset == 0 { piece.name.clone() } else { format!("{}+{offset}", piece.name) })
}

/// Take a range out of the named mappings and give back what was taken.
fn cut(pieces: &mut Vec<Piece>, address: u64, len: u64) -> Vec<Piece> {
    // The kernel takes whole pages.
    let end = (address + len).next_multiple_of(4096);
    let mut taken = Vec::new();
    for piece in std::mem::take(pieces) {
        let part = |start: u64, end: u64| Piece { start, end, base: piece.base, name: piece.name.clone() };
        let (low, high) = (piece.start.max(address), piece.end.min(end));
        if low >= high {
            pieces.push(piece);
            continue;
        }
        if piece.start < low {
            pieces.push(part(piece.start, low));
        }
        if high < piece.end {
            pieces.push(part(high, piece.end));
        }
        taken.push(part(low, high));
    }
    taken
}

const MREMAP_FIXED: u32 = 2;
const MREMAP_DONTUNMAP: u32 = 4;

fn mmap_flags(prot: u32, flags: u32) -> String {
    const MAP_SHARED: u32 = 1;
    const MAP_FIXED: u32 = 0x10;
    const MAP_ANONYMOUS: u32 = 0x20;
    const MAP_NORESERVE: u32 = 0x4000;
    let words = [
        (prot == 0, "none"),
        (flags & MAP_NORESERVE != 0, "noreserve"),
        (flags & MAP_SHARED != 0, "shared"),
        (flags & MAP_ANONYMOUS == 0, "file"),
        (flags & MAP_FIXED != 0, "fixed"),
    ];
    words.iter().filter(|(applies, _)| *applies).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
}

fn mremap_flags(flags: u32) -> &'static str {
    match (flags & MREMAP_DONTUNMAP != 0, flags & MREMAP_FIXED != 0) {
        (true, true) => "dontunmap fixed",
        (true, false) => "dontunmap",
        (false, true) => "fixed",
        (false, false) => "",
    }
}

/// The steps as text, in the order that counts.
fn sorted_texts(expectation: &Expectation, steps: &[Step]) -> Vec<String> {
    let mut steps: Vec<&Step> = steps.iter().collect();
    if expectation.is_ordered_per_thread {
        steps.sort_by_key(|step| (step.image, &step.thread)); // stable: the order within a thread stays
    }
    let prefix = |step: &Step| if step.image == 0 { String::new() } else { format!("image {}, ", step.image) };
    steps.iter().map(|step| format!("{}{}: {}", prefix(step), step.thread, step.text)).collect()
}

fn side_by_side(expected: &[String], actual: &[String]) -> String {
    let width = expected.iter().map(String::len).max().unwrap_or(0).max("expected".len());
    let mut text = format!("    {:width$}  actual\n", "expected");
    for index in 0..expected.len().max(actual.len()) {
        let (left, right) = (expected.get(index), actual.get(index));
        let mark = if left == right { ' ' } else { '!' };
        let (left, right) = (left.map_or("", String::as_str), right.map_or("", String::as_str));
        text.push_str(&format!("  {mark} {left:width$}  {right}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events;

    /// The complaint about this log, empty when there is none.
    fn check(expectation: &str, lines: &[&str]) -> String {
        let expectation = expect::parse(expectation).expect("the expectation is well formed");
        let log = events::read(lines.join("\n").as_bytes()).expect("the lines are well formed");
        compare(&expectation, &log).err().unwrap_or_default()
    }

    const MALLOC: &str =
        r#"{"event":"alloc","ticks":1,"thread":1,"kind":"malloc","address":"0x10","size":4001,"stack":[]}"#;
    const FREE: &str = r#"{"event":"free","ticks":2,"thread":1,"kind":"free","address":"0x10"}"#;
    const FREE_BY_2: &str = r#"{"event":"free","ticks":2,"thread":2,"kind":"free","address":"0x10"}"#;
    const OTHER: &str =
        r#"{"event":"alloc","ticks":3,"thread":1,"kind":"malloc","address":"0x30","size":9,"stack":[]}"#;
    const RESTORE: &str = r#"{"event":"restore","ticks":2,"thread":1}"#;

    #[test]
    fn what_is_expected_and_nothing_else_passes() {
        let expectation = "// expect: a = malloc(4001)\n// expect: free(a)";
        assert_eq!(check(expectation, &[OTHER, MALLOC, FREE]), "");
        assert!(check(expectation, &[MALLOC]).contains("! main: free(a)"));
        assert!(check(expectation, &[MALLOC, FREE, MALLOC, FREE]).contains("main: ? = malloc(4001)"));
        assert!(check("// expect: a = calloc(4001)", &[MALLOC]).contains("? = malloc(4001)"));
    }

    #[test]
    fn the_thread_that_frees_counts() {
        let expectation = "// expect: a = malloc(4001)\n// expect: free(a)";
        assert!(check(expectation, &[MALLOC, FREE_BY_2]).contains("another thread: free(a)"));
    }

    #[test]
    fn a_restored_block_is_free_to_be_freed_again() {
        let expectation = "// expect: a = malloc(4001)\n// expect: failed realloc(a)\n// expect: free(a)";
        assert_eq!(check(expectation, &[MALLOC, FREE, RESTORE, FREE]), "");
        assert!(check(expectation, &[MALLOC, FREE, FREE]).contains("main: restore"));
    }

    #[test]
    fn a_free_of_an_unknown_block_fails_unless_it_is_announced() {
        assert!(check("", &[FREE]).contains("0x10, which nobody allocated"));
        assert_eq!(check("// expect-foreign-blocks: why", &[FREE]), "");
        assert_eq!(check("", &[MALLOC, FREE]), "");
    }

    #[test]
    fn an_address_in_use_is_not_handed_out_again() {
        let expectation = "// expect-count: 2 malloc(4001), 0 freed";
        assert!(check(expectation, &[MALLOC, MALLOC]).contains("0x10, which is in use"));
        assert!(check(expectation, &[MALLOC, FREE, MALLOC]).contains("freed: 1"));
    }

    #[test]
    fn mappings_are_followed_by_their_pieces() {
        let expectation =
            "// expect: m = mmap(40960)\n// expect: munmap(m+4096, 4096)\n// expect: n = mremap(m+8192, 8192, 65536)\n";
        let map = r#"{"event":"mmap","ticks":1,"thread":1,"address":"0x10000","size":40960,"prot":3,"flags":34,"arena":false,"stack":[]}"#;
        let part = r#"{"event":"munmap","ticks":2,"thread":1,"address":"0x11000","size":4096,"remap":false}"#;
        let old = r#"{"event":"munmap","ticks":3,"thread":1,"address":"0x12000","size":8192,"remap":true}"#;
        let new = r#"{"event":"mremap","ticks":4,"thread":1,"old_address":"0x12000","address":"0x90000","size":65536,"flags":1,"arena":false,"stack":[]}"#;
        assert_eq!(check(expectation, &[map, part, old, new]), "");
        assert!(check(expectation, &[map, old, new]).contains("! main: munmap(m+4096, 4096)"));
    }

    #[test]
    fn damage_loss_and_unexpected_notices_fail() {
        assert!(check("", &[r#"{"event":"damage","text":"torn"}"#]).contains("torn"));
        assert!(check("", &[r#"{"event":"capture","lost_events":7}"#]).contains("7 events"));
        assert!(check("", &[r#"{"event":"notice","notice":"deepbind","text":"x"}"#]).contains("deepbind"));
        assert!(check("// expect-notice: deepbind", &[]).contains("deepbind"));
        assert!(check("// expect-not-recorded: 4001", &[MALLOC]).contains("malloc(4001)"));
    }
}
