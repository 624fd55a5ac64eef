"""What memray's documentation shows, rewritten and done with this package: each test is named after a page of it."""

import csv
import importlib.util
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import unittest
from pathlib import Path
from typing import Dict, List, Tuple

import memtrace as memray

#: Numbers of bytes that nothing else has, and that come from the system's allocator.
SIZE = 1_000_003


class Page(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()

    def write(self, name: str, code: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(code))

    def python(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def memray(self, line: str, status: int = 0) -> str:
        """The command line of an example, behind ``memray``."""
        return self.python("-m", "memtrace", *line.split(), status=status)

    def the(self, pattern: str) -> str:
        """The only file of that kind."""
        [path] = self.folder.glob(pattern)
        return path.name

    def held(self, capture: str) -> "Dict[str, int]":
        """What functions of the examples hold at the peak, in halves of `SIZE`."""
        held: Dict[str, int] = {}
        with memray.FileReader(self.folder / capture) as reader:
            for record in reader.get_high_watermark_allocation_records():
                for function, file, _ in record.stack_trace(max_stacks=1):
                    if record.size >= SIZE // 2 and (self.folder / os.path.basename(file)).exists():
                        held[function] = held.get(function, 0) + record.size // (SIZE // 2)
        return held


class CommandLine(Page):
    def test_getting_started(self) -> None:
        self.write("example.py", "kept = [bytearray(1000) for _ in range(100)]")
        told = self.memray("run example.py")
        capture = self.the("memtrace-example.py.*.bin")
        self.assertIn(capture, told)
        self.memray(f"flamegraph {capture}")
        self.assertEqual(self.the("*.html"), capture.replace("memtrace-", "memtrace-flamegraph-").replace(".bin", ".html"))

    def test_readme(self) -> None:
        self.write("my_module.py", "print(__name__)")
        self.assertTrue(self.memray("run -m my_module").startswith("__main__\n"))
        self.memray("run -o output.bin my_module.py")
        self.memray("flamegraph output.bin")
        self.the("memtrace-flamegraph-output.html")

    def test_run(self) -> None:
        self.write("example.py", "import sys\nkept = bytearray(3_000_000)\nprint(sys.argv[1:])")
        for option in ("--native", "--trace-python-allocators", "--aggregate", "--buffered-file-io", "--no-compress"):
            self.assertIn("['--live']", self.memray(f"run {option} -fo example.bin example.py --live"))
            self.memray("summary example.bin")
        self.assertIn("exists already", self.memray("run -o example.bin example.py", status=125))

    def test_run_of_what_is_killed(self) -> None:
        self.write(
            "myprogram.py",
            f"""
            import os, signal
            def load():
                return bytearray({SIZE})
            kept = load()
            os.kill(os.getpid(), signal.SIGKILL)
            """,
        )
        self.memray("run --output capture.bin myprogram.py", status=137)
        self.assertRegex(self.memray("summary capture.bin"), r"1\.000MB .* load at ")
        self.assertEqual(self.held("capture.bin"), {"load": 2})

    def test_run_across_forks(self) -> None:
        self.write(
            "example.py",
            f"""
            import os
            def work():
                return bytearray({SIZE})
            child = os.fork()
            kept = work()
            if child:
                print(child)
                os.waitpid(child, 0)
            """,
        )
        child = self.memray("run -q --follow-fork -o example.bin example.py").strip()
        for capture in ("example.bin", f"example.bin.{child}"):
            self.assertEqual(self.held(capture), {"work": 2}, capture)

    def test_flame_graph(self) -> None:
        self.write(
            "example.py",
            f"""
            def outer(n):
                return [middle(n), other(n)]
            def middle(n):
                gone(n)
                return [once(n), twice(n), "a" * (n // 2 + 1)]
            def gone(n):
                return "a" * n
            def once(n):
                return "a" * n
            def twice(n):
                return "a" * (n * 2)
            def other(n):
                return "a" * n
            outer({SIZE})
            """,
        )
        self.memray("run -qo example.bin example.py")
        # The function whose text is gone at the peak is not there.
        self.assertEqual(self.held("example.bin"), {"middle": 1, "once": 2, "twice": 4, "other": 2})
        for options in (
            "",
            "--leaks",
            "--split-threads",
            "--inverted",
            "--temporal",
            "--temporal --leaks",
            "--temporary-allocations",
            "--max-memory-records 10",
            "--no-web",
        ):
            self.memray(f"flamegraph -f {options} example.bin")
        self.assertIn("Can't create", self.memray("flamegraph -f --temporal --temporary-allocations example.bin", status=2))
        sizes = []
        for confidential in ("all", "default", "none"):
            self.memray(f"flamegraph -f --confidential-files={confidential} example.bin")
            sizes.append((self.folder / "memtrace-flamegraph-example.html").stat().st_size)
        # Without the lines of the source the page is smaller.
        self.assertLess(sizes[0], sizes[1])
        self.assertLess(sizes[0], sizes[2])

    @unittest.skipIf(sysconfig.get_config_var("Py_GIL_DISABLED"), "mimalloc has taken the memory at once")
    def test_temporary_allocations(self) -> None:
        counts: List[int] = []
        for body in ("x = []\n    for _ in range(n):\n        x.append(None)\n    return x", "return [None] * n"):
            self.write("example.py", f"def foo(n):\n    {body}\nfoo(1_000_000)")
            self.memray("run --no-python-allocators -qfo test.bin example.py")
            self.assertIn("foo at ", self.memray("summary test.bin --temporary-allocations"))
            with memray.FileReader(self.folder / "test.bin") as reader:
                records = reader.get_temporary_allocation_records()
                sums = [it.n_allocations for it in records if it.stack_trace(1)[:1] and it.stack_trace(1)[0][0] == "foo"]
            counts.append(sum(sums))
        # A list that grows is moved again and again.
        self.assertGreater(counts[0], 50)
        self.assertEqual(counts[1], 1)

    def test_the_other_reporters(self) -> None:
        self.write("example.py", f"def make():\n    return bytearray({SIZE})\nkept = make()")
        self.memray("run -qo example.bin example.py")
        self.memray("table example.bin")
        self.the("memtrace-table-example.html")
        self.assertIn("make at ", self.memray("summary -s 3 -r 5 example.bin"))
        self.assertIn("make:", self.memray("tree -b 5 example.bin"))
        self.assertIn("Total allocations", self.memray("stats -n 2 example.bin"))
        self.memray("stats --json example.bin")
        stats = json.loads((self.folder / "memtrace-stats-example.bin.json").read_text())
        self.assertEqual(stats["metadata"]["command_line"], "example.py")
        self.memray("stats --json -f -o mine.json example.bin")
        for form, name in (
            ("gprof2dot", "memtrace-gprof2dot-example.json"),
            ("csv", "memtrace-csv-example.csv"),
            ("speedscope", "memtrace-speedscope-example.speedscope.json"),
        ):
            self.memray(f"transform {form} example.bin")
            self.assertTrue((self.folder / name).is_file(), name)
        with open(self.folder / "memtrace-csv-example.csv") as file:
            rows = list(csv.DictReader(file))
        columns = ["allocator", "num_allocations", "size", "tid", "thread_name", "stack_trace"]
        self.assertEqual(list(rows[0])[:6], columns)
        [made] = [row for row in rows if int(row["size"]) >= SIZE]
        frames = [tuple(frame.split(";")) for frame in made["stack_trace"].split("|")]
        script = str(self.folder / "example.py")
        self.assertEqual(frames, [("make", script, "2"), ("<module>", script, "3")])

    def test_live(self) -> None:
        self.write("application.py", "import sys\nprint(sys.argv[1:])")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for options, asks in ((f"--live-port {port} application.py", True), (f"application.py --live-port {port}", False)):
            running = subprocess.Popen(
                [sys.executable, "-m", "memtrace", "run", "--live-remote", *options.split()],
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert running.stdout
            first = running.stdout.readline()
            running.terminate()
            running.communicate()
            self.assertRegex(first, r"memtrace live \d+\n")
            self.assertEqual(str(port) in first, asks, first)


class Api(Page):
    def test_a_tracker_and_its_destinations(self) -> None:
        self.write(
            "example.py",
            f"""
            import memtrace as memray
            def make():
                return bytearray({SIZE})
            with memray.Tracker("some_output_file.bin", trace_python_allocators=True):
                kept = make()
            destination = memray.FileDestination("some_output_file.bin", overwrite=True)
            with memray.Tracker(destination=destination, trace_python_allocators=True):
                more = [make(), make()]
            file_format = memray.FileFormat.AGGREGATED_ALLOCATIONS
            with memray.Tracker("small.bin", file_format=file_format, native_traces=True, trace_python_allocators=True):
                less = make()
            """,
        )
        self.python("example.py")
        self.assertEqual(self.held("some_output_file.bin"), {"make": 4})
        self.assertEqual(self.held("small.bin"), {"make": 2})
        for report in ("flamegraph", "table", "summary", "tree"):
            self.memray(f"{report} small.bin")

    def test_records_are_read(self) -> None:
        self.write("example.py", f"def make():\n    return bytearray({SIZE})\nkept = make()")
        self.memray("run -qo example.bin example.py")
        reader = memray.FileReader(os.fspath(self.folder / "example.bin"))
        [made] = [it for it in reader.get_allocation_records() if it.size > SIZE]
        self.assertEqual(made.stack_trace(max_stacks=1)[0][0], "make")
        self.assertEqual(reader.metadata.command_line, "example.py")
        reader.close()


@unittest.skipUnless(importlib.util.find_spec("pytest"), "pytest is not here")
class Tutorial(Page):
    """Three exercises: a limit that a test exceeds, and the same when the code was mended."""

    def outcome(self, code: str, limit: str) -> "Tuple[int, str]":
        test = f"import pytest\n{textwrap.dedent(code)}\n@pytest.mark.limit_memory('{limit}')\ndef test_it():\n    run()\n"
        (self.folder / "test_exercise.py").write_text(test)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:memray"]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def check(self, limit: str, wasteful: str, thrifty: str, place: str) -> None:
        status, told = self.outcome(wasteful, limit)
        self.assertEqual(status, 1, told)
        self.assertRegex(told, rf"Test was limited to .* but allocated (.|\n)*{place}")
        status, told = self.outcome(thrifty, limit)
        self.assertEqual(status, 0, told)

    def test_fibonacci(self) -> None:
        wasteful = """
            def numbers(length):
                output = [1, 1]
                for i in range(length - 2):
                    output.append((output[i] + output[i + 1]) % 10 ** 9)
                return output
            def run():
                sum(numbers(50_000))
            """
        thrifty = """
            def numbers(length):
                left = right = 1
                for _ in range(length):
                    yield left
                    left, right = right, (left + right) % 10 ** 9
            def run():
                sum(numbers(50_000))
            """
        self.check("100 KB", wasteful, thrifty, "numbers:.*test_exercise.py:6")

    def test_clinging_onto_memory(self) -> None:
        steps = """
            def load():
                return bytearray(1_000_000)
            def changed(data):
                return bytearray(len(data))
            """
        wasteful = steps + """
            def run():
                first = load()
                second = changed(first)
                third = changed(second)
                return changed(third)
            """
        thrifty = steps + """
            def run():
                data = load()
                data = changed(data)
                data = changed(data)
                return changed(data)
            """
        self.check("2300 KB", wasteful, thrifty, "changed:.*test_exercise.py:6")

    def test_lru_cache(self) -> None:
        wasteful = """
            import functools
            class Algorithm:
                @functools.lru_cache(maxsize=None)
                def table(self, n):
                    return bytearray(n)
            def run():
                for number in range(40):
                    Algorithm().table(100_000 + number)
            """
        thrifty = """
            import functools
            class Algorithm:
                def __init__(self):
                    self.table = functools.lru_cache(maxsize=None)(self.make)
                @staticmethod
                def make(n):
                    return bytearray(n)
            def run():
                for number in range(40):
                    Algorithm().table(100_000 + number)
            """
        self.check("1 MB", wasteful, thrifty, "table:.*test_exercise.py:7")


if __name__ == "__main__":
    unittest.main()
