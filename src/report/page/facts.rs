//! What a page says about a process beside its memory: what ran, when, how it ended, what is missing.

use serde::Serialize;

use crate::model::Process;

/// What the caller knows about the capture beside the model.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub n_events: u64,
    pub peak_bytes: u64,
    /// What a reader of the report should know, a sentence each.
    pub notices: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Facts {
    pub command: String,
    pub argv: Vec<String>,
    pub cwd: String,
    pub pid: Option<u32>,
    pub pythons: Vec<Python>,
    pub start_unix_millis: Option<u64>,
    pub duration_nanos: Option<u64>,
    /// How the program ended; `None` when the capture does not say.
    pub end: Option<String>,
    pub events: u64,
    pub peak_bytes: u64,
    pub peak_rss_bytes: Option<u64>,
    pub python_allocators: bool,
    pub recorded_by: String,
    pub made_by: String,
    pub lost: u64,
    pub notices: Vec<String>,
    /// Files whose lines are not shown because they changed after the recording.
    pub changed_files: usize,
}

#[derive(Debug, Serialize)]
pub struct Python {
    pub version: String,
    pub allocator: String,
    pub stacks: bool,
}

/// A program can give rise to a thousand notices, which nobody reads.
const MAX_LISTED: usize = 20;

impl Facts {
    pub fn new(process: &Process, reading: Reading) -> Facts {
        let facts = &process.facts;
        let start = facts.start_unix_nanos;
        let mut notices = reading.notices;
        if notices.len() > MAX_LISTED {
            let n_more = notices.len() - MAX_LISTED;
            notices.truncate(MAX_LISTED);
            notices.push(format!("{n_more} more notices"));
        }
        Facts {
            command: facts.command_line.join(" "),
            argv: facts.argv.clone(),
            cwd: facts.cwd.clone(),
            pid: (facts.pid != 0).then_some(facts.pid),
            pythons: facts.images.iter().filter_map(|image| image.python.as_ref()).map(Python::new).collect(),
            start_unix_millis: (start != 0).then_some(start / 1_000_000),
            duration_nanos: facts.end.map(|end| end.unix_nanos.saturating_sub(start)),
            end: facts.end.map(|end| match (end.exit_code, end.signal) {
                (Some(code), _) => format!("exited with code {code}"),
                (None, Some(signal)) => format!("ended by signal {signal}"),
                (None, None) => "ended".to_owned(),
            }),
            events: reading.n_events,
            peak_bytes: reading.peak_bytes,
            peak_rss_bytes: facts.end.map(|end| end.peak_rss_bytes).filter(|&bytes| bytes > 0),
            python_allocators: facts.python_allocators,
            recorded_by: facts.memtrace_version.clone(),
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            lost: facts.lost_events,
            notices,
            changed_files: 0,
        }
    }
}

impl Python {
    fn new(python: &crate::model::facts::Python) -> Python {
        Python { version: python.version_text(), allocator: python.allocator.clone(), stacks: python.has_stacks }
    }
}
