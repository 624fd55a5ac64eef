//! The command line: clap's structs and their help texts, and nothing that acts. Commands take these structs as they
//! are.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use memtrace_format::options::{NativeStacks, RecordOptions};

use crate::launch::log::Compression;

/// Exit code of `run` when memtrace itself fails, as `env` and `timeout` have it.
pub const RUN_FAILURE: u8 = 125;
/// Exit code of `attach` and `detach` when they can't.
pub const ATTACH_FAILURE: u8 = 1;
/// Exit code of the other commands for a wrong command line or a failure.
pub const FAILURE: u8 = 2;

/// Records every memory allocation of a Python or native program, and shows what made memory grow.
#[derive(Debug, Parser)]
#[command(name = "memtrace", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  memtrace run app.py --port 8000          record a script
  memtrace run -m pytest tests             record a module
  memtrace flamegraph memtrace-app.4711.bin
                                           what the memory at its peak was for
  memtrace summary memtrace-app.4711.bin   the same as a table";

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Ctl(CtlArgs),
    Live(LiveArgs),
    Attach(AttachArgs),
    Detach(DetachArgs),
    Flamegraph(FlamegraphArgs),
    Summary(SummaryArgs),
    Table(TableArgs),
    Tree(TreeArgs),
    Stats(StatsArgs),
    Diff(DiffArgs),
    Transform(TransformArgs),
    Parse(ParseArgs),
    Bundle(BundleArgs),
}

impl Command {
    /// The exit code when the command fails.
    pub fn failure(&self) -> ExitCode {
        match self {
            Command::Run(_) => RUN_FAILURE.into(),
            Command::Attach(_) | Command::Detach(_) => ATTACH_FAILURE.into(),
            _ => FAILURE.into(),
        }
    }
}

/// Run a program and record its allocations
///
/// The program is a Python script (a .py file, a directory or zip file with a __main__.py, or any readable text file
/// that is not executable), a module, a piece of code, or an executable file or command. It runs as if started without
/// memtrace, and its exit code is passed on: 125 says that memtrace itself failed, 126 that the program is not
/// executable, 127 that there is no such program.
///
/// Options of memtrace stand before the script; everything behind it belongs to the program.
#[derive(Args, Debug)]
#[command(after_help = RUN_EXAMPLES, override_usage = RUN_USAGE)]
pub struct RunArgs {
    /// Write the capture to FILE; %p stands for the program's process id [default: memtrace-<name>.<pid>.bin]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite existing files
    #[arg(short, long)]
    pub force: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// The interpreter for scripts, modules and code [default: $VIRTUAL_ENV/bin/python, else python3 on PATH]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    #[command(flatten)]
    pub recording: RecordingArgs,
    /// Record children as well, and theirs, however they are started: each into a capture of its own, OUTPUT.PID
    #[arg(long)]
    pub follow_fork: bool,
    /// Show what each function holds while the program runs; q leaves the view, and the program goes on
    #[arg(long, conflicts_with = "live_remote")]
    pub live: bool,
    /// Start the program when `memtrace live` watches it, in another terminal
    #[arg(long)]
    pub live_remote: bool,
    /// The port for that [default: a free one]
    #[arg(short = 'p', long, value_name = "N", requires = "live_remote", value_parser = clap::value_parser!(u16).range(1..))]
    pub live_port: Option<u16>,
    /// The socket of the view that is in front
    #[arg(long, value_name = "SOCKET", hide = true)]
    pub behind_view: Option<PathBuf>,
    /// Write a flame graph of the peak to FILE when the program has ended
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Run a module as a script, like python -m; the rest are its arguments
    #[arg(short, value_name = "MODULE", num_args = 1.., allow_hyphen_values = true, conflicts_with = "code")]
    pub module: Vec<OsString>,
    /// Run a piece of code, like python -c; the rest are its arguments
    #[arg(short, value_name = "CODE", num_args = 1.., allow_hyphen_values = true)]
    pub code: Vec<OsString>,
    /// Script or program, and its arguments
    #[arg(
        value_name = "PROGRAM",
        trailing_var_arg = true,
        conflicts_with_all = ["module", "code"],
        required_unless_present_any = ["module", "code"]
    )]
    pub target: Vec<OsString>,
}

