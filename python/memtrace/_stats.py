"""Totals of a capture."""

import os
from dataclasses import dataclass, field
from typing import Dict, List, Tuple, Union

from . import _memtrace
from ._metadata import Metadata
from ._reader import FileReader

Location = Tuple[str, str, int]


@dataclass
class Stats:
    """What `compute_statistics` finds."""

    metadata: Metadata
    total_num_allocations: int
    total_memory_allocated: int
    peak_memory_allocated: int
    allocation_count_by_size: Dict[int, int]
    allocation_count_by_allocator: Dict[str, int]
    top_locations_by_size: List[Tuple[Location, int]]
    top_locations_by_count: List[Tuple[Location, int]]
    #: Top-level module, number of allocations, bytes.
    top_modules_by_allocation_size: List[Tuple[str, int, int]] = field(default_factory=list)
    top_modules_by_allocation_count: List[Tuple[str, int, int]] = field(default_factory=list)


def compute_statistics(
    file_name: Union[str, "os.PathLike[str]"], *, report_progress: bool = False, num_largest: int = 5
) -> Stats:
    """Counts every allocation of a capture.

    Args:
        file_name: The capture.
        report_progress: Accepted for code that was written for memray.
        num_largest: How many places and modules are listed.
    """
    with FileReader(file_name, report_progress=report_progress) as reader:
        reader._needs_all("Can't compute statistics using a pre-aggregated capture file.")
        found = reader._capture.statistics(num_largest)
        return Stats(metadata=reader.metadata, **found)


def dump_all_records(file_name: Union[str, "os.PathLike[str]"]) -> None:
    """Prints every record of a capture on the standard output."""
    path = os.fsdecode(file_name)
    if not os.path.exists(path):
        raise OSError(f"No such file: {path}")
    _memtrace.dump(path)
