//! Captures while and after they are compressed: what a reader finds at any moment, and what whoever is killed leaves.

mod support;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use memtrace::capture::{Capture, blocks};
use memtrace::model::{Action, Facts};
use memtrace_format::{AllocatorKind, FileHeader, HEADER_LEN, block_state, codec};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Scratch, memtrace, text};
use zerocopy::FromBytes;

/// Allocates and frees, `ROUNDS` times, blocks of sizes that tell in which order. With `waits`, after half of them it
/// says so and waits for a file, and again at the end; with a number, it stops after so many until it reads a byte.
const SOURCE: &str = r#"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void say(const char *line, const char *file) {
    write(1, line, strlen(line));
    while (file && access(file, F_OK)) usleep(1000);
}

static void *one(void *wait) {
    free(malloc(100000));
    pthread_barrier_wait(wait);
    return 0;
}

int main(int argc, char **argv) {
    int rounds = atoi(argv[1]), n_threads = atoi(argv[2]);
    int step = argc > 3 ? atoi(argv[3]) : 0, waits = argc > 3 && !step;
    for (int i = 0; i < rounds; i++) {
        free(malloc(100000 + i % 1000));
        if (step && i % step == step - 1) {
            say("stop\n", 0);
            read(0, &(char){0}, 1);
        }
        if (i == rounds / 2) say("half\n", waits ? "go" : 0);
    }
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, 0, n_threads + 1);
    for (int i = 0; i < n_threads; i++) {
        pthread_t thread;
        pthread_create(&thread, 0, one, &barrier);
    }
    if (n_threads) pthread_barrier_wait(&barrier);
    say("done\n", waits ? "end" : 0);
    _exit(7);
}
"#;

const ROUNDS: usize = 200_000;

struct Program {
    folder: Scratch,
}

impl Program {
    fn new(name: &str) -> Program {
        let folder = Scratch::new(name);
        fs::write(folder.join("program.c"), SOURCE).unwrap();
        let mut gcc = Command::new("gcc");
        support::run(gcc.args(["-fno-builtin", "-pthread", "-o", "program", "program.c"]).current_dir(folder.path()));
        Program { folder }
    }

    fn capture(&self) -> PathBuf {
        self.folder.join("capture.bin")
    }

    fn command(&self, options: &[&str], arguments: &[&str]) -> Command {
        let mut command = memtrace();
        command.args(["run", "-qfo", "capture.bin"]).args(options).arg("./program").args(arguments);
        command.current_dir(self.folder.path());
        command
    }

    fn run(&self, options: &[&str], arguments: &[&str]) {
        let output = self.command(options, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    }

    /// Runs up to the first line.
    fn start(&self, options: &[&str], arguments: &[&str]) -> Running {
        let mut child = self.command(options, arguments).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut running = Running { child, stdout };
        running.expect("half");
        running
    }

    fn create(&self, name: &str) {
        fs::write(self.folder.join(name), "").unwrap();
    }
}

struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn expect(&mut self, expected: &str) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), expected);
    }

    /// Whether the next line has begun.
    fn has_said_more(&self) -> bool {
        let mut fds = [PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::POLLIN)];
        !self.stdout.buffer().is_empty() || poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
    }

    fn launcher(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn program(&self) -> Pid {
        let launcher = self.launcher();
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let program = children.split_whitespace().find(|pid| name(pid) == "program\n").expect(&children);
        Pid::from_raw(program.parse().unwrap())
    }

    /// Reads the program's output to its end, which comes when the program has ended.
    fn finish(mut self) -> Option<i32> {
        std::io::copy(&mut self.stdout, &mut std::io::sink()).unwrap();
        self.child.wait().unwrap().code()
    }
}

/// What the capture says, without addresses and times, which differ from run to run.
fn contents(capture: &Path) -> Vec<(AllocatorKind, u64)> {
    let mut contents = Vec::new();
    let model = Capture::open(capture).unwrap().read(|_, event| match event.action {
        Action::Alloc { kind, size, .. } => contents.push((kind, size)),
        Action::Free { kind, .. } => contents.push((kind, 0)),
        _ => {}
    });
    assert_eq!(model.unwrap().process().facts.damage, []);
    contents
}

/// Checks that the program's own allocations are all there up to some moment, once and in order; how many.
#[track_caller]
fn check_prefix(capture: &Path) -> usize {
    let contents = contents(capture);
    let mut n = 0;
    for (_, size) in contents.into_iter().filter(|(_, size)| (100_000..101_000).contains(size)) {
        assert_eq!(size, 100_000 + n % 1000, "allocation {n}");
        n += 1;
    }
    n as usize
}

