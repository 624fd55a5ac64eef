//! Where the log lies, and what happens when there is no room, no permission, or no mapping for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::expect;
use super::fixture::{self, Fixture, Outcome, decode, describe};
use super::matcher;
use super::support::{self, Scratch};

/// Runs a shell script with the program and the places it needs, in a mount namespace of its own where it says so.
fn run_script(fixture: &Fixture, script: &str) -> Outcome {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .env("MEMTRACE", support::memtrace_path())
        .env("PROGRAM", fixture.program());
    fixture.run(command)
}

/// The log in the folder of a run.
fn capture_of(fixture: &Fixture) -> std::path::PathBuf {
    fixture.folder().join("run/capture.bin")
}

/// A program that does not notice, and a log that holds what came before the recording ended.
fn check_cut_short(fixture: &Fixture, outcome: &Outcome, sentence: &str) {
    assert_eq!(describe(outcome.status), "exit code 0", "{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.stdout, "the program ran to its end\n");
    assert_eq!(outcome.stderr.matches(sentence).count(), 1, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    let log = decode(&capture_of(fixture)).expect("the log can be read");
    assert_eq!(log.damage, [] as [String; 0]);
    assert!(log.events.len() > 1000, "{} events", log.events.len());
    assert!(log.has_end);
}

#[test]
fn a_full_disk_ends_the_recording_and_not_the_program() {
    if !fixture::is_root() {
        return eprintln!("passed over, needs root to mount a small file system");
    }
    // While it runs, compression would keep the capture smaller than the disk.
    for option in ["--no-compress", "--compress-on-exit"] {
        let Some(fixture) = Fixture::build("allocates_much") else { return };
        let outcome = run_script(
            &fixture,
            &format!(
                "mkdir disk && mount -t tmpfs -o size=1m memtrace-test disk &&
                 {{ $MEMTRACE run -q {option} -o disk/capture.bin -- $PROGRAM
                   code=$?; cp disk/capture.bin .; exit $code; }}"
            ),
        );
        check_cut_short(&fixture, &outcome, "there was no space left for the capture");
    }
}

#[test]
fn a_disk_that_other_files_fill_ends_the_recording_and_not_the_program() {
    if !fixture::is_root() {
        return eprintln!("passed over, needs root to mount a small file system");
    }
    let Some(fixture) = Fixture::build("allocates_much") else { return };
    // ext4 promises the space that was allocated, even when somebody else takes all the rest.
    let outcome = run_script(
        &fixture,
        "mkdir disk && truncate -s 8M image && { /sbin/mkfs.ext4 -q -F image && mount -o loop image disk; } >/dev/null 2>&1 ||
         { echo 'no loop device' >&2; exit 77; }
         { $MEMTRACE run -q -o disk/capture.bin -- sh -c 'dd if=/dev/zero of=disk/other bs=4096 2>/dev/null; exec $PROGRAM'
           code=$?; cp disk/capture.bin .; exit $code; }",
    );
    if outcome.status.code() == Some(77) {
        return eprintln!("passed over: {}", outcome.stderr);
    }
    assert_eq!(outcome.stdout, "the program ran to its end\n", "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("there was no space left for the capture").count(), 1, "{}", outcome.stderr);
    let log = decode(&capture_of(&fixture)).expect("the log can be read");
    assert_eq!(log.damage, [] as [String; 0]);
}

#[test]
fn a_file_system_without_mappings_and_holes_holds_a_whole_capture() {
    if !fixture::is_root() {
        return eprintln!("passed over, needs root to mount a file system");
    }
    for option in ["--compress-on-exit", "--no-compress", ""] {
        let Some(fixture) = Fixture::build("allocates_much") else { return };
        let outcome = run_script(
            &fixture,
            &format!(
                "mkdir disk && mount -t ramfs memtrace-test disk &&
                 {{ $MEMTRACE run -q {option} -o disk/capture.bin -- $PROGRAM
                   code=$?; cp disk/capture.bin .; exit $code; }}"
            ),
        );
        assert_eq!(outcome.stderr, "");
        let log = decode(&capture_of(&fixture)).expect("the log can be read");
        assert_eq!(log.damage, [] as [String; 0]);
        matcher::compare(&fixture.expectation, &log).unwrap_or_else(|text| panic!("{text}"));
    }
}

#[test]
fn the_limit_of_file_sizes_holds_for_the_launcher_too() {
    let Some(fixture) = Fixture::build("allocates_much") else { return };
    let capture = fixture.folder().join("capture.bin");
    // In bytes; the launcher inherits it, and must not die of SIGXFSZ at the end.
    let outcome = fixture.run_traced_into(&capture, &["prlimit", "--fsize=1000000"], &[]);
    fs::create_dir_all(fixture.folder().join("run")).expect("the folder is there");
    fs::copy(&capture, capture_of(&fixture)).expect("the capture is there");
    check_cut_short(&fixture, &outcome, "the capture reached the limit of file sizes");
    assert!(fs::metadata(&capture).expect("the capture is there").len() <= 1_000_000);
}

#[test]
fn a_folder_that_cannot_be_written_is_said_before_the_program_starts() {
    if !fixture::is_root() {
        return eprintln!("passed over, needs root to mount a file system read-only");
    }
    let Some(fixture) = Fixture::build("allocates_much") else { return };
    let outcome = run_script(
        &fixture,
        "mkdir disk && mount -t tmpfs -o size=1m,ro memtrace-test disk &&
         $MEMTRACE run -q -o disk/capture.bin -- $PROGRAM",
    );
    assert_eq!(describe(outcome.status), "exit code 125", "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "", "the program must not have run");
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("disk/capture.bin"), "{}", outcome.stderr);
}

#[test]
fn a_path_with_spaces_and_colons_is_as_good_as_any() {
    // The loader takes both for separators in LD_PRELOAD.
    let Some(fixture) = Fixture::build("allocates_much") else { return };
    let scratch = Scratch::new("odd path");
    let folder = scratch.join("a folder: with signs");
    fs::create_dir_all(&folder).expect("the folder can be made");
    let memtrace = folder.join("memtrace");
    for (from, to) in
        [(support::memtrace_path().to_path_buf(), "memtrace"), (support::shim_path(), "libmemtrace_preload.so")]
    {
        fs::copy(&from, folder.join(to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    let capture = folder.join("a capture.bin");
    let mut command = Command::new(&memtrace);
    command.args(["run", "-q", "-o"]).arg(&capture).arg("--").arg(fixture.program());
    let outcome = fixture.run(command);
    assert_eq!(outcome.stderr, "");
    assert_eq!(outcome.stdout, "the program ran to its end\n");
    let log = decode(&capture).expect("the log can be read");
    matcher::compare(&fixture.expectation, &log).unwrap_or_else(|text| panic!("{text}"));
}

#[test]
fn a_log_is_readable_by_its_owner_alone() {
    let Some(fixture) = Fixture::build("malloc_family") else { return };
    let (_, _) = fixture.run_traced(&[]);
    let mode = fs::metadata(fixture.folder().join("capture.bin")).expect("the capture is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_log_of_many_short_threads_stays_small() {
    let Some(fixture) = Fixture::build("short_threads") else { return };
    let _ = fixture.run_traced(&[]);
    let len = fs::metadata(fixture.folder().join("capture.bin")).expect("the capture is there").len();
    // A thread's record, its stack's allocation, and the pair of events that it makes.
    assert!(len < 100_000 * 100, "{len} bytes for 100 000 threads");
}

#[test]
fn a_file_system_without_shared_mappings_is_said_before_the_program_starts() {
    if !fixture::is_root() || !Path::new("/dev/fuse").exists() {
        return eprintln!("passed over, needs root and /dev/fuse");
    }
    let Some(fixture) = Fixture::build("allocates_much") else { return };
    fixture.compile_part("file_system_without_mappings.c", "server");
    let outcome = run_script(
        &fixture,
        "mkdir disk && { ../server disk & } && until mountpoint -q disk; do sleep 0.01; done &&
         { $MEMTRACE run -q -o disk/capture.bin -- $PROGRAM; code=$?
           [ -e disk/capture.bin ] && echo 'a file is left'; umount disk; exit $code; }",
    );
    assert_eq!(describe(outcome.status), "exit code 125", "{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.stdout, "", "neither the program nor a file");
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("disk/capture.bin: its file system has no shared mappings"), "{}", outcome.stderr);
}

#[test]
fn the_program_lives_on_when_the_launcher_is_killed() {
    let Some(fixture) = Fixture::build("allocates_much") else { return };
    fixture.compile_part("waits_for_a_word.c", "waits");
    let outcome = run_script(
        &fixture,
        "$MEMTRACE run -q -o capture.bin -- ../waits & memtrace=$!
         until [ -e started ]; do sleep 0.01; done
         kill -9 $memtrace; touch go
         until [ -e done ]; do sleep 0.01; done",
    );
    assert_eq!(describe(outcome.status), "exit code 0", "{}", outcome.stderr);
    let log = decode(&capture_of(&fixture)).expect("the log can be read");
    assert_eq!(log.damage, [] as [String; 0]);
    let expectation =
        "// expect: a = malloc(1006301)\n// expect: free(a)\n// expect: b = malloc(1006303)\n// expect: free(b)";
    let expectation = expect::parse(expectation).expect("the expectation is well formed");
    matcher::compare(&expectation, &log).unwrap_or_else(|text| panic!("{text}"));
    assert!(!log.has_end, "nobody was there to write an end");
}

#[test]
fn standard_descriptors_that_are_closed_stay_closed() {
    let Some(fixture) = Fixture::build("allocates_much") else { return };
    fixture.compile_part("writes_to_closed.c", "writes");
    let outcome = run_script(
        &fixture,
        "../writes plain <&- >&- 2>&-; $MEMTRACE run -q -o capture.bin -- ../writes traced <&- >&- 2>&-
         cat traced >&2; cmp plain traced",
    );
    assert_eq!(describe(outcome.status), "exit code 0", "{}{}", outcome.stdout, outcome.stderr);
    let log = decode(&capture_of(&fixture)).expect("the log can be read");
    assert_eq!(log.damage, [] as [String; 0]);
}
