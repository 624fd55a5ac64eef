//! `memtrace flamegraph`: a page that opens with the flame graph, or a picture of it.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::{FlamegraphArgs, GraphFormat};
use crate::commands::load::{self, Loaded, Question};
use crate::commands::output::Output;
use crate::commands::pages;
use crate::commands::read::Captures;
use crate::model::Model;
use crate::report::page::Open;
use crate::report::svg::{self, Group, SvgOptions, Unit};

pub fn run(args: &FlamegraphArgs) -> Result<ExitCode> {
    if args.temporal && matches!(args.page.selection.question(), Question::Temporary(_)) {
        bail!("Can't create a temporal flame graph of temporary allocations");
    }
    if args.format == GraphFormat::Svg {
        let of_time = [
            ("--temporal", args.temporal),
            ("--from", args.range.from.is_some()),
            ("--to", args.range.to.is_some()),
            ("--max-memory-records", args.page.max_memory_records.is_some()),
        ];
        if let Some((option, _)) = of_time.into_iter().find(|(_, is_given)| *is_given) {
            bail!("{option} is for the page: a picture has no time line (leave out --format svg)");
        }
        return draw_svg(args);
    }
    if args.counts {
        bail!("--counts is for pictures: the page shows both (add --format svg)");
    }
    let open = Open { temporal: args.temporal, inverted: args.inverted, ..Open::default() };
    pages::write("flamegraph", &args.page, &args.range, open)
}

/// The picture that inferno draws, of one question and without the page round it.
fn draw_svg(args: &FlamegraphArgs) -> Result<ExitCode> {
    let captures = Captures::open(&args.page.captures, &args.page.native)?;
    let path = args.page.output.clone().unwrap_or_else(|| captures.output_name("flamegraph", ".svg"));
    let output = Output::create(Some(&path), args.page.force)?;
    let (model, question, groups) = groups(&captures, args)?;
    let shown = match question {
        Question::Peak => "peak",
        Question::Leaks => "leaks",
        Question::Temporary(_) => "temporary allocations",
    };
    let commands: Vec<String> = model.processes().iter().map(|process| process.facts.command_line.join(" ")).collect();
    let title = format!("{shown}: {}", commands.join(", "));
    let unit = if args.counts { Unit::Allocations } else { Unit::Bytes };
    let least_share = args.page.min_share / 100.0;
    let options = SvgOptions { title: &title, unit, is_inverted: args.inverted, least_share };
    output.finish(|out| svg::write(&model, &groups, &options, out))?;
    eprintln!("memtrace: wrote {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// What the picture is of: all together, or thread by thread.
fn groups(captures: &Captures, args: &FlamegraphArgs) -> Result<(Model, Question, Vec<Group>)> {
    let selection = &args.page.selection;
    if args.page.split_threads {
        let (question, rule) = (selection.question(), selection.mmap_rule());
        let (model, [answer]) = load::by_site(captures, rule, question, |folds| [folds.asked_by_site()])?;
        let groups = svg::by_thread(&model, &answer);
        return Ok((model, question, groups));
    }
    let Loaded { model, question, snapshot } = load::load(captures, selection)?;
    Ok((model, question, vec![Group { name: None, snapshot }]))
}
