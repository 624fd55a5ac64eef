//! `memtrace flamegraph`: reads a capture, asks one question of it, draws the answer.

use std::process::ExitCode;

use anyhow::Result;

use crate::analysis::Tree;
use crate::cli::{ConfidentialFiles, FlamegraphArgs, GraphFormat};
use crate::commands::load::{self, Question};
use crate::commands::output::Output;
use crate::commands::read::Captures;
use crate::report::flamegraph::{Flamegraph, FlamegraphOptions, Reading, Report};
use crate::report::html;
use crate::report::sources::Confidential;
use crate::report::svg::{self, SvgOptions, Unit};

pub fn run(args: &FlamegraphArgs) -> Result<ExitCode> {
    if args.format == GraphFormat::Svg {
        return draw_svg(args);
    }
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

/// The picture that inferno draws, of one question and without the page round it.
fn draw_svg(args: &FlamegraphArgs) -> Result<ExitCode> {
    let captures = Captures::open(&args.captures)?;
    let path = args.output.clone().unwrap_or_else(|| captures.output_name("flamegraph", ".svg"));
    let output = Output::create(Some(&path), args.force)?;
    let loaded = load::load(&captures, &args.selection)?;
    let shown = match loaded.question {
        Question::Peak => "peak",
        Question::Leaks => "leaks",
        Question::Temporary(_) => "temporary allocations",
    };
    let commands: Vec<String> =
        loaded.model.processes().iter().map(|process| process.facts.command_line.join(" ")).collect();
    let title = format!("{shown}: {}", commands.join(", "));
    let unit = if args.counts { Unit::Allocations } else { Unit::Bytes };
    let options = SvgOptions { title: &title, unit };
    output.finish(|out| svg::write(&loaded.model, &loaded.snapshot, &options, out))?;
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
