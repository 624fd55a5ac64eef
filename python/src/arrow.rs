//! Columns for other libraries, through Arrow's PyCapsule interface: they take the memory over as it is.

use std::sync::Arc;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, RecordBatchReader, UInt8Array, UInt32Array, UInt64Array};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::names::Names;
use crate::records::Source;
use crate::rows::Rows;

/// A capsule with the stream.
pub fn stream<'py>(py: Python<'py>, source: Source, names: Arc<Names>) -> PyResult<Bound<'py, PyCapsule>> {
    let batches = Batches { source, names, schema: schema() };
    let stream = FFI_ArrowArrayStream::new(Box::new(batches));
    PyCapsule::new(py, stream, Some(c"arrow_array_stream".to_owned()))
}

/// The columns, named as the attributes of records.
fn schema() -> SchemaRef {
    let column = |name: &str, kind| Field::new(name, kind, false);
    Arc::new(Schema::new(vec![
        column("tid", DataType::Int64),
        column("address", DataType::UInt64),
        column("size", DataType::UInt64),
        column("allocator", DataType::UInt8),
        column("stack_id", DataType::UInt32),
        column("n_allocations", DataType::UInt64),
        column("native_stack_id", DataType::UInt32),
    ]))
}

struct Batches {
    source: Source,
    names: Arc<Names>,
    schema: SchemaRef,
}

impl Batches {
    fn batch(&self, rows: Rows) -> Result<RecordBatch, ArrowError> {
        let (stacks, native_stacks) = self.names.columns(rows.stack);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(rows.tid)),
            Arc::new(UInt64Array::from(rows.address)),
            Arc::new(UInt64Array::from(rows.size)),
            Arc::new(UInt8Array::from(rows.allocator)),
            Arc::new(UInt32Array::from(stacks)),
            Arc::new(UInt64Array::from(rows.n_allocations)),
            Arc::new(UInt32Array::from(native_stacks)),
        ];
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.source.next() {
            Ok(rows) => rows.map(|rows| self.batch(rows)),
            Err(error) => Some(Err(ArrowError::ExternalError(error.into()))),
        }
    }
}

impl RecordBatchReader for Batches {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
