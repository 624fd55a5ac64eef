//! `memtrace flamegraph`: a page that opens with the flame graph, or a picture of it.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::{FlamegraphArgs, GraphFormat};
use crate::commands::load::{self, Question};
use crate::commands::output::Output;
use crate::commands::pages;
use crate::commands::read::Captures;
use crate::report::page::Open;
use crate::report::svg::{self, SvgOptions, Unit};

pub fn run(args: &FlamegraphArgs) -> Result<ExitCode> {
    if args.temporal && matches!(args.page.selection.question(), Question::Temporary(_)) {
        bail!("Can't create a temporal flame graph of temporary allocations");
    }
    if args.format == GraphFormat::Svg {
        return draw_svg(args);
    }
    pages::write("flamegraph", &args.page, Open { temporal: args.temporal, inverted: args.inverted, ..Open::default() })
}

/// The picture that inferno draws, of one question and without the page round it.
fn draw_svg(args: &FlamegraphArgs) -> Result<ExitCode> {
    let captures = Captures::open(&args.page.captures)?;
    let path = args.page.output.clone().unwrap_or_else(|| captures.output_name("flamegraph", ".svg"));
    let output = Output::create(Some(&path), args.page.force)?;
    let loaded = load::load(&captures, &args.page.selection)?;
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