const RUN_USAGE: &str = "\
memtrace run [OPTIONS] SCRIPT [ARGS]...
       memtrace run [OPTIONS] -m MODULE [ARGS]...
       memtrace run [OPTIONS] -c CODE [ARGS]...
       memtrace run [OPTIONS] [--] PROGRAM [ARGS]...";

const RUN_EXAMPLES: &str = "\
Examples:
  memtrace run app.py --port 8000
  memtrace run -o app.%p.bin -f -m http.server 8000
  memtrace run -c 'import json; json.loads(\"[1]\")'
  memtrace run --report app.html app.py    flame graph at the end
  memtrace run pytest -x tests             a command that is found on PATH
  memtrace run --no-python-allocators -- ./server --threads 8";

/// Record a process that is running already
///
/// Nothing has to be installed in the process, and no debugger. It is held up for a few milliseconds while the recorder
/// is loaded into it, and recorded from then on: what it allocated before is unknown, but what allocates from now on has
/// its whole stack. It runs on when the recording ends: after --duration, on Ctrl-C, or by memtrace detach.
#[derive(Args, Debug)]
#[command(after_help = ATTACH_EXAMPLES)]
pub struct AttachArgs {
    /// The process
    pub pid: i32,
    /// Write the capture to FILE; %p stands for the process id. Without it, on a terminal, watch the recording while it
    /// goes on [default: memtrace-<name>.<pid>.bin]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite existing files
    #[arg(short, long)]
    pub force: bool,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say for how long the process was held up
    #[arg(short, long)]
    pub verbose: bool,
    /// Record for so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// How to get into the process
    #[arg(long, value_enum, default_value = "auto")]
    pub method: AttachMethod,
    #[command(flatten)]
    pub recording: RecordingArgs,
    /// Record the children as well that it starts meanwhile, and theirs: each into a capture of its own, OUTPUT.PID
    #[arg(long)]
    pub follow_fork: bool,
}

/// The ways into a running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttachMethod {
    /// Remote execution when it works within a quarter of a second, else ptrace
    Auto,
    /// The interpreter of Python 3.14 or later runs a script for us; nothing is stopped
    RemoteExec,
    /// A thread is borrowed for a few milliseconds
    Ptrace,
}

const ATTACH_EXAMPLES: &str = "\
Examples:
  memtrace attach 4711                     until Ctrl-C
  memtrace attach --duration 60 -o server.bin $(pgrep -o gunicorn)
  memtrace flamegraph --leaks server.bin   what was allocated meanwhile and is still there";

/// End what attach has started in a process
///
/// The recorder stays in the process and does nothing; the process can be attached to again.
#[derive(Args, Debug)]
pub struct DetachArgs {
    /// The process
    pub pid: i32,
}

/// What is recorded of each event, and how it is kept.
#[derive(Args, Clone, Debug)]
pub struct RecordingArgs {
    /// Record every Python object, not only what reaches malloc [default]
    #[arg(long, overrides_with = "no_python_allocators")]
    pub python_allocators: bool,
    /// Record only what reaches malloc and mmap: faster, but small objects show up as arenas
    #[arg(long, overrides_with = "python_allocators")]
    pub no_python_allocators: bool,
    /// Record the native stack of every event as well: C, C++, Rust and Cython [default: where there is no Python]
    #[arg(long, overrides_with = "no_native")]
    pub native: bool,
    /// Never record native stacks
    #[arg(long, overrides_with = "native")]
    pub no_native: bool,
    /// Compress the capture when the program has ended, and not while it runs
    #[arg(long, overrides_with = "no_compress")]
    pub compress_on_exit: bool,
    /// Leave the capture uncompressed
    #[arg(long, overrides_with = "compress_on_exit")]
    pub no_compress: bool,
    /// When the recording has ended, keep what was there at the peak and what was never freed, and no single event: the
    /// capture becomes small
    #[arg(long)]
    pub aggregate: bool,
}

