//! Which objects were made and destroyed: an iterator over what a capture has of them.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use memtrace::capture::Capture;
use memtrace::model::{Action, Event, Model, StackId, ThreadKey};
use pyo3::prelude::*;

use crate::ahead::{Ahead, FULL};
use crate::capture::Shared;
use crate::error::os_error;
use crate::lock::lock;
use crate::record::TrackedObjectRecord;
use crate::rows::tid;

/// That an object was made or destroyed.
#[derive(Clone, Copy)]
pub struct Row {
    pub tid: i64,
    pub address: u64,
    pub is_created: bool,
    /// As the model of the capture's first reading numbers them; 0 of one that is destroyed.
    pub stack: u32,
}

/// Those of the objects that are asked for; all without.
pub type Addresses = Option<HashSet<u64>>;

/// An iterator over `TrackedObjectRecord`s.
#[pyclass(frozen, module = "memtrace", skip_from_py_object)]
pub struct ObjectRecords {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

enum State {
    Asked(Addresses),
    Answered(Ahead<Vec<Row>>, std::vec::IntoIter<Row>),
}

impl ObjectRecords {
    pub fn new(shared: Arc<Shared>, addresses: Addresses) -> ObjectRecords {
        ObjectRecords { shared, state: Mutex::new(State::Asked(addresses)) }
    }

    fn next_row(&self) -> PyResult<Option<Row>> {
        let mut state = lock(&self.state);
        if let State::Asked(addresses) = &mut *state {
            self.shared.check_open()?;
            let (shared, addresses) = (Arc::clone(&self.shared), addresses.take());
            let ahead = Ahead::new(move |pass| read(&shared.capture, &addresses, pass));
            *state = State::Answered(ahead, Vec::new().into_iter());
        }
        let State::Answered(ahead, rows) = &mut *state else { return Ok(None) };
        loop {
            if let Some(row) = rows.next() {
                return Ok(Some(row));
            }
            match ahead.next().map_err(os_error)? {
                Some(next) => *rows = next.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

#[pymethods]
impl ObjectRecords {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<TrackedObjectRecord>> {
        let row = py.detach(|| self.next_row())?;
        Ok(row.map(|row| TrackedObjectRecord::new(row, &self.shared.names)))
    }
}

fn read(capture: &Capture, addresses: &Addresses, pass: &mut dyn FnMut(Vec<Row>) -> ControlFlow<()>) -> Result<()> {
    let mut rows = Vec::new();
    let is_asked_for = |row: &Row| addresses.as_ref().is_none_or(|addresses| addresses.contains(&row.address));
    let take = |_: &Model, events: &[Event]| {
        rows.extend(events.iter().filter_map(row).filter(is_asked_for));
        if rows.len() < FULL { ControlFlow::Continue(()) } else { pass(std::mem::take(&mut rows)) }
    };
    capture.read_recorded(take)?;
    let _ = pass(rows);
    Ok(())
}

fn row(event: &Event) -> Option<Row> {
    let (address, is_created, stack) = match event.action {
        Action::ObjectMade { address, stack } => (address, true, stack),
        Action::ObjectDestroyed { address } => (address, false, StackId::EMPTY),
        _ => return None,
    };
    let tid = tid(ThreadKey { image: event.image, number: event.thread });
    Some(Row { tid, address, is_created, stack: stack.index() as u32 })
}
