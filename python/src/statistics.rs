//! Totals of a capture, for `compute_statistics`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::Result;
use hashbrown::HashMap;
use memtrace::analysis::{Counted, MmapRule, Stats};
use memtrace::capture::Capture;
use memtrace::model::FrameId;
use memtrace::report::stats::modules::Modules;
use memtrace_format::AllocatorKind;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::os_error;
use crate::names::{Element, element};

/// The keys of the dictionary are the fields of the package's `Stats`, without its `metadata`.
pub fn compute<'py>(py: Python<'py>, capture: &Capture, num_largest: usize) -> PyResult<Bound<'py, PyDict>> {
    let found = py.detach(|| Found::read(capture, num_largest)).map_err(os_error)?;
    let dict = PyDict::new(py);
    dict.set_item("total_num_allocations", found.n_allocations)?;
    dict.set_item("total_memory_allocated", found.bytes)?;
    dict.set_item("peak_memory_allocated", found.peak_bytes)?;
    dict.set_item("allocation_count_by_size", found.by_size.into_iter().collect::<BTreeMap<_, _>>())?;
    dict.set_item("allocation_count_by_allocator", found.by_allocator.into_iter().collect::<BTreeMap<_, _>>())?;
    dict.set_item("top_locations_by_size", found.places_by_size)?;
    dict.set_item("top_locations_by_count", found.places_by_count)?;
    dict.set_item("top_modules_by_allocation_size", found.modules_by_size)?;
    dict.set_item("top_modules_by_allocation_count", found.modules_by_count)?;
    Ok(dict)
}

struct Found {
    n_allocations: u64,
    bytes: u64,
    peak_bytes: u64,
    by_size: Vec<(u64, u64)>,
    by_allocator: Vec<(String, u64)>,
    places_by_size: Vec<(Element, u64)>,
    places_by_count: Vec<(Element, u64)>,
    modules_by_size: Vec<(String, u64, u64)>,
    modules_by_count: Vec<(String, u64, u64)>,
}

impl Found {
    fn read(capture: &Capture, num_largest: usize) -> Result<Found> {
        let mut stats = Stats::new(MmapRule::Memory, Counted::Everything);
        let model = capture.read_batches(
            |_| {},
            |model, events| {
                stats.take_all(model, events);
                ControlFlow::Continue(())
            },
        )?;
        let mut modules = Modules::new(model.processes());
        let mut places: HashMap<Option<FrameId>, (u64, u64)> = HashMap::new();
        for (stack, bytes, count) in stats.totals.stacks() {
            modules.add(&model, stack, bytes, count);
            let sum = places.entry(model.leaf(stack)).or_default();
            *sum = (sum.0.saturating_add(bytes), sum.1 + count);
        }
        let places: Vec<(Option<FrameId>, (u64, u64))> = places.into_iter().collect();
        let shown = |frame: &Option<FrameId>| match frame {
            Some(frame) => element(&model, model.frame(*frame)),
            None => ("<unknown>".to_string(), "<unknown>".to_string(), 0),
        };
        let largest = |by: fn(&(u64, u64)) -> u64| {
            let mut places = places.clone();
            places.sort_unstable_by_key(|(frame, sum)| (Reverse(by(sum)), *frame));
            places.truncate(num_largest);
            places.iter().map(|(frame, sum)| (shown(frame), by(sum))).collect()
        };
        let mut modules: Vec<(String, u64, u64)> =
            modules.finish().into_iter().map(|it| (it.module, it.num_allocations, it.total_bytes)).collect();
        modules.sort_unstable();
        let mut largest_modules = |by: fn(&(String, u64, u64)) -> u64| {
            modules.sort_by_key(|module| Reverse(by(module)));
            modules.iter().take(num_largest).cloned().collect()
        };
        let kinds = AllocatorKind::ALL.iter().map(|kind| (kind.name().to_uppercase(), *kind));
        let by_allocator = kinds.map(|(name, kind)| (name, stats.totals.by_kind[kind as usize]));
        Ok(Found {
            n_allocations: stats.totals.n_allocations,
            bytes: stats.totals.bytes,
            peak_bytes: stats.peak_bytes,
            by_size: stats.totals.sizes.iter().collect(),
            by_allocator: by_allocator.filter(|(_, count)| *count > 0).collect(),
            places_by_size: largest(|sum| sum.0),
            places_by_count: largest(|sum| sum.1),
            modules_by_size: largest_modules(|module| module.2),
            modules_by_count: largest_modules(|module| module.1),
        })
    }
}