impl RecordingArgs {
    /// When the capture is compressed.
    pub fn compression(&self) -> Compression {
        match (self.compress_on_exit, self.no_compress) {
            (false, false) => Compression::WhileRunning,
            (true, _) => Compression::AtEnd,
            (false, true) => Compression::Never,
        }
    }

    /// What the recorder is asked for.
    pub fn options(&self) -> RecordOptions {
        let native_stacks = match (self.native, self.no_native) {
            (false, false) => NativeStacks::WithoutPython,
            (true, _) => NativeStacks::Always,
            (false, true) => NativeStacks::Never,
        };
        RecordOptions { python_allocators: !self.no_python_allocators, native_stacks, follow_fork: false }
    }
}

/// A number of seconds above 0.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| "a number of seconds".into())
}

/// Ask about a recording that goes on, pause it, resume it, or mark a moment in it
///
/// Only the user who records can do that.
#[derive(Args, Debug)]
#[command(after_help = CTL_EXAMPLES)]
pub struct CtlArgs {
    /// The recorded process
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: u32,
    #[command(subcommand)]
    pub action: CtlAction,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum CtlAction {
    /// Tell what is recorded, since when, and what it has come to
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Leave out what is allocated from now on; what is given back is recorded as before
    Pause,
    /// Record allocations again
    Resume,
    /// Give this moment a name, which reports show and take as a bound (--from NAME, --to NAME)
    Mark { name: String },
    /// Wait until what was recorded so far is on the disk
    Flush,
}

const CTL_EXAMPLES: &str = "\
Examples:
  memtrace ctl 4711 status
  memtrace ctl 4711 mark 'after the import'
  memtrace ctl $(pgrep -f app.py) pause";

/// Watch a recording that goes on: what each function holds now, and what it has kept since a mark
///
/// The view reads the capture as it grows and may come and go: the recorded program does not notice.
#[derive(Args, Debug)]
pub struct LiveArgs {
    /// The recorded process, or the port of one that waits for a viewer
    #[arg(value_name = "PID|PORT", value_parser = clap::value_parser!(u32).range(1..), required_unless_present = "send")]
    pub number: Option<u32>,
    /// The token of a port that is forwarded from elsewhere, copied from there: PORT.token in $XDG_RUNTIME_DIR/memtrace or
    /// in /tmp/memtrace-UID
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Instead of showing it, send what is to be seen of a log to a viewer elsewhere
    #[arg(long, value_name = "LOG", hide = true)]
    pub send: Option<PathBuf>,
}

/// Which allocations a report shows.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// What was never given back, instead of what was there at the peak
    #[arg(long, conflicts_with_all = ["temporary_allocations", "temporary_allocation_threshold"])]
    pub leaks: bool,
    #[command(flatten)]
    pub temporary: TemporaryArgs,
    /// Count every mmap at its full length, files and reserved address space included, as memray does
    #[arg(long)]
    pub all_mappings: bool,
}

/// Where names and lines of native code come from, beside the files that ran and what is packed beside the capture.
#[derive(Args, Clone, Debug, Default)]
pub struct SymbolArgs {
    /// Look for separate debug information in DIR, before /usr/lib/debug
    #[arg(long = "debug-folder", value_name = "DIR")]
    pub debug_folders: Vec<PathBuf>,
    /// Ask the servers in DEBUGINFOD_URLS for debug information that is not on this machine; never done unasked
    #[arg(long)]
    pub debuginfod: bool,
}

