//! `memtrace run`: starts a program with the recorder in it, stays as its parent, and puts the log in order.
//! It must never write to stdout, which is the program's.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use memtrace_format::options::{self, NativeStacks, RecordOptions};
use memtrace_format::state;
use nix::unistd::{AccessFlags, Pid, access};

use crate::capture::Capture;
use crate::capture::info::{CaptureEnd, CaptureInfo, Exit};
use crate::cli::{Cli, Command, RunArgs};
use crate::commands::load::warnings_of_one;
use crate::commands::{aggregate, behind, flamegraph};
use crate::control::message::Request;
use crate::control::server::{LOOPBACK, Server};
use crate::launch::family::{self, Family, Totals};
use crate::launch::log::{Compression, Finished, Log};
use crate::launch::program::{NotRunnable, Program, Target};
use crate::launch::signals::{Signals, Woken};
use crate::launch::watch::{self, Ended};
use crate::launch::{clock, recordable, shim, spawn};
use crate::units::{bytes, count};

pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    if args.live && args.behind_view.is_none() {
        return behind::run();
    }
    try_run(args).or_else(|error| {
        let not_runnable = error.downcast::<NotRunnable>()?;
        say(&not_runnable.message);
        Ok(not_runnable.exit_code.into())
    })
}

fn try_run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let program = Program::find(target(args), args.python.as_deref())?;
    if let Some(report) = &args.report {
        check_report(report, args.force)?;
    }
    if let Some(obstacle) = recordable::obstacle(&program.path) {
        return run_unrecorded(&program, obstacle);
    }
    let shim = shim::find()?;
    let log_path = log_path(args.output.as_deref(), &program.name)?;
    let signals = Signals::take_over()?;
    let options = RecordOptions { follow_fork: args.follow_fork, ..args.recording.options() };
    let waiting = spawn::fork_waiting(&program, &signals, |pid| {
        recording_environment(&program.env, &shim, &for_pid(&log_path, pid), options)
    })?;
    let pid = waiting.pid();
    let info = capture_info(&program, options);
    if args.follow_fork && args.force {
        family::remove_logs(&for_pid(&log_path, pid));
    }
    let mut log =
        Log::create(&for_pid(&log_path, pid), args.force, args.recording.compression(), pid.as_raw() as u32, &info)?;
    let mut server = Server::start(pid.as_raw() as u32);
    if args.live_remote
        && let Some(ended) = wait_for_viewer(args, pid, &mut server, &signals, &log).transpose()
    {
        log.discard();
        return ended;
    }
    if let Err(error) = waiting.start(&program) {
        log.discard();
        return Err(error);
    }
    if let Some(view) = &args.behind_view {
        behind::tell(view, log.path());
    }
    let mut family = args.follow_fork.then(|| Family::new(&log, args.recording.compression()));
    let ended = watch::until_end(pid, &signals, Some(&mut log), family.as_mut(), server)?;
    let path = log.path().to_owned();
    let n_children = log.n_children();
    signals.forget();
    let mut is_enough = signals.asked_to_end();
    let finished = log.finish(&capture_end(&ended), &mut is_enough);
    let mut children = family.map(|family| family.end(n_children, &mut is_enough));
    signals.release();
    // From here on nothing may take the program's exit code away.
    let closed = finished.and_then(|mut finished| {
        let is_aggregated = args.recording.aggregate && aggregated(&path, &mut finished, children.as_mut());
        close(args, &path, &finished, is_aggregated, &ended, children.as_ref())
    });
    let reported = closed.and_then(|()| match &args.report {
        Some(report) => draw(&path, children.as_ref(), report, args.force),
        None => Ok(()),
    });
    if let Err(error) = reported {
        say(&format!("{error:#}"));
    }
    Ok(exit_code(ended.exit))
}

/// As without memtrace, but for one sentence.
fn run_unrecorded(program: &Program, obstacle: &str) -> anyhow::Result<ExitCode> {
    say(&format!("{} runs unrecorded: {obstacle}", program.path.display()));
    let signals = Signals::take_over()?;
    let waiting = spawn::fork_waiting(program, &signals, |_| program.env.clone())?;
    let pid = waiting.pid();
    waiting.start(program)?;
    let ended = watch::until_end(pid, &signals, None, None, None)?;
    Ok(exit_code(ended.exit))
}

