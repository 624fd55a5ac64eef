//! Records as objects of Python: equal and hashed by the numbers that they have, and asked for stacks when these are
//! wanted.

use std::sync::Arc;

use memtrace::units::bytes;
use memtrace_format::AllocatorKind;
use pyo3::exceptions::{PyAssertionError, PyNotImplementedError, PyTypeError};
use pyo3::prelude::*;

use crate::names::{Element, Names};

/// What one allocation, one free, or allocations that have much in common were.
#[pyclass(frozen, subclass, module = "memtrace", skip_from_py_object)]
pub struct AllocationRecord {
    numbers: Numbers,
    origin: Option<Origin>,
}

/// In the order of the tuple that records are made of and compared by.
#[derive(Clone, Copy, PartialEq, Eq, FromPyObject, IntoPyObject)]
pub struct Numbers(i64, u64, u64, i32, u64, u64, u64, u64);

/// Where a record's stacks are found.
#[derive(Clone)]
pub struct Origin {
    pub names: Arc<Names>,
    /// With both parts of a stack.
    pub stack: u32,
}

impl AllocationRecord {
    pub fn new(row: crate::rows::Row, names: &Arc<Names>) -> AllocationRecord {
        let (python, native) = names.parts(row.stack);
        let numbers = Numbers(
            row.tid,
            row.address,
            row.size,
            row.allocator.into(),
            python.into(),
            row.n_allocations,
            native.into(),
            0,
        );
        AllocationRecord { numbers, origin: Some(Origin { names: Arc::clone(names), stack: row.stack }) }
    }
}

#[pymethods]
impl AllocationRecord {
    #[new]
    fn from_tuple(record: &Bound<'_, PyAny>) -> PyResult<AllocationRecord> {
        Ok(AllocationRecord { numbers: numbers(record, 8)?, origin: None })
    }

    #[getter]
    fn tid(&self) -> i64 {
        self.numbers.0
    }

    #[getter]
    fn address(&self) -> u64 {
        self.numbers.1
    }

    #[getter]
    fn size(&self) -> u64 {
        self.numbers.2
    }

    #[getter]
    fn allocator(&self) -> i32 {
        self.numbers.3
    }

    #[getter]
    fn stack_id(&self) -> u64 {
        self.numbers.4
    }

    #[getter]
    fn n_allocations(&self) -> u64 {
        self.numbers.5
    }

    #[getter]
    fn native_stack_id(&self) -> u64 {
        self.numbers.6
    }

    #[getter]
    fn native_segment_generation(&self) -> u64 {
        self.numbers.7
    }

    #[getter]
    fn thread_name(&self) -> PyResult<String> {
        thread_name(self.numbers.0, &self.origin)
    }

    #[pyo3(signature = (max_stacks=None))]
    fn stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, self.numbers.3, max_stacks, Names::python)
    }

    #[pyo3(signature = (max_stacks=None))]
    fn native_stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, self.numbers.3, max_stacks, Names::native)
    }

    #[pyo3(signature = (max_stacks=None))]
    fn hybrid_stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, self.numbers.3, max_stacks, Names::hybrid)
    }

    fn __eq__(&self, other: &Bound<'_, AllocationRecord>) -> bool {
        self.numbers == other.get().numbers
    }

    /// That of the tuple.
    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.numbers.into_pyobject(py)?.hash()
    }

    fn __repr__(&self) -> String {
        let Numbers(tid, address, size, allocator, _, n_allocations, ..) = self.numbers;
        let size = if size == 0 { "N/A".to_string() } else { bytes(size) };
        format!(
            "AllocationRecord<tid={}, address={address:#x}, size={size}, allocator={allocator}, \
             allocations={n_allocations}>",
            hex(tid)
        )
    }
}

/// That an object was made or destroyed.
#[pyclass(frozen, module = "memtrace", skip_from_py_object)]
pub struct TrackedObjectRecord {
    numbers: ObjectNumbers,
    origin: Option<Origin>,
}

/// In the order of the tuple that records are made of and compared by: thread, address, whether it was made, stack, native
/// stack, and memray's number of a set of loaded libraries.
#[derive(Clone, Copy, PartialEq, Eq, FromPyObject, IntoPyObject)]
pub struct ObjectNumbers(i64, u64, bool, u64, u64, u64);

