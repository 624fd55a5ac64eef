"""`FileReader` and its records: what memray's users rely on."""

import datetime
import os
import unittest

import captures
from captures import EXTRA, MANY, MAPPED, ONE, find, stack, sums_of

import memtrace
from memtrace import AllocationRecord, AllocatorType, FileReader, Interval


class Records(unittest.TestCase):
    def test_every_allocation_and_every_free_is_a_record(self) -> None:
        with FileReader(captures.program()) as reader:
            records = list(reader.get_allocation_records())
            self.assertEqual(len(records), reader.metadata.total_allocations)
        made = find(records, MANY)
        # Which of them `bytearray` calls is the interpreter's affair.
        python = (AllocatorType.PYMALLOC_MALLOC, AllocatorType.PYMALLOC_CALLOC, AllocatorType.PYMALLOC_REALLOC)
        self.assertEqual([record.allocator in python for record in made], [True] * 3)
        self.assertTrue(all(record.n_allocations == 1 and record.tid == 1 for record in made))
        mapped = [record for record in records if record.size == MAPPED]
        self.assertEqual([record.allocator for record in mapped], [AllocatorType.MMAP, AllocatorType.MUNMAP])
        self.assertEqual(mapped[0].address, mapped[1].address)
        freed = [record for record in records if record.allocator == AllocatorType.FREE]
        self.assertTrue(freed and all(record.size == 0 and record.n_allocations == 1 for record in freed))

    def test_a_stack_begins_with_the_most_recent_call(self) -> None:
        capture = captures.program()
        script = captures.script_of(capture)
        with FileReader(capture) as reader:
            record = find(reader.get_allocation_records(), MANY)[0]
        trace = record.stack_trace()
        self.assertEqual(trace[0], ("inner", script, 7))
        self.assertEqual(stack(record)[-2:], ("keep", "<module>"))
        self.assertEqual(record.stack_trace(max_stacks=1), trace[:1])
        self.assertEqual(record.hybrid_stack_trace(), trace)
        self.assertEqual(record.native_stack_trace(), [])

    def test_threads_are_told_apart_by_number_and_name(self) -> None:
        with FileReader(captures.program()) as reader:
            [record] = find(reader.get_allocation_records(), ONE)
            self.assertEqual((record.tid, reader.metadata.main_thread_id), (2, 1))
            self.assertEqual(stack(record)[:2], ("inner", "work"))
            [apart] = [
                it
                for it in sums_of(reader.get_high_watermark_allocation_records(merge_threads=False), ONE)
                if it.tid == 2
            ]
            self.assertEqual(apart.tid, 2)

    def test_frees_have_no_stack(self) -> None:
        with FileReader(captures.program()) as reader:
            freed = next(it for it in reader.get_allocation_records() if it.allocator == AllocatorType.FREE)
        for trace in (freed.stack_trace, freed.native_stack_trace, freed.hybrid_stack_trace):
            self.assertRaisesRegex(NotImplementedError, "deallocations aren't captured", trace)

    def test_records_are_compared_and_hashed_by_their_tuples(self) -> None:
        numbers = (1, 2, 3, 6, 4, 5, 6, 7)
        record, same = AllocationRecord(numbers), AllocationRecord(numbers)
        self.assertEqual(record, same)
        self.assertEqual(hash(record), hash(same))
        self.assertNotEqual(record, AllocationRecord((2, *numbers[1:])))
        self.assertNotEqual(record, numbers)
        self.assertEqual(
            (record.tid, record.address, record.size, record.allocator, record.stack_id, record.n_allocations),
            numbers[:6],
        )
        self.assertEqual((record.native_stack_id, record.native_segment_generation), numbers[6:])
        self.assertEqual(
            repr(record), "AllocationRecord<tid=0x1, address=0x2, size=3.000B, allocator=6, allocations=5>"
        )
        self.assertEqual(AllocationRecord((-1, *numbers[1:])).thread_name, "merged thread")
        with self.assertRaisesRegex(AssertionError, "without reader"):
            record.stack_trace()
        for wrong in (5, (1, 2), ("1",) * 8):
            self.assertRaises(TypeError, AllocationRecord, wrong)
        with self.assertRaises(TypeError):
            record < same  # type: ignore[operator]

    def test_a_reallocation_is_a_free_and_an_allocation(self) -> None:
        code = "\n".join(
            [
                "import ctypes",
                "libc = ctypes.CDLL(None)",
                "libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p",
                "libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]",
                "block = libc.malloc(1234567)",
                "block = libc.realloc(block, 2345678)",
                "libc.realloc(block, 1 << 62)",
            ]
        )
        with FileReader(captures.record(code)) as reader:
            records = list(reader.get_allocation_records())
            leaked = [it.size for it in reader.get_leaked_allocation_records() if it.size in (1234567, 2345678)]
        first = next(index for index, it in enumerate(records) if it.size == 1234567)
        second = next(index for index, it in enumerate(records) if it.size == 2345678)
        freed = [it for it in records[first:second] if it.allocator == AllocatorType.FREE]
        self.assertIn(records[first].address, [it.address for it in freed])
        self.assertEqual(records[second].allocator, AllocatorType.REALLOC)
        self.assertEqual(leaked, [2345678])
        # The one that failed has neither part.
        self.assertNotIn(records[second].address, [it.address for it in records[second + 1 :]])


