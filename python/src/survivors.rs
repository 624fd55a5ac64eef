//! Objects that were made while they were tracked, and live: references that the recorder took, in the order of making.
//!
//! # Safety
//! Dangerous: addresses become references. We rely on the recorder, which has taken one for each of them; here they are
//! handed on, so that each is given back once.

#![allow(unsafe_code)]

use memtrace_format::answer::Survivor;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// What the recorder has handed over.
#[derive(Clone, Copy)]
pub struct Held<'a>(pub &'a [Survivor]);

impl Held<'_> {
    /// The references, as a tuple.
    pub fn into_tuple(self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        let mut survivors = self.0.to_vec();
        survivors.sort_unstable_by_key(|survivor| survivor.number);
        let objects = survivors.iter().map(|survivor| {
            // SAFETY: the address of an object, and a reference that is ours.
            unsafe { Bound::from_owned_ptr(py, survivor.address as *mut pyo3::ffi::PyObject) }
        });
        let objects: Vec<Bound<'_, PyAny>> = objects.collect();
        Ok(PyTuple::new(py, objects)?.unbind())
    }
}
