//! `--aggregate`: what `run` and `attach` do with logs that are finished, and the Python package with those of its trackers.
//! Whatever goes wrong, the log stays as it was recorded.

use std::path::Path;

use anyhow::Result;

use crate::aggregate;
use crate::capture::Capture;
use crate::commands::output::Output;
use crate::launch::family::Totals;
use crate::launch::log::Finished;
use crate::model::facts::RecordingState;

/// Replaces a log by its aggregated form; the length of that in bytes.
pub fn replace(path: &Path) -> Result<u64> {
    let bytes = aggregate::aggregated(&Capture::open(path)?)?;
    Output::create(Some(path), true)?.finish(|out| out.write_all(&bytes))?;
    Ok(bytes.len() as u64)
}

/// Does so with the log of a program and those of its children that have ended; the first error is told, after all of
/// them.
pub fn replace_all(path: &Path, finished: &mut Finished, children: Option<&mut Totals>) -> Result<()> {
    let mut result = replace(path).map(|len| finished.len = len);
    if let Some(Totals { logs, len, .. }) = children {
        let mut ended = logs.iter().filter(|log| has_ended(log));
        let replaced = ended.try_fold(0, |sum, log| Ok(sum + replace(log)?));
        result = result.and(replaced.map(|sum| *len = sum));
    }
    result
}

/// Whether nobody writes to a log any more.
fn has_ended(log: &Path) -> bool {
    Capture::open(log).is_ok_and(|capture| capture.facts().state == RecordingState::Ended)
}
