//! `memtrace parse`.

use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;

use crate::capture::Capture;
use crate::cli::ParseArgs;
use crate::commands::native::Names;
use crate::commands::progress::Progress;
use crate::commands::range;
use crate::model::facts::Facts;
use crate::model::{Event, Model};
use crate::report::parse::{JsonLines, ParseOptions, Text};

pub fn run(args: &ParseArgs) -> anyhow::Result<ExitCode> {
    let progress = Progress::beside_output(Instant::now());
    let capture = Capture::open(&args.capture)?;
    let options = ParseOptions { min_size: args.min_size, stacks_once: args.stacks_once };
    let out = io::stdout().lock();
    let result = if args.json {
        let mut lines = JsonLines::new(out, options);
        print(&capture, &progress, args, &mut lines, JsonLines::begin, JsonLines::take, JsonLines::end)
    } else {
        let mut text = Text::new(out, options);
        print(&capture, &progress, args, &mut text, Text::begin, Text::take, Text::end)
    };
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Reads on for as long as somebody listens.
fn print<T>(
    capture: &Capture,
    progress: &Progress,
    args: &ParseArgs,
    printer: &mut T,
    begin: fn(&mut T, &Facts) -> io::Result<()>,
    take: fn(&mut T, &Model, &Event) -> io::Result<()>,
    end: fn(&mut T, &Facts) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut written = begin(printer, capture.facts());
    let take_all = |model: &Model, events: &[Event]| {
        progress.show(|| capture.progress());
        if written.is_ok() {
            written = events.iter().try_for_each(|event| take(printer, model, event));
        }
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let mut names = Names::of_capture(capture, &args.native);
    let range = match args.range.is_everything() {
        true => 0..u64::MAX,
        false => range::nanos(&args.range, &[&capture.described()?])?,
    };
    let model = capture.read_range(range, names.stacks(!args.native.no_native), |_| {}, take_all)?;
    names.warn();
    match written.and_then(|()| end(printer, &model.process().facts)) {
        // The reader of our pipe has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to the standard output"),
    }
}
