//! `memtrace flamegraph`: reads a capture, asks one question of it, draws the answer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use crate::analysis::Tree;
use crate::cli::{ConfidentialFiles, FlamegraphArgs};
use crate::commands::load::{self, Question};
use crate::commands::output::Output;
use crate::commands::read::Captures;
use crate::report::flamegraph::{Flamegraph, FlamegraphOptions, Reading, Report};
use crate::report::html;
use crate::report::sources::Confidential;

pub fn run(args: &FlamegraphArgs) -> Result<ExitCode> {
    // A wrong capture is the error to report, before anything about the output.
    let captures = Captures::open(&args.captures)?;
    let path = args.output.clone().unwrap_or_else(|| default_output(&captures));
    let output = Output::create(Some(&path), args.force)?;
    let loaded = load::load(&captures, &args.selection)?;
    let tree = Tree::new(&loaded.model, &loaded.snapshot);
    let reading = Reading {
        n_events: loaded.n_allocations + loaded.n_frees,
        peak_bytes: loaded.peak_bytes,
        notices: load::warnings(&loaded.model),
    };
    let options = FlamegraphOptions { confidential: confidential(args.confidential_files), ..Default::default() };
    let graph = Flamegraph::new(&loaded.model, &tree, report(loaded.question), reading, &options);
    output.finish(|out| html::write(&graph, out))?;
    eprintln!("memtrace: wrote {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// `memtrace-app.4711.bin` gives `memtrace-flamegraph-app.4711.html` beside it, of several captures the first.
fn default_output(captures: &Captures) -> PathBuf {
    let (first, n_others) = captures.name();
    beside(first, n_others)
}

fn beside(capture: &Path, n_others: usize) -> PathBuf {
    let stem = capture.file_stem().unwrap_or_default();
    let stem = stem.as_encoded_bytes();
    let stem = stem.strip_prefix(b"memtrace-").unwrap_or(stem);
    let mut name = OsString::from("memtrace-flamegraph-");
    name.push(std::os::unix::ffi::OsStrExt::from_bytes(stem) as &std::ffi::OsStr);
    if n_others > 0 {
        name.push(format!("-and-{n_others}-more"));
    }
    name.push(".html");
    capture.with_file_name(name)
}

fn report(question: Question) -> Report {
    match question {
        Question::Peak => Report::Peak,
        Question::Leaks => Report::Leaks,
        Question::Temporary(threshold) => Report::Temporary { threshold },
    }
}

fn confidential(choice: ConfidentialFiles) -> Confidential {
    match choice {
        ConfidentialFiles::All => Confidential::All,
        ConfidentialFiles::None => Confidential::None,
        ConfidentialFiles::Default => Confidential::Default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_beside_the_capture_under_its_name() {
        let name = |capture: &str| beside(Path::new(capture), 0).to_str().unwrap().to_owned();
        assert_eq!(name("/tmp/memtrace-app.4711.bin"), "/tmp/memtrace-flamegraph-app.4711.html");
        assert_eq!(name("out.bin"), "memtrace-flamegraph-out.html");
        assert_eq!(name("runs/out"), "runs/memtrace-flamegraph-out.html");
        assert_eq!(name("memtrace-.bin"), "memtrace-flamegraph-.html");
        assert_eq!(beside(Path::new("a.1.bin"), 2).to_str(), Some("memtrace-flamegraph-a.1-and-2-more.html"));
    }
}
