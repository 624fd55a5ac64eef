//! What is known about a capture as a whole, for the heads of reports and the warnings on stderr.

use serde::{Deserialize, Serialize};

use super::event::MarkKind;

/// Filled by `capture`; the parts that grow while records are read are complete when reading has ended.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub memtrace_version: String,
    /// The command as the user gave it.
    pub command_line: Vec<String>,
    /// What was executed, interpreter first.
    pub argv: Vec<String>,
    pub cwd: String,
    /// Path of the user's script when one was named.
    pub script: Option<String>,
    /// Whether recording Python objects was asked for.
    pub python_allocators: bool,
    /// What is special about the recording of a part of a program by itself.
    pub tracked: Option<Tracked>,
    /// What became of the events, when others stand for them.
    pub aggregated: Option<Aggregated>,
    /// Whether native stacks are recorded: of `memtrace run`, known when there are some.
    pub has_native_stacks: bool,
    pub pid: u32,
    /// Of a child that was followed: its nearest recorded ancestor.
    pub parent_pid: Option<u32>,
    /// `tsc` or `counter`.
    pub clock: &'static str,
    pub start_unix_nanos: u64,
    pub state: RecordingState,
    /// Why recording ended early, as a sentence.
    pub stop_reason: Option<String>,
    pub lost_events: u64,
    /// Events with a stack, where there are native ones…
    pub n_stacks: u64,
    /// …and how many of these have lost the beginning of the native one.
    pub n_cut_stacks: u64,
    /// Stacks compared by `MEMTRACE_SELF_CHECK`.
    pub n_self_checked: u64,
    pub end: Option<End>,
    pub images: Vec<Image>,
    pub notices: Vec<Notice>,
    /// In the order of time.
    pub marks: Vec<Mark>,
    pub damage: Vec<Damage>,
    /// Damage beyond the first [`MAX_DAMAGE`] places.
    pub n_more_damage: u64,
}

/// Marks that are kept, the first ones.
const MAX_MARKS: usize = 10_000;

/// What a `Tracker` of Python says about its recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// The thread that has begun it, as the kernel numbers it.
    pub os_tid: u32,
    /// So many frames of that thread are outside of the recorded part: they are not shown.
    pub n_hidden_frames: u32,
    /// What handed out Python objects: the place of its name in [`PYTHON_ALLOCATORS`].
    pub python_allocator: u8,
    /// Whether lifetimes of objects are recorded.
    pub object_lifetimes: bool,
    /// Whether native stacks are, should anything be allocated.
    pub native_stacks: bool,
}

/// What is left to say of the events of a log in which fewer stand for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregated {
    /// Allocations, frees and mappings that were recorded.
    pub n_events: u64,
}

/// What CPython calls its allocators of objects.
pub const PYTHON_ALLOCATORS: [&str; 7] =
    ["", "pymalloc", "pymalloc_debug", "malloc", "malloc_debug", "mimalloc", "mimalloc_debug"];

/// Places of damage that are listed one by one.
pub const MAX_DAMAGE: usize = 1000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordingState {
    #[default]
    Created,
    Recording,
    Stopped,
    Ended,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub unix_nanos: u64,
    pub mono_nanos: u64,
    /// The exit code, or `None` when a signal ended the program.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub peak_rss_bytes: u64,
}

/// One program of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub number: u16,
    pub turn: u64,
    pub exe: String,
    pub arguments: Vec<String>,
    pub python: Option<Python>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    /// As `PY_VERSION_HEX`.
    pub version: u32,
    /// Name of the wrapped allocators; empty when Python objects are not recorded.
    pub allocator: String,
    pub has_stacks: bool,
}

impl Python {
    /// `3.11.7`, `3.14.0b2`.
    pub fn version_text(&self) -> String {
        let [major, minor, micro, release] = self.version.to_be_bytes();
        let level = match release >> 4 {
            0xa => "a",
            0xb => "b",
            0xc => "rc",
            _ => return format!("{major}.{minor}.{micro}"),
        };
        format!("{major}.{minor}.{micro}{level}{}", release & 15)
    }
}

/// A moment with a name, or where the recording was paused or resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub turn: u64,
    /// Since the capture began.
    pub nanos: u64,
    pub kind: MarkKind,
    /// Empty where the recording was paused or resumed.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub image: u16,
    pub code: u32,
    pub text: String,
}

/// A part of the file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub offset: u64,
    /// Bytes lost there.
    pub bytes: u64,
    pub what: String,
}

impl Facts {
    pub fn add_damage(&mut self, offset: u64, bytes: u64, what: impl Into<String>) {
        if self.damage.len() < MAX_DAMAGE {
            self.damage.push(Damage { offset, bytes, what: what.into() });
        } else {
            self.n_more_damage += 1;
        }
    }

    /// The process runs a program with these arguments from now on. What the description says of a child is its parent's,
    /// and stands as long as it runs the same.
    pub fn became(&mut self, arguments: Vec<String>) {
        if self.parent_pid.is_some() && !arguments.is_empty() && arguments != self.argv {
            self.command_line = arguments;
        }
    }

