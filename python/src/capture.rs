//! An open capture, and what can be asked of it.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use memtrace::capture::Capture as Reading;
use memtrace::cli::{Cli, Command};
use memtrace::model::ThreadKey;
use memtrace::model::facts::{Facts, RecordingState};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::os_error;
use crate::names::Names;
use crate::objects::ObjectRecords;
use crate::pass::{self, Pass};
use crate::records::{Question, Records, TemporalRecords};
use crate::rows::{thread_of, tid};
use crate::{statistics, temporal};

/// What everybody who reads from a capture has.
pub struct Shared {
    pub capture: Reading,
    /// Without its model, which is in the names.
    pub pass: Pass,
    pub undone: Arc<HashSet<u64>>,
    pub names: Arc<Names>,
    facts: Facts,
    end_unix_nanos: u64,
    main_thread: i64,
    is_closed: AtomicBool,
}

impl Shared {
    pub fn check_open(&self) -> PyResult<()> {
        match self.is_closed.load(Ordering::Relaxed) {
            true => Err(PyValueError::new_err("Operation on a closed FileReader")),
            false => Ok(()),
        }
    }
}

/// The capture behind a `FileReader`.
#[pyclass(frozen, module = "memtrace._memtrace", skip_from_py_object)]
pub struct Capture {
    shared: Arc<Shared>,
}

#[pymethods]
impl Capture {
    /// Opens a capture and reads it once.
    #[new]
    fn open(py: Python<'_>, path: PathBuf, max_memory_records: usize) -> PyResult<Capture> {
        let max = max_memory_records.min(memtrace::analysis::intervals::MAX_SAMPLED_BUCKETS - 1);
        let mut interrupted = None;
        let read = py.detach(|| {
            let capture = Reading::open(&path)?;
            let mut last_asked = Instant::now();
            let pass = pass::read(&capture, max, || {
                if last_asked.elapsed() > Duration::from_millis(50) {
                    last_asked = Instant::now();
                    interrupted = Python::attach(|py| py.check_signals()).err();
                }
                interrupted.is_none()
            })?;
            anyhow::Ok((capture, pass))
        });
        if let Some(interrupted) = interrupted {
            return Err(interrupted);
        }
        let (capture, mut pass) = read.map_err(os_error)?;
        let model = std::mem::take(&mut pass.model);
        let process = model.process();
        let facts = process.facts.clone();
        let last_sample = facts.start_unix_nanos + process.clock.last_nanos();
        let end_unix_nanos = facts.end.map_or(last_sample, |end| end.unix_nanos);
        // Threads are numbered as they show up, and the first one is nearly always the one that started the program.
        let main_os_tid = facts.tracked.map_or(facts.pid, |tracked| tracked.os_tid);
        let threads = |range: RangeInclusive<u32>| range.map(|number| ThreadKey { image: 0, number });
        let is = |os_tid| move |thread: &ThreadKey| process.threads.get(*thread).os_tid == os_tid;
        // When it has recorded nothing: a number that nobody has.
        let main = threads(1..=64).find(is(main_os_tid)).or_else(|| threads(1..=u32::MAX).find(is(0)));
        let main_thread = main.map_or(1, tid);
        let names = Arc::new(Names::new(model, &capture));
        let undone = Arc::new(std::mem::take(&mut pass.undone));
        let is_closed = AtomicBool::new(false);
        let shared = Shared { capture, pass, undone, names, facts, end_unix_nanos, main_thread, is_closed };
        Ok(Capture { shared: Arc::new(shared) })
    }

