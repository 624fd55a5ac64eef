//! C, C++ and Rust: the stacks are those that are written in the sources, however the programs are built.

use std::path::Path;
use std::process::Command;

use super::build::{Debug, build, source, whole};
use super::recorded::{Frame, Stacks, stacks};
use super::support::{self, Scratch};
use super::written;

#[test]
fn stacks_of_c_are_those_that_were_written() {
    for flags in ["-O0", "-O2", "-O2 -fno-omit-frame-pointer", "-O1 -no-pie"] {
        check("shapes.c", flags, Debug::Inside);
    }
    check("shapes.c", "-O2", Debug::Linked);
    check("shapes.c", "-O2", Debug::Gone);
}

#[test]
fn stacks_of_cpp_are_those_that_were_written() {
    for flags in ["-O0", "-O2", "-O2 -fno-omit-frame-pointer"] {
        check("cpp_calls.cpp", flags, Debug::Inside);
    }
    check("cpp_calls.cpp", "-O2", Debug::Linked);
    check("cpp_calls.cpp", "-O2", Debug::Gone);
}

#[test]
fn stacks_of_rust_are_those_that_were_written() {
    for flags in ["-Copt-level=0", "-Copt-level=2", "-Copt-level=2 -Cforce-frame-pointers=yes"] {
        check("rust_calls.rs", flags, Debug::Inside);
    }
    check("rust_calls.rs", "-Copt-level=2", Debug::Linked);
    check("rust_calls.rs", "-Copt-level=2", Debug::Gone);
}

#[test]
fn nothing_that_was_jumped_over_stays_on_the_stack() {
    check("jumps.c", "-O0", Debug::Inside);
    check("jumps.c", "-O2", Debug::Inside);
}

#[test]
fn coroutines_have_stacks_of_their_own() {
    check("coroutines.c", "-O0", Debug::Inside);
    check("coroutines.c", "-O2", Debug::Inside);
}

#[test]
fn a_hundred_thousand_frames_are_a_stack() {
    check("deep_recursion.c", "-O2", Debug::Inside);
}

#[test]
fn threads_that_end_have_the_stack_of_what_ends_them() {
    check("ends_of_threads.c", "-O2", Debug::Inside);
}

/// Nobody knows how large its frame is, so what called it is not guessed.
#[test]
fn a_stack_ends_at_code_without_unwind_information() {
    check("code_of_no_file.c", "-O2", Debug::Inside);
}

fn check(name: &str, flags: &str, debug: Debug) {
    let scratch = Scratch::new("native-stacks");
    let program = build(&scratch, name, flags, debug);
    let mut found = stacks(&scratch, &[&program]);
    if debug == Debug::Gone {
        look_up(&program, &mut found);
    }
    written::check(&format!("{name} {flags}"), &source(name), &found);
}

/// Puts binutils' answers in the place of offsets in a stripped program.
fn look_up(program: &Path, stacks: &mut Stacks) {
    let prefix = format!("{}+", program.file_name().unwrap().display());
    for stack in stacks.values_mut() {
        let frames = std::mem::take(stack).into_iter().flat_map(|frame| match frame.function.strip_prefix(&prefix) {
            Some(offset) => addr2line(&whole(program), offset),
            None => vec![frame],
        });
        *stack = frames.collect();
    }
}

/// The functions at an address, outermost first.
fn addr2line(file: &Path, address: &str) -> Vec<Frame> {
    let output = support::run(Command::new("addr2line").args(["-Cfie"]).arg(file).arg(address));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let frame = |pair: &[&str]| Frame::parse(&format!("{} ({})", without_parameters(pair[0]), without_note(pair[1])));
    lines.chunks_exact(2).rev().map(frame).collect()
}

/// `Circle::draw()` has its parameters behind it.
fn without_parameters(function: &str) -> &str {
    function.split_once('(').map_or(function, |(function, _)| function)
}

/// `shapes.c:22 (discriminator 1)`
fn without_note(place: &str) -> &str {
    place.split_once(" (").map_or(place, |(place, _)| place)
}
