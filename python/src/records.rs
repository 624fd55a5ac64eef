//! Answers of a capture: iterators over records that begin to work when the first one is asked for, and tables of
//! columns for whoever wants all of them at once.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::ahead::Ahead;
use crate::arrow;
use crate::capture::Shared;
use crate::error::os_error;
use crate::lock::lock;
use crate::names::Names;
use crate::record::{AllocationRecord, TemporalAllocationRecord};
use crate::rows::{self, Rows};
use crate::temporal::{self, OverTime};

/// Which records.
#[derive(Clone, Copy)]
pub enum Question {
    All,
    Peak { merges_threads: bool },
    Leaks { merges_threads: bool },
    Temporary { merges_threads: bool, threshold: u64 },
}

/// An iterator over `AllocationRecord`s, and a table of what they would say.
#[pyclass(frozen, module = "memtrace", skip_from_py_object)]
pub struct Records {
    shared: Arc<Shared>,
    question: Question,
    /// `None` before it has begun.
    state: Mutex<Option<State>>,
}

struct State {
    source: Source,
    rows: Rows,
    next: usize,
}

impl Records {
    pub fn new(shared: Arc<Shared>, question: Question) -> Records {
        Records { shared, question, state: Mutex::new(None) }
    }

    fn begin(&self) -> PyResult<Source> {
        self.shared.check_open()?;
        let pass = &self.shared.pass;
        Ok(match self.question {
            Question::All => Source::stream(&self.shared),
            Question::Peak { merges_threads } => Source::Whole(Some(Rows::of_sites(&pass.peak, merges_threads))),
            Question::Leaks { merges_threads } => Source::Whole(Some(Rows::of_sites(&pass.leaks, merges_threads))),
            Question::Temporary { merges_threads, threshold } => {
                let table = temporal::temporary(&self.shared.capture, threshold).map_err(os_error)?;
                Source::Whole(Some(Rows::of_sites(&table, merges_threads)))
            }
        })
    }

    fn next_row(&self, state: &mut Option<State>) -> PyResult<Option<rows::Row>> {
        let state = match state {
            Some(state) => state,
            None => state.insert(State { source: self.begin()?, rows: Rows::default(), next: 0 }),
        };
        loop {
            if let Some(row) = state.rows.get(state.next) {
                state.next += 1;
                return Ok(Some(row));
            }
            match state.source.next().map_err(os_error)? {
                Some(rows) => (state.rows, state.next) = (rows, 0),
                None => {
                    (state.rows, state.next) = (Rows::default(), 0);
                    return Ok(None);
                }
            }
        }
    }
}

#[pymethods]
impl Records {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<AllocationRecord>> {
        let row = py.detach(|| {
            let mut state = lock(&self.state);
            self.next_row(&mut state)
        })?;
        Ok(row.map(|row| AllocationRecord::new(row, &self.shared.names)))
    }

    /// Hands all records over as an Arrow stream. Iterating is not disturbed by it.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // The protocol leaves it to us whether we can give what is asked for; there is one way.
        let _ = requested_schema;
        let source = py.detach(|| self.begin())?;
        arrow::stream(py, source, Arc::clone(&self.shared.names))
    }
}

/// Where rows come from.
pub enum Source {
    /// All at once.
    Whole(Option<Rows>),
    Stream(Ahead<Rows>),
}

impl Source {
    fn stream(shared: &Arc<Shared>) -> Source {
        let shared = Arc::clone(shared);
        Source::Stream(Ahead::new(move |send| rows::of_events(&shared.capture, &shared.undone, send)))
    }

    /// The next rows; `None` behind the last.
    pub fn next(&mut self) -> Result<Option<Rows>> {
        match self {
            Source::Whole(rows) => Ok(rows.take()),
            Source::Stream(stream) => stream.next(),
        }
    }
}

/// An iterator over `TemporalAllocationRecord`s.
#[pyclass(frozen, module = "memtrace", skip_from_py_object)]
pub struct TemporalRecords {
    shared: Arc<Shared>,
    question: temporal::Question,
    rest: Mutex<Option<std::vec::IntoIter<OverTime>>>,
}

impl TemporalRecords {
    pub fn lazy(shared: Arc<Shared>, question: temporal::Question) -> TemporalRecords {
        TemporalRecords { shared, question, rest: Mutex::new(None) }
    }

    pub fn of(shared: Arc<Shared>, question: temporal::Question, answer: Vec<OverTime>) -> TemporalRecords {
        TemporalRecords { shared, question, rest: Mutex::new(Some(answer.into_iter())) }
    }
}

#[pymethods]
impl TemporalRecords {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<TemporalAllocationRecord>> {
        let next = py.detach(|| -> PyResult<_> {
            let mut rest = lock(&self.rest);
            if rest.is_none() {
                self.shared.check_open()?;
                let Shared { capture, pass, .. } = &*self.shared;
                let answer = temporal::over_time(capture, pass.stride, self.question).map_err(os_error)?;
                *rest = Some(answer.records.into_iter());
            }
            Ok(rest.as_mut().and_then(Iterator::next))
        })?;
        let names: &Arc<Names> = &self.shared.names;
        next.map(|record| record.into_python(py, names)).transpose()
    }
}