/// Whether native frames are shown, and how.
#[derive(Args, Clone, Debug, Default)]
pub struct NativeArgs {
    /// Show Python frames alone, as if native stacks had not been recorded
    #[arg(long)]
    pub no_native: bool,
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

/// Asks for temporary allocations.
#[derive(Args, Clone, Copy, Debug)]
pub struct TemporaryArgs {
    /// What was given back with at most one other allocation of its thread in between
    #[arg(long)]
    temporary_allocations: bool,
    /// What was given back with at most N other allocations of its thread in between
    #[arg(long, value_name = "N", conflicts_with = "temporary_allocations")]
    temporary_allocation_threshold: Option<u64>,
}

impl TemporaryArgs {
    /// At most so many others in between; `None` when something else is asked for.
    pub fn threshold(self) -> Option<u64> {
        self.temporary_allocation_threshold.or(self.temporary_allocations.then_some(1))
    }
}

/// Draw a flame graph as one HTML or SVG file
///
/// The page has peak, leaks and everything ever allocated side by side, for any range of time, any thread and any
/// process; options only say what is open first. With temporary allocations it is about these alone.
#[derive(Args, Debug)]
pub struct FlamegraphArgs {
    #[command(flatten)]
    pub page: PageArgs,
    /// Open with a range of time to choose: its own peak, or with --leaks what was allocated in it and not freed
    #[arg(long)]
    pub temporal: bool,
    #[command(flatten)]
    pub range: RangeArgs,
    /// Begin with what allocated, and show above it who called
    #[arg(long)]
    pub inverted: bool,
    /// A page, or a picture of one question that inferno draws
    #[arg(long, value_enum, default_value_t = GraphFormat::Html)]
    pub format: GraphFormat,
    /// With --format svg: frames as wide as their allocations, and not as their bytes
    #[arg(long)]
    pub counts: bool,
}

/// What the commands that write a page have in common.
#[derive(Args, Clone, Debug)]
pub struct PageArgs {
    /// The captures; several are read as one, each process at its own peak
    #[arg(value_name = "CAPTURE", required = true)]
    pub captures: Vec<PathBuf>,
    /// Write to FILE [default: memtrace-<command>-<name>.html beside the capture]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub native: NativeArgs,
    /// Show each thread by itself
    #[arg(long)]
    pub split_threads: bool,
    /// Draw the time line with at most N points [default: up to 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_memory_records: Option<u32>,
    /// Fold what has less than PERCENT of the bytes and of the allocations [default: what the page has no room for]
    #[arg(long, value_name = "PERCENT", default_value = "0", hide_default_value = true, value_parser = percent)]
    pub min_share: f64,
    /// Which files are confidential, so that no line of them stands in the page: all, none, or by default those that
    /// are neither Python files nor executable nor readable by anybody
    #[arg(long, value_enum, default_value_t = ConfidentialFiles::Default, value_name = "all|none|default")]
    pub confidential_files: ConfidentialFiles,
    /// Changes nothing: a page never needs the web
    #[arg(long)]
    pub no_web: bool,
    /// A JSON object with the text of code that is in no file: cells of a notebook, by the names that frames have
    #[arg(long, value_name = "FILE", hide = true)]
    pub typed_sources: Option<PathBuf>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|number| (0.0..=100.0).contains(number)).ok_or_else(|| "not a number from 0 to 100".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    Html,
    Svg,
}

/// Which files are confidential, so that their source lines stay out of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConfidentialFiles {
    All,
    None,
    Default,
}

/// Show where the memory was allocated as a table
#[derive(Args, Debug)]
pub struct SummaryArgs {
    /// The captures; several are read as one, each process at its own peak
    #[arg(value_name = "CAPTURE", required = true)]
    pub captures: Vec<PathBuf>,
    /// Sort by column N: 1 or 2 total memory, 3 or 4 own memory, 5 allocation count
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub sort_column: u8,
    /// Show at most N rows [default: as many as fit on the screen]
    #[arg(short = 'r', long, value_name = "N")]
    pub max_rows: Option<usize>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub native: NativeArgs,
}

/// List where memory was allocated, by place in the code and allocator
#[derive(Args, Debug)]
pub struct TableArgs {
    #[command(flatten)]
    pub page: PageArgs,
    /// Print the table instead
    #[arg(long, group = "printed", conflicts_with = "json")]
    pub text: bool,
    /// Print it as JSON
    #[arg(long, group = "printed")]
    pub json: bool,
    /// Print at most N rows, the largest ones [default: all]
    #[arg(short = 'r', long, value_name = "N", requires = "printed")]
    pub max_rows: Option<usize>,
}

