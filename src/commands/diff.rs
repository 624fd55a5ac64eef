//! `memtrace diff`: reads two captures, says what changed.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::analysis::{Diff, DiffOptions};
use crate::cli::{Compared, DiffArgs, DiffFormat};
use crate::commands::load::{self, Folds, Question};
use crate::commands::output::{self, Output};
use crate::commands::pages;
use crate::commands::read::{Captures, NO_EVENTS};
use crate::report::diff::DiffReport;
use crate::report::html;
use crate::report::page::{Compares, Open, Page, PageOptions, Part, Tab};
use crate::report::svg::{self, SvgOptions, Unit};

/// Exit code when there is more than was allowed.
const FINDING: u8 = 1;

pub fn run(args: &DiffArgs) -> Result<ExitCode> {
    let (before, after) = match args.format() {
        DiffFormat::Text | DiffFormat::Json => print(args)?,
        DiffFormat::Svg => write_picture(args)?,
        DiffFormat::Html => write_page(args)?,
    };
    // What was asked for is bytes that are there, so nothing is scaled.
    let more = after.saturating_sub(before);
    match args.fail_above {
        Some(allowed) if more > allowed => {
            eprintln!("memtrace: {more} bytes more, {allowed} are allowed");
            Ok(FINDING.into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Rows of text for which a screen has room.
const USUAL_ROWS: usize = 10;

/// Bytes before and after; the same of each of the others.
fn print(args: &DiffArgs) -> Result<(u64, u64)> {
    let (base, new) = open(args)?;
    let output = Output::create(args.output.as_deref(), args.force)?;
    let diff = compare(&base, &new, args)?;
    let is_json = args.format() == DiffFormat::Json;
    let report = DiffReport {
        diff: &diff,
        shown: args.compared().name(),
        is_normalised: args.normalise,
        max_rows: args.max_rows.unwrap_or(if is_json { usize::MAX } else { USUAL_ROWS }),
    };
    output.finish(|out| if is_json { report.json(out) } else { report.text(out) })?;
    if let Some(path) = &args.output {
        eprintln!("memtrace: wrote {}", path.display());
    }
    Ok((diff.base.bytes, diff.new.bytes))
}

fn write_picture(args: &DiffArgs) -> Result<(u64, u64)> {
    let (base, new) = open(args)?;
    let path = args.output.clone().unwrap_or_else(|| new.output_name("diff", ".svg"));
    let output = Output::create(Some(&path), args.force)?;
    let diff = compare(&base, &new, args)?;
    let options = SvgOptions { title: &title(args), unit: Unit::Bytes, is_inverted: false, least_share: 0.0 };
    output.finish(|out| svg::write_diff(&diff.model, &diff.stacks(), &options, out))?;
    eprintln!("memtrace: wrote {}", path.display());
    Ok((diff.base.bytes, diff.new.bytes))
}

/// Both recordings in one page.
fn write_page(args: &DiffArgs) -> Result<(u64, u64)> {
    let captures = Captures::open(&[args.base.clone(), args.new.clone()], &args.native)?;
    can_answer(&captures, args)?;
    let path = args.output.clone().unwrap_or_else(|| output::beside(&args.new, 0, "diff", ".html"));
    let output = Output::create(Some(&path), args.force)?;
    let tab = match args.compared() {
        Compared::Peak => Tab::Peak,
        Compared::Leaks => Tab::Leaks,
        Compared::Churn => Tab::Churn,
    };
    let compares = Compares { n_base: 1, by_line: args.lines, is_normalised: args.normalise };
    let options = PageOptions {
        open: Open { tab, compares: Some(compares), ..Open::default() },
        // The two recordings have no time in common.
        max_buckets: 1,
        is_aggregated: captures.are_aggregated(),
        ..PageOptions::default()
    };
    let (model, parts) = pages::read(&captures, load::mmap_rule(args.all_mappings), None)?;
    let bytes = |Part { temporal, .. }: &Part| {
        let whole = temporal.whole();
        let of_sites = match args.compared() {
            Compared::Peak => temporal.peak(whole),
            Compared::Leaks => temporal.leaks(whole),
            Compared::Churn => temporal.churn(whole),
        };
        of_sites.bytes
    };
    let (before, after) = (bytes(&parts[0]), bytes(&parts[1]));
    let page = Page::new(&model, parts, &options);
    output.finish(|out| html::write(&page, out))?;
    eprintln!("memtrace: wrote {}", path.display());
    Ok((before, after))
}

fn open(args: &DiffArgs) -> Result<(Captures, Captures)> {
    let [base, new] = [&args.base, &args.new].map(|path| Captures::open(std::slice::from_ref(path), &args.native));
    Ok((base?, new?))
}

fn compare(base: &Captures, new: &Captures, args: &DiffArgs) -> Result<Diff> {
    let read = |captures: &Captures| {
        can_answer(captures, args)?;
        let snapshot = |folds: &Folds| match args.compared() {
            Compared::Peak => [folds.heap.at_peak()],
            Compared::Leaks => [folds.heap.at_end()],
            Compared::Churn => [folds.heap.ever()],
        };
        load::by_stack(captures, load::mmap_rule(args.all_mappings), Question::Peak, snapshot)
    };
    let ((base_model, [base]), (new_model, [new])) = (read(base)?, read(new)?);
    let options = DiffOptions { by_line: args.lines, is_normalised: args.normalise };
    Ok(Diff::new((&base_model, &base), (&new_model, &new), &options))
}

fn can_answer(captures: &Captures, args: &DiffArgs) -> Result<()> {
    match args.compared() {
        Compared::Churn => captures.need_all_events(NO_EVENTS),
        Compared::Peak | Compared::Leaks => captures.can_answer(Question::Peak, load::mmap_rule(args.all_mappings)),
    }
}

fn title(args: &DiffArgs) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("{}: {} -> {} (red: more, blue: less)", args.compared().name(), name(&args.base), name(&args.new))
}