/// Blocks of each state and codec: `(open, closed, sealed raw, compressed)`.
fn n_blocks(capture: &Path) -> [usize; 4] {
    let file = File::open(capture).unwrap();
    let mut n_blocks = [0; 4];
    for block in blocks::scan(&file, None).unwrap() {
        // It may be moving just now, or its place be taken again.
        let Some(header) = blocks::read_header(&file, block.payload_offset - 64).unwrap() else { continue };
        let index = match (header.state, header.codec) {
            (_, codec::ZSTD) => 3,
            (block_state::OPEN, _) => 0,
            (block_state::CLOSED | block_state::KEPT, _) => 1,
            _ => 2,
        };
        n_blocks[index] += 1;
    }
    n_blocks
}

fn bytes_on_disk(capture: &Path) -> u64 {
    fs::metadata(capture).unwrap().blocks() * 512
}

/// Waits for something that has to happen, however long the machine takes.
#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_capture_says_the_same_whether_and_whenever_it_is_compressed() {
    let program = Program::new("same");
    let rounds = ROUNDS.to_string();
    let record = |options: &[&str]| {
        program.run(options, &[&rounds, "0"]);
        let len = fs::metadata(program.capture()).unwrap().len();
        (contents(&program.capture()), len, n_blocks(&program.capture()))
    };
    let (raw, raw_len, [0, 0, _, 0]) = record(&["--no-compress"]) else { panic!("there are compressed blocks") };
    assert!(raw.len() >= 2 * ROUNDS);
    for options in [&[][..], &["--compress-on-exit"]] {
        let (compressed, len, [open, closed, _, n_compressed]) = record(options);
        assert!(compressed == raw, "{options:?}: {} records instead of {}", compressed.len(), raw.len());
        assert_eq!((open, closed), (0, 0));
        assert!(n_compressed > 5, "{n_compressed} blocks are compressed");
        assert!(len < raw_len / 2, "{len} bytes instead of {raw_len}");
    }
}

#[test]
fn a_capture_can_be_read_while_its_blocks_move() {
    let program = Program::new("reading");
    let mut running = program.start(&[], &[&(4 * ROUNDS).to_string(), "0", "waits"]);
    let half = check_prefix(&program.capture());
    assert_eq!(half, 2 * ROUNDS + 1);
    program.create("go");
    let mut n_before = half;
    while n_before < 4 * ROUNDS {
        let n = check_prefix(&program.capture());
        assert!(n >= n_before, "{n} after {n_before}");
        n_before = n;
    }
    running.expect("done");
    program.create("end");
    assert_eq!(running.finish(), Some(7));
    assert_eq!(check_prefix(&program.capture()), 4 * ROUNDS);
}

#[test]
fn a_reader_finds_each_lane_whole_while_windows_are_used_again() {
    let program = Program::new("again");
    let mut running = program.start(&[], &[&(20 * ROUNDS).to_string(), "0", "waits"]);
    program.create("go");
    let mut is_done = false;
    while !is_done {
        is_done = running.has_said_more();
        let file = File::open(program.capture()).unwrap();
        file.lock_shared().unwrap();
        let mut facts = Facts::default();
        let mut n_by_lane = HashMap::new();
        for block in blocks::scan_lanes(&file, &mut facts).unwrap() {
            let n = n_by_lane.entry((block.kind, block.lane)).or_insert(0);
            assert_eq!(block.sequence, *n, "{block:?}");
            *n += 1;
        }
        assert_eq!(facts.damage, []);
        drop(file);
        std::thread::sleep(Duration::from_millis(1));
    }
    running.expect("done");
    program.create("end");
    assert_eq!(running.finish(), Some(7));
    assert_eq!(check_prefix(&program.capture()), 20 * ROUNDS);
}

#[test]
fn nobody_who_is_killed_takes_records_along() {
    let program = Program::new("killed");
    let rounds = 10 * ROUNDS;
    // With each attempt a little later, so that the launcher is met at whatever it does.
    for attempt in 0..12 {
        let mut running = program.start(&[], &[&rounds.to_string(), "0", "waits"]);
        let (launcher, it) = (running.launcher(), running.program());
        let [.., n_compressed] = n_blocks(&program.capture());
        program.create("go");
        wait_until("windows to be used again", || n_blocks(&program.capture())[3] > n_compressed + 1);
        std::thread::sleep(Duration::from_micros(700 * attempt));
        let n = match attempt % 3 {
            0 => {
                kill(launcher, Signal::SIGKILL).unwrap();
                running.expect("done");
                program.create("end");
                assert_eq!(running.finish(), None);
                let n = check_prefix(&program.capture());
                assert_eq!(n, rounds);
                n
            }
            1 => {
                kill(it, Signal::SIGKILL).unwrap();
                assert_eq!(running.finish(), Some(137));
                check_prefix(&program.capture())
            }
            _ => {
                kill(launcher, Signal::SIGSTOP).unwrap();
                kill(it, Signal::SIGKILL).unwrap();
                kill(launcher, Signal::SIGKILL).unwrap();
                running.finish();
                check_prefix(&program.capture())
            }
        };
        assert!(n > rounds / 2, "{n} allocations");
        fs::remove_file(program.folder.join("go")).unwrap();
        let _ = fs::remove_file(program.folder.join("end"));
    }
}

