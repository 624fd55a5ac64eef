"""The report at the end of a run: the tests with the highest peaks, and what allocated at them.

Tests are measured where they run. What was measured comes with their reports, so that the main process of pytest-xdist
sums up as well.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List

import pytest

from memtrace import AllocationRecord, FileReader
from memtrace._pytest import sizes
from memtrace._pytest.options import Settings

# The attribute of a report that has what `measure` returned.
MEASURED = "memtrace"

_N_FUNCTIONS = 5
_BARS = " ▁▂▃▄▅▆▇█"


def measure(reader: FileReader) -> Dict[str, Any]:
    """What is told of a test: plain values, as reports travel between processes."""
    records = list(reader.get_high_watermark_allocation_records(merge_threads=True))
    functions: List[List[Any]] = []
    for record in sorted(records, key=lambda record: record.size, reverse=True)[:_N_FUNCTIONS]:
        functions.extend([*frame, record.size] for frame in record.stack_trace(max_stacks=1))
    return {
        "peak_bytes": reader.metadata.peak_memory,
        "n_allocations": sum(record.n_allocations for record in records),
        "histogram": _histogram(records) if records else "",
        "functions": functions,
    }


def _histogram(records: List[AllocationRecord], n_bins: int = 5) -> str:
    """Allocations by the logarithm of their sizes, as bars."""
    logarithms = [(math.log(max(record.size / record.n_allocations, 1)), record.n_allocations) for record in records]
    lowest = min(log for log, _ in logarithms)
    width = (max(log for log, _ in logarithms) - lowest) / n_bins or 1
    counts = [0] * n_bins
    for log, count in logarithms:
        counts[min(int((log - lowest) / width), n_bins - 1)] += count
    most = max(counts)
    return "".join(_BARS[math.ceil(count / most * (len(_BARS) - 1))] for count in counts)


class Summary:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.measured: Dict[str, Dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        measured = getattr(report, MEASURED, None)
        if measured is not None:
            self.measured[report.nodeid] = measured

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        write = terminalreporter.write_line
        write("")
        terminalreporter.write_sep("=", "MEMTRACE REPORT")
        highest = sorted(self.measured.items(), key=lambda item: int(item[1]["peak_bytes"]), reverse=True)
        for test, measured in highest[: self.settings.n_tests or None]:
            write(f"Allocation results for {test} at the high watermark")
            write("")
            write(f"\t Total memory allocated: {sizes.show(measured['peak_bytes'])}")
            write(f"\t Total allocations: {measured['n_allocations']}")
            if measured["histogram"]:
                write(f"\t Histogram of allocation sizes: |{measured['histogram']}|")
            if measured["functions"]:
                write("\t Biggest allocating functions:")
            for function, file, line, n_bytes in measured["functions"]:
                write(f"\t\t- {function}:{file}:{line} -> {sizes.show(n_bytes)}")
            write("")
        if self.settings.folder is not None:
            recorder: Any = config.pluginmanager.get_plugin("memtrace_recorder")
            write(f"Created {len(self.measured)} binary dumps at {recorder.folder} with prefix {recorder.prefix}")