    /// From now on nothing more is begun.
    fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
    }

    fn allocation_records(&self) -> Records {
        self.ask(Question::All)
    }

    fn high_watermark_records(&self, merge_threads: bool) -> Records {
        self.ask(Question::Peak { merges_threads: merge_threads })
    }

    fn leaked_records(&self, merge_threads: bool) -> Records {
        self.ask(Question::Leaks { merges_threads: merge_threads })
    }

    fn temporary_records(&self, merge_threads: bool, threshold: u64) -> Records {
        self.ask(Question::Temporary { merges_threads: merge_threads, threshold })
    }

    fn temporal_records(&self, merge_threads: bool) -> TemporalRecords {
        let question = temporal::Question { about: temporal::About::Lifetimes, merges_threads: merge_threads };
        TemporalRecords::lazy(Arc::clone(&self.shared), question)
    }

    /// With the highest heap before each snapshot.
    fn temporal_high_watermark_records(
        &self,
        py: Python<'_>,
        merge_threads: bool,
    ) -> PyResult<(TemporalRecords, Vec<u64>)> {
        self.shared.check_open()?;
        let question = temporal::Question { about: temporal::About::Peaks, merges_threads: merge_threads };
        let shared = Arc::clone(&self.shared);
        let answer =
            py.detach(|| temporal::over_time(&shared.capture, shared.pass.stride, question)).map_err(os_error)?;
        Ok((TemporalRecords::of(shared, question, answer.records), answer.peak_bytes))
    }

    /// Those of objects at some addresses, or of all; `None` when the capture has none.
    fn object_lifetimes(&self, addresses: Option<HashSet<u64>>) -> Option<ObjectRecords> {
        let tracked = self.shared.facts.tracked?;
        tracked.object_lifetimes.then(|| ObjectRecords::new(Arc::clone(&self.shared), addresses))
    }

    /// Time in milliseconds since 1970, resident set and heap in bytes.
    fn memory_snapshots(&self) -> Vec<(u64, u64, u64)> {
        let snapshots = self.shared.pass.snapshots.iter();
        snapshots.map(|it| (it.unix_millis, it.rss_bytes, it.heap_bytes)).collect()
    }

    /// What the package makes its `Metadata` of.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Shared { facts, pass, end_unix_nanos, main_thread, .. } = &*self.shared;
        let dict = PyDict::new(py);
        dict.set_item("start_time", facts.start_unix_nanos / 1_000_000)?;
        dict.set_item("end_time", end_unix_nanos / 1_000_000)?;
        let n_records = facts.aggregated.map_or(pass.n_records, |aggregated| aggregated.n_events);
        dict.set_item("total_allocations", n_records)?;
        dict.set_item("total_frames", self.shared.names.with_model(|model| model.n_frames()))?;
        dict.set_item("peak_memory", pass.peak_bytes)?;
        dict.set_item("command_line", facts.command_line.join(" "))?;
        dict.set_item("pid", facts.pid)?;
        dict.set_item("main_thread_id", main_thread)?;
        dict.set_item("python_allocator", facts.python_allocator())?;
        dict.set_item("has_native_traces", facts.has_native_stacks)?;
        dict.set_item("trace_python_allocators", facts.python_allocators)?;
        dict.set_item("file_format", u8::from(facts.aggregated.is_some()))?;
        Ok(dict)
    }

    /// What is missing from the capture, a sentence each.
    fn warnings(&self) -> Vec<String> {
        memtrace::commands::load::warnings_of_one(&self.shared.facts)
    }

    /// Whether the recording of it has come to its end.
    #[getter]
    fn is_complete(&self) -> bool {
        self.shared.facts.end.is_some() || self.shared.facts.state == RecordingState::Ended
    }

    /// The name that a thread had last.
    fn thread_name(&self, tid: i64) -> String {
        thread_of(tid).map_or(String::new(), |_| self.shared.names.thread(tid))
    }

    fn statistics<'py>(&self, py: Python<'py>, num_largest: usize) -> PyResult<Bound<'py, PyDict>> {
        statistics::compute(py, &self.shared.capture, num_largest)
    }
}

impl Capture {
    fn ask(&self, question: Question) -> Records {
        Records::new(Arc::clone(&self.shared), question)
    }
}

/// Prints every event of a capture.
#[pyfunction]
pub fn dump(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    let words = ["memtrace".into(), "parse".into(), "--".into(), path.into_os_string()];
    let cli = Cli::try_parse_from(words).map_err(|error| PyOSError::new_err(error.to_string()))?;
    let Command::Parse(args) = cli.command else { return Ok(()) };
    py.detach(|| memtrace::commands::parse::run(&args)).map_err(os_error)?;
    Ok(())
}
