//! `memtrace parse`.

use std::io::{self, ErrorKind};
use std::ops::{ControlFlow, Range};
use std::process::ExitCode;

use anyhow::Context;

use crate::capture::Capture;
use crate::cli::ParseArgs;
use crate::model::facts::Facts;
use crate::model::{Event, Model};
use crate::report::parse::{JsonLines, ParseOptions, Text};

pub fn run(args: &ParseArgs) -> anyhow::Result<ExitCode> {
    let capture = Capture::open(&args.capture)?;
    let options = ParseOptions { min_size: args.min_size, stacks_once: args.stacks_once };
    let out = io::stdout().lock();
    let result = if args.json {
        let mut lines = JsonLines::new(out, options);
        print(&capture, args.range(), &mut lines, JsonLines::begin, JsonLines::take, JsonLines::end)
    } else {
        let mut text = Text::new(out, options);
        print(&capture, args.range(), &mut text, Text::begin, Text::take, Text::end)
    };
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Reads on for as long as somebody listens.
fn print<T>(
    capture: &Capture,
    range: Range<u64>,
    printer: &mut T,
    begin: fn(&mut T, &Facts) -> io::Result<()>,
    take: fn(&mut T, &Model, &Event) -> io::Result<()>,
    end: fn(&mut T, &Facts) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut written = begin(printer, capture.facts());
    let model = capture.read_range(
        range,
        |_| {},
        |model, event| {
            if written.is_ok() {
                written = take(printer, model, event);
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    )?;
    match written.and_then(|()| end(printer, &model.process().facts)) {
        // The reader of our pipe has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to the standard output"),
    }
}
