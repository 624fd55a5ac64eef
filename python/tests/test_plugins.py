"""The pytest plugin, pytest-memray over our `Tracker`, and the magics of IPython."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest

TESTS = """
    import pytest

    def make(n):
        return bytearray(n)

    @pytest.mark.limit_memory("20 MB")
    def test_within_its_limit():
        make(1_000_000)

    @pytest.mark.limit_memory("1 MB")
    def test_beyond_its_limit():
        make(5_000_000)

    kept = []

    @pytest.mark.limit_leaks("1 MB")
    def test_that_leaks():
        kept.append(make(5_000_000))

    @pytest.mark.limit_leaks("1 MB", filter_fn=lambda stack: stack.frames[-1].function == "nobody")
    def test_that_leaks_what_is_known():
        kept.append(make(5_000_000))

    @pytest.mark.limit_memory("1 MB", current_thread_only=True)
    def test_with_another_thread():
        import threading
        thread = threading.Thread(target=make, args=(5_000_000,))
        thread.start()
        thread.join()

    def test_without_a_limit():
        make(3_000_000)
"""


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


class InAFolder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="memtrace-plugins-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name: str, text: str) -> None:
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(textwrap.dedent(text))

    def python(self, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([self.folder, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        return done.stdout.decode()


@unittest.skipUnless(has("pytest"), "pytest is not here")
class Plugin(InAFolder):
    def pytest(self, *options: str) -> str:
        self.write("test_it.py", TESTS)
        plain = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:memray", "--color=no", "test_it.py"]
        return self.python(*plain, *options)

    def check_limits(self, told: str) -> None:
        self.assertIn("2 failed, 4 passed", told)
        self.assertRegex(told, r"Test was limited to 1\.0MiB but allocated 4\.8MiB")
        self.assertRegex(told, r"4\.8MiB allocated here:\n +make:.*test_it\.py:5")
        self.assertIn("Test was allowed to leak 1.0MiB per location but at least one location leaked more", told)

    def test_limits_fail_tests_that_take_more(self) -> None:
        self.check_limits(self.pytest())

    def test_the_largest_tests_are_told_of(self) -> None:
        told = self.pytest("--memtrace", "--most-allocations=2")
        self.check_limits(told)
        report = told[told.index("MEMTRACE REPORT") :]
        self.assertEqual(report.count("Allocation results for"), 2)
        self.assertRegex(report, r"make:.*test_it\.py:5 -> 4\.8MiB")

    @unittest.skipUnless(has("xdist"), "pytest-xdist is not here")
    def test_workers_tell_their_results(self) -> None:
        told = self.pytest("--memtrace", "-n2")
        self.check_limits(told)
        self.assertIn("test_without_a_limit at the high watermark", told)

    def test_captures_are_kept_where_they_should_be(self) -> None:
        told = self.pytest("--memtrace", "--memtrace-bin-path=kept", "--memtrace-bin-prefix=mine")
        self.assertIn("Created 6 captures in", told)
        kept = sorted(os.listdir(os.path.join(self.folder, "kept")))
        self.assertEqual(len(kept), 6)
        self.assertTrue(all(name.startswith("mine-test_it.py-test_") for name in kept))


@unittest.skipUnless(has("pytest_memray"), "pytest-memray is not here")
class PytestMemray(InAFolder):
    """Under the name of memray there is our package, for pytest-memray as it was released."""

    def test_it_runs_over_our_tracker(self) -> None:
        self.write("memray/__init__.py", "from memtrace import *\nfrom memtrace import __version__\n")
        self.write("test_it.py", TESTS)
        plain = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:memtrace", "--color=no", "-q", "test_it.py"]
        told = self.python(*plain, "--memray")
        self.assertIn("2 failed, 4 passed", told)
        self.assertIn("Test was limited to 1.0MiB but allocated 4.8MiB", told)
        self.assertIn("Test was allowed to leak 1.0MiB per location", told)
        self.assertIn("MEMRAY REPORT", told)
        self.assertRegex(told, r"make:.*test_it\.py:5 -> 4\.8MiB")


@unittest.skipUnless(has("IPython"), "IPython is not here")
class Magics(InAFolder):
    def test_a_cell_becomes_a_flame_graph(self) -> None:
        self.write(
            "shell.py",
            '''
            from IPython.core.interactiveshell import InteractiveShell
            shell = InteractiveShell.instance()
            shell.run_line_magic("load_ext", "memtrace")
            shell.run_cell_magic("memtrace_flamegraph", "--leaks --trace-python-allocators", "kept = bytearray(5_000_000)")
            assert len(shell.user_ns["kept"]) == 5_000_000
            shell.run_line_magic("memtrace", "more = bytearray(3_000_000)")
            for wrong in ("--nonsense", "--temporal --temporary-allocations"):
                try:
                    shell.run_cell_magic("memtrace_flamegraph", wrong, "1")
                except Exception as error:
                    print(type(error).__name__)
            ''',
        )
        told = self.python("shell.py")
        self.assertRegex(told, r"Results saved to memtrace-results/.*/flamegraph\.html", told)
        self.assertRegex(told, r"peak 2\.9 MiB", told)
        self.assertEqual(told.count("UsageError"), 2, told)
        [folder] = os.listdir(os.path.join(self.folder, "memtrace-results"))
        with open(os.path.join(self.folder, "memtrace-results", folder, "flamegraph.html")) as page:
            self.assertIn("<html", page.read(2000))

    @unittest.skipUnless(has("nbclient") and has("ipykernel"), "nbclient and ipykernel are not here")
    def test_a_notebook_shows_it_below_the_cell(self) -> None:
        self.write(
            "notebook.py",
            '''
            import nbformat
            from nbclient import NotebookClient
            cell = nbformat.v4.new_code_cell
            cells = [cell("%load_ext memtrace"), cell("%%memtrace_flamegraph\\nkept = bytearray(5_000_000)")]
            notebook = nbformat.v4.new_notebook(cells=cells)
            NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
            for output in notebook.cells[1].outputs:
                print(output.get("text") or output["data"]["text/html"])
            ''',
        )
        told = self.python("notebook.py")
        self.assertRegex(told, r"<iframe[^>]*src=\"memtrace-results/.*/flamegraph\.html\"", told)


if __name__ == "__main__":
    unittest.main()