/// Says what to type, and returns when somebody has; with an exit code when the user does not want to wait any more.
fn wait_for_viewer(
    args: &RunArgs,
    pid: Pid,
    server: &mut Option<Server>,
    signals: &Signals,
    log: &Log,
) -> anyhow::Result<Option<ExitCode>> {
    let server = server.as_mut().context("there is no safe folder for the viewer's token")?;
    let port = server.open_port(LOOPBACK, args.live_port.unwrap_or(0))?;
    say(&format!("waiting for a viewer before the program starts: memtrace live {port}"));
    let mut is_there = false;
    while !is_there {
        match signals.next_beside(server.descriptors(), Duration::from_secs(1)) {
            Woken::Signal(received) if Signals::is_asking(received.number) => {
                return Ok(Some(exit_code(Exit::Signal(received.number))));
            }
            _ => server.serve(&mut |request| {
                is_there |= matches!(request, Request::Watch | Request::Pictures);
                watch::answer_before_start(pid, log, &request)
            }),
        }
    }
    Ok(None)
}

fn target(args: &RunArgs) -> Target<'_> {
    if !args.module.is_empty() {
        Target::Module(&args.module)
    } else if !args.code.is_empty() {
        Target::Code(&args.code)
    } else {
        Target::File(&args.target)
    }
}

/// Where the log goes, with `%p` where the process id will stand. Absolute: the program may change its folder before
/// the recorder has started.
pub(super) fn log_path(output: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let path = match output {
        Some(path) => path.to_owned(),
        None => PathBuf::from(format!("memtrace-{}.%p.bin", name.replace(['/', '%'], "_"))),
    };
    let failed = || format!("cannot create {}", path.display());
    let absolute = std::path::absolute(&path).with_context(failed)?;
    // The rest is checked by creating it, which waits for the process id.
    if absolute.is_dir() {
        bail!("{}: it is a folder", failed());
    }
    Ok(absolute)
}

pub(super) fn for_pid(path: &Path, pid: Pid) -> PathBuf {
    let pid = pid.to_string();
    let mut out = Vec::new();
    let mut rest = path.as_os_str().as_bytes();
    while let Some(at) = rest.windows(2).position(|pair| pair == b"%p") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(pid.as_bytes());
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    PathBuf::from(OsStr::from_bytes(&out))
}

/// A report that can't be written is noticed now, and not when the program has run for a week.
fn check_report(path: &Path, is_forced: bool) -> anyhow::Result<()> {
    let failed = || format!("cannot create {}", path.display());
    if path.exists() && (!is_forced || !path.is_file()) {
        bail!("{}: it exists already{}", failed(), if path.is_file() { "; -f overwrites it" } else { "" });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK).with_context(failed)
}

fn recording_environment(
    given: &[(OsString, OsString)],
    shim: &Path,
    log: &Path,
    options: RecordOptions,
) -> Vec<(OsString, OsString)> {
    const PRELOAD: &str = "LD_PRELOAD";
    let ours = [options::CAPTURE_VAR, options::OPTIONS_VAR, options::USER_PRELOAD_VAR];
    let mut env: Vec<_> = given.iter().filter(|(name, _)| ours.iter().all(|var| name != var)).cloned().collect();
    let mut preload = shim.as_os_str().to_owned();
    match env.iter_mut().find(|(name, _)| name == PRELOAD) {
        Some((_, value)) => {
            let users = value.clone();
            if !users.is_empty() {
                preload.push(":");
                preload.push(&users);
            }
            *value = preload;
            env.push((options::USER_PRELOAD_VAR.into(), users));
        }
        None => env.push((PRELOAD.into(), preload)),
    }
    env.push((options::CAPTURE_VAR.into(), log.as_os_str().to_owned()));
    env.push((options::OPTIONS_VAR.into(), options.to_bits().to_string().into()));
    env
}

fn capture_info(program: &Program, options: RecordOptions) -> CaptureInfo {
    let texts = |words: &[OsString]| words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    CaptureInfo {
        memtrace_version: env!("CARGO_PKG_VERSION").into(),
        command_line: texts(&program.command_line),
        argv: texts(&program.argv),
        cwd: std::env::current_dir().unwrap_or_default().to_string_lossy().into_owned(),
        python_allocators: options.python_allocators,
        script: program.script.clone(),
        tracked: None,
        aggregated: None,
    }
}

fn capture_end(ended: &Ended) -> CaptureEnd {
    CaptureEnd {
        unix_nanos: clock::unix_nanos(),
        mono_nanos: clock::mono_nanos(),
        exit: ended.exit,
        peak_rss_bytes: ended.peak_rss_bytes,
    }
}

/// As shells have it.
fn exit_code(exit: Exit) -> ExitCode {
    let code = match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
        Exit::Unknown => 0,
    };
    ExitCode::from(code as u8)
}

