"""The same program recorded by memray and by us: what users of memray see is what they see here."""

import os
import subprocess
import sys
import unittest
from typing import Any, Dict, List, Tuple

import captures
from captures import EXTRA, MANY, MAPPED, ONE

import memtrace

try:
    import memray
    import memray._memray
except ImportError:
    memray = None  # type: ignore[assignment]

LARGE = 500_000


def recorded_by_memray(ours: str) -> str:
    script = captures.script_of(ours)
    capture = ours + ".memray"
    if not os.path.exists(capture):
        options = ["-q", "--trace-python-allocators", "-o", capture]
        subprocess.run([sys.executable, "-m", "memray", "run", *options, script], check=True)
    return capture


@unittest.skipIf(memray is None, "memray is not here")
class SameProgram(unittest.TestCase):
    def both(self, code: str) -> "Tuple[Any, Any]":
        ours = captures.record(code)
        reader, theirs = memtrace.FileReader(ours), memray.FileReader(recorded_by_memray(ours))
        self.addCleanup(reader.close)
        self.addCleanup(theirs.close)
        return reader, theirs

    def check(self, ask: str, code: str = captures.PROGRAM, **arguments: Any) -> None:
        ours, theirs = (by_stack(getattr(reader, ask)(**arguments)) for reader in self.both(code))
        self.assertEqual(ours, theirs)
        self.assertTrue(ours)

    def test_records_of_large_allocations_agree(self) -> None:
        ours, theirs = self.both(captures.PROGRAM)
        ours, theirs = ([described(it) for it in large(it.get_allocation_records())] for it in (ours, theirs))
        self.assertEqual(ours, theirs)
        self.assertEqual({size for _, size, *_ in ours}, {MANY + EXTRA, ONE + EXTRA, ONE + 1 + EXTRA, MAPPED})

    def test_high_watermarks_agree(self) -> None:
        self.check("get_high_watermark_allocation_records")
        self.check("get_high_watermark_allocation_records", merge_threads=False)

    def test_leaks_agree(self) -> None:
        code = f"import ctypes\nkept = bytearray({MANY})\nctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))"
        self.check("get_leaked_allocation_records", code)

    def test_temporary_allocations_agree(self) -> None:
        ours, theirs = (
            by_stack(it.get_temporary_allocation_records(threshold=2)) for it in self.both(captures.PROGRAM)
        )
        # memray counts an allocation again when its address comes back within the threshold.
        self.assertEqual([place for place, *_ in ours], [place for place, *_ in theirs])
        self.assertTrue(all(mine[2] <= other[2] for mine, other in zip(ours, theirs)))

    def test_attributes_of_records_are_the_same(self) -> None:
        for name in ("AllocationRecord", "FileReader", "Metadata"):
            theirs = {it for it in dir(getattr(memray, name)) if not it.startswith("_")}
            self.assertEqual(theirs - set(dir(getattr(memtrace, name))), set(), name)
        for name in ("TemporalAllocationRecord", "Interval"):
            theirs = {it for it in dir(getattr(memray._memray, name)) if not it.startswith("_")}
            self.assertEqual(theirs - set(dir(getattr(memtrace, name))), set(), name)
        for name in ("AllocatorType", "FileFormat"):
            theirs = {it.name: it.value for it in getattr(memray, name)}
            self.assertEqual({it.name: it.value for it in getattr(memtrace, name)}, theirs)
        fields = [it for it in memray.Metadata.__dataclass_fields__]
        self.assertEqual([it for it in memtrace.Metadata.__dataclass_fields__], fields)

    def test_metadata_agree(self) -> None:
        ours, theirs = (reader.metadata for reader in self.both(captures.PROGRAM))
        for name in ("main_thread_id", "python_allocator", "has_native_traces", "file_format"):
            self.assertEqual(getattr(ours, name), getattr(theirs, name), name)
        for name in ("start_time", "end_time", "total_allocations", "peak_memory", "pid"):
            self.assertIs(type(getattr(ours, name)), type(getattr(theirs, name)), name)
        self.assertEqual(ours.start_time.tzname(), theirs.start_time.tzname())

    def test_statistics_agree_about_what_is_large(self) -> None:
        ours = captures.record(captures.PROGRAM)
        found = memtrace.compute_statistics(ours, num_largest=2)
        theirs = memray._memray.compute_statistics(recorded_by_memray(ours), num_largest=2)
        self.assertEqual(set(vars(found)), set(vars(theirs)))
        self.assertEqual(
            [place for place, _ in found.top_locations_by_size], [place for place, _ in theirs.top_locations_by_size]
        )
        for size in (MANY + EXTRA, ONE + EXTRA, ONE + 1 + EXTRA, MAPPED):
            self.assertEqual(found.allocation_count_by_size[size], theirs.allocation_count_by_size[size])
        self.assertLessEqual(set(theirs.allocation_count_by_allocator), set(memtrace.AllocatorType.__members__))
        self.assertLessEqual(set(found.allocation_count_by_allocator), set(memtrace.AllocatorType.__members__))


def large(records: Any) -> "List[Any]":
    return [record for record in records if record.size >= LARGE]


def by_stack(records: Any) -> "List[Any]":
    """Large sums by thread and stack: memray takes all allocators of a stack for one, of which it names any."""
    sums: "Dict[Any, List[int]]" = {}
    for record in records:
        _, size, count, tid, stack = described(record)
        found = sums.setdefault((tid, *stack), [0, 0])
        found[0] += size
        found[1] += count
    return sorted((key, *found) for key, found in sums.items() if found[0] >= LARGE and len(key) > 1)


def described(record: Any) -> "Tuple[Any, ...]":
    is_free = record.allocator in (5, 15)
    # What runs a script is not in it.
    stack = [] if is_free else [it for it in record.stack_trace() if it[1].endswith(".py") and "runpy" not in it[1]]
    stack = [it for it in stack if "/memray/" not in it[1]]
    return record.allocator, record.size, record.n_allocations, record.tid, stack


if __name__ == "__main__":
    unittest.main()
