//! `memtrace summary`.

use std::process::ExitCode;

use crate::cli::SummaryArgs;

pub fn run(_args: &SummaryArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this command is not written yet")
}
