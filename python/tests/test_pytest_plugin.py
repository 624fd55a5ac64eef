"""The pytest plugin, in runs of pytest over small suites. They need pytest, and some pytest-xdist or pytest-memray."""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import unittest
import xml.etree.ElementTree
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import memtrace

MEBIBYTE = 1 << 20


def has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def follows_objects() -> bool:
    try:
        memtrace.Tracker(os.devnull, track_object_lifetimes=True)
    except RuntimeError:
        return False
    return True


class Suite(unittest.TestCase):
    """A folder with tests in it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()

    def write(self, source: str, name: str = "test_it.py") -> None:
        (self.folder / name).write_text(textwrap.dedent(source))

    def run_pytest(self, *arguments: str, env: Optional[Dict[str, str]] = None) -> Tuple[int, str]:
        return self.run_exactly("-p", "no:memray", *arguments, env=env)

    def run_exactly(self, *arguments: str, env: Optional[Dict[str, str]] = None) -> Tuple[int, str]:
        """Exit code and what it said."""
        command = [sys.executable, "-m", "pytest", "--color=no", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**clean, "COLUMNS": "160", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def check(self, exit_code: int, *arguments: str) -> str:
        found, told = self.run_pytest(*arguments)
        self.assertEqual(found, exit_code, told)
        return told


TWO_PEAKS = """
    def make(n_bytes):
        return bytearray(n_bytes)

    def test_small():
        make(1 << 20)

    def test_large():
        make(3 << 20)
"""

LIMITED = """
    import pytest

    def make(n_bytes):
        return bytearray(n_bytes)

    @pytest.mark.limit_memory("{limit}")
    def test_it():
        make({n_bytes})