class Sums(unittest.TestCase):
    def test_the_high_watermark_is_the_heap_at_its_largest(self) -> None:
        with FileReader(captures.program()) as reader:
            records = list(reader.get_high_watermark_allocation_records())
            self.assertEqual(sum(record.size for record in records), reader.metadata.peak_memory)
        [many] = sums_of(records, 3 * (MANY + EXTRA))
        self.assertGreaterEqual(many.n_allocations, 3)
        self.assertEqual([it.n_allocations for it in records if it.size == MAPPED], [1])

    def test_leaks_are_what_was_never_given_back(self) -> None:
        with FileReader(captures.program()) as reader:
            sizes = [record.size for record in reader.get_leaked_allocation_records()]
        self.assertNotIn(MAPPED, sizes)
        self.assertNotIn(ONE + 1 + EXTRA, sizes)

    def test_temporary_allocations_are_given_back_soon(self) -> None:
        with FileReader(captures.program()) as reader:
            records = list(reader.get_temporary_allocation_records(threshold=1))
        [temporary] = sums_of(records, 5 * (ONE + 1 + EXTRA))
        self.assertGreaterEqual(temporary.n_allocations, 5)

    def test_both_ways_of_splitting_threads_have_the_same_sums(self) -> None:
        with FileReader(captures.program()) as reader:
            for ask in (
                reader.get_high_watermark_allocation_records,
                reader.get_leaked_allocation_records,
                reader.get_temporary_allocation_records,
            ):
                whole, apart = list(ask(merge_threads=True)), list(ask(merge_threads=False))
                self.assertEqual(sum(it.size for it in whole), sum(it.size for it in apart))
                self.assertEqual(sum(it.n_allocations for it in whole), sum(it.n_allocations for it in apart))

    def test_iterators_can_be_asked_for_again(self) -> None:
        with FileReader(captures.program()) as reader:
            first, second = (list(reader.get_leaked_allocation_records()) for _ in range(2))
            self.assertEqual(first, second)
            unfinished = reader.get_allocation_records()
            next(unfinished)
            del unfinished


SLOW = f"""
import time
def fill(n):
    return bytearray(n)
early = fill({MANY})
time.sleep(0.25)
kept = fill({ONE})
time.sleep(0.25)
del early
time.sleep(0.25)
peak = fill(5 * {MANY})
del peak
time.sleep(0.25)
"""


