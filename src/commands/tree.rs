//! `memtrace tree`.

use std::process::ExitCode;

use crate::cli::TreeArgs;

pub fn run(_args: &TreeArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this command is not written yet")
}