/// Walk through the call tree of the largest allocations
///
/// On a terminal the tree is shown to walk through with the arrow keys; ? lists the keys. When the output goes elsewhere
/// it is printed.
#[derive(Args, Debug)]
pub struct TreeArgs {
    /// The captures; several are read as one, each process at its own peak
    #[arg(value_name = "CAPTURE", required = true)]
    pub captures: Vec<PathBuf>,
    /// Show the N largest allocating stacks
    #[arg(short, long, value_name = "N", default_value_t = 200)]
    pub biggest_allocs: usize,
    /// Print the tree, on a terminal too
    #[arg(long, conflicts_with = "json")]
    pub text: bool,
    /// Print one JSON document: totals, and the nodes as a list in which each names its parent
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub native: NativeArgs,
}

/// Show totals, a histogram of sizes and the largest allocators
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// The captures; several are read as one, each process at its own peak
    #[arg(value_name = "CAPTURE", required = true)]
    pub captures: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// How many lines the lists of largest allocators have
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub num_largest: u64,
    /// Write to FILE instead of the screen
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(short, long)]
    pub force: bool,
    /// Only what was never given back, instead of everything that was allocated
    #[arg(long, conflicts_with_all = ["temporary_allocations", "temporary_allocation_threshold"])]
    pub leaks: bool,
    #[command(flatten)]
    pub temporary: TemporaryArgs,
    /// Count every mmap at its full length, files and reserved address space included, as memray does
    #[arg(long)]
    pub all_mappings: bool,
    #[command(flatten)]
    pub native: NativeArgs,
}

/// Show what changed between two captures
///
/// Stacks are compared by their functions and files. Their lines are left out unless --lines is given, because lines
/// move when code is edited.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The capture before
    pub base: PathBuf,
    /// The capture after
    pub new: PathBuf,
    /// What was never given back, instead of what was there at the peak
    #[arg(long, conflicts_with = "churn")]
    pub leaks: bool,
    /// Everything that was allocated, instead of what was there at the peak
    #[arg(long)]
    pub churn: bool,
    /// Scale the base to the total of the new one, so that shares are compared
    #[arg(long, alias = "normalize")]
    pub normalise: bool,
    /// Tell the lines of a function apart
    #[arg(long)]
    pub lines: bool,
    /// As text, as JSON, or as a flame graph that is red where there is more and blue where there is less
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    pub format: DiffFormat,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Show at most N functions and N stacks [default: 10 in a text, all in JSON]
    #[arg(short = 'r', long, value_name = "N")]
    pub max_rows: Option<usize>,
    /// Exit with code 1 when there are more than BYTES more in total
    #[arg(long, value_name = "BYTES")]
    pub fail_above: Option<u64>,
    /// Write to FILE [default: the screen, or for a flame graph memtrace-diff-<name>.svg or .html beside the new capture]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(short, long)]
    pub force: bool,
    /// Count every mmap at its full length, files and reserved address space included, as memray does
    #[arg(long)]
    pub all_mappings: bool,
    #[command(flatten)]
    pub native: NativeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    Text,
    Json,
    Svg,
    /// The page of a flame graph, which shows what is gone as well
    Html,
}

/// Of two captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    Peak,
    Leaks,
    Churn,
}

impl Compared {
    pub fn name(self) -> &'static str {
        match self {
            Compared::Peak => "peak",
            Compared::Leaks => "leaks",
            Compared::Churn => "churn",
        }
    }
}

impl DiffArgs {
    pub fn format(&self) -> DiffFormat {
        if self.json { DiffFormat::Json } else { self.format }
    }

    /// What is compared.
    pub fn compared(&self) -> Compared {
        match (self.leaks, self.churn) {
            (true, _) => Compared::Leaks,
            (_, true) => Compared::Churn,
            _ => Compared::Peak,
        }
    }
}

/// Write a capture in the format of another tool
///
/// gprof2dot and csv are those of memray. speedscope has the peak, the leaks and everything that was allocated as three
/// profiles. pprof has Go's four sample types of a heap; what is in use is what was alive at the peak, or at the end with
/// --leaks. heaptrack has every event, whatever is selected, and is compressed as the end of FILE says (.zst, .gz).
#[derive(Args, Debug)]
pub struct TransformArgs {
    /// The format
    #[arg(value_enum)]
    pub format: TransformFormat,
    /// The captures; several are read as one, each process at its own peak
    #[arg(value_name = "CAPTURE", required = true)]
    pub captures: Vec<PathBuf>,
    /// Write to FILE [default: memtrace-<format>-<name> and the format's suffix, beside the capture]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub native: NativeArgs,
}