"""


@unittest.skipUnless(has("pytest"), "pytest is not here")
class Summaries(Suite):
    def test_nothing_is_recorded_or_said_unless_asked_for(self) -> None:
        self.write(TWO_PEAKS)
        told = self.check(0)
        self.assertNotIn("MEMTRACE", told)

    def test_the_summary_has_the_highest_peaks_first_and_what_allocated(self) -> None:
        self.write(TWO_PEAKS)
        told = self.check(0, "--memtrace")
        self.assertLess(
            told.index("results for test_it.py::test_large"), told.index("results for test_it.py::test_small")
        )
        self.assertRegex(told, r"Total memory allocated: 3\.\dMiB")
        # Those that were there at the peak, and no frees.
        self.assertEqual(told.count("Total allocations: 1\n"), 2)
        self.assertRegex(told, rf"make:{re.escape(str(self.folder))}/test_it\.py:3 -> 3\.\dMiB")

    def test_the_summary_names_as_many_tests_as_asked_for(self) -> None:
        self.write(TWO_PEAKS)
        for option in ("--memtrace-most-allocations=1", "--most-allocations=1"):
            told = self.check(0, "--memtrace", option)
            self.assertIn("test_large", told)
            self.assertNotIn("test_small", told)
        self.assertIn("test_small", self.check(0, "--memtrace", "--most-allocations=0"))

    def test_the_summary_can_be_hidden(self) -> None:
        self.write(TWO_PEAKS)
        for option in ("--hide-memtrace-summary", "--hide-memray-summary"):
            self.assertNotIn("MEMTRACE", self.check(0, "--memtrace", option))

    def test_the_ini_file_turns_it_on_by_our_keys_and_by_those_of_pytest_memray(self) -> None:
        self.write(TWO_PEAKS)
        for keys in ("memtrace = true\nmemtrace_most_allocations = 1", "memray = true\nmost_allocations = 1"):
            self.write(f"[pytest]\n{keys}\n", "pytest.ini")
            told = self.check(0, "-W", "error", "--strict-config")
            self.assertIn("results for test_it.py::test_large", told)
            self.assertNotIn("results for test_it.py::test_small", told)

    def test_tests_that_failed_are_not_in_it(self) -> None:
        self.write("def test_good():\n    bytearray(1000)\ndef test_bad():\n    assert bytearray(1000) is None\n")
        told = self.check(1, "--memtrace")
        self.assertIn("results for test_it.py::test_good", told)
        self.assertNotIn("results for test_it.py::test_bad", told)

    def test_captures_are_kept_in_a_folder_under_the_names_of_their_tests(self) -> None:
        self.write("""
            import pytest

            @pytest.mark.parametrize("number", [1, 2], ids=["a", "b" * 300])
            def test_it(number):
                pass
            """)
        for option in ("--memtrace-bin-path", "--memray-bin-path"):
            kept = self.folder / option.strip("-")
            told = self.check(0, "--memtrace", f"{option}={kept}", "--memtrace-bin-prefix=run")
            self.assertIn(f"Created 2 binary dumps at {kept} with prefix run", told)
            short, long = sorted(path.name for path in kept.iterdir())
            self.assertEqual(short, "run-test_it.py-test_it[a].bin")
            self.assertRegex(long, r"^run-test_it\.py-test_it\[b{100,}-[0-9a-f]{16}\.bin$")
            self.assertLessEqual(len(long), 255)
            # What is there from before is replaced.
            self.check(0, "--memtrace", f"{option}={kept}", "--memtrace-bin-prefix=run")

    def test_a_folder_that_can_t_be_made_is_an_error_of_usage(self) -> None:
        self.write(TWO_PEAKS)
        self.assertIn("must be a directory", self.check(4, "--memtrace", "--memtrace-bin-path=test_it.py"))

    def test_what_the_test_returns_and_raises_is_as_without(self) -> None:
        self.write("""
            import pytest, unittest

            @pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
            def test_raises():
                1 / 0

            @pytest.fixture
            def given():
                return 5

            class TestClass:
                def test_method(self, given):
                    assert given == 5

            class Case(unittest.TestCase):
                def test_of_unittest(self):
                    self.block = bytearray(2 << 20)
            """)
        told = self.check(0, "--memtrace")
        self.assertIn("2 passed, 1 xfailed", told)
        self.assertIn("results for test_it.py::Case::test_of_unittest", told)


@unittest.skipUnless(has("pytest"), "pytest is not here")
class Limits(Suite):
    def test_a_limit_of_memory_is_one_of_the_peak(self) -> None:
        for n_bytes, exit_code in ((2 * MEBIBYTE, 1), (MEBIBYTE // 2, 0)):
            self.write(LIMITED.format(limit="1 MB", n_bytes=n_bytes))
            self.check(exit_code)
            self.check(exit_code, "--memtrace")

    def test_a_failing_limit_shows_where_the_bytes_went(self) -> None:
        self.write(LIMITED.format(limit="1 MB", n_bytes=2 * MEBIBYTE))
        told = self.check(1)
        self.assertRegex(told, r"Test was limited to 1\.0MiB but allocated 2\.\dMiB")
        self.assertIn("memtrace: largest stacks at the peak", told)
        file = re.escape(str(self.folder / "test_it.py"))
        stack = rf"- 2\.0MiB \(1 allocation\) allocated here:\n +make:{file}:5\n +test_it:{file}:9\n"
        self.assertRegex(told, stack)
        # Nothing of pytest or of the plugin above the test.
        self.assertNotIn("recorder.py", told)
        self.assertIn("MEMORY PROBLEMS", told)

    def test_frames_and_stacks_of_a_failure_are_as_many_as_asked_for(self) -> None:
        self.write("""
            import pytest

            def grow(depth):
                kept = bytearray(100_000)
                return [kept, grow(depth - 1)] if depth > 1 else [kept]

            @pytest.mark.limit_memory("1 MB")
            def test_it():
                grow(15)
            """)
        told = self.check(1)
        self.assertEqual(told.count("allocated here"), 10)
        self.assertRegex(told, r"\.\.\.and \d+ more with")
        self.assertGreaterEqual(self.check(1, "-vv").count("allocated here"), 15)
        self.assertNotIn("memtrace", self.check(1, "-q"))
        self.assertEqual(self.check(1, "-vv", "-o", "verbosity_memray=-1").count("allocated here"), 0)
        for option in ("--stacks=2", "--memtrace-stacks=2"):
            self.assertRegex(self.check(1, option), r"allocated here:\n +grow:.*\n +grow:.*\n +\.\.\.\n")

    def test_the_message_reaches_the_junit_file(self) -> None:
        self.write(LIMITED.format(limit="1 MB", n_bytes=2 * MEBIBYTE))
        self.check(1, "--junit-xml=junit.xml")
        failure = xml.etree.ElementTree.parse(self.folder / "junit.xml").getroot().find(".//failure")
        assert failure is not None and failure.text is not None
        self.assertRegex(failure.text, r"^Test was limited to 1\.0MiB but allocated 2\.\dMiB$")

    def test_a_limit_that_is_expected_to_fail_may(self) -> None:
        source = LIMITED.format(limit="1 MB", n_bytes=2 * MEBIBYTE)
        self.write(source.replace("@pytest.mark.limit", "@pytest.mark.xfail\n    @pytest.mark.limit"))
        self.assertIn("1 xfailed", self.check(0))

    def test_a_limit_that_is_no_size_fails_the_test_and_not_the_run(self) -> None:
        self.write(LIMITED.format(limit="a lot", n_bytes=1) + "\n    def test_other():\n        pass\n")
        told = self.check(1)
        self.assertIn("@pytest.mark.limit_memory(limit, *, current_thread_only=False): Invalid memory size format: 'a lot'", told)
        self.assertIn("1 failed, 1 passed", told)
        # The user's mistake is shown, and not our code.
        self.assertNotIn("recorder.py", told)

    def test_other_threads_count_unless_left_out(self) -> None:
        for thread_only, exit_code in ((False, 1), (True, 0)):
            self.write(f"""
                import threading
                import pytest

                kept = []

                @pytest.mark.limit_memory("1 MB", current_thread_only={thread_only})
                def test_it():
                    thread = threading.Thread(target=lambda: kept.append(bytearray(2 << 20)))
                    thread.start()
                    thread.join()
                """)
            self.check(exit_code)

    def test_more_memory_than_the_last_time_can_fail_a_test(self) -> None:
        self.write(LIMITED.format(limit="50 MB", n_bytes=MEBIBYTE))
        self.check(0)
        self.write(LIMITED.format(limit="50 MB", n_bytes=4 * MEBIBYTE))
        for option in ("--fail-on-increase", "--memtrace-fail-on-increase"):
            # What failed is no measure for the next time.
            told = self.check(1, option)
            self.assertRegex(told, r"Test previously used 1\.0MiB but now uses 4\.0MiB")
        self.check(0)
        self.check(0, "--fail-on-increase")

    def test_leaks_are_limited_by_stack(self) -> None:
        source = """
            import pytest

            kept = []

            def leak():
                kept.append(bytearray(100_000))

            def is_unknown(stack):
                return all(frame.function != "leak" for frame in stack.frames)

            @pytest.mark.limit_leaks("{limit}"{more})
            def test_it():
                for _ in range(10):
                    leak()
                bytearray(10_000_000)
        """
        self.write(source.format(limit="500 KB", more=""))
        told = self.check(1)
        self.assertIn("Test was allowed to leak 500.0KiB per location but at least one location leaked more", told)
        # The first call may come another way through the interpreter, which has not specialised it yet.
        stack = r"- (878\.9KiB \(9|976\.\dKiB \(10) allocations\) allocated here:\n(.*\n)*? +leak:.*test_it\.py:7\n"
        self.assertRegex(told, stack)
        self.write(source.format(limit="1500 KB", more=""))
        self.check(0)
        self.write(source.format(limit="500 KB", more=", filter_fn=is_unknown"))
        self.check(0)

    def test_a_test_can_have_several_limits_and_the_nearest_of_a_kind_holds(self) -> None:
        self.write("""
            import pytest

            pytestmark = pytest.mark.limit_memory("1 KB")
            kept = []

            @pytest.mark.limit_memory("1 MB")
            @pytest.mark.limit_leaks("100 KB")
            def test_both():
                kept.append(bytearray(200_000))
            """)
        told = self.check(1)
        self.assertIn("Test was allowed to leak 100.0KiB", told)
        self.assertNotIn("limited to", told)

    def test_coroutines_are_recorded_while_they_run(self) -> None:
        if not has("anyio"):
            self.skipTest("anyio is not here")
        self.write("""
            import asyncio
            import pytest

            pytestmark = pytest.mark.anyio

            @pytest.fixture
            def anyio_backend():
                return "asyncio"

            @pytest.mark.limit_memory("1 MB")
            async def test_it():
                await asyncio.sleep(0)
                bytearray(2 << 20)
            """)
        self.assertIn("Test was limited to 1.0MiB", self.check(1))

    @unittest.skipIf(sys.version_info >= (3, 13, 3), "this Python can")
    def test_leaked_objects_need_a_newer_python(self) -> None:
        self.write("import pytest\n@pytest.mark.limit_leaked_objects()\ndef test_it():\n    pass\n")
        self.assertIn("limit_leaked_objects requires Python 3.13.3 or later", self.check(4))

    @unittest.skipUnless(follows_objects(), "this Tracker does not follow objects")
    def test_leaked_objects_are_listed(self) -> None:
        self.write("""
            import pytest

            class Leaky:
                pass

            kept = []

            def make():
                return Leaky()

            @pytest.mark.limit_leaked_objects(filter_fn=lambda obj: isinstance(obj, Leaky))
            def test_it():
                kept.append(make())
                make()
            """)
        told = self.check(1)
        self.assertIn("Test leaked 1 objects", told)
        self.assertIn("- 1 Leaky instance(s)", told)
        path = self.folder / "test_it.py"
        self.assertIn(f"            make:{path}:10\n            test_it:{path}:14\n", told)

    @unittest.skipUnless(follows_objects(), "this Tracker does not follow objects")
    def test_a_test_that_leaks_no_object_passes(self) -> None:
        self.write("""
            import pytest

            @pytest.mark.limit_leaked_objects
            def test_it():
                numbers = [1, 2, 3]
                words = {"temporary": "value"}
                words["cycle"] = words
                assert len(numbers) == 3

            @pytest.mark.limit_leaked_objects(filter_fn=lambda obj: False)
            def test_filtered():
                test_filtered.kept = [object(), {}]
            """)
        self.check(0)

    @unittest.skipUnless(follows_objects(), "this Tracker does not follow objects")
    def test_of_many_leaked_objects_some_are_shown(self) -> None:
        self.write("""
            import pytest

            @pytest.mark.limit_leaked_objects
            def test_it():
                test_it.kept = [{"id": n, "data": f"Object {n}"} for n in range(100)]
            """)
        told = self.check(1)
        self.assertIn("- 100 dict instance(s)", told)
        self.assertIn("... and ", told)


#: Peaks that nobody confuses, and all markers that any Python has.
SIDE_BY_SIDE = """
    import threading
    import pytest

    kept = []

    def make(n_bytes):
        return bytearray(n_bytes)

    def test_small():
        make(1 << 20)

    def test_large():
        first = make(3 << 20)
        second = [make(2 << 20) for _ in range(4)]

    @pytest.mark.limit_memory("2 MB", current_thread_only=True)
    def test_of_thread():
        thread = threading.Thread(target=lambda: make(7 << 20))
        thread.start()
        thread.join()

    @pytest.mark.limit_memory("20 MB")
    def test_passes():
        make(5 << 20)

    @pytest.mark.limit_memory("2 MB")
    def test_fails():
        make(3 << 20)

    @pytest.mark.limit_leaks("100 KB")
    def test_leaks():
        kept.append(make(200_000))

    @pytest.mark.limit_leaks("100 KB", filter_fn=lambda stack: all(it.function != "make" for it in stack.frames))
    def test_leaks_what_is_known():
        kept.append(make(200_000))