class OverTime(unittest.TestCase):
    def test_lifetimes_lie_between_snapshots(self) -> None:
        with FileReader(captures.record(SLOW)) as reader:
            snapshots = list(reader.get_memory_snapshots())
            records = list(reader.get_temporal_allocation_records())
        intervals = [interval for record in records for interval in record.intervals]
        [early] = [it for it in intervals if MANY <= it.n_bytes < MANY + 1000]
        [kept] = [it for it in intervals if ONE <= it.n_bytes < ONE + 1000]
        assert early.deallocated_before_snapshot is not None
        self.assertLess(early.allocated_before_snapshot, kept.allocated_before_snapshot)
        self.assertLess(kept.allocated_before_snapshot, early.deallocated_before_snapshot)
        self.assertLessEqual(early.deallocated_before_snapshot, len(snapshots))
        self.assertEqual(records[0].tid, 0)
        self.assertIsInstance(records[0].stack_trace(), list)

    def test_sums_of_peaks_are_the_peaks(self) -> None:
        with FileReader(captures.record(SLOW)) as reader:
            records, peaks = reader.get_temporal_high_water_mark_allocation_records()
            sites = list(records)
            self.assertEqual(len(peaks), len(list(reader.get_memory_snapshots())) + 1)
            self.assertEqual(max(peaks), reader.metadata.peak_memory)
            leaked = sum(it.size for it in reader.get_leaked_allocation_records())
        sums = [0] * (len(peaks) + 1)
        for site in sites:
            for it in site.intervals:
                until = it.deallocated_before_snapshot
                for snapshot in range(it.allocated_before_snapshot, len(sums) if until is None else until):
                    sums[snapshot] += it.n_bytes
        self.assertEqual(sums, [*peaks, leaked])

    def test_fewer_snapshots_are_kept_when_fewer_are_wanted(self) -> None:
        capture = captures.record(SLOW)
        with FileReader(capture) as reader:
            n_all = len(list(reader.get_memory_snapshots()))
        with FileReader(capture, max_memory_records=3) as reader:
            snapshots = list(reader.get_memory_snapshots())
            _, peaks = reader.get_temporal_high_water_mark_allocation_records()
        self.assertGreater(n_all, 3)
        self.assertTrue(1 <= len(snapshots) <= 3)
        self.assertEqual(len(peaks), len(snapshots) + 1)
        self.assertEqual(sorted(snapshots), snapshots)

    def test_intervals_are_values(self) -> None:
        interval = Interval(1, None, 2, 3)
        self.assertEqual(interval, Interval(1, None, 2, 3))
        self.assertNotEqual(interval, Interval(1, 2, 2, 3))
        self.assertEqual(
            repr(interval),
            "Interval(allocated_before_snapshot=1, deallocated_before_snapshot=None, n_allocations=2, n_bytes=3)",
        )


