"""Captures as iterables of records."""

import os
from datetime import datetime, timezone
from types import TracebackType
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple, Type, Union

from . import _memtrace
from ._enums import FileFormat
from ._memtrace import Records, TemporalRecords, TrackedObjectRecord
from ._metadata import Metadata


class MemorySnapshot(NamedTuple):
    """A sample of the process's memory."""

    #: In milliseconds since 1970.
    time: int
    #: The resident set, in bytes.
    rss: int
    #: What was recorded as allocated and not given back, in bytes.
    heap: int


class FileReader:
    """Reads a capture.

    The capture is read once when it is opened. What is asked for afterwards are iterators of records, which can be asked
    for more than once; those of allocations are tables as well, which ``polars``, ``pandas``, ``pyarrow`` and ``duckdb``
    take over without copying (they have ``__arrow_c_stream__``)::

        with memtrace.FileReader("app.bin") as reader:
            for record in reader.get_high_watermark_allocation_records():
                print(record.size, record.stack_trace())

    Args:
        file_name: The capture, or a descriptor of it, which is closed.
        report_progress: Accepted for code that was written for memray; nothing is shown.
        max_memory_records: How many snapshots of the resident set are kept at most.
    """

    def __init__(
        self,
        file_name: Union[int, str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"],
        *,
        report_progress: bool = False,
        max_memory_records: int = 10000,
    ) -> None:
        self._closed = True
        try:
            file = open(file_name, "rb")
        except OSError as error:
            raise OSError(error.errno, f"Could not open file {file_name!s}: {error.strerror}") from None
        with file:
            path = f"/proc/self/fd/{file_name}" if isinstance(file_name, int) else os.fsdecode(file_name)
            self._capture = _memtrace.Capture(path, max_memory_records)
        self._closed = False

    def __enter__(self) -> "FileReader":
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        exc_traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends reading. Records that are there already keep their stacks."""
        if not self._closed:
            self._closed = True
            self._capture.close()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def metadata(self) -> Metadata:
        """What is known about the capture as a whole."""
        found = self._capture.metadata()
        return Metadata(
            start_time=_moment(found["start_time"]),
            end_time=_moment(found["end_time"]),
            total_allocations=found["total_allocations"],
            total_frames=found["total_frames"],
            peak_memory=found["peak_memory"],
            command_line=found["command_line"],
            pid=found["pid"],
            main_thread_id=found["main_thread_id"],
            python_allocator=found["python_allocator"],
            has_native_traces=found["has_native_traces"],
            trace_python_allocators=found["trace_python_allocators"],
            file_format=FileFormat(found["file_format"]),
        )

    @property
    def warnings(self) -> List[str]:
        """What is missing from the capture, a sentence each."""
        return self._capture.warnings()

    def get_allocation_records(self) -> Records:
        """Every allocation and every free, in the order in which they happened.

        A block that ``realloc`` moved or resized is a free and a new allocation.
        """
        self._needs_all("Can't get all allocations from a pre-aggregated capture file.")
        return self._capture.allocation_records()

    def get_high_watermark_allocation_records(self, merge_threads: bool = True) -> Records:
        """What was there when the heap was largest, summed up by call stack and allocator.

        Args:
            merge_threads: Whether threads are taken together.
        """
        return self._capture.high_watermark_records(bool(merge_threads))

    def get_leaked_allocation_records(self, merge_threads: bool = True) -> Records:
        """What was never given back, summed up by call stack and allocator."""
        return self._capture.leaked_records(bool(merge_threads))

    def get_temporary_allocation_records(self, merge_threads: bool = True, threshold: int = 1) -> Records:
        """What was given back soon, summed up by call stack and allocator.

        Args:
            merge_threads: Whether threads are taken together.
            threshold: How many other allocations of its thread may lie between an allocation and its end.
        """
        self._needs_all("Can't find temporary allocations using a pre-aggregated capture file.")
        return self._capture.temporary_records(bool(merge_threads), threshold)

    def get_temporal_allocation_records(self, merge_threads: bool = True) -> TemporalRecords:
        """Between which snapshots of the resident set memory was allocated and given back.

        What came and went between two snapshots is left out.
        """
        self._needs_all("Can't get allocation history using a pre-aggregated capture file.")
        return self._capture.temporal_records(bool(merge_threads))

    def get_temporal_high_water_mark_allocation_records(
        self, merge_threads: bool = True
    ) -> Tuple[TemporalRecords, List[int]]:
        """What each call stack held when the heap was largest before each snapshot, and how large it was then."""
        self._needs_all("Can't get allocation history using a pre-aggregated capture file.")
        return self._capture.temporal_high_watermark_records(bool(merge_threads))

    def get_memory_snapshots(self) -> Iterator[MemorySnapshot]:
        """The samples of the resident set."""
        return (MemorySnapshot(*snapshot) for snapshot in self._capture.memory_snapshots())

    def get_object_lifetime_events(
        self, included_objects: Optional[Iterable[object]] = None
    ) -> Iterator[TrackedObjectRecord]:
        """Which objects were made and destroyed, and where they were made, in the order in which it happened.

        Of an aggregated capture: which ones were made and not destroyed.

        Args:
            included_objects: Only what happened where these objects are, which may have been another object's place.

        Raises:
            RuntimeError: The capture has no lifetimes of objects.
        """
        if self._closed:
            raise ValueError("Operation on a closed FileReader")
        addresses = None if included_objects is None else {id(obj) for obj in included_objects}
        records = self._capture.object_lifetimes(addresses)
        if records is None:
            raise RuntimeError(
                "Object lifetime events are not available in this capture file. "
                "The file was not generated with track_object_lifetimes=True."
            )
        yield from records

    def _needs_all(self, sentence: str) -> None:
        is_aggregated = self.metadata.file_format is FileFormat.AGGREGATED_ALLOCATIONS
        if is_aggregated and not self._closed:
            raise NotImplementedError(sentence)


def _moment(unix_millis: int) -> datetime:
    return datetime.fromtimestamp(unix_millis / 1000, timezone.utc).astimezone()
