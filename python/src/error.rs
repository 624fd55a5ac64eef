//! Our errors as Python's, with what a user can act on and without a trace of our own calls.

use std::io;

use pyo3::PyErr;
use pyo3::exceptions::{PyOSError, PyRuntimeError};

/// Errors of reading and writing are `OSError`s, as memray's are.
pub fn os_error(error: anyhow::Error) -> PyErr {
    let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    match errno {
        Some(errno) => PyOSError::new_err((errno, format!("{error:#}"))),
        None => PyOSError::new_err(format!("{error:#}")),
    }
}

pub fn runtime_error(error: anyhow::Error) -> PyErr {
    PyRuntimeError::new_err(format!("{error:#}"))
}
