//! `memtrace attach` and `memtrace detach`: has a running process record itself, stays beside it, and puts the log in
//! order. The process is not our child and must not notice when we end.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use memtrace_format::options::RecordOptions;
use nix::unistd::Pid;

use super::run::{self, close_children, for_pid, relative, say, size, with_children};
use crate::attach::process::Process;
use crate::attach::{self, Entered, Method, Start};
use crate::capture::Capture;
use crate::capture::info::{CaptureEnd, CaptureInfo, Exit};
use crate::cli::{AttachArgs, AttachMethod, DetachArgs};
use crate::commands::live;
use crate::commands::load::warnings_of_one;
use crate::control::client::Client;
use crate::control::message::Request;
use crate::control::server::Server;
use crate::launch::family::{self, Family, Totals};
use crate::launch::log::{Finished, Log};
use crate::launch::running::{Running, Until};
use crate::launch::signals::Signals;
use crate::launch::spares::Spares;
use crate::launch::{clock, shim};
use crate::terminal;
use crate::units::{bytes, count};

pub fn attach(args: &AttachArgs) -> anyhow::Result<ExitCode> {
    let process = Process::find(args.pid)?;
    // Its socket is not ours to take.
    if Client::connect(process.pid.as_raw() as u32).is_ok() {
        bail!("process {} ({}) can't be recorded: it is being recorded already", process.pid, process.name);
    }
    if args.output.is_none() && !args.quiet && terminal::is_possible() {
        return attach_behind_view(args, &process);
    }
    let running = Running::open(process.pid).with_context(|| format!("cannot watch process {}", process.pid))?;
    let shim = shim::find()?;
    let path = log_path(args, &process)?;
    let options = RecordOptions { follow_fork: args.follow_fork, ..args.recording.options() };
    let info = CaptureInfo {
        memtrace_version: env!("CARGO_PKG_VERSION").into(),
        command_line: process.command_line.clone(),
        argv: process.command_line.clone(),
        cwd: process.cwd.clone(),
        python_allocators: options.python_allocators,
        script: None,
        tracked: None,
        aggregated: None,
    };
    if args.follow_fork && args.force {
        family::remove_logs(&path);
    }
    let mut log = Log::create(&path, args.force, args.recording.compression(), process.inner_pid, &info)?;
    let signals = Signals::take_over()?;
    // Before anything is recorded: whoever wants to end that asks here.
    let mut server = Server::start(process.pid.as_raw() as u32);
    let method = match args.method {
        AttachMethod::Auto => Method::Auto,
        AttachMethod::RemoteExec => Method::RemoteExec,
        AttachMethod::Ptrace => Method::Ptrace,
    };
    let spares = attach::follows_by_socket(&process, options).then(|| Spares::new(&log, process.pid)).transpose();
    let entered = spares.and_then(|spares| {
        let logs = spares.as_ref().map(Spares::socket);
        let entered = attach::start(&process, &Start { shim: &shim, log: &path, options, logs }, method)?;
        Ok((entered, spares))
    });
    let (entered, spares) = match entered {
        Ok(entered) => entered,
        Err(error) => {
            log.discard();
            return Err(error);
        }
    };
    if args.verbose {
        let how = match entered {
            Entered::ByRemoteExec => "where its Python has loaded it".into(),
            Entered::ByPtrace(held_up) => format!("which was held up for {}", shown(held_up)),
        };
        say(&format!("the recorder is in process {} ({}), {how}", process.pid, process.name));
    } else if !args.quiet {
        say(&format!("recording process {} ({}); Ctrl-C ends it", process.pid, process.name));
    }
    if spares.is_some() && !args.quiet {
        say("its files are others than ours: children are recorded until they become other programs");
    }
    let mut family = args.follow_fork.then(|| Family::new(&log, args.recording.compression()).with(spares));
    let watched = running.watch(&signals, &mut log, family.as_mut(), &mut server, args.duration);
    log.refuse_others();
    if method == Method::RemoteExec && watched.until == Until::Asked {
        // What a script allocates that ends the recording is not the program's.
        log.pause(true);
    }
    let stopped = if watched.until == Until::ItsEnd { Ok(false) } else { attach::stop(&process, method) };
    family.iter_mut().for_each(|family| family.stop(&log, &mut stop_child));
    drop(server);
    signals.forget();
    let mut children = family.map(|family| family.end(log.n_children(), &mut signals.asked_to_end()));
    let end = CaptureEnd {
        unix_nanos: clock::unix_nanos(),
        mono_nanos: clock::mono_nanos(),
        exit: Exit::Unknown,
        peak_rss_bytes: watched.peak_rss_bytes,
    };
    if let Err(error) = stopped
        && !running.has_ended()
    {
        return Err(error.context(format!("{} is still being written", path.display())));
    }
    let mut finished = log.finish(&end, signals.asked_to_end())?;
    signals.release();
    let is_aggregated = args.recording.aggregate && run::aggregated(&path, &mut finished, children.as_mut());
    let size = size(args.recording.compression(), &finished, is_aggregated);
    close(args, &path, &finished, &size, &end, watched.until, children.as_ref())?;
    Ok(ExitCode::SUCCESS)
}