class TheWhole(unittest.TestCase):
    def test_metadata_say_what_was_recorded(self) -> None:
        capture = captures.program()
        with FileReader(capture) as reader:
            metadata = reader.metadata
            self.assertEqual(reader.warnings, [])
        self.assertIsInstance(metadata.start_time, datetime.datetime)
        self.assertIsNotNone(metadata.start_time.tzinfo)
        self.assertLess(metadata.start_time, metadata.end_time)
        self.assertEqual(metadata.command_line, captures.script_of(capture))
        self.assertIn(metadata.python_allocator, ("pymalloc", "mimalloc"))
        self.assertTrue(metadata.trace_python_allocators)
        self.assertFalse(metadata.has_native_traces)
        self.assertEqual(metadata.file_format, memtrace.FileFormat.ALL_ALLOCATIONS)

    def test_statistics_count_everything(self) -> None:
        capture = captures.program()
        stats = memtrace.compute_statistics(capture, num_largest=3)
        with FileReader(capture) as reader:
            made = [it for it in reader.get_allocation_records() if it.allocator not in (1, 5, 15)]
            self.assertEqual(stats.metadata, reader.metadata)
        self.assertEqual(stats.total_num_allocations, len(made))
        self.assertEqual(stats.allocation_count_by_size[MANY + EXTRA], 3)
        self.assertEqual(sum(stats.allocation_count_by_allocator.values()), len(made))
        self.assertEqual(stats.allocation_count_by_allocator["MMAP"], sum(it.allocator == 14 for it in made))
        self.assertEqual(len(stats.top_locations_by_size), 3)
        (function, file, line), size = stats.top_locations_by_size[0]
        self.assertEqual((function, file, line), ("<module>", captures.script_of(capture), 24))
        self.assertGreaterEqual(size, 5 * (ONE + 1 + EXTRA))

    def test_a_closed_reader_begins_nothing(self) -> None:
        with FileReader(captures.program()) as reader:
            [record] = find(reader.get_allocation_records(), ONE)
        self.assertTrue(reader.closed)
        for ask in (
            reader.get_allocation_records,
            reader.get_high_watermark_allocation_records,
            reader.get_leaked_allocation_records,
            reader.get_temporary_allocation_records,
            reader.get_temporal_allocation_records,
        ):
            with self.assertRaisesRegex(ValueError, "Operation on a closed FileReader"):
                next(iter(ask()))
        with self.assertRaisesRegex(ValueError, "Operation on a closed FileReader"):
            reader.get_temporal_high_water_mark_allocation_records()
        self.assertEqual(stack(record)[0], "inner")
        self.assertGreater(reader.metadata.peak_memory, 0)

    def test_what_is_no_capture_is_an_os_error(self) -> None:
        with self.assertRaisesRegex(OSError, "Could not open file /nonexistent: No such file or directory"):
            FileReader("/nonexistent")
        self.assertRaises(OSError, FileReader, os.path.dirname(__file__))
        with self.assertRaisesRegex(OSError, "not a memtrace capture"):
            FileReader(__file__)
        self.assertRaises(TypeError, FileReader, 3.5)
        self.assertRaises(TypeError, FileReader, None)
        with self.assertRaisesRegex(OSError, "No such file"):
            memtrace.dump_all_records("/nonexistent")
        self.assertRaises(OSError, memtrace.dump_all_records, __file__)
        self.assertRaises(OSError, memtrace.compute_statistics, "/nonexistent")

    def test_objects_are_not_in_any_capture(self) -> None:
        with FileReader(captures.program()) as reader, self.assertRaisesRegex(RuntimeError, "not available"):
            list(reader.get_object_lifetime_events())

    def test_the_capture_of_a_killed_program_is_read(self) -> None:
        code = "import os, signal\nkept = bytearray(1234567)\nos.kill(os.getpid(), signal.SIGKILL)"
        with self.assertRaises(Exception):
            captures.record(code)
        script = captures.scratch(f"program{abs(hash((code, ())))}.bin")
        with FileReader(script) as reader:
            self.assertEqual(len(sums_of(reader.get_leaked_allocation_records(), 1234567)), 1)

    def test_log_levels_are_integers(self) -> None:
        memtrace.set_log_level(30)
        self.assertRaises(TypeError, memtrace.set_log_level, "x")


class Native(unittest.TestCase):
    def test_a_record_has_three_stacks(self) -> None:
        with FileReader(captures.record(captures.PROGRAM, "--native")) as reader:
            self.assertTrue(reader.metadata.has_native_traces)
            record = find(reader.get_allocation_records(), MANY)[0]
            self.assertEqual((stack(record)[0], *stack(record)[-2:]), ("inner", "keep", "<module>"))
            native = [function for function, _, _ in record.native_stack_trace()]
            hybrid = [function for function, _, _ in record.hybrid_stack_trace()]
        self.assertTrue(record.native_stack_id)
        self.assertGreater(len(native), 2)
        self.assertIn("inner", " ".join(hybrid))
        self.assertGreaterEqual(len(hybrid), len(record.stack_trace()))
        self.assertEqual(len(record.native_stack_trace(max_stacks=2)), 2)


class Columns(unittest.TestCase):
    def test_tables_have_what_records_say(self) -> None:
        try:
            import nanoarrow
        except ImportError:
            self.skipTest("nanoarrow is not here")
        with FileReader(captures.program()) as reader:
            for ask in (reader.get_allocation_records, reader.get_high_watermark_allocation_records):
                array = nanoarrow.Array(ask())
                names = [field.name for field in array.schema.fields]
                rows = [tuple(row[name] for name in names) for row in array.to_pylist()]
                expected = [tuple(getattr(record, name) for name in names) for record in ask()]
                self.assertEqual(rows, expected)


if __name__ == "__main__":
    unittest.main()