/// Formats of other tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransformFormat {
    Gprof2dot,
    Csv,
    Speedscope,
    Folded,
    Pprof,
    Heaptrack,
}

impl TransformFormat {
    pub fn name(self) -> &'static str {
        match self {
            TransformFormat::Gprof2dot => "gprof2dot",
            TransformFormat::Csv => "csv",
            TransformFormat::Speedscope => "speedscope",
            TransformFormat::Folded => "folded",
            TransformFormat::Pprof => "pprof",
            TransformFormat::Heaptrack => "heaptrack",
        }
    }

    /// The end of a file's name.
    pub fn suffix(self) -> &'static str {
        match self {
            TransformFormat::Gprof2dot => ".json",
            TransformFormat::Csv => ".csv",
            TransformFormat::Speedscope => ".speedscope.json",
            TransformFormat::Folded => ".folded",
            TransformFormat::Pprof => ".pb.gz",
            TransformFormat::Heaptrack => ".zst",
        }
    }

    /// What to type next, with `FILE` for the file's name.
    pub fn next_command(self) -> Option<&'static str> {
        match self {
            TransformFormat::Gprof2dot => Some("gprof2dot -f json FILE | dot -Tsvg -o graph.svg"),
            TransformFormat::Csv => None,
            TransformFormat::Speedscope => Some("speedscope FILE, or https://www.speedscope.app"),
            TransformFormat::Folded => Some("inferno-flamegraph --countname bytes FILE > graph.svg"),
            TransformFormat::Pprof => Some("go tool pprof -http=: FILE"),
            TransformFormat::Heaptrack => Some("heaptrack_gui FILE, or heaptrack_print FILE"),
        }
    }
}

/// Print every record of a capture
#[derive(Args, Debug)]
pub struct ParseArgs {
    /// The capture
    pub capture: PathBuf,
    /// One JSON object per line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub native: NativeArgs,
    /// Leave out allocations and mappings of fewer bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub min_size: u64,
    #[command(flatten)]
    pub range: RangeArgs,
    /// Print each stack once, as a line with a number that later lines refer to
    #[arg(long, requires = "json")]
    pub stacks_once: bool,
}

/// A part of the time.
#[derive(Args, Clone, Debug, Default)]
pub struct RangeArgs {
    /// Leave out what happened before: seconds after the start of the capture, or the name of a mark
    #[arg(long, value_name = "SECONDS|MARK")]
    pub from: Option<Moment>,
    /// Leave out what happened then and later
    #[arg(long, value_name = "SECONDS|MARK")]
    pub to: Option<Moment>,
}

impl RangeArgs {
    /// Whether it leaves out nothing.
    pub fn is_everything(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }
}

/// A moment of a capture.
#[derive(Clone, Debug, PartialEq)]
pub enum Moment {
    /// Seconds since it began.
    Seconds(f64),
    /// When somebody marked it with this name.
    Mark(String),
}

impl FromStr for Moment {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Moment, Infallible> {
        Ok(text.parse().map_or_else(|_| Moment::Mark(text.to_owned()), Moment::Seconds))
    }
}

/// Pack the names and lines of a capture's native code, for reports on another machine
///
/// They are written to CAPTURE.symbols, which every report of the capture finds by itself as long as it lies beside it.
/// Pack them where the program ran, while its files are as they were.
#[derive(Args, Debug)]
pub struct BundleArgs {
    /// The captures, each of which gets a file of its own
    #[arg(value_name = "CAPTURE", required = true)]
    pub captures: Vec<PathBuf>,
    /// Write to FILE; reports look for it under the name of the capture with .symbols behind it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite existing files
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub symbols: SymbolArgs,
}

