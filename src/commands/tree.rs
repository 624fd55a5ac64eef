//! `memtrace tree`.

use std::process::ExitCode;

use crate::analysis::Tree;
use crate::cli::TreeArgs;
use crate::commands::load;
use crate::commands::output::Output;
use crate::commands::read::Captures;
use crate::report::tree::{self, TreeOptions};

pub fn run(args: &TreeArgs) -> anyhow::Result<ExitCode> {
    let loaded = load::load(&Captures::open(&args.captures)?, &args.selection)?;
    let shown = tree::biggest(&loaded.snapshot, &TreeOptions { biggest_allocs: args.biggest_allocs });
    let n_left_out = loaded.snapshot.rows.len() - shown.rows.len();
    let call_tree = Tree::new(&loaded.model, &shown);
    Output::create(None, false)?
        .finish(|out| tree::text(&loaded.model, &loaded.snapshot, &call_tree, n_left_out, out))?;
    Ok(ExitCode::SUCCESS)
}