#[test]
fn whoever_does_not_want_to_wait_for_the_compression_has_a_whole_capture() {
    let program = Program::new("impatient");
    let rounds = 4 * ROUNDS;
    for attempt in 0..4 {
        let options = ["--compress-on-exit", "--no-python-allocators"];
        let mut running = program.start(&options, &[&rounds.to_string(), "0"]);
        let launcher = running.launcher();
        running.expect("done");
        std::io::copy(&mut running.stdout, &mut std::io::sink()).unwrap();
        // The program has ended, or is about to. A signal that comes when all is done ends the launcher.
        std::thread::sleep(Duration::from_millis(3 * attempt));
        for _ in 0..3 {
            let _ = kill(launcher, Signal::SIGINT);
        }
        running.finish();
        assert_eq!(check_prefix(&program.capture()), rounds);
    }
}

/// Runs through `n_stops` parts of a program; what `see` sees of the capture after each, when it is compressed.
fn at_stops<T>(program: &Program, n_stops: usize, see: impl Fn(&Path) -> T) -> Vec<T> {
    let step = ROUNDS / 2;
    let mut command = program.command(&[], &[&(n_stops * step).to_string(), "0", &step.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let capture = program.capture();
    let mut seen = Vec::new();
    for line in stdout.lines() {
        if line.unwrap() == "stop" {
            wait_until("the compression to catch up", || n_blocks(&capture)[1] == 0);
            seen.push(see(&capture));
            stdin.write_all(b".").unwrap();
        }
    }
    assert_eq!((child.wait().unwrap().code(), seen.len()), (Some(7), n_stops));
    assert_eq!(check_prefix(&capture), n_stops * step);
    seen
}

#[test]
fn a_long_run_takes_the_space_of_its_compressed_blocks() {
    let program = Program::new("space");
    program.run(&["--no-compress"], &[&(10 * ROUNDS).to_string(), "0"]);
    let raw_len = fs::metadata(program.capture()).unwrap().len();
    let seen = at_stops(&program, 20, |capture| {
        let mut header = [0; HEADER_LEN];
        File::open(capture).unwrap().read_exact(&mut header).unwrap();
        let (header, _) = FileHeader::read_from_prefix(&header).unwrap();
        (header.next_offset, bytes_on_disk(capture))
    });
    let ((early, early_on_disk), (late, late_on_disk)) = (seen[4], seen[19]);
    // The same windows are used again and again; only the compressed blocks become more, and the samples.
    assert!(late - early < raw_len / 4, "{early}, later {late} bytes; {raw_len} uncompressed");
    assert!(late_on_disk - early_on_disk < raw_len / 8, "{early_on_disk}, later {late_on_disk} bytes of {raw_len}");
    let len = fs::metadata(program.capture()).unwrap().len();
    assert!(len < late_on_disk, "{len} bytes in the end, {late_on_disk} before");
}

#[test]
fn under_a_reader_nothing_moves() {
    let program = Program::new("locked");
    let mut running = program.start(&[], &[&ROUNDS.to_string(), "0", "waits"]);
    let capture = program.capture();
    wait_until("the compression to catch up", || n_blocks(&capture)[1] == 0);
    let reader = File::open(&capture).unwrap();
    reader.lock_shared().unwrap();
    let [.., n_compressed] = n_blocks(&capture);
    program.create("go");
    running.expect("done");
    program.create("end");
    assert_eq!(running.finish(), Some(7));
    let [open, closed, _, now] = n_blocks(&capture);
    assert_eq!((open, closed, now), (0, 0, n_compressed));
    assert_eq!(check_prefix(&capture), ROUNDS);
}

#[test]
fn many_short_threads_leave_a_small_file() {
    let program = Program::new("threads");
    program.run(&[], &["1", "200"]);
    let len = fs::metadata(program.capture()).unwrap().len();
    assert!(len < 100 * 1024, "{len} bytes");
    assert_eq!(contents(&program.capture()).iter().filter(|(_, size)| *size == 100_000).count(), 201);
}
