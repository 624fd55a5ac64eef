//! `memtrace tree`: walked through on a terminal, printed elsewhere.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::analysis::{Measure, Tree};
use crate::cli::TreeArgs;
use crate::commands::load::{self, Folds, Question};
use crate::commands::output::Output;
use crate::commands::read::Captures;
use crate::report::sources::{Confidential, Sources};
use crate::report::tree::{self, TreeOptions};
use crate::terminal;
use crate::terminal::tree::{Tab, TreeView};

pub fn run(args: &TreeArgs) -> Result<ExitCode> {
    let captures = Captures::open(&args.captures, &args.native)?;
    if args.text || args.json || !terminal::is_possible() {
        print(&captures, args)?;
    } else {
        walk(&captures, args)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(captures: &Captures, args: &TreeArgs) -> Result<()> {
    let loaded = load::load(captures, &args.selection)?;
    let options = TreeOptions { biggest_allocs: args.biggest_allocs, measure: Measure::Bytes };
    let shown = tree::biggest(&loaded.snapshot, &options);
    let n_left_out = loaded.snapshot.rows.len() - shown.rows.len();
    let call_tree = Tree::new(&loaded.model, &shown);
    Output::create(None, false)?.finish(|out| match args.json {
        true => tree::json(&loaded.model, &loaded.snapshot, &call_tree, n_left_out, out),
        false => tree::text(&loaded.model, &loaded.snapshot, &call_tree, n_left_out, out),
    })
}

fn walk(captures: &Captures, args: &TreeArgs) -> Result<()> {
    let (rule, question) = (args.selection.mmap_rule(), args.selection.question());
    let (model, tabs) = match question {
        Question::Temporary(_) => {
            let (model, [snapshot]) = load::by_stack(captures, rule, question, |folds| [folds.asked()])?;
            (model, vec![Tab { name: "Temporary", snapshot }])
        }
        Question::Peak | Question::Leaks => {
            let tables = |folds: &Folds| [folds.heap.at_peak(), folds.heap.at_end(), folds.heap.ever()];
            let (model, snapshots) = load::by_stack(captures, rule, question, tables)?;
            let names = if captures.are_aggregated() { &["Peak", "Leaks"][..] } else { &["Peak", "Leaks", "Churn"] };
            let tabs = names.iter().zip(snapshots);
            (model, tabs.map(|(name, snapshot)| Tab { name, snapshot }).collect())
        }
    };
    let processes = model.processes();
    let facts = &processes[0].facts;
    let title = facts.command_line.join(" ");
    let ends = processes.iter().map(|process| process.facts.end);
    let recorded_until = ends.map(|end| end.map_or(Duration::MAX, |end| Duration::from_nanos(end.unix_nanos))).max();
    terminal::tree::show(TreeView {
        model: &model,
        tabs,
        first_tab: usize::from(args.selection.leaks),
        biggest_allocs: args.biggest_allocs,
        title: if processes.len() == 1 { title } else { format!("{} processes: {title} …", processes.len()) },
        notices: load::warnings(&model),
        // What is shown stays on the screen of someone who may read the files.
        sources: Sources::new(Confidential::None, &facts.cwd, recorded_until.unwrap_or(Duration::MAX)),
    })
}