impl TrackedObjectRecord {
    pub fn new(row: crate::objects::Row, names: &Arc<Names>) -> TrackedObjectRecord {
        let (python, native) = names.parts(row.stack);
        let numbers = ObjectNumbers(row.tid, row.address, row.is_created, python.into(), native.into(), 0);
        TrackedObjectRecord { numbers, origin: Some(Origin { names: Arc::clone(names), stack: row.stack }) }
    }

    /// As of an allocator, that of one that gives back.
    fn allocator(&self) -> i32 {
        let kind = if self.numbers.2 { AllocatorKind::Malloc } else { AllocatorKind::Free };
        kind as i32
    }
}

#[pymethods]
impl TrackedObjectRecord {
    #[new]
    fn from_tuple(record: &Bound<'_, PyAny>) -> PyResult<TrackedObjectRecord> {
        Ok(TrackedObjectRecord { numbers: numbers(record, 6)?, origin: None })
    }

    #[getter]
    fn tid(&self) -> i64 {
        self.numbers.0
    }

    #[getter]
    fn address(&self) -> u64 {
        self.numbers.1
    }

    #[getter]
    fn is_created(&self) -> bool {
        self.numbers.2
    }

    #[getter]
    fn stack_id(&self) -> u64 {
        self.numbers.3
    }

    #[getter]
    fn native_stack_id(&self) -> u64 {
        self.numbers.4
    }

    #[getter]
    fn native_segment_generation(&self) -> u64 {
        self.numbers.5
    }

    #[getter]
    fn thread_name(&self) -> PyResult<String> {
        thread_name(self.numbers.0, &self.origin)
    }

    #[pyo3(signature = (max_stacks=None))]
    fn stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, self.allocator(), max_stacks, Names::python)
    }

    #[pyo3(signature = (max_stacks=None))]
    fn native_stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, self.allocator(), max_stacks, Names::native)
    }

    /// Of one that was destroyed it is empty, as memray's is, while the other two say that there is none.
    #[pyo3(signature = (max_stacks=None))]
    fn hybrid_stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, AllocatorKind::Malloc as i32, max_stacks, Names::hybrid)
    }

    fn __eq__(&self, other: &Bound<'_, TrackedObjectRecord>) -> bool {
        self.numbers == other.get().numbers
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.numbers.into_pyobject(py)?.hash()
    }

    fn __repr__(&self) -> String {
        let ObjectNumbers(tid, address, is_created, stack, ..) = self.numbers;
        let (tid, is_created) = (hex(tid), if is_created { "True" } else { "False" });
        format!("TrackedObjectRecord<tid={tid}, address={address:#x}, is_created={is_created}, stack_id={stack}>")
    }
}

/// How much a site held, over time.
#[pyclass(subclass, module = "memtrace", skip_from_py_object)]
pub struct TemporalAllocationRecord {
    numbers: TemporalNumbers,
    origin: Option<Origin>,
    /// A list of [`Interval`]s, which its user may replace.
    #[pyo3(get, set)]
    intervals: Py<PyAny>,
}

/// Thread, allocator, stack, native stack, and memray's number of a set of loaded libraries.
#[derive(Clone, Copy, PartialEq, Eq, FromPyObject, IntoPyObject)]
pub struct TemporalNumbers(i64, i32, u64, u64, u64);

impl TemporalAllocationRecord {
    pub fn new(tid: i64, allocator: i32, origin: Origin, intervals: Py<PyAny>) -> TemporalAllocationRecord {
        let (python, native) = origin.names.parts(origin.stack);
        let numbers = TemporalNumbers(tid, allocator, python.into(), native.into(), 0);
        TemporalAllocationRecord { numbers, origin: Some(origin), intervals }
    }
}

#[pymethods]
impl TemporalAllocationRecord {
    #[new]
    fn from_tuple(py: Python<'_>, record: &Bound<'_, PyAny>) -> PyResult<TemporalAllocationRecord> {
        let numbers = numbers(record, 5)?;
        let intervals = pyo3::types::PyList::empty(py).into_any().unbind();
        Ok(TemporalAllocationRecord { numbers, origin: None, intervals })
    }

    #[getter]
    fn tid(&self) -> i64 {
        self.numbers.0
    }

