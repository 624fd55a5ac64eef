//! `memtrace diff`: reads two captures, says what changed.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::analysis::{Detail, Diff, DiffOptions, Heap, MmapRule, Snapshot};
use crate::cli::{DiffArgs, DiffFormat};
use crate::commands::load;
use crate::commands::output::Output;
use crate::commands::pages;
use crate::commands::read::Captures;
use crate::model::Model;
use crate::report::diff::DiffReport;
use crate::report::html;
use crate::report::page::{Compares, Open, Page, PageOptions, Part, Tab};
use crate::report::svg::{self, SvgOptions, Unit};

/// Exit code when there is more than was allowed.
const FINDING: u8 = 1;

pub fn run(args: &DiffArgs) -> Result<ExitCode> {
    if args.format() == DiffFormat::Html {
        return write_page(args);
    }
    let captures = [&args.base, &args.new].map(|path| Captures::open(std::slice::from_ref(path)));
    let [base, new] = captures;
    let (base, new) = (base?, new?);
    let path = match (&args.output, args.format()) {
        (None, DiffFormat::Svg) => Some(new.output_name("diff", ".svg")),
        (output, _) => output.clone(),
    };
    let output = Output::create(path.as_deref(), args.force)?;
    let ((base_model, base), (new_model, new)) = (read(&base, args)?, read(&new, args)?);
    let options = DiffOptions { by_line: args.lines, is_normalised: args.normalise };
    let diff = Diff::new((&base_model, &base), (&new_model, &new), &options);
    let report = DiffReport {
        diff: &diff,
        shown: args.shown(),
        is_normalised: args.normalise,
        max_rows: args.max_rows.unwrap_or(if args.format() == DiffFormat::Json { usize::MAX } else { USUAL_ROWS }),
    };
    let title = title(args);
    output.finish(|out| match args.format() {
        DiffFormat::Svg => {
            let options = SvgOptions { title: &title, unit: Unit::Bytes };
            svg::write_diff(&diff.model, &diff.stacks(), &options, out)
        }
        DiffFormat::Json => report.json(out),
        DiffFormat::Text | DiffFormat::Html => report.text(out),
    })?;
    if let Some(path) = path {
        eprintln!("memtrace: wrote {}", path.display());
    }
    // What was asked for is bytes that are there, so nothing is scaled.
    Ok(verdict(args, base.bytes, new.bytes))
}

/// Both recordings in one page.
fn write_page(args: &DiffArgs) -> Result<ExitCode> {
    let captures = Captures::open(&[args.base.clone(), args.new.clone()])?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => Captures::open(std::slice::from_ref(&args.new))?.output_name("diff", ".html"),
    };
    let output = Output::create(Some(&path), args.force)?;
    let tab = match (args.leaks, args.churn) {
        (true, _) => Tab::Leaks,
        (_, true) => Tab::Churn,
        _ => Tab::Peak,
    };
    let compares = Compares { n_base: 1, by_line: args.lines, is_normalised: args.normalise };
    let options = PageOptions {
        open: Open { tab, compares: Some(compares), ..Open::default() },
        // The two recordings have no time in common.
        max_buckets: 1,
        ..PageOptions::default()
    };
    let (model, parts) = pages::read(&captures, mmap_rule(args), None)?;
    let total = |Part { temporal, .. }: &Part| match tab {
        Tab::Leaks => temporal.leaks(temporal.whole()).bytes,
        Tab::Churn => temporal.churn(temporal.whole()).bytes,
        Tab::Peak | Tab::Temporary => temporal.peak(temporal.whole()).bytes,
    };
    let totals: Vec<u64> = parts.iter().map(total).collect();
    let page = Page::new(&model, parts, &options);
    output.finish(|out| html::write(&page, out))?;
    eprintln!("memtrace: wrote {}", path.display());
    Ok(verdict(args, totals[0], totals[1]))
}

/// Whether there is more than was allowed.
fn verdict(args: &DiffArgs, base_bytes: u64, new_bytes: u64) -> ExitCode {
    let more = new_bytes.saturating_sub(base_bytes);
    match args.fail_above {
        Some(allowed) if more > allowed => {
            eprintln!("memtrace: {more} bytes more, {allowed} are allowed");
            FINDING.into()
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Rows of text for which a screen has room.
const USUAL_ROWS: usize = 10;

fn read(captures: &Captures, args: &DiffArgs) -> Result<(Model, Snapshot)> {
    let rule = mmap_rule(args);
    let (model, parts) = captures.read(
        |_| Heap::new(rule, Detail::Stack),
        Heap::take_all,
        |heap, _| {
            let snapshot = match (args.leaks, args.churn) {
                (true, _) => heap.at_end(),
                (_, true) => heap.ever(),
                _ => heap.at_peak(),
            };
            (snapshot, heap.n_missed_frees())
        },
    )?;
    load::warn(&model);
    load::warn_of_missed_frees(parts.iter().map(|part| part.answer.1).sum());
    let snapshots = parts.into_iter().map(|part| part.answer.0.moved(&part.handles)).collect();
    Ok((model, Snapshot::sum(snapshots)))
}

fn mmap_rule(args: &DiffArgs) -> MmapRule {
    if args.all_mappings { MmapRule::All } else { MmapRule::Memory }
}

fn title(args: &DiffArgs) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("{}: {} -> {} (red: more, blue: less)", args.shown(), name(&args.base), name(&args.new))
}
