//! `memtrace ctl`: asks whoever records a process, and tells the answer.

use std::fs::File;
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::capture::Capture;
use crate::cli::{CtlAction, CtlArgs};
use crate::control::client::Client;
use crate::control::message::{Request, Status};
use crate::model::facts::{Facts, Mark};
use crate::report::printable::printable;
use crate::units::{bytes, count, date};

pub fn run(args: &CtlArgs) -> Result<ExitCode> {
    let mut client = Client::connect(args.pid)?;
    match &args.action {
        CtlAction::Status { json } => {
            let document = Document::new(&client.status()?)?;
            let mut out = stdout().lock();
            match json {
                true => writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?,
                false => document.print(&mut out)?,
            }
        }
        CtlAction::Pause => tell(client.request(&Request::Pause)?, "it was paused already"),
        CtlAction::Resume => tell(client.request(&Request::Resume)?, "it was not paused"),
        CtlAction::Mark { name } => tell(client.request(&Request::Mark { name: name.clone() })?, ""),
        CtlAction::Flush => flush(&client.status()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What was asked is done in silence.
fn tell(has_changed: bool, otherwise: &str) {
    if !has_changed {
        eprintln!("memtrace: {otherwise}");
    }
}

/// The recorder writes into the file's pages, which every process sees at once; the disk has them later. Done here and
/// not by the launcher, which must not wait for a disk.
fn flush(status: &Status) -> Result<()> {
    let failed = || format!("cannot flush {}", status.log.display());
    File::options().write(true).open(&status.log).and_then(|file| file.sync_data()).with_context(failed)
}

#[derive(Serialize)]
struct Document {
    pid: u32,
    command_line: Vec<String>,
    capture: String,
    start_unix_nanos: u64,
    paused: bool,
    events: u64,
    capture_bytes: u64,
    rss_bytes: Option<u64>,
    peak_rss_bytes: u64,
    lost_events: u64,
    stop_reason: Option<String>,
    marks: Vec<Moment>,
}

#[derive(Serialize)]
struct Moment {
    name: String,
    seconds: f64,
}

impl Document {
    /// What the keeper knows, and what stands in the log.
    fn new(status: &Status) -> Result<Document> {
        let capture = Capture::open(&status.log)?;
        let facts: Facts = capture.described()?;
        let moment = |mark: &Mark| Moment { name: mark.name.clone(), seconds: mark.nanos as f64 / 1e9 };
        Ok(Document {
            pid: status.pid,
            capture: status.log.display().to_string(),
            start_unix_nanos: facts.start_unix_nanos,
            paused: status.paused,
            events: capture.n_events()?,
            capture_bytes: capture.stored_bytes()?,
            rss_bytes: status.rss_bytes,
            peak_rss_bytes: status.peak_rss_bytes,
            lost_events: facts.lost_events,
            marks: facts.named_marks().map(moment).collect(),
            stop_reason: facts.stop_reason,
            command_line: facts.command_line,
        })
    }

    fn print(&self, out: &mut impl Write) -> Result<()> {
        let paused = if self.paused { ", paused" } else { "" };
        writeln!(out, "process   {}{paused}", self.pid)?;
        writeln!(out, "command   {}", printable(&self.command_line.join(" ")))?;
        writeln!(out, "since     {} UTC", date(self.start_unix_nanos))?;
        writeln!(out, "capture   {} ({})", printable(&self.capture), bytes(self.capture_bytes))?;
        writeln!(out, "events    {}", count(self.events))?;
        let rss = self.rss_bytes.map_or("unknown".into(), bytes);
        writeln!(out, "resident  {rss}, at most {}", bytes(self.peak_rss_bytes))?;
        if self.lost_events > 0 {
            writeln!(out, "lost      {} events", count(self.lost_events))?;
        }
        if let Some(reason) = &self.stop_reason {
            writeln!(out, "stopped   {reason}")?;
        }
        for Moment { name, seconds } in &self.marks {
            writeln!(out, "mark      {seconds:.3} s {}", printable(name))?;
        }
        Ok(())
    }
}
