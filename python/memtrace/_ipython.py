"""Magics for IPython and Jupyter: ``%load_ext memtrace``, then ``%%memtrace_flamegraph`` and ``%memtrace``."""

import argparse
import os
import shlex
import tempfile
from typing import Any, List, Optional

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.display import IFrame, display

from . import reports
from ._memtrace import Tracker
from ._reader import FileReader

FOLDER = "memtrace-results"


def load_ipython_extension(ipython: Any) -> None:
    """Called by ``%load_ext memtrace``."""
    ipython.register_magics(MemtraceMagics)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(message)


def _parser(name: str) -> _Parser:
    parser = _Parser(prog=name, add_help=False)
    parser.add_argument("--native", action="store_true", help="record native calls as well")
    parser.add_argument("--follow-fork", action="store_true", help="record forked children as well")
    parser.add_argument("--trace-python-allocators", action="store_true", help="record every Python object")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--leaks", action="store_true", help="show what was never given back")
    threshold = "temporary_allocation_threshold"
    kind.add_argument("--temporary-allocation-threshold", type=int, metavar="N", help="show what was given back soon")
    kind.add_argument("--temporary-allocations", action="store_const", const=1, dest=threshold, help="the same, N = 1")
    parser.add_argument("--temporal", action="store_true", help="show the time line")
    parser.add_argument("--split-threads", action="store_true", help="show each thread by itself")
    parser.add_argument("--inverted", action="store_true", help="show what allocated at the root")
    parser.add_argument("--max-memory-records", type=int, metavar="N", help="points of the time line")
    parser.add_argument("-o", "--output", help="where the page goes")
    return parser


@magics_class
class MemtraceMagics(Magics):
    @cell_magic
    def memtrace_flamegraph(self, line: str, cell: str) -> None:
        """Records the cell and shows its flame graph."""
        options = _parser("%%memtrace_flamegraph").parse_args(shlex.split(line))
        if options.temporal and options.temporary_allocation_threshold is not None:
            raise UsageError("Can't create a temporal flame graph of temporary allocations")
        os.makedirs(FOLDER, exist_ok=True)
        folder = os.path.relpath(tempfile.mkdtemp(dir=FOLDER))
        capture = os.path.join(folder, "cell.bin")
        self._record(cell, capture, options)
        page = reports.flamegraph(
            capture,
            options.output or os.path.join(folder, "flamegraph.html"),
            leaks=options.leaks,
            temporary_allocation_threshold=options.temporary_allocation_threshold,
            temporal=options.temporal,
            split_threads=options.split_threads,
            inverted=options.inverted,
            max_memory_records=options.max_memory_records,
            overwrite=True,
        )
        os.unlink(capture)
        print(f"Results saved to {page}")
        display(IFrame(os.path.relpath(page), width="100%", height="600"))  # type: ignore[no-untyped-call]

    @line_magic
    def memtrace(self, line: str) -> None:
        """Records one line and says what it took."""
        with tempfile.TemporaryDirectory(prefix="memtrace-") as folder:
            capture = os.path.join(folder, "line.bin")
            options = argparse.Namespace(native=False, trace_python_allocators=True, follow_fork=False)
            self._record(line, capture, options)
            with FileReader(capture) as reader:
                peak, n_records = reader.metadata.peak_memory, reader.metadata.total_allocations
                largest = sorted(reader.get_high_watermark_allocation_records(), key=lambda record: -record.size)[:3]
                print(f"peak {_bytes(peak)}, {n_records} records")
                for record in largest:
                    for function, file, number in record.stack_trace(max_stacks=1):
                        print(f"  {_bytes(record.size):>10}  {function} ({file}:{number})")

    def _record(self, code: str, capture: str, options: argparse.Namespace) -> None:
        shell: Any = self.shell
        if shell is None:
            raise UsageError("Cannot profile code when not in a shell")
        result: Optional[Any] = None
        with Tracker(
            capture,
            native_traces=options.native,
            trace_python_allocators=options.trace_python_allocators,
            follow_fork=options.follow_fork,
        ):
            result = shell.run_cell(code)
        if result is not None:
            result.raise_error()


def _bytes(size: float) -> str:
    units: List[str] = ["B", "KiB", "MiB", "GiB"]
    for unit in units:
        if size < 1024 or unit == units[-1]:
            break
        size /= 1024
    return f"{size:.1f} {unit}"
