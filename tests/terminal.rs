//! The interactive views as their users have them: on a terminal, with keys.

#[path = "support/sample.rs"]
mod sample;
mod support;
#[path = "support/log.rs"]
mod testlog;
#[path = "support/tty.rs"]
mod tty;

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use memtrace::analysis::{Row, Snapshot};
use memtrace::model::{Model, StackId};
use memtrace::report::sources::{Confidential, Sources};
use memtrace::terminal;
use memtrace::terminal::tree::{Tab, TreeView};
use memtrace_format::record::{Code, PyStr, Record};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sample::sample;
use support::{Scratch, memtrace, memtrace_path};
use tty::Tty;

const SIZE: (u16, u16) = (24, 80);

fn save(scratch: &Scratch) -> PathBuf {
    let capture = scratch.join("sample.bin");
    sample().save(&capture);
    capture
}

fn tree(scratch: &Scratch) -> Command {
    let mut command = memtrace();
    command.arg("tree").arg(save(scratch)).env_remove("NO_COLOR");
    command
}

#[track_caller]
fn check_given_back(tty: &Tty) {
    assert!(tty.is_given_back(), "the terminal is not as it was:\n{}", tty.contents());
}

#[test]
fn the_tree_is_walked_through_with_keys() {
    let scratch = Scratch::new("terminal-tree");
    let mut tty = Tty::start(&mut tree(&scratch), SIZE);
    tty.wait_for_text("everything");
    assert!(!tty.is_given_back());
    assert!(tty.is_coloured());
    tty.wait_for_text("Peak 1.700MB");
    // Arrow keys as a terminal sends them: down to the largest call, and closed.
    tty.press("\x1b[B\x1b[D");
    tty.wait_for("closed call", |contents| !contents.contains("loads"));
    tty.press("/LOADS\r");
    tty.wait_for_text("1 of 1, 58.8%");
    tty.wait_for_text("/usr/lib/python3.11/json/__init__.py:303");
    tty.press("\x1b");
    tty.press("\t");
    tty.wait_for_text("of 1.700MB");
    tty.press("c");
    tty.wait_for_text("4 blocks");
    tty.press("?");
    tty.wait_for_text("open a chain of single calls");
    tty.wait_for_text("3 events could not be recorded");
    tty.press("xq");
    assert!(tty.wait_for_end().success());
    check_given_back(&tty);
    // What was told before the view came is there again.
    assert!(tty.contents().contains("memtrace: 3 events could not be recorded"), "{}", tty.contents());
}

#[test]
fn leaks_are_shown_first_when_asked_for() {
    let scratch = Scratch::new("terminal-leaks");
    let mut tty = Tty::start(tree(&scratch).arg("--leaks").arg("-b").arg("1"), SIZE);
    tty.wait_for_text("the largest 1 of");
    tty.press("q");
    assert!(tty.wait_for_end().success());
    let mut tty = Tty::start(tree(&scratch).arg("--temporary-allocations"), SIZE);
    tty.wait_for_text("Temporary 702.254kB");
    tty.press("\x03");
    assert!(tty.wait_for_end().success());
    check_given_back(&tty);
}

#[test]
fn a_signal_ends_the_view_and_not_the_terminal() {
    let scratch = Scratch::new("terminal-signals");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut tty = Tty::start(&mut tree(&scratch), SIZE);
        tty.wait_for_text("everything");
        kill(Pid::from_raw(tty.pid()), signal).unwrap();
        let status = tty.wait_for_end();
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
        check_given_back(&tty);
    }
}

#[test]
fn a_suspended_view_gives_the_terminal_to_the_shell_and_comes_back() {
    let scratch = Scratch::new("terminal-suspend");
    let capture = save(&scratch);
    // A session with this terminal, without which there is no job control.
    let mut shell = Command::new("setsid");
    shell
        .args(["--ctty", "--wait", "bash", "--norc", "--noprofile", "-i"])
        .env("PS1", "ready> ")
        .env_remove("HISTFILE");
    let mut tty = Tty::start(&mut shell, SIZE);
    tty.wait_for_text("ready>");
    tty.press(&format!("{} tree {}\n", memtrace_path().display(), capture.display()));
    tty.wait_for_text("everything");
    tty.press("\x1a");
    tty.wait_for_text("Stopped");
    assert!(!tty.contents().contains("everything"));
    tty.press("echo still $((40 + 2)) here\n");
    tty.wait_for_text("still 42 here");
    tty.press("fg\n");
    tty.wait_for_text("everything");
    tty.press("\x1b[B");
    tty.wait_for_text("/srv/app.py:2");
    // The signal of `kill -TSTP` does what the key does.
    tty.press("\x1a");
    tty.wait_for_text("still 42 here");
    tty.press("fg\n");
    tty.wait_for_text("everything");
    tty.press("q");
    tty.wait_for("prompt", |contents| contents.trim_end().ends_with("ready>"));
    tty.press("exit 7\n");
    assert_eq!(tty.wait_for_end().code(), Some(7));
}

