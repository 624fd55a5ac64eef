//! Torture: programs that hand memory from thread to thread in every way, and random Python programs, under
//! `memtrace run`.
//!
//! Every capture has to account for every block (`account.rs`), every stack has to be the interpreter's own
//! (`MEMTRACE_SELF_CHECK`), and every program has to print and end as it does without us. A failure names the seed:
//! `MEMTRACE_TORTURE_SEED=7 cargo nextest run --test torture` begins there.

mod account;
mod native;
mod python;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant, SystemTime};

#[test]
fn blocks_handed_between_threads_are_all_accounted_for() {
    let blocks = native::Blocks::build();
    let first = first_seed(1);
    (first..first + 4).for_each(|seed| blocks.check(seed, 200_000));
}

#[test]
fn random_python_programs_account_for_every_block() {
    let programs = python::RandomPrograms::build();
    // Another seed for each interpreter, so that each run of the tests sees many programs.
    (first_seed(1)..).zip(support::pythons()).for_each(|(seed, python)| programs.check_account(seed, python, 20));
}

#[test]
fn every_stack_of_random_python_programs_is_right() {
    let programs = python::RandomPrograms::build();
    (first_seed(1)..).zip(support::pythons()).for_each(|(seed, python)| programs.check_stacks(seed, python, 3));
}

#[test]
#[ignore = "long tier"]
fn ten_minutes_of_torture_leave_nothing_unaccounted_for() {
    let blocks = native::Blocks::build();
    let programs = python::RandomPrograms::build();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970");
    let start = Instant::now();
    let mut pythons = support::pythons().iter().cycle();
    let mut seed = first_seed(now.as_secs());
    while start.elapsed() < Duration::from_secs(600) {
        blocks.check(seed, 1_000_000);
        let python = pythons.next().expect("there is one");
        programs.check_account(seed, python, 200);
        programs.check_stacks(seed, python, 20);
        seed += 1;
    }
}

/// Where the seeds begin: where the user wants it, or here.
fn first_seed(default: u64) -> u64 {
    let chosen = std::env::var("MEMTRACE_TORTURE_SEED").ok();
    chosen.map_or(default, |seed| seed.parse().expect("MEMTRACE_TORTURE_SEED is a number"))
}