/// The arguments as clap is to see them: `-mMODULE` and `-cCODE` become two arguments, so that what follows belongs
/// to the program and not to us, as with `python -mMODULE`.
pub fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = given.collect();
    if given.get(1).is_none_or(|command| command != "run") {
        return given;
    }
    let mut index = 2;
    while let Some(arg) = given.get(index) {
        let bytes = arg.as_encoded_bytes();
        if bytes.len() > 2 && (bytes.starts_with(b"-m") || bytes.starts_with(b"-c")) {
            let (option, value) = split_after(arg, 2);
            given.splice(index..=index, [option, value]);
            break;
        }
        if bytes == b"--" || !bytes.starts_with(b"-") {
            break;
        }
        index += if takes_next_argument(arg) { 2 } else { 1 };
    }
    given
}

/// The exit code for a command line that can't be understood.
pub fn failure(given: impl Iterator<Item = OsString>) -> ExitCode {
    let is_run = given.into_iter().nth(1).is_some_and(|command| command == "run");
    if is_run { RUN_FAILURE.into() } else { FAILURE.into() }
}

fn split_after(arg: &OsStr, len: usize) -> (OsString, OsString) {
    use std::os::unix::ffi::OsStrExt;
    let (head, tail) = arg.as_bytes().split_at(len);
    (OsStr::from_bytes(head).to_owned(), OsStr::from_bytes(tail).to_owned())
}

/// Whether an option of `run` has its value in the next argument.
fn takes_next_argument(option: &OsStr) -> bool {
    let Some(option) = option.to_str() else { return false };
    let command = Cli::command();
    let Some(run) = command.find_subcommand("run") else { return false };
    run.get_arguments().filter(|arg| arg.get_action().takes_values()).any(|arg| {
        let is_long = arg.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long));
        // A cluster of short options (`-qo FILE`) ends in the one that takes a value.
        let is_short = !option.starts_with("--") && arg.get_short().is_some_and(|short| option.ends_with(short));
        is_long || is_short
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_args(line: &str) -> RunArgs {
        let given = ["memtrace", "run"].into_iter().chain(line.split(' ')).map(OsString::from);
        match Cli::try_parse_from(arguments(given)).unwrap().command {
            Command::Run(args) => args,
            other => panic!("not a run: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stop_at_the_first_positional() {
        let args = run_args("-o out.bin -f app.py -q --force -- -m x");
        assert!(args.force && !args.quiet);
        assert_eq!(args.target, ["app.py", "-q", "--force", "--", "-m", "x"]);
    }

    #[test]
    fn what_follows_a_module_or_code_belongs_to_it() {
        for line in ["-q -m mod -f --help -- x", "-qm mod -f --help -- x", "-q -mmod -f --help -- x"] {
            let args = run_args(line);
            assert!(args.quiet && !args.force, "{line}");
            assert_eq!(args.module, ["mod", "-f", "--help", "--", "x"], "{line}");
        }
        assert_eq!(run_args("-o out.bin -cpass -q").code, ["pass", "-q"]);
        assert_eq!(run_args("-qo out.bin -cpass -q").code, ["pass", "-q"]);
    }

    #[test]
    fn a_double_dash_starts_the_program() {
        assert_eq!(run_args("-q -- -program -x").target, ["-program", "-x"]);
    }

    #[test]
    fn the_last_of_two_contrary_flags_wins() {
        assert!(run_args("x").recording.options().python_allocators);
        assert!(!run_args("--python-allocators --no-python-allocators x").recording.options().python_allocators);
        assert!(run_args("--no-python-allocators --python-allocators x").recording.options().python_allocators);
        assert_eq!(run_args("x").recording.options().native_stacks, NativeStacks::WithoutPython);
        assert_eq!(run_args("--native --no-native x").recording.options().native_stacks, NativeStacks::Never);
        assert_eq!(run_args("--no-native --native x").recording.options().native_stacks, NativeStacks::Always);
        assert_eq!(run_args("x").recording.compression(), Compression::WhileRunning);
        assert_eq!(run_args("--compress-on-exit --no-compress x").recording.compression(), Compression::Never);
        assert_eq!(run_args("--no-compress --compress-on-exit x").recording.compression(), Compression::AtEnd);
    }
}
