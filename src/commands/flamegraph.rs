//! `memtrace flamegraph`: reads a capture, asks one question of it, draws the answer.

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
    let path = args.output.clone().unwrap_or_else(|| captures.output_name("flamegraph", ".html"));
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
