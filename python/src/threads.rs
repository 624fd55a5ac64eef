//! What Python calls its threads: `threading.Thread` keeps that to itself before 3.14, so as long as somebody records, its
//! two attributes of interest are descriptors that pass on what is set. Called by `tracker`.
//!
//! What Python's own code would allocate here is not seen in the recording: no frame of ours is on a stack.

use std::ffi::CString;

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::recorder::Recorder;

/// What `threading.Thread` has its name and its thread's `pthread_t` in.
const NAME: &str = "_name";
const IDENT: &str = "_ident";

/// The names of the threads that are there, but for the main one, which nobody has named.
pub fn names(py: Python<'_>) -> PyResult<Vec<(usize, CString)>> {
    let threading = py.import("threading")?;
    let main = threading.call_method0("main_thread")?;
    let mut names = Vec::new();
    for thread in threading.call_method0("enumerate")?.try_iter()? {
        let thread = thread?;
        if !thread.is(&main) {
            names.extend(name_of(&thread.getattr("__dict__")?));
        }
    }
    Ok(names)
}

/// Passes on what threads are called from now on.
pub fn listen(py: Python<'_>, recorder: Recorder) -> PyResult<()> {
    let class = py.import("threading")?.getattr("Thread")?;
    for attribute in [NAME, IDENT] {
        // Another tool's may be there; then names stay unknown.
        if !class.getattr("__dict__")?.contains(attribute)? {
            let attribute = PyString::intern(py, attribute).unbind();
            class.setattr(attribute.clone_ref(py), Attribute { name: attribute, recorder })?;
        }
    }
    Ok(())
}

/// Leaves `threading.Thread` as it was.
pub fn stop_listening(py: Python<'_>) -> PyResult<()> {
    let class = py.import("threading")?.getattr("Thread")?;
    for attribute in [NAME, IDENT] {
        let found = class.getattr("__dict__")?.get_item(attribute);
        if found.is_ok_and(|found| found.is_instance_of::<Attribute>()) {
            class.delattr(attribute)?;
        }
    }
    Ok(())
}

/// An attribute that lies where it would without us.
#[pyclass(frozen, module = "memtrace._memtrace")]
struct Attribute {
    name: Py<PyString>,
    recorder: Recorder,
}

#[pymethods]
impl Attribute {
    fn __get__<'py>(
        slf: Bound<'py, Self>,
        thread: Bound<'py, PyAny>,
        owner: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = owner;
        if thread.is_none() {
            return Ok(slf.into_any());
        }
        let found = attributes(&thread)?.get_item(&slf.get().name)?;
        found.ok_or_else(|| PyAttributeError::new_err(slf.get().name.clone_ref(slf.py())))
    }

    fn __set__(&self, thread: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let attributes = attributes(thread)?;
        attributes.set_item(&self.name, value)?;
        if let Some((ident, name)) = name_of(&attributes) {
            self.recorder.name_thread(ident, &name);
        }
        Ok(())
    }

    fn __delete__(&self, thread: &Bound<'_, PyAny>) -> PyResult<()> {
        attributes(thread)?.del_item(&self.name)
    }
}

fn attributes<'py>(thread: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    Ok(thread.getattr("__dict__")?.cast_into::<PyDict>()?)
}

/// Of a thread that runs.
fn name_of(attributes: &Bound<'_, PyAny>) -> Option<(usize, CString)> {
    let ident = attributes.get_item(IDENT).ok()?.extract().ok()?;
    let name: String = attributes.get_item(NAME).ok()?.extract().ok()?;
    Some((ident, CString::new(name).ok()?))
}
