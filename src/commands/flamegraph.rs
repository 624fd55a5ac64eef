//! `memtrace flamegraph`.

use std::process::ExitCode;

use crate::cli::FlamegraphArgs;

pub fn run(_args: &FlamegraphArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this command is not written yet")
}
