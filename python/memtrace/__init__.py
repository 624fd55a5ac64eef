"""Records every memory allocation of a Python program, and answers questions about them.

The names, signatures and meanings are memray's: ``import memtrace as memray`` is what it takes to move.
"""

from typing import Any

from ._destination import Destination, FileDestination, SocketDestination
from ._enums import AllocatorType, FileFormat
from ._log import set_log_level
from ._memtrace import AllocationRecord, Interval, TemporalAllocationRecord, TrackedObjectRecord, Tracker
from ._metadata import Metadata
from ._reader import FileReader, MemorySnapshot
from ._socket import SocketReader
from ._stats import Stats, compute_statistics, dump_all_records
from ._tracker import start, start_thread_trace, stop
from ._version import __version__


def load_ipython_extension(ipython: Any) -> None:
    """Called by ``%load_ext memtrace``: adds ``%%memtrace_flamegraph`` and ``%memtrace``."""
    from ._ipython import load_ipython_extension

    load_ipython_extension(ipython)


__all__ = [
    "AllocationRecord",
    "AllocatorType",
    "Destination",
    "FileDestination",
    "FileFormat",
    "FileReader",
    "Interval",
    "MemorySnapshot",
    "Metadata",
    "SocketDestination",
    "SocketReader",
    "Stats",
    "TemporalAllocationRecord",
    "TrackedObjectRecord",
    "Tracker",
    "__version__",
    "compute_statistics",
    "dump_all_records",
    "load_ipython_extension",
    "set_log_level",
    "start",
    "start_thread_trace",
    "stop",
]