#[test]
fn without_colours_nothing_is_coloured() {
    let scratch = Scratch::new("terminal-colours");
    let mut tty = Tty::start(tree(&scratch).env("NO_COLOR", "1"), SIZE);
    tty.wait_for_text("everything");
    assert!(!tty.is_coloured());
    tty.press("q");
    assert!(tty.wait_for_end().success());
}

#[test]
fn on_a_terminal_text_is_printed_when_asked_for_or_when_nothing_else_is_possible() {
    let scratch = Scratch::new("terminal-text");
    let mut text = tree(&scratch);
    let mut json = tree(&scratch);
    for (command, expected) in [(text.arg("--text"), "<all>"), (json.arg("--json"), "\"own_allocations\"")] {
        let mut tty = Tty::start(command, (200, 120));
        assert!(tty.wait_for_end().success());
        assert!(tty.contents().contains(expected), "{}", tty.contents());
        assert!(!tty.written.contains(&0x1b));
    }
    let mut dumb = Command::new("env");
    dumb.args(["TERM=dumb"]).arg(memtrace_path()).arg("tree").arg(save(&scratch));
    let mut tty = Tty::start(&mut dumb, (200, 120));
    assert!(tty.wait_for_end().success());
    assert!(tty.contents().contains("<all>") && !tty.written.contains(&0x1b), "{}", tty.contents());
}

#[test]
fn long_reading_is_seen_on_the_terminal_and_only_where_it_is_in_nobodys_way() {
    let scratch = Scratch::new("terminal-progress");
    let capture = save(&scratch);
    let parse = || {
        let mut command = memtrace();
        command.arg("parse").arg(&capture);
        command
    };
    let written = parse().output().unwrap().stdout;
    // As a launcher that was stopped has it. A reader waits two seconds for it, which is long.
    let launcher = File::open(&capture).unwrap();
    launcher.lock().unwrap();
    let (file, log) = (scratch.join("parsed.txt"), scratch.join("heaptrack.1.txt"));
    let mut to_file = Tty::start_with_output(&mut parse(), SIZE, Some(File::create(&file).unwrap().into()));
    let mut to_terminal = Tty::start(&mut parse(), SIZE);
    // Somebody may page through what comes out of a pipe, on this terminal.
    let mut to_pipe = Tty::start_with_output(&mut parse(), SIZE, Some(Stdio::piped()));
    let mut heaptrack = memtrace();
    heaptrack.args(["transform", "heaptrack", "-o"]).arg(&log).arg(&capture);
    let mut heaptrack = Tty::start(&mut heaptrack, SIZE);
    let mut summary = Tty::start(memtrace().arg("summary").arg(&capture), SIZE);
    for (tty, has_bar) in [
        (&mut to_file, true),
        (&mut heaptrack, true),
        (&mut summary, true),
        (&mut to_terminal, false),
        (&mut to_pipe, false),
    ] {
        assert!(tty.wait_for_end().success(), "{}", tty.contents());
        let text = String::from_utf8_lossy(&tty.written);
        assert_eq!(text.contains("reading "), has_bar, "{text:?}");
        // It is gone when it is no longer needed.
        assert!(!tty.contents().contains("reading "), "{}", tty.contents());
    }
    assert_eq!(std::fs::read(&file).unwrap(), written);
}

#[test]
fn a_panic_is_told_on_a_terminal_that_works() {
    let mut tty = Tty::start(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_view_that_panics", "--nocapture"])
            .env("MEMTRACE_VIEW_THAT_PANICS", "1"),
        SIZE,
    );
    tty.wait_for_text("Sound");
    assert!(!tty.is_given_back());
    tty.press("\t");
    assert_eq!(tty.wait_for_end().signal(), Some(Signal::SIGABRT as i32));
    check_given_back(&tty);
    assert!(tty.contents().contains("panicked at"), "{}", tty.contents());
}

