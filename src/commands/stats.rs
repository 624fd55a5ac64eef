//! `memtrace stats`.

use std::process::ExitCode;

use crate::cli::StatsArgs;

pub fn run(_args: &StatsArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this command is not written yet")
}