    pub fn add_mark(&mut self, mark: Mark) {
        if self.marks.len() < MAX_MARKS {
            self.marks.push(mark);
        }
    }

    /// The marks that have names.
    pub fn named_marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(|mark| mark.kind == MarkKind::Named)
    }

    /// When the recording was paused, in nanoseconds since the capture began; without an end when it never went on.
    pub fn pauses(&self) -> Vec<(u64, Option<u64>)> {
        let mut pauses: Vec<(u64, Option<u64>)> = Vec::new();
        for mark in &self.marks {
            let open = pauses.last_mut().filter(|(_, end)| end.is_none());
            match (mark.kind, open) {
                (MarkKind::Paused, None) => pauses.push((mark.nanos, None)),
                (MarkKind::Resumed, Some((_, end))) => *end = Some(mark.nanos),
                _ => {}
            }
        }
        pauses
    }

    /// The image with this number, added when it is new.
    pub fn image_mut(&mut self, number: u16) -> &mut Image {
        let at = self.images.partition_point(|image| image.number < number);
        if self.images.get(at).is_none_or(|image| image.number != number) {
            self.images.insert(at, Image { number, ..Image::default() });
        }
        &mut self.images[at]
    }

    pub fn image(&self, number: u16) -> Option<&Image> {
        self.images.iter().find(|image| image.number == number)
    }

    /// The first Python of the process: the one that the user means.
    pub fn python(&self) -> Option<&Python> {
        self.images.iter().find_map(|image| image.python.as_ref())
    }

    /// What hands out Python objects, in memray's words: `pymalloc`, `malloc debug`, or `unknown`.
    pub fn python_allocator(&self) -> String {
        let wrapped = self.python().map_or("", |python| python.allocator.as_str());
        let told = self.tracked.and_then(|tracked| PYTHON_ALLOCATORS.get(usize::from(tracked.python_allocator)));
        match if wrapped.is_empty() { told.copied().unwrap_or_default() } else { wrapped } {
            "" | "custom" => "unknown".to_string(),
            name => name.replace('_', " "),
        }
    }

    /// Whether objects of Python are recorded one by one in this image, so that arenas must not be counted as well.
    pub fn records_python_objects(&self, image: u16) -> bool {
        let python = self.image(image).and_then(|image| image.python.as_ref());
        self.python_allocators && python.is_some_and(|python| !python.allocator.is_empty())
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} at byte {} ({} bytes lost)", self.what, self.offset, self.bytes)
    }
}

/// What is missing because the recording was paused, as a sentence for the user; `None` when it never was.
pub fn pause_sentence(facts: &Facts) -> Option<String> {
    /// Pauses that are told one by one.
    const MAX_SHOWN: usize = 3;
    let pauses = facts.pauses();
    let told = pauses.iter().take(MAX_SHOWN).map(|&(start, end)| match end {
        Some(end) => format!("from {} to {}", seconds(start), seconds(end)),
        None => format!("from {} on", seconds(start)),
    });
    let told = told.collect::<Vec<_>>().join(", ");
    let more = match pauses.len().saturating_sub(MAX_SHOWN) {
        0 => String::new(),
        n => format!(" and {n} more times"),
    };
    let sentence = || format!("the recording was paused {told}{more}: what was allocated then is not in the capture");
    (!pauses.is_empty()).then(sentence)
}

fn seconds(nanos: u64) -> String {
    format!("{:.3} s", nanos as f64 / 1e9)
}

/// What a notice of the recorder means, as a sentence for the user.
pub fn notice_sentence(notice: &Notice) -> String {
    use memtrace_format::record::notice::*;
    let text = &notice.text;
    match notice.code {
        UNKNOWN_PYTHON => format!("CPython {text} is not known to this memtrace: no Python stacks were recorded"),
        DEEPBIND => format!("{text} was loaded with RTLD_DEEPBIND: its own allocations were not recorded"),
        EXEC_NOT_FOLLOWED => format!("the program replaced itself by {text}, which can't be recorded"),
        NO_PYTHON_ALLOCATORS => format!("Python objects were not recorded: {text}"),
        SELF_CHECK => format!("the self-check found a wrong stack: {text}"),
        LAYOUT_MISMATCH => {
            format!(
                "the interpreter contradicts what is known about its version ({text}): its stacks were not recorded"
            )
        }
        unknown => format!("notice {unknown}: {text}"),
    }
}

/// The short name of a notice, as `parse` prints it.
pub fn notice_name(code: u32) -> &'static str {
    use memtrace_format::record::notice::*;
    match code {
        UNKNOWN_PYTHON => "unknown_python",
        DEEPBIND => "deepbind",
        EXEC_NOT_FOLLOWED => "exec_not_followed",
        NO_PYTHON_ALLOCATORS => "no_python_allocators",
        SELF_CHECK => "self_check",
        LAYOUT_MISMATCH => "layout_mismatch",
        _ => "unknown",
    }
}
