//! Stacks that are written down at the end of a fixture's source, one in a line:
//!
//! ```text
//! // 3000001: ~ main:12 draw:7 deep:9*2000 keep
//! ```
//!
//! Bytes, then functions of this file (or of one that differs from it in the ending) with their lines, root first; `~` stands for one or more frames of other files, a
//! function without a line for one whose line depends on the compiler, and `*` says how often.

use std::path::Path;

use super::recorded::{Frame, Stacks};

/// Every stack that is written in the source was found, and is what is written. `what` names the program in messages.
pub fn check(what: &str, source: &Path, found: &Stacks) {
    let name = source.file_name().and_then(|name| name.to_str()).expect("a source has a name");
    let text = std::fs::read_to_string(source).unwrap();
    let mut n_checked = 0;
    for (size, expected) in text.lines().filter_map(written) {
        let stack = found.get(&size).unwrap_or_else(|| panic!("{what}: {size} is missing among {:?}", found.keys()));
        let actual = collapsed(stack, name);
        let is_same = actual.len() == expected.len() && actual.iter().zip(&expected).all(|(one, two)| agree(one, two));
        assert!(is_same, "{what}: {size}\n is      {}\n and not {}", actual.join(" "), expected.join(" "));
        n_checked += 1;
    }
    assert!(n_checked > 0, "{} has no stacks written down", source.display());
}

/// A line of the list.
fn written(line: &str) -> Option<(u64, Vec<String>)> {
    let (size, stack) = line.trim_start_matches(['/', '#']).split_once(": ")?;
    let mut steps = Vec::new();
    for step in stack.split_whitespace() {
        let (step, n_times) = step.split_once('*').unwrap_or((step, "1"));
        steps.extend(std::iter::repeat_n(step.to_owned(), n_times.parse().ok()?));
    }
    Some((size.trim().parse().ok().filter(|_| !line.starts_with(' '))?, steps))
}

/// `function:line` for frames of the source, `~` for any number of others.
fn collapsed(stack: &[Frame], source: &str) -> Vec<String> {
    let mut steps = Vec::new();
    for frame in stack {
        let step = if is_of(source, &frame.file) { format!("{}:{}", frame.function, frame.line) } else { "~".into() };
        if step != "~" || steps.last() != Some(&step) {
            steps.push(step);
        }
    }
    steps
}

/// Whether a file has the name of the source, up to the ending.
fn is_of(source: &str, file: &str) -> bool {
    let file = Path::new(file);
    file.extension().is_some() && file.file_stem() == Path::new(source).file_stem()
}

fn agree(actual: &str, expected: &str) -> bool {
    actual == expected || actual.rsplit_once(':').is_some_and(|(function, _)| function == expected)
}
