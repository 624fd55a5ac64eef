//! `memtrace flamegraph`: reads a capture, asks one question of it, draws the answer.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{ConfidentialFiles, FlamegraphArgs, GraphFormat};
use crate::commands::load::{self, Question};
use crate::commands::output::Output;
use crate::commands::pages;
use crate::commands::read::Captures;
use crate::report::html;
use crate::report::page::PageOptions;
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
    let options = PageOptions { confidential: confidential(args.confidential_files), ..PageOptions::default() };
    let page = pages::read(&captures, &args.selection, options)?;
    output.finish(|out| html::write(&page, out))?;
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

fn confidential(choice: ConfidentialFiles) -> Confidential {
    match choice {
        ConfidentialFiles::All => Confidential::All,
        ConfidentialFiles::None => Confidential::None,
        ConfidentialFiles::Default => Confidential::Default,
    }
}
