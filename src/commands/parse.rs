//! `memtrace parse`.

use std::process::ExitCode;

use crate::cli::ParseArgs;

pub fn run(_args: &ParseArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this command is not written yet")
}
