//! Parses, dispatches, prints the error chain.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use memtrace::cli::{self, Cli, Command};
use memtrace::commands;

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(cli::arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version asked for are answers on stdout; anything else is a usage error on stderr.
            let _ = error.print();
            return if error.use_stderr() { cli::failure(std::env::args_os()) } else { ExitCode::SUCCESS };
        }
    };
    let result = match &cli.command {
        Command::Run(args) => commands::run::run(args),
        Command::Attach(args) => commands::attach::attach(args),
        Command::Detach(args) => commands::attach::detach(args),
        Command::Ctl(args) => commands::ctl::run(args),
        Command::Live(args) => commands::live::run(args),
        Command::Flamegraph(args) => commands::flamegraph::run(args),
        Command::Summary(args) => commands::summary::run(args),
        Command::Table(args) => commands::table::run(args),
        Command::Tree(args) => commands::tree::run(args),
        Command::Stats(args) => commands::stats::run(args),
        Command::Diff(args) => commands::diff::run(args),
        Command::Transform(args) => commands::transform::run(args),
        Command::Parse(args) => commands::parse::run(args),
        Command::Bundle(args) => commands::bundle::run(args),
    };
    result.unwrap_or_else(|error| {
        // Not `eprintln`, which panics when nobody reads: the exit code still has to be the right one.
        let _ = writeln!(std::io::stderr(), "memtrace: {error:#}");
        cli.command.failure()
    })
}