/// The program of the test above: the second tab has a stack that its model does not know.
#[test]
fn a_view_that_panics() {
    if std::env::var_os("MEMTRACE_VIEW_THAT_PANICS").is_none() {
        return;
    }
    // As in the program that people have: nothing is unwound, so nothing is dropped either.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::abort();
    }));
    let broken = Snapshot::summed(vec![Row { stack: StackId::from_index(1_000_000), bytes: 1, count: 1 }], None);
    let tabs = [("Sound", Snapshot::default()), ("Broken", broken)];
    terminal::tree::show(TreeView {
        model: &Model::default(),
        tabs: tabs.map(|(name, snapshot)| Tab { name, snapshot }).into(),
        first_tab: 0,
        biggest_allocs: 200,
        title: String::new(),
        notices: Vec::new(),
        sources: Sources::new(Confidential::All, "/", Duration::MAX),
    })
    .unwrap();
}

#[test]
fn lines_end_where_the_screen_does() {
    let scratch = Scratch::new("terminal-lines");
    let capture = save(&scratch);
    for (command, numbers, locations) in [
        ("summary", "58.82%    1.000MB  58.82%", ["load at shop/data.py", "loads at …_init__.py"]),
        ("stats", "-> 1.000MB", ["load:shop/data.py:12", "loads:json/__init__.py:303"]),
    ] {
        let report = || {
            let mut command_line = memtrace();
            command_line.arg(command).arg(&capture);
            command_line
        };
        let mut tty = Tty::start(&mut report(), (100, 64));
        assert!(tty.wait_for_end().success());
        let written = String::from_utf8(tty.written.clone()).unwrap();
        for text in locations.into_iter().chain([numbers]) {
            assert!(written.contains(text), "no {text} in\n{written}");
        }
        for line in written.lines().filter(|line| !line.starts_with("memtrace: ")) {
            assert!(line.trim_end().chars().count() <= 64, "{line}");
        }
        let piped = String::from_utf8(report().output().unwrap().stdout).unwrap();
        assert!(piped.contains("/usr/lib/python3.11/json/__init__.py"), "{piped}");
    }
    // As many rows as there is room for.
    let mut log = sample();
    for number in 0..40 {
        log.code(100 + number, "one", &format!("/srv/of/many_{number}.py"), 1);
        log.node(0, 0, 100 + number, 0);
        log.alloc(0, 4000 + u64::from(number), 0x10_0000 + 0x100 * u64::from(number), 16, 5 + number);
    }
    log.save(&capture);
    let n_shown = |rows| {
        let mut tty = Tty::start(memtrace().args(["summary", "--leaks"]).arg(&capture).env_remove("LINES"), (rows, 80));
        assert!(tty.wait_for_end().success());
        String::from_utf8_lossy(&tty.written).matches("many_").count()
    };
    assert_eq!([n_shown(24), n_shown(60)], [16, 40]);
}

#[test]
fn names_that_are_escape_sequences_are_shown_and_not_obeyed() {
    let scratch = Scratch::new("terminal-hostile");
    let capture = scratch.join("hostile.bin");
    let mut log = sample();
    let name = PyStr { width: 1, bytes: b"\x1b]0;title\x07\x1b[2J" };
    let file = PyStr { width: 1, bytes: b"/srv/\x9b31m\n.py" };
    log.meta(Record::Code(Code { id: 9, first_line: 1, name, file, line_table: &[] }));
    log.node(0, 0, 9, 0);
    log.alloc(0, 4000, 0x5000, 5_000_000, 5);
    log.save(&capture);
    let mut tty = Tty::start(memtrace().arg("tree").arg(&capture), (24, 120));
    tty.wait_for_text("\\x1b]0;title\\x07\\x1b[2J");
    tty.press("q");
    assert!(tty.wait_for_end().success());
    let written = String::from_utf8_lossy(&tty.written).into_owned();
    assert!(!written.contains("\x1b]0;") && !written.contains('\u{9b}'), "{written:?}");
    for command in [&["tree"][..], &["summary"], &["stats"], &["table", "--text"]] {
        let output = memtrace().args(command).arg(&capture).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains("\\x1b]0;title\\x07"), "{printed}");
        assert!(!printed.contains(|character: char| character.is_control() && character != '\n'), "{printed:?}");
    }
}