/// Ends the recording of a child; `false` when that can't be done.
fn stop_child(pid: Pid) -> bool {
    let is_stopped = Process::find(pid.as_raw()).and_then(|process| attach::stop(&process, Method::Ptrace)).is_ok();
    if !is_stopped {
        // It may just be ending.
        thread::sleep(BETWEEN_TRIES);
    }
    is_stopped
}

/// Without a file to write to, what is recorded is looked at while it is: by this process, and another one records.
fn attach_behind_view(args: &AttachArgs, process: &Process) -> anyhow::Result<ExitCode> {
    let path = log_path(args, process)?;
    let pid = process.pid.as_raw() as u32;
    let mut keeper = Command::new(env::current_exe()?);
    keeper.args(env::args_os().skip(1)).arg("--output").arg(&path).process_group(0);
    let mut keeper = keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    while keeper.try_wait()?.is_none() && Client::connect(pid).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
    let is_recording = keeper.try_wait()?.is_none();
    let seen = if is_recording { live::watch(&path) } else { Ok(()) };
    if let Ok(mut client) = Client::connect(pid) {
        client.request(&Request::Detach)?;
    }
    let output = keeper.wait_with_output()?;
    // The first line of a success tells how to end it.
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().skip(usize::from(is_recording)).for_each(|line| eprintln!("{line}"));
    seen?;
    Ok(ExitCode::from(output.status.code().unwrap_or(1) as u8))
}

const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// How long `detach` waits for the other memtrace, which has to borrow a thread of the process.
const LONGEST_DETACH: Duration = Duration::from_secs(60);

/// Asks whoever records the process to end, and waits for that; if there is nobody any more, ends the recording itself.
pub fn detach(args: &DetachArgs) -> anyhow::Result<ExitCode> {
    let process = Process::find(args.pid)?;
    let pid = process.pid.as_raw() as u32;
    let Ok(mut keeper) = Client::connect(pid) else {
        if !attach::stop(&process, Method::Ptrace)? {
            bail!("process {pid} ({}) is not being recorded", process.name);
        }
        return Ok(ExitCode::SUCCESS);
    };
    keeper.request(&Request::Detach)?;
    let start = Instant::now();
    while start.elapsed() < LONGEST_DETACH {
        if Client::connect(pid).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(BETWEEN_TRIES);
    }
    bail!("memtrace is still busy detaching from process {pid}")
}

fn log_path(args: &AttachArgs, process: &Process) -> anyhow::Result<PathBuf> {
    let path = run::log_path(args.output.as_deref(), &process.name.replace(' ', "_"))?;
    Ok(for_pid(&path, process.pid))
}

/// The closing lines.
fn close(
    args: &AttachArgs,
    path: &Path,
    finished: &Finished,
    size: &str,
    end: &CaptureEnd,
    until: Until,
    children: Option<&Totals>,
) -> anyhow::Result<()> {
    let facts = Capture::open(path)?.described()?;
    if args.quiet {
        facts.stop_reason.iter().for_each(|sentence| say(sentence));
        return Ok(());
    }
    for sentence in warnings_of_one(&facts) {
        say(&sentence);
    }
    let shown = relative(path);
    let state = if until == Until::ItsEnd { "has ended" } else { "runs on" };
    say(&format!(
        "{} events in {shown} ({size}), peak RSS {}; process {} {state}",
        count(finished.n_events),
        bytes(end.peak_rss_bytes),
        args.pid
    ));
    if let Some(children) = children {
        close_children(&shown, finished, children);
        if children.n_left > 0 {
            let n_left = count(children.n_left);
            say(&format!(
                "{n_left} of them can't be detached from: they are recorded until they end, or by memtrace detach"
            ));
        }
    }
    say(&format!("next: memtrace flamegraph --leaks {}", with_children(&shown, children)));
    Ok(())
}

fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
