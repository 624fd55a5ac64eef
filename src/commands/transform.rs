//! `memtrace transform`: reads a capture, writes it in the format of another tool.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use flate2::write::GzEncoder;

use crate::analysis::MmapRule;
use crate::capture::Capture;
use crate::cli::{TransformArgs, TransformFormat};
use crate::commands::load::{self, Folds, Question, by_site, by_stack};
use crate::commands::native::Names;
use crate::commands::output::Output;
use crate::commands::progress::Progress;
use crate::commands::read::{Captures, NO_EVENTS};
use crate::model::{Event, Model};
use crate::report::transform::heaptrack::Heaptrack;
use crate::report::transform::pprof::InUse;
use crate::report::transform::speedscope::{Profile, SpeedscopeOptions};
use crate::report::transform::{csv, folded, gprof2dot, pprof, speedscope};

pub fn run(args: &TransformArgs) -> Result<ExitCode> {
    // A wrong capture is the error to report, before anything about the output.
    let captures = Captures::open(&args.captures, &args.native)?;
    let format = args.format;
    if format == TransformFormat::Heaptrack {
        captures.need_all_events(NO_EVENTS)?;
    }
    captures.can_answer(args.selection.question(), args.selection.mmap_rule())?;
    let path = args.output.clone().unwrap_or_else(|| captures.output_name(format.name(), format.suffix()));
    let output = Output::create(Some(&path), args.force)?;
    let (rule, question) = (args.selection.mmap_rule(), args.selection.question());
    match format {
        TransformFormat::Folded => {
            let (model, [asked]) = by_stack(&captures, rule, question, |folds| [folds.asked()])?;
            output.finish(|out| folded::write(&model, &asked, out))?;
        }
        TransformFormat::Gprof2dot => {
            let (model, [asked]) = by_stack(&captures, rule, question, |folds| [folds.asked()])?;
            output.finish(|out| gprof2dot::write(&model, &asked, out))?;
        }
        TransformFormat::Csv => {
            let (model, [asked]) = by_site(&captures, rule, question, |folds| [folds.asked_by_site()])?;
            output.finish(|out| csv::write(&model, &asked, out))?;
        }
        TransformFormat::Speedscope => write_speedscope(&captures, rule, question, output)?,
        TransformFormat::Pprof => write_pprof(&captures, rule, question, output)?,
        TransformFormat::Heaptrack => {
            let capture = captures.only().context("heaptrack's format holds one process: name one capture")?;
            write_heaptrack(capture, &captures.progress(), args, &path, output)?;
        }
    }
    eprintln!("memtrace: wrote {}", path.display());
    if let Some(next) = format.next_command() {
        eprintln!("memtrace: look at it with: {}", next.replace("FILE", &path.display().to_string()));
    }
    Ok(ExitCode::SUCCESS)
}

/// All that speedscope can hold beside each other, and in front what was asked for.
fn write_speedscope(captures: &Captures, rule: MmapRule, question: Question, output: Output) -> Result<()> {
    if let Question::Temporary(_) = question {
        let (model, [asked]) = by_stack(captures, rule, question, |folds| [folds.asked()])?;
        let profiles = [Profile { name: "temporary", snapshot: &asked }];
        return output.finish(|out| speedscope::write(&model, &profiles, &SpeedscopeOptions { active: 0 }, out));
    }
    let tables = |folds: &Folds| [folds.heap.at_peak(), folds.heap.at_end(), folds.heap.ever()];
    let (model, [peak, leaks, churn]) = by_stack(captures, rule, question, tables)?;
    let profiles = [("peak", &peak), ("leaks", &leaks), ("churn", &churn)];
    let profiles = profiles.map(|(name, snapshot)| Profile { name, snapshot });
    let profiles = if captures.are_aggregated() { &profiles[..2] } else { &profiles };
    let options = SpeedscopeOptions { active: usize::from(question == Question::Leaks) };
    output.finish(|out| speedscope::write(&model, profiles, &options, out))
}

fn write_pprof(captures: &Captures, rule: MmapRule, question: Question, output: Output) -> Result<()> {
    let moment = match question {
        Question::Temporary(_) => {
            let (model, [asked]) = by_site(captures, rule, question, |folds| [folds.asked_by_site()])?;
            return output.finish(|out| pprof::write(&model, &asked, None, out));
        }
        Question::Leaks => InUse::AtEnd,
        Question::Peak => InUse::AtPeak,
    };
    // Of what is aggregated nothing else is known to have been allocated.
    let ever = |folds: &Folds| match captures.are_aggregated() {
        true => folds.asked_by_site(),
        false => folds.heap.ever_by_site(),
    };
    let (model, [allocated, in_use]) = by_site(captures, rule, question, |folds| [ever(folds), folds.asked_by_site()])?;
    output.finish(|out| pprof::write(&model, &allocated, Some((moment, &in_use)), out))
}

/// Compressed as the end of the file's name says, which is how heaptrack tells.
fn write_heaptrack(
    capture: &Capture,
    progress: &Progress,
    args: &TransformArgs,
    path: &Path,
    output: Output,
) -> Result<()> {
    let mut read = Ok(());
    let written = output.finish(|out| {
        let mut stream = |out: &mut dyn Write| {
            let (result, written) = stream_heaptrack(capture, progress, args, out);
            read = result;
            written
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => {
                let mut out = GzEncoder::new(out, flate2::Compression::fast());
                stream(&mut out)?;
                out.finish().map(drop)
            }
            Some("zst") => {
                let mut out = zstd::Encoder::new(out, 0)?;
                stream(&mut out)?;
                out.finish().map(drop)
            }
            _ => stream(out),
        }
    });
    read.and(written)
}

/// What became of the reading, and of the writing.
fn stream_heaptrack(
    capture: &Capture,
    progress: &Progress,
    args: &TransformArgs,
    out: &mut dyn Write,
) -> (Result<()>, io::Result<()>) {
    let mut log = match Heaptrack::new(capture.facts(), args.selection.mmap_rule(), out) {
        Ok(log) => log,
        Err(error) => return (Ok(()), Err(error)),
    };
    let mut written = Ok(());
    let take = |model: &Model, events: &[Event]| {
        progress.show(|| capture.progress());
        written = events.iter().try_for_each(|event| log.take(model, event));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let mut names = Names::of_capture(capture, &args.native);
    let read = capture.read_range(0..u64::MAX, names.stacks(!args.native.no_native), |_| {}, take);
    progress.done();
    names.warn();
    match read {
        Ok(model) => {
            load::warn(&model);
            load::warn_of_missed_frees(log.n_missed_frees());
            (Ok(()), written)
        }
        Err(error) => (Err(error), Err(io::Error::other("the capture could not be read"))),
    }
}