    #[getter]
    fn allocator(&self) -> i32 {
        self.numbers.1
    }

    #[getter]
    fn stack_id(&self) -> u64 {
        self.numbers.2
    }

    #[getter]
    fn native_stack_id(&self) -> u64 {
        self.numbers.3
    }

    #[getter]
    fn native_segment_generation(&self) -> u64 {
        self.numbers.4
    }

    #[getter]
    fn thread_name(&self) -> PyResult<String> {
        thread_name(self.numbers.0, &self.origin)
    }

    #[pyo3(signature = (max_stacks=None))]
    fn stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, self.numbers.1, max_stacks, Names::python)
    }

    #[pyo3(signature = (max_stacks=None))]
    fn native_stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, self.numbers.1, max_stacks, Names::native)
    }

    #[pyo3(signature = (max_stacks=None))]
    fn hybrid_stack_trace(&self, max_stacks: Option<usize>) -> PyResult<Vec<Element>> {
        stack_of(&self.origin, self.numbers.1, max_stacks, Names::hybrid)
    }

    fn __eq__(&self, other: &Bound<'_, TemporalAllocationRecord>) -> PyResult<bool> {
        let py = other.py();
        let other = other.borrow();
        Ok(self.numbers == other.numbers && self.intervals.bind(py).eq(other.intervals.bind(py))?)
    }

    /// That of the tuple.
    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.numbers.into_pyobject(py)?.hash()
    }
}

/// How much there was from one snapshot up to another.
#[pyclass(module = "memtrace", eq, get_all, set_all, skip_from_py_object)]
#[derive(Clone, PartialEq, Eq)]
pub struct Interval {
    allocated_before_snapshot: usize,
    deallocated_before_snapshot: Option<usize>,
    n_allocations: u64,
    n_bytes: u64,
}

#[pymethods]
impl Interval {
    #[new]
    #[pyo3(signature = (allocated_before_snapshot, deallocated_before_snapshot, n_allocations, n_bytes))]
    pub fn new(
        allocated_before_snapshot: usize,
        deallocated_before_snapshot: Option<usize>,
        n_allocations: u64,
        n_bytes: u64,
    ) -> Interval {
        Interval { allocated_before_snapshot, deallocated_before_snapshot, n_allocations, n_bytes }
    }

    fn __repr__(&self) -> String {
        let until = self.deallocated_before_snapshot.map_or("None".to_string(), |snapshot| snapshot.to_string());
        format!(
            "Interval(allocated_before_snapshot={}, deallocated_before_snapshot={until}, n_allocations={}, n_bytes={})",
            self.allocated_before_snapshot, self.n_allocations, self.n_bytes
        )
    }
}

/// What a tuple of `n` says; others are refused.
fn numbers<'a, 'py, T: FromPyObject<'a, 'py>>(record: &'a Bound<'py, PyAny>, n: usize) -> PyResult<T> {
    record.extract().map_err(|_| PyTypeError::new_err(format!("a record is made of a tuple of {n} integers")))
}

/// As `hex` of Python writes it.
fn hex(tid: i64) -> String {
    format!("{}{:#x}", if tid < 0 { "-" } else { "" }, tid.unsigned_abs())
}

fn thread_name(tid: i64, origin: &Option<Origin>) -> PyResult<String> {
    if tid == -1 {
        return Ok("merged thread".to_string());
    }
    let origin = origin.as_ref().ok_or_else(|| no_reader("thread name"))?;
    Ok(origin.names.thread(tid))
}

fn stack_of(
    origin: &Option<Origin>,
    allocator: i32,
    max: Option<usize>,
    find: impl FnOnce(&Names, u32, usize) -> Vec<Element>,
) -> PyResult<Vec<Element>> {
    if [AllocatorKind::Free, AllocatorKind::Munmap].iter().any(|kind| *kind as i32 == allocator) {
        return Err(PyNotImplementedError::new_err("Stack traces for deallocations aren't captured."));
    }
    let origin = origin.as_ref().ok_or_else(|| no_reader("stack trace"))?;
    Ok(find(&origin.names, origin.stack, max.unwrap_or(usize::MAX)))
}

fn no_reader(what: &str) -> PyErr {
    PyAssertionError::new_err(format!("Cannot get {what} without reader."))
}
