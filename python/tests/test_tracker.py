"""`Tracker`: a process that records itself, without having been started for it."""

import glob
import os
import subprocess
import sys
import sysconfig
import textwrap
import unittest
from typing import Dict, Optional, Sequence

import captures
from captures import EXTRA, MANY, ONE, find, stack, sums_of

import memtrace
from memtrace import AllocatorType, FileFormat, FileReader


IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def program(code: str) -> str:
    begin = "import memtrace, os, sys, threading, time\nfrom memtrace import FileDestination, FileFormat, FileReader, Tracker\n"
    if IS_FREE_THREADED:
        # Objects lie in memory that mimalloc has taken at once.
        begin += "import functools\nTracker = functools.partial(Tracker, trace_python_allocators=True)\n"
    return begin + textwrap.dedent(code)


def run(
    code: str,
    *arguments: str,
    status: int = 0,
    env: Optional[Dict[str, str]] = None,
    command: Sequence[str] = (sys.executable, "-c"),
) -> str:
    """What a program prints that is started for itself: a process has but one recorder."""
    done = subprocess.run(
        [*command, program(code), *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if done.returncode != status:
        raise AssertionError(done.stderr.decode() + done.stdout.decode())
    return done.stdout.decode()


_n_captures = 0


def fresh() -> str:
    """The path of a capture that is not there yet."""
    global _n_captures
    _n_captures += 1
    return captures.scratch(f"tracked{_n_captures}.bin")


class Recording(unittest.TestCase):
    def test_what_is_allocated_in_the_with_is_recorded(self) -> None:
        capture = fresh()
        run(
            f"""
            def make(n):
                return bytearray(n)
            before = make({MANY})
            with Tracker(sys.argv[1]):
                inside = make({ONE})
                del before
            after = make({MANY})
            """,
            capture,
        )
        with FileReader(capture) as reader:
            records = list(reader.get_allocation_records())
            self.assertEqual(reader.warnings, [])
            self.assertEqual(reader.metadata.trace_python_allocators, IS_FREE_THREADED)
        self.assertEqual(find(records, MANY), [])
        [made] = find(records, ONE)
        self.assertEqual(stack(made), ("make", "<module>"))
        self.assertEqual(made.tid, reader.metadata.main_thread_id)

    def test_an_empty_with_is_an_empty_capture(self) -> None:
        for options in ("", ", trace_python_allocators=True", ", native_traces=True"):
            capture = fresh()
            run(f"with Tracker(sys.argv[1]{options}): pass", capture)
            with FileReader(capture) as reader:
                # An object that the call of `__enter__` needed may go.
                records = [it for it in reader.get_allocation_records() if it.allocator != AllocatorType.PYMALLOC_FREE]
            self.assertEqual(records, [], options)

    def test_frames_outside_of_the_with_are_hidden(self) -> None:
        capture = fresh()
        run(
            f"""
            def outermost():
                return outer()
            def outer():
                with Tracker(sys.argv[1]):
                    return inner()
            def inner():
                return bytearray({ONE})
            outermost()
            """,
            capture,
        )
        with FileReader(capture) as reader:
            [made] = find(reader.get_allocation_records(), ONE)
        self.assertEqual(stack(made), ("inner", "outer"))

    def test_threads_that_were_there_before_are_recorded(self) -> None:
        capture = fresh()
        run(
            f"""
            import threading
            go, done = threading.Event(), threading.Event()
            def work():
                go.wait()
                global kept
                kept = bytearray({ONE})
                done.set()
            threading.Thread(target=work).start()
            with Tracker(sys.argv[1]):
                go.set()
                done.wait()
            """,
            capture,
        )
        with FileReader(capture) as reader:
            [made] = find(reader.get_allocation_records(), ONE)
            self.assertNotEqual(made.tid, reader.metadata.main_thread_id)
        self.assertEqual(stack(made)[:2], ("work", "run"))
        self.assertEqual(stack(made)[-1], "_bootstrap")

    def test_python_objects_are_recorded_when_they_are_wanted(self) -> None:
        capture = fresh()
        run(
            """
            with Tracker(sys.argv[1], trace_python_allocators=True):
                kept = [object() for _ in range(1000)]
            """,
            capture,
        )
        with FileReader(capture) as reader:
            self.assertTrue(reader.metadata.trace_python_allocators)
            objects = [it for it in reader.get_leaked_allocation_records() if it.n_allocations >= 1000]
        self.assertEqual(len(objects), 1)

    def test_snapshots_are_taken(self) -> None:
        capture = fresh()
        code = "import time\nwith Tracker(sys.argv[1], memory_interval_ms=5):\n    time.sleep(0.1)"
        run(code, capture)
        with FileReader(capture) as reader:
            snapshots = list(reader.get_memory_snapshots())
        self.assertGreater(len(snapshots), 3)
        self.assertTrue(all(it.rss > 1_000_000 for it in snapshots))

    def test_an_exception_passes_through(self) -> None:
        capture = fresh()
        printed = run(
            """
            try:
                with Tracker(sys.argv[1]):
                    raise KeyError("mine")
            except KeyError as error:
                print(repr(error))
            """,
            capture,
        )
        self.assertEqual(printed, "KeyError('mine')\n")
        FileReader(capture).close()

    def test_one_recording_comes_after_the_other(self) -> None:
        first, second = fresh(), fresh()
        run(
            f"""
            def make(n):
                return bytearray(n)
            kept = []
            for path, n in ((sys.argv[1], {MANY}), (sys.argv[2], {ONE})):
                with Tracker(path):
                    kept.append(make(n))
            """,
            first,
            second,
        )
        for capture, size in ((first, MANY), (second, ONE)):
            with FileReader(capture) as reader:
                [made] = [it for it in reader.get_allocation_records() if it.size >= MANY]
                self.assertEqual(made.size, size + EXTRA)
                self.assertEqual(stack(made), ("make", "<module>"))

    def test_start_and_stop_do_the_same(self) -> None:
        capture = fresh()
        start = f"memtrace.start(sys.argv[1], trace_python_allocators={IS_FREE_THREADED})"
        run(f"{start}\nkept = bytearray({ONE})\nmemtrace.stop()", capture)
        with FileReader(capture) as reader:
            self.assertEqual(len(find(reader.get_allocation_records(), ONE)), 1)
        run("memtrace.stop()", status=1)

    def test_pauses_leave_out_what_is_allocated(self) -> None:
        capture = fresh()
        run(
            f"""
            with Tracker(sys.argv[1]) as tracker:
                first = bytearray({ONE})
                tracker.pause()
                second = bytearray({MANY})
                tracker.resume()
                tracker.mark("later")
                third = bytearray({ONE})
            """,
            capture,
        )
        with FileReader(capture) as reader:
            records = list(reader.get_allocation_records())
        self.assertEqual((len(find(records, ONE)), len(find(records, MANY))), (2, 0))

    def test_aggregated_captures_answer_what_they_can(self) -> None:
        capture = fresh()
        run(
            f"with Tracker(sys.argv[1], file_format=FileFormat.AGGREGATED_ALLOCATIONS): kept = bytearray({ONE})",
            capture,
        )
        with FileReader(capture) as reader:
            self.assertIs(reader.metadata.file_format, FileFormat.AGGREGATED_ALLOCATIONS)
            self.assertEqual(len(sums_of(reader.get_high_watermark_allocation_records(), ONE)), 1)
            for ask in (
                reader.get_allocation_records,
                reader.get_temporary_allocation_records,
                reader.get_temporal_allocation_records,
                reader.get_temporal_high_water_mark_allocation_records,
            ):
                with self.assertRaises(NotImplementedError):
                    list(ask())

    def test_an_aggregated_capture_answers_as_a_whole_one(self) -> None:
        work = f"""
            def make(n):
                return [bytearray({ONE}) for _ in range(n)]

            def work():
                kept.append(make(3))
                for size in range(3000, 6000):
                    bytearray(size)
                return make(2)

            kept = []
            with Tracker(sys.argv[1], file_format=FileFormat(int(sys.argv[2])), native_traces=sys.argv[3] == "native"):
                high = work()
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
                del high
                time.sleep(0.1)
            """
        for native in ("native", "python"):
            answers, sizes = [], []
            for file_format in FileFormat:
                capture = fresh()
                run(work, capture, str(int(file_format)), native)
                sizes.append(os.path.getsize(capture))
                with FileReader(capture) as reader:
                    self.assertIs(reader.metadata.file_format, file_format)
                    self.assertGreater(reader.metadata.total_allocations, 6000)
                    self.assertEqual(reader.metadata.has_native_traces, native == "native")
                    told = [reader.metadata.peak_memory // ONE]
                    for ask in (reader.get_high_watermark_allocation_records, reader.get_leaked_allocation_records):
                        for merge in (True, False):
                            found = [it for it in ask(merge_threads=merge) if it.size >= ONE]
                            told.append(sorted((stack(it), it.size, it.n_allocations, it.allocator) for it in found))
                    snapshots = list(reader.get_memory_snapshots())
                    self.assertEqual(snapshots[-1].heap // ONE, 6)
                answers.append(told)
            self.assertEqual(*answers)
            self.assertLess(sizes[1], sizes[0])

    def test_an_aggregated_recording_that_is_killed_leaves_a_whole_capture(self) -> None:
        capture = fresh()
        code = f"""
            with Tracker(sys.argv[1], file_format=FileFormat.AGGREGATED_ALLOCATIONS):
                kept = bytearray({ONE})
                os.kill(os.getpid(), 9)
            """
        run(code, capture, status=-9)
        with FileReader(capture) as reader:
            self.assertIs(reader.metadata.file_format, FileFormat.ALL_ALLOCATIONS)
            self.assertEqual(len(find(reader.get_allocation_records(), ONE)), 1)

    def test_children_of_an_aggregated_recording_are_aggregated(self) -> None:
        capture = fresh()
        run(
            f"""
            destination = dict(file_name=sys.argv[1], follow_fork=True)
            with Tracker(**destination, file_format=FileFormat.AGGREGATED_ALLOCATIONS):
                child = os.fork()
                kept = bytearray({MANY})
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
            """,
            capture,
        )
        [log] = glob.glob(capture + ".*")
        with FileReader(log) as reader:
            self.assertIs(reader.metadata.file_format, FileFormat.AGGREGATED_ALLOCATIONS)
            self.assertEqual(len(sums_of(reader.get_leaked_allocation_records(), MANY)), 1)

    def test_a_forked_child_leaves_the_capture_alone(self) -> None:
        capture = fresh()
        run(
            f"""
            with Tracker(sys.argv[1]):
                child = os.fork()
                kept = bytearray({MANY} if child == 0 else {ONE})
            if child:
                sys.exit(os.waitpid(child, 0)[1])
            """,
            capture,
        )
        with FileReader(capture) as reader:
            records = list(reader.get_allocation_records())
            self.assertEqual(reader.warnings, [])
        self.assertEqual((len(find(records, ONE)), len(find(records, MANY))), (1, 0))

    def test_files_are_compressed_unless_they_should_not_be(self) -> None:
        small, large = fresh(), fresh()
        code = """
            with Tracker(destination=FileDestination(sys.argv[1], compress_on_exit=sys.argv[2] == "yes")):
                kept = [bytearray(1000) for _ in range(30000)]
            """
        run(code, small, "yes")
        run(code, large, "no")
        self.assertLess(os.path.getsize(small), os.path.getsize(large) // 2)

    def test_the_null_device_takes_everything(self) -> None:
        run(f"with Tracker(os.devnull): kept = bytearray({ONE})")


class Children(unittest.TestCase):
    def check_child(self, capture: str, pid: str, size: int, warnings: int = 0) -> None:
        with FileReader(f"{capture}.{pid}") as reader:
            records = list(reader.get_allocation_records())
            self.assertEqual(reader.metadata.pid, int(pid))
            self.assertEqual(len(reader.warnings), warnings, reader.warnings)
        [made] = find(records, size)
        self.assertEqual(stack(made)[0], "make")
        self.assertEqual(find(records, size + 100), [])

    def test_forked_children_have_captures_of_their_own(self) -> None:
        capture = fresh()
        pid = run(
            f"""
            def make(n):
                return bytearray(n)
            with Tracker(sys.argv[1], follow_fork=True):
                child = os.fork()
                kept = make({MANY} if child == 0 else {ONE})
                if child:
                    os.waitpid(child, 0)
            if child == 0:
                # The with is over here as well.
                later = make({MANY} + 100)
                os._exit(0)
            print(child)
            """,
            capture,
        ).strip()
        self.check_child(capture, pid, MANY)
        with FileReader(capture) as reader:
            records = list(reader.get_allocation_records())
            self.assertEqual(reader.warnings, [])
        self.assertEqual((len(find(records, ONE)), len(find(records, MANY))), (1, 0))

    def test_workers_of_multiprocessing_are_followed_and_what_they_execute_is_not(self) -> None:
        capture = fresh()
        pids = run(
            f"""
            import multiprocessing, subprocess
            kept = []
            def make(n):
                return bytearray(n)
            def work(n):
                kept.append(make(n))
                subprocess.run([sys.executable, "-c", "pass"], check=True)
                return os.getpid()
            with Tracker(sys.argv[1], follow_fork=True):
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    print(*pool.map(work, [{ONE}]))
                    pool.close()
                    pool.join()
            """,
            capture,
        ).split()
        self.check_child(capture, pids[0], ONE)
        # The one between fork and exec of a subprocess may have one too, of the worker's own code.
        for path in glob.glob(f"{capture}.*"):
            with FileReader(path) as reader:
                self.assertNotIn("-c pass", reader.metadata.command_line)

    def test_a_child_that_is_killed_leaves_a_capture(self) -> None:
        capture = fresh()
        pid = run(
            f"""
            import signal
            def make(n):
                return bytearray(n)
            with Tracker(sys.argv[1], follow_fork=True):
                child = os.fork()
                if child == 0:
                    kept = make({ONE})
                    os.kill(os.getpid(), signal.SIGKILL)
                os.waitpid(child, 0)
            print(child)
            """,
            capture,
        ).strip()
        self.check_child(capture, pid, ONE)

    def test_a_child_that_outlives_the_tracker_is_recorded_on(self) -> None:
        capture = fresh()
        pid = run(
            f"""
            def make(n):
                return bytearray(n)
            go_on, tell = os.pipe()
            with Tracker(sys.argv[1], follow_fork=True):
                child = os.fork()
                if child == 0:
                    os.read(go_on, 1)
                    kept = make({ONE})
                    os._exit(0)
            os.write(tell, b"!")
            os.waitpid(child, 0)
            print(child)
            """,
            capture,
        ).strip()
        # It has no end.
        self.check_child(capture, pid, ONE, warnings=1)

    def test_a_child_that_is_followed_has_no_room_for_another_tracker(self) -> None:
        capture, other = fresh(), fresh()
        run(
            """
            with Tracker(sys.argv[1], follow_fork=True):
                child = os.fork()
                if child == 0:
                    try:
                        with Tracker(sys.argv[2]): pass
                    except RuntimeError as error:
                        os._exit("No more than one Tracker instance" not in str(error))
                    os._exit(2)
                status = os.waitpid(child, 0)[1]
            sys.exit(status)
            """,
            capture,
            other,
        )
        self.assertFalse(os.path.exists(other))


class BesideOthers(unittest.TestCase):
    """In a process that other recordings are in, or were."""

    def check(self, capture: str) -> None:
        with FileReader(capture) as reader:
            [made] = find(reader.get_allocation_records(), ONE)
            self.assertEqual(reader.warnings, [])
        self.assertEqual(stack(made), ("make", "<module>"))

    TRACKED = f"""
        def make(n):
            return bytearray(n)
        with Tracker(sys.argv[1]):
            kept = make({ONE})
        """

    def test_the_recorder_may_be_there_from_the_start_and_idle(self) -> None:
        capture = fresh()
        library = os.path.join(os.path.dirname(memtrace.__file__), "libmemtrace_preload.so")
        run(self.TRACKED, capture, env=dict(os.environ, LD_PRELOAD=library))
        self.check(capture)

    def test_under_memtrace_run_there_is_a_recording_already(self) -> None:
        capture, whole = fresh(), fresh()
        code = """
            try:
                with Tracker(sys.argv[1]): pass
            except RuntimeError as error:
                print(error)
            """
        command = [sys.executable, "-m", "memtrace", "run", "-q", "-o", whole, "-c"]
        printed = run(code, capture, command=command)
        self.assertIn("No more than one Tracker instance can be active at the same time", printed)
        self.assertIn("`memtrace run`", printed)
        self.assertFalse(os.path.exists(capture))
        FileReader(whole).close()

    def attach(self, target: "subprocess.Popen[bytes]", *options: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "memtrace", "attach", *options, str(target.pid)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)

    def start(self, code: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", program(code), *arguments]
        target = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(target.communicate)
        self.addCleanup(target.kill)
        assert target.stdout is not None
        self.assertEqual(target.stdout.readline(), b"ready\n")
        return target

    def test_a_process_that_was_attached_to_and_let_go_has_room_for_a_tracker(self) -> None:
        capture, attached = fresh(), fresh()
        code = "print('ready', flush=True)\nsys.stdin.read(1)\n" + textwrap.dedent(self.TRACKED)
        target = self.start(code, capture)
        done = self.attach(target, "-o", attached, "--duration", "0.1")
        self.assertEqual(done.returncode, 0, done.stderr)
        target.communicate(b"!")
        self.assertEqual(target.returncode, 0)
        self.check(capture)
        FileReader(attached).close()

    def test_a_process_with_an_active_tracker_is_not_attached_to(self) -> None:
        capture, attached = fresh(), fresh()
        code = f"""
            def make(n):
                return bytearray(n)
            with Tracker(sys.argv[1]):
                print('ready', flush=True)
                sys.stdin.read(1)
                kept = make({ONE})
            """
        target = self.start(code, capture)
        done = self.attach(target, "-o", attached)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("it is being recorded already", done.stderr)
        self.assertFalse(os.path.exists(attached))
        target.communicate(b"!")
        self.assertEqual(target.returncode, 0)
        self.check(capture)


class NamesOfThreads(unittest.TestCase):
    def test_they_are_those_that_threading_has(self) -> None:
        capture = fresh()
        run(
            f"""
            import threading
            go, kept = threading.Event(), []
            def work(n, name=None):
                if name:
                    threading.current_thread().name = name
                go.wait()
                kept.append(bytearray(n))
            def start(n, name=None, own=None):
                thread = threading.Thread(target=work, args=({ONE} + n, own), name=name)
                thread.start()
                return thread
            threads = [start(100, "before"), start(200)]
            threads[1].name = "renamed before"
            with Tracker(sys.argv[1]):
                threads += [start(300, "during, and with a long name"), start(400, "x", "its own"), start(500, "y")]
                threads[-1].name = "from outside"
                go.set()
                for thread in threads:
                    thread.join()
                kept.append(bytearray({ONE}))
            assert "_name" not in vars(threading.Thread) and threading.Thread(name="z").name == "z"
            """,
            capture,
        )
        with FileReader(capture) as reader:
            records = list(reader.get_allocation_records())
        names = [find(records, ONE + n)[0].thread_name for n in range(0, 600, 100)]
        expected = ["", "before", "renamed before", "during, and with a long name", "its own", "from outside"]
        self.assertEqual(names, expected)


class Mistakes(unittest.TestCase):
    def check(self, code: str, expected: str, *arguments: str) -> None:
        code = f"try:\n    {code}\nexcept Exception as error:\n    print(type(error).__name__, error)"
        self.assertRegex(run(code, *arguments), expected)

    def test_they_raise_what_memray_raises(self) -> None:
        self.check("Tracker()", "TypeError Exactly one of 'file_name' or 'destination'")
        self.check("Tracker('a', destination=FileDestination('b'))", "TypeError Exactly one")
        self.check("Tracker(destination='x')", "TypeError destination must be")
        self.check("Tracker(3)", "TypeError")
        self.check("Tracker('a', 1)", "TypeError")
        self.check("Tracker('/nonexistent/a.bin')", "OSError Could not create output file .*No such file")
        self.check("Tracker('a', memory_interval_ms=-1)", "OverflowError")
        self.check("Tracker('a', file_format=7)", "RuntimeError Invalid file format")

    def test_a_file_that_is_there_is_kept(self) -> None:
        capture = fresh()
        with open(capture, "w") as file:
            file.write("mine")
        self.check("Tracker(sys.argv[1])", "OSError Output file .* already exists", capture)
        with open(capture) as file:
            self.assertEqual(file.read(), "mine")
        run("with Tracker(destination=FileDestination(sys.argv[1], overwrite=True)): pass", capture)
        FileReader(capture).close()

    def test_there_is_one_at_a_time(self) -> None:
        printed = run(
            """
            with Tracker(sys.argv[1]):
                try:
                    with Tracker(sys.argv[2]): pass
                except RuntimeError as error:
                    print(error)
            """,
            fresh(),
            fresh(),
        )
        self.assertEqual(printed, "No more than one Tracker instance can be active at the same time\n")

    def test_none_is_used_twice(self) -> None:
        printed = run(
            """
            tracker = Tracker(sys.argv[1])
            with tracker: pass
            try:
                with tracker: pass
            except RuntimeError as error:
                print(error)
            """,
            fresh(),
        )
        self.assertEqual(printed, "Attempting to use stale output handle\n")

    def test_one_that_was_never_entered_leaves_nothing(self) -> None:
        capture = fresh()
        run("Tracker(sys.argv[1])", capture)
        self.assertFalse(os.path.exists(capture))


if __name__ == "__main__":
    unittest.main()