/// Makes the logs small; whether it could be done.
pub(super) fn aggregated(path: &Path, finished: &mut Finished, children: Option<&mut Totals>) -> bool {
    let replaced = aggregate::replace_all(path, finished, children);
    if let Err(error) = &replaced {
        say(&format!("the capture is not aggregated, and has every event: {error:#}"));
    }
    replaced.is_ok()
}

/// The closing lines: what was recorded, what was not, where it is, and what to do with it.
fn close(
    args: &RunArgs,
    path: &Path,
    finished: &Finished,
    is_aggregated: bool,
    ended: &Ended,
    children: Option<&Totals>,
) -> anyhow::Result<()> {
    let facts = Capture::open(path)?.described()?;
    if args.quiet {
        // A capture that is not whole is an error; what else is worth knowing is not.
        let lost =
            (facts.lost_events > 0).then(|| format!("{} events could not be recorded", count(facts.lost_events)));
        facts.stop_reason.or(lost).iter().for_each(|sentence| say(sentence));
        return Ok(());
    }
    for sentence in warnings_of_one(&facts) {
        say(&sentence);
    }
    if finished.header.state == state::CREATED {
        say("nothing was recorded: the program did not load the recorder");
    } else if facts.python().is_none() {
        let stacks = match args.recording.options().native_stacks {
            NativeStacks::Never => "without stacks",
            NativeStacks::WithoutPython | NativeStacks::Always => "with native stacks",
        };
        let children = if args.follow_fork { "" } else { ", and its children are not" };
        say(&format!("no Python ran in this process: it is recorded {stacks}{children}"));
    }
    let shown = relative(path);
    let events = count(finished.n_events);
    let size = size(args.recording.compression(), finished, is_aggregated);
    say(&format!("{events} events in {shown} ({size}), peak RSS {}", bytes(ended.peak_rss_bytes)));
    if let Some(children) = children {
        close_children(&shown, finished, children);
        if children.n_left > 0 {
            say(&format!(
                "{} of them run on without memtrace: their captures are whole, and not compressed",
                count(children.n_left)
            ));
        }
    }
    if args.report.is_none() {
        say(&format!("next: memtrace flamegraph {}", with_children(&shown, children)));
    }
    Ok(())
}

/// The captures of a program and its children, for a command line.
pub(super) fn with_children(shown: &str, children: Option<&Totals>) -> String {
    let has_others = children.is_some_and(|children| !children.logs.is_empty());
    if has_others { format!("{shown} {shown}.*") } else { shown.to_owned() }
}

/// How much of the disk a capture takes.
pub(super) fn size(compression: Compression, finished: &Finished, is_aggregated: bool) -> String {
    match compression {
        _ if is_aggregated => format!("{}, aggregated from {}", bytes(finished.len), bytes(finished.raw_len)),
        Compression::Never => bytes(finished.len),
        _ => format!("{}, compressed from {}", bytes(finished.len), bytes(finished.raw_len)),
    }
}

/// What was recorded of the whole tree.
pub(super) fn close_children(shown: &str, own: &Finished, children: &Totals) {
    if children.logs.is_empty() && children.n_missing == 0 {
        // One that was made just before the end may still begin a capture.
        say("no child of it has been recorded so far");
        return;
    }
    let (n_processes, n_events) = (1 + children.n_processes(), own.n_events + children.n_events);
    say(&format!(
        "with its children: {} processes, {} events in {shown} and {shown}.* ({})",
        count(n_processes),
        count(n_events),
        bytes(own.len + children.len)
    ));
    if children.n_missing > 0 {
        say(&format!("{} of its children could not create a capture", count(children.n_missing)));
    }
}

/// The flame graph that was asked for with `--report`, as the command of that name draws it.
fn draw(capture: &Path, children: Option<&Totals>, report: &Path, is_forced: bool) -> anyhow::Result<()> {
    let mut words = vec!["memtrace".into(), "flamegraph".into(), OsString::from("-o"), report.as_os_str().to_owned()];
    if is_forced {
        words.push("-f".into());
    }
    words.push(capture.as_os_str().to_owned());
    words.extend(children.into_iter().flat_map(|children| &children.logs).map(|log| log.as_os_str().to_owned()));
    match Cli::try_parse_from(words)?.command {
        Command::Flamegraph(args) => flamegraph::run(&args).map(|_| ()),
        other => unreachable!("asked for a flame graph and got {other:?}"),
    }
}

/// As short as it can be typed in this folder.
pub(super) fn relative(path: &Path) -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

/// A message on stderr. When nobody can read it, that is no reason to fail.
pub(super) fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "memtrace: {message}");
}
