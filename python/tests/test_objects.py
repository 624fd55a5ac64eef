"""Lifetimes of objects: which ones were made, destroyed, and outlive a `Tracker`."""

import subprocess
import sys
import textwrap
import unittest
from typing import Any, List, Tuple

import captures

from memtrace import FileReader, TrackedObjectRecord, Tracker

IS_TOLD = sys.version_info >= (3, 13, 3)

_n_captures = 0


def fresh() -> str:
    """The path of a capture that is not there yet."""
    global _n_captures
    _n_captures += 1
    return captures.scratch(f"objects{_n_captures}.bin")


def run(code: str, *arguments: str) -> str:
    """What a program prints that is started for itself: a process has but one tracer of objects."""
    program = textwrap.dedent(
        """
        import ctypes, functools, gc, os, sys, threading, tracemalloc
        import memtrace
        from memtrace import FileDestination, FileFormat, FileReader
        Tracker = functools.partial(memtrace.Tracker, track_object_lifetimes=True)

        def tracer():
            data = ctypes.c_void_p()
            get = ctypes.pythonapi.PyRefTracer_GetTracer
            get.restype = ctypes.c_void_p
            return get(ctypes.byref(data)), data.value

        class Thing:
            pass

        class Other(Thing):
            pass

        def things(objects):
            return [type(it).__name__ for it in objects if isinstance(it, Thing)]
        """
    )
    command = [sys.executable, "-c", program + textwrap.dedent(code), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise AssertionError(done.stderr.decode() + done.stdout.decode())
    return done.stdout.decode()


@unittest.skipIf(IS_TOLD, "this interpreter tells of objects")
class Older(unittest.TestCase):
    def test_a_tracker_says_which_python_it_takes(self) -> None:
        version = ".".join(map(str, sys.version_info[:3]))
        expected = f"Python object reference tracking requires Python 3.13.3 or later. Current version: {version}"
        with self.assertRaises(RuntimeError) as raised:
            Tracker(fresh(), track_object_lifetimes=True)
        self.assertEqual(str(raised.exception), expected)


class Without(unittest.TestCase):
    def test_who_did_not_ask_for_lifetimes_is_told_so(self) -> None:
        capture = fresh()
        with Tracker(capture) as tracker:
            pass
        with self.assertRaisesRegex(RuntimeError, "track_object_lifetimes=True was not provided"):
            tracker.get_surviving_objects()
        with FileReader(capture) as reader:
            with self.assertRaisesRegex(RuntimeError, "Object lifetime events are not available in this capture file"):
                list(reader.get_object_lifetime_events())

    def test_a_record_is_made_of_a_tuple(self) -> None:
        record = TrackedObjectRecord((1, 0x1000, True, 3, 0, 0))
        self.assertEqual((record.tid, record.address, record.is_created, record.stack_id), (1, 0x1000, True, 3))
        self.assertEqual(record, TrackedObjectRecord((1, 0x1000, True, 3, 0, 0)))
        self.assertNotEqual(record, TrackedObjectRecord((1, 0x1000, False, 3, 0, 0)))
        self.assertEqual(len({record, TrackedObjectRecord((1, 0x1000, True, 3, 0, 0))}), 1)
        self.assertEqual(repr(record), "TrackedObjectRecord<tid=0x1, address=0x1000, is_created=True, stack_id=3>")
        with self.assertRaises(TypeError):
            TrackedObjectRecord((1, 2, 3))  # type: ignore[arg-type]


@unittest.skipUnless(IS_TOLD, "this interpreter does not tell of objects")
class Survivors(unittest.TestCase):
    def test_what_lives_is_handed_out_in_the_order_of_making(self) -> None:
        printed = run(
            """
            before = Thing()
            with Tracker(sys.argv[1]) as tracker:
                first, gone, second = Other(), Thing(), Thing()
                del gone
                many = [Other() for _ in range(20000)]
                del many
            after = Thing()
            found = tracker.get_surviving_objects()
            print(type(found).__name__, things(found))
            print([it is that for it, that in zip((it for it in found if isinstance(it, Thing)), (first, second))])
            print(sys.getrefcount(first) - sys.getrefcount(before), tracer())
            """,
            fresh(),
        )
        # The local variable, and the tuple of survivors.
        self.assertEqual(printed, "tuple ['Other', 'Thing']\n[True, True]\n1 (None, None)\n")

    def test_a_cycle_lives_until_it_is_collected(self) -> None:
        printed = run(
            """
            gc.disable()
            with Tracker(sys.argv[1]) as tracker:
                thing = Thing()
                thing.self = thing
                del thing
            print(things(tracker.get_surviving_objects()))
            del tracker
            gc.collect()
            with Tracker(sys.argv[2]) as tracker:
                thing = Thing()
                thing.self = thing
                del thing
                gc.collect()
            print(things(tracker.get_surviving_objects()))
            """,
            fresh(),
            fresh(),
        )
        self.assertEqual(printed, "['Thing']\n[]\n")

    def test_objects_of_all_threads_are_tracked(self) -> None:
        printed = run(
            """
            kept, stop = [], threading.Event()
            def churn():
                while not stop.is_set():
                    pair = [Thing(), Other()]
                    pair[0].other = pair[1]
            def keep():
                for _ in range(1000):
                    kept.append(Other())
            others = [threading.Thread(target=churn) for _ in range(3)]
            for thread in others: thread.start()
            for number in range(3):
                with Tracker(sys.argv[1] + str(number)) as tracker:
                    keepers = [threading.Thread(target=keep) for _ in range(3)]
                    for thread in keepers: thread.start()
                    for thread in keepers: thread.join()
                found = tracker.get_surviving_objects()
                ours = {id(it) for it in kept}
                print(len(ours), len(ours & {id(it) for it in found}))
                kept.clear()
                # Every one of them can be looked at.
                assert all(sys.getrefcount(it) > 1 and type(it).__name__ for it in found)
                del found, tracker
            stop.set()
            for thread in others: thread.join()
            """,
            fresh(),
        )
        self.assertEqual(printed, "3000 3000\n" * 3)

    def test_a_tracer_that_was_there_is_there_afterwards(self) -> None:
        printed = run(
            """
            tracemalloc.start()
            before = tracer()
            with Tracker(sys.argv[1]) as tracker:
                is_ours = tracer() != before
                thing = Thing()
                place = tracemalloc.get_object_traceback(thing) is not None
            print(is_ours, place, before[0] is not None, tracer() == before, things(tracker.get_surviving_objects()))
            """,
            fresh(),
        )
        self.assertEqual(printed, "True True True True ['Thing']\n")

    def test_nobody_knows_who_lives_when_another_tracer_came(self) -> None:
        printed = run(
            """
            with Tracker(sys.argv[1]) as tracker:
                thing = Thing()
                tracemalloc.start()
                tracemalloc.stop()
            print(tracer())
            try:
                tracker.get_surviving_objects()
            except RuntimeError as error:
                print(error)
            """,
            fresh(),
        )
        self.assertEqual(printed, "(None, None)\nTracking was never started or has not finished yet or failed.\n")

    def test_without_lifetimes_there_is_no_tracer(self) -> None:
        printed = run("with memtrace.Tracker(sys.argv[1]):\n    print(tracer())", fresh())
        self.assertEqual(printed, "(None, None)\n")

    def test_they_are_not_known_before_the_end(self) -> None:
        printed = run(
            """
            tracker = Tracker(sys.argv[1])
            for _ in range(2):
                try:
                    tracker.get_surviving_objects()
                except RuntimeError as error:
                    print(error)
                if _ == 0:
                    tracker.__enter__()
            """,
            fresh(),
        )
        self.assertEqual(printed, "Tracking was never started or has not finished yet or failed.\n" * 2)

    def test_what_is_made_in_a_pause_is_left_out(self) -> None:
        printed = run(
            """
            with Tracker(sys.argv[1]) as tracker:
                early = Other()
                tracker.pause()
                paused = Thing()
                del early
                tracker.resume()
                late = Other()
            print(things(tracker.get_surviving_objects()))
            """,
            fresh(),
        )
        self.assertEqual(printed, "['Other']\n")

    def test_a_forked_child_goes_its_own_way(self) -> None:
        printed = run(
            """
            with Tracker(sys.argv[1]) as tracker:
                thing = Thing()
                child = os.fork()
                if child == 0:
                    kept = [Other() for _ in range(1000)]
                    del thing
            if child == 0:
                with Tracker(sys.argv[2]) as tracker:
                    own = Other()
                found = things(tracker.get_surviving_objects())
                os._exit(0 if found == ["Other"] else 1)
            print(os.waitpid(child, 0)[1], things(tracker.get_surviving_objects()))
            """,
            fresh(),
            fresh(),
        )
        self.assertEqual(printed, "0 ['Thing']\n")

    def test_objects_of_a_subinterpreter_are_not_handed_out(self) -> None:
        printed = run(
            """
            try:
                from concurrent import interpreters
            except ImportError:
                import _interpreters as interpreters
            with Tracker(sys.argv[1]) as tracker:
                inner = interpreters.create()
                code = "kept = [complex(n, 1) for n in range(1000)]"
                inner.exec(code) if hasattr(inner, "exec") else interpreters.exec(inner, code)
                kept = complex(5, 1)
            print(sum(type(it) is complex for it in tracker.get_surviving_objects()))
            """,
            fresh(),
        )
        self.assertEqual(printed, "1\n")

    def test_a_program_may_end_while_it_is_tracked(self) -> None:
        printed = run("tracker = Tracker(sys.argv[1])\ntracker.__enter__()\nthing = Thing()\nprint('end')", fresh())
        self.assertEqual(printed, "end\n")


@unittest.skipUnless(IS_TOLD, "this interpreter does not tell of objects")
class Events(unittest.TestCase):
    def recorded(self, code: str, *options: str) -> Tuple[str, Any]:
        capture = fresh()
        printed = run(code, capture, *options)
        reader = FileReader(capture)
        self.addCleanup(reader.close)
        return printed, reader

    def test_they_tell_what_was_made_where_and_what_was_destroyed(self) -> None:
        printed, reader = self.recorded(
            """
            def make():
                return Thing()
            def work():
                kept, gone = make(), make()
                print(id(kept), id(gone))
                return kept
            with Tracker(sys.argv[1]) as tracker:
                kept = work()
            """
        )
        kept, gone = map(int, printed.split())
        events = list(reader.get_object_lifetime_events())
        of_kept = [it for it in events if it.address == kept]
        of_gone = [it for it in events if it.address == gone]
        self.assertTrue(of_kept[-1].is_created)
        made = of_gone[[it.is_created for it in of_gone].index(True)]
        self.assertIn(False, [it.is_created for it in of_gone[of_gone.index(made) :]])
        self.assertEqual([function for function, _, _ in made.stack_trace()], ["make", "work", "<module>"])
        self.assertEqual(made.stack_trace(), made.hybrid_stack_trace())
        self.assertEqual(len(made.stack_trace(max_stacks=2)), 2)
        self.assertEqual(made.native_stack_trace(), [])
        self.assertEqual(made.tid, reader.metadata.main_thread_id)
        destroyed = next(it for it in events if not it.is_created)
        with self.assertRaises(NotImplementedError):
            destroyed.stack_trace()
        self.assertEqual(destroyed.hybrid_stack_trace(), [])
        self.assertEqual(destroyed.stack_id, 0)

    def test_those_of_some_objects_can_be_asked_for(self) -> None:
        printed = run(
            """
            with Tracker(sys.argv[1]) as tracker:
                kept = [Thing(), Other()]
            with FileReader(sys.argv[1]) as reader:
                events = [it for it in reader.get_object_lifetime_events(included_objects=kept) if it.is_created]
                print({it.address for it in events} == {id(it) for it in kept})
                print(list(reader.get_object_lifetime_events(included_objects=[])))
            try:
                next(reader.get_object_lifetime_events())
            except ValueError as error:
                print(error)
            """,
            fresh(),
        )
        self.assertEqual(printed, "True\n[]\nOperation on a closed FileReader\n")

    def test_of_an_aggregated_capture_there_are_the_survivors(self) -> None:
        _, reader = self.recorded(
            """
            with Tracker(sys.argv[1], file_format=FileFormat.AGGREGATED_ALLOCATIONS) as tracker:
                kept = [Thing() for _ in range(10)]
                [Thing() for _ in range(10)]
            """
        )
        events = list(reader.get_object_lifetime_events())
        self.assertTrue(all(it.is_created for it in events))
        self.assertEqual(len({it.address for it in events}), len(events))
        self.assertGreaterEqual(len(events), 10)

    def test_native_stacks_of_objects_are_recorded_when_wanted(self) -> None:
        printed, reader = self.recorded(
            """
            with Tracker(sys.argv[1], native_traces=True) as tracker:
                kept = Thing()
                print(id(kept))
            """
        )
        made = [it for it in reader.get_object_lifetime_events() if it.address == int(printed) and it.is_created][-1]
        self.assertTrue(made.native_stack_trace())
        self.assertEqual(made.stack_trace()[0][0], "<module>")

    def test_memory_is_what_it_is_without_them(self) -> None:
        code = """
            with {tracker}(sys.argv[1], trace_python_allocators=True):
                kept = [Thing() for _ in range(300)]
                for _ in range(50):
                    [bytearray(100) for _ in range(100)]
            """
        sums = []
        for tracker in ("Tracker", "memtrace.Tracker"):
            _, reader = self.recorded(code.format(tracker=tracker))
            sums.append(
                [
                    sorted((it.size, it.n_allocations, tuple(it.stack_trace())) for it in records)
                    for records in (
                        reader.get_high_watermark_allocation_records(),
                        reader.get_leaked_allocation_records(),
                    )
                ]
            )
        self.assertEqual(*sums)
        self.assertTrue(sums[0][0])

    def test_they_are_parsed_and_counted(self) -> None:
        capture = fresh()
        run("with Tracker(sys.argv[1]):\n    kept = [Thing() for _ in range(100)]", capture)
        lines = self.printed("parse", capture)
        self.assertGreaterEqual(sum(": object made 0x" in line for line in lines), 100)
        stats = self.printed("stats", capture)
        told = stats[stats.index("Objects made:") + 1].split()
        made, living = int(told[0].rstrip(",")), int(told[2])
        self.assertGreaterEqual(made, living)
        self.assertGreaterEqual(living, 100)

    def printed(self, *arguments: str) -> List[str]:
        command = [sys.executable, "-m", "memtrace", *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()


try:
    import memray
except ImportError:
    memray = None  # type: ignore[assignment]


@unittest.skipUnless(IS_TOLD and memray, "memray is not here, or this interpreter does not tell of objects")
class BesideMemray(unittest.TestCase):
    def test_the_same_program_has_the_same_objects(self) -> None:
        code = """
            import collections, json
            from {module} import FileReader, Tracker

            def make(n):
                return [(number, {{str(number): [number]}}) for number in range(1000, 1000 + n)]

            def work():
                kept = make(200)
                for _ in range(20):
                    json.loads(json.dumps(make(20)))
                return kept

            work()
            with Tracker(sys.argv[1], track_object_lifetimes=True) as tracker:
                kept = work()
            found = tracker.get_surviving_objects()
            print(sorted(collections.Counter(type(it).__name__ for it in found).items()))
            with FileReader(sys.argv[1]) as reader:
                stacks = collections.Counter()
                for event in reader.get_object_lifetime_events():
                    if event.is_created:
                        stacks[tuple(event.stack_trace())] += 1
            # A profile function, as memray has one, changes how calls are made, and so what is made for them.
            for stack, n_made in sorted(stacks.items()):
                if stack and stack[0][0] in ("make", "raw_decode"):
                    print(n_made, *stack, sep="\\n    ")
            """
        ours, theirs = (run(code.format(module=module), fresh()) for module in ("memtrace", "memray"))
        self.maxDiff = None
        self.assertEqual(ours, theirs)


if __name__ == "__main__":
    unittest.main()