"""


class Told:
    """What a run says of its tests, as far as both plugins say it in the same words."""

    def __init__(self, text: str, folder: Path, captures: str) -> None:
        self.outcomes = re.findall(r"\d+ failed, \d+ passed", text)
        self.messages = re.findall(r"^Test was .*", text, re.MULTILINE)
        peaks = re.findall(r"results for test_it\.py::(\w+) .*\n\s*\n.*Total memory allocated: (\S+MiB)", text)
        self.peaks = [(test, size) for test, size in peaks if not size.startswith("0")]
        file = re.escape(str(folder / "test_it.py"))
        self.functions = sorted(re.findall(rf"(\w+:{file}:\d+) -> (\S+MiB)", text))
        self.stacks = re.findall(rf"^    - (\S+MiB).* allocated here:\n +(\w+:{file}:\d+)$", text, re.MULTILINE)
        self.captures = sorted(path.name for path in folder.glob(f"{captures}/*.bin")) if captures else []


@unittest.skipUnless(has("pytest"), "pytest is not here")
class Neighbours(Suite):
    @unittest.skipUnless(has("xdist"), "pytest-xdist is not here")
    def test_workers_of_xdist_record_and_the_main_process_sums_up(self) -> None:
        self.write(TWO_PEAKS + LIMITED.format(limit="1 MB", n_bytes=2 * MEBIBYTE))
        told = self.check(1, "--memtrace", "-n", "2", "--memtrace-bin-path=kept", "--stacks=3")
        self.assertIn("results for test_it.py::test_large", told)
        self.assertIn("Test was limited to 1.0MiB", told)
        self.assertIn("Created 3 binary dumps", told)
        names = [path.name for path in (self.folder / "kept").iterdir()]
        self.assertEqual(len({name.split("-")[0] for name in names}), 1, names)

    def test_a_name_of_memray_that_somebody_else_has_is_left_to_them(self) -> None:
        self.write(
            """
            def pytest_addoption(parser):
                parser.addoption("--native", action="store", default="no")
                parser.addini("stacks", "of plates", default="7")
            """,
            "conftest.py",
        )
        self.write("def test_it(pytestconfig):\n    assert pytestconfig.getoption('native') == 'yes'\n")
        self.check(0, "--native=yes")
        self.check(0, "--memtrace", "--native", "yes")

    @unittest.skipUnless(has("pytest_memray", "memray"), "pytest-memray is not here")
    def test_beside_pytest_memray_it_stays_out(self) -> None:
        self.write(LIMITED.format(limit="1 MB", n_bytes=2 * MEBIBYTE))
        code, told = self.run_exactly("--memray", "--native", "--stacks=3")
        self.assertEqual(code, 1, told)
        self.assertIn("memray-max-memory", told)
        self.assertNotIn("memtrace:", told)
        code, told = self.run_exactly("--memtrace")
        self.assertEqual(code, 4, told)
        self.assertIn("turn that one off with -p no:memray", told)

    @unittest.skipUnless(has("pytest_memray", "memray"), "pytest-memray is not here")
    def test_under_the_options_of_pytest_memray_the_same_is_told(self) -> None:
        self.write(SIDE_BY_SIDE)
        large = ["test_large", "test_of_thread", "test_passes", "test_fails", "test_small"]
        for options in (
            ["--memray"],
            ["--memray", "--native"],
            ["--memray", "--trace-python-allocators"],
            ["--memray", "--most-allocations=2", "-q"],
            ["--memray", "--hide-memray-summary"],
            ["--memray", "--stacks=2", "-vv"],
            ["--memray", "--stacks=1", "--memray-bin-path={}", "--memray-bin-prefix=run"],
            ["--fail-on-increase"],
        ):
            told = {}
            for other in ("memray", "memtrace"):
                mine = [option.format(f"of-{other}") for option in options]
                code, text = self.run_exactly("-p", f"no:{other}", "-p", "no:cacheprovider", *mine)
                self.assertEqual(code, 1, text)
                told[other] = Told(text, self.folder, f"of-{other}" if len(options) == 4 else "")
            theirs, ours = told["memtrace"], told["memray"]
            self.assertEqual(vars(ours), vars(theirs), options)
            shown = [] if "--hide-memray-summary" in options or len(options) == 1 and options != ["--memray"] else large
            shown = shown[:2] if "--most-allocations=2" in options else shown
            self.assertEqual([test for test, _ in ours.peaks if test in large], shown, options)
            self.assertEqual(len(ours.captures), 7 if len(options) == 4 else 0)

    @unittest.skipUnless(has("pytest_memray", "memray"), "pytest-memray is not here")
    def test_its_keys_in_the_ini_file_are_its_options(self) -> None:
        """Its own keys have no effect in pytest-memray 1.11: the defaults of its command line override them."""
        self.write(SIDE_BY_SIDE)
        for keys, options in (
            ("memray = true\nnative = true\nmost_allocations = 3", ["--memray", "--native", "--most-allocations=3"]),
            ("memray = true\ntrace_python_allocators = true\nstacks = 1", ["--memray", "--trace-python-allocators"]),
            ("memray = true\nhide_memray_summary = true", ["--memray", "--hide-memray-summary"]),
        ):
            code, text = self.run_exactly("-p", "no:memtrace", "-p", "no:cacheprovider", *options)
            self.assertEqual(code, 1, text)
            theirs = Told(text, self.folder, "")
            self.write(f"[pytest]\n{keys}\n", "pytest.ini")
            code, text = self.run_exactly("-p", "no:memray", "-p", "no:cacheprovider")
            self.assertEqual(code, 1, text)
            self.assertEqual(vars(Told(text, self.folder, "")), vars(theirs), keys)
            (self.folder / "pytest.ini").unlink()

    @unittest.skipUnless(has("pytest_memray"), "pytest-memray is not here")
    def test_the_released_pytest_memray_runs_on_memtrace(self) -> None:
        """Over a package called memray that has our names in it."""
        self.write("from memtrace import *\nfrom memtrace import __version__\n", "__init__.py")
        alias = self.folder / "alias" / "memray"
        alias.mkdir(parents=True)
        (self.folder / "__init__.py").rename(alias / "__init__.py")
        self.write(TWO_PEAKS + LIMITED.format(limit="1 MB", n_bytes=2 * MEBIBYTE) + """
    kept = []

    @pytest.mark.limit_leaks("100 KB")
    def test_leaks():
        kept.append(bytearray(200_000))

    @pytest.mark.limit_leaks("100 KB")
    def test_leaks_not():
        bytearray(200_000)
    """)
        path = os.pathsep.join(filter(None, [str(alias.parent), os.environ.get("PYTHONPATH", "")]))
        for more in ([], ["-n", "2"]) if has("xdist") else ([],):
            code, told = self.run_exactly("--memray", "--stacks=5", *more, env={"PYTHONPATH": path})
            self.assertEqual(code, 1, told)
            self.assertIn("2 failed, 3 passed", told)
            self.assertIn("results for test_it.py::test_large", told)
            self.assertRegex(told, r"Test was limited to 1\.0MiB but allocated 2\.\dMiB")
            self.assertRegex(told, rf"make:{re.escape(str(self.folder))}/test_it\.py:14")
            self.assertIn("Test was allowed to leak 100.0KiB per location", told)


@unittest.skipUnless(has("pytest"), "pytest is not here")
class Sizes(unittest.TestCase):
    def test_sizes_are_powers_of_1024(self) -> None:
        from memtrace._pytest import sizes

        given: List[Tuple[str, float]] = [
            ("5B", 5),
            ("2KB", 2048),
            ("2 kib", 2048),
            ("1.5 MB", 1.5 * MEBIBYTE),
            ("+3GB", 3 << 30),
        ]
        for text, n_bytes in given:
            self.assertEqual(sizes.parse(text), n_bytes, text)
        for text in ("", "5", "MB", "-1 MB", "5 iB", "1 MBit", "1,5 MB"):
            self.assertRaises(ValueError, sizes.parse, text)
        shown = [(0, "0.0B"), (1023, "1023.0B"), (1024, "1.0KiB"), (2.5 * MEBIBYTE, "2.5MiB"), (3 << 40, "3.0TiB")]
        for n_bytes, text in shown:
            self.assertEqual(sizes.show(n_bytes), text)


if __name__ == "__main__":
    unittest.main()
