"""memray's command line, taken by ``python -m memtrace``."""

import importlib.util
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path
from typing import List, Set, Tuple
from unittest import mock

from memtrace._executable import find_executable
from memtrace._memray_cli import RUN_VALUES, translated

#: What memray has and the program does not have yet.
MISSING: Set[str] = set()

PYTHON = ["--python", sys.executable]


class Translation(unittest.TestCase):
    def check(self, given: str, expected: List[str]) -> None:
        with mock.patch.object(sys, "orig_argv", [sys.executable, "-m", "memtrace"], create=True):
            self.assertEqual(translated(given.split()), expected, given)

    def test_a_run_goes_to_a_file_beside_the_script_unless_told_otherwise(self) -> None:
        self.check("run app.py", ["run", "--output", "memtrace-app.py.%p.bin", *PYTHON, "--", "app.py"])
        self.check("run dir/app.py", ["run", "--output", "dir/memtrace-app.py.%p.bin", *PYTHON, "--", "dir/app.py"])
        self.check("run -m a.b", ["run", "--output", "memtrace-a.b.%p.bin", *PYTHON, "-m", "a.b"])
        self.check("run -c pass", ["run", "--output", "memtrace-string.%p.bin", *PYTHON, "-c", "pass"])
        for option in (
            ["-o", "x"],
            ["-ox"],
            ["-qo", "x"],
            ["--output", "x"],
            ["--output=x"],
            ["--live"],
            ["--live-remote"],
        ):
            self.check(" ".join(["run", *option, "app.py"]), ["run", *option, *PYTHON, "--", "app.py"])

    def test_what_follows_the_script_belongs_to_it(self) -> None:
        end = [*PYTHON, "--", "app.py", "-o", "y", "--aggregate", "--json"]
        self.check("run -o x app.py -o y --aggregate --json", ["run", "-o", "x", *end])
        self.check("run -o x -- app.py -o y --aggregate --json", ["run", "-o", "x", *end])
        self.check("run -o x -m -q mod -q", ["run", "-o", "x", "-q", *PYTHON, "-m", "mod", "-q"])
        self.check("run -qo x -mmod -q", ["run", "-qo", "x", *PYTHON, "-m", "mod", "-q"])
        self.check("run -o x -qm mod -q", ["run", "-o", "x", "-q", *PYTHON, "-m", "mod", "-q"])
        self.check("run -o x -c -1 -q", ["run", "-o", "x", *PYTHON, "-c", "-1", "-q"])

    def test_flags_are_renamed_or_left_out(self) -> None:
        given = "run -o x --trace-python-allocators --aggregate --buffered-file-io --native app.py"
        words = ["run", "-o", "x", "--python-allocators", "--aggregate", "--native", *PYTHON, "--", "app.py"]
        self.check(given, words)
        self.check("attach --method gdb --aggregate -v 12", ["attach", "--method", "ptrace", "--aggregate", "12"])
        self.check("attach --follow-fork 12", ["attach", "--follow-fork", "12"])
        self.check("attach --method=sys.remote_exec 12", ["attach", "--method=remote-exec", "12"])
        self.check("detach --method lldb 12", ["detach", "12"])
        self.check("transform CSV x.bin", ["transform", "csv", "x.bin"])
        self.check("-vv flamegraph --leaks x.bin", ["flamegraph", "--leaks", "x.bin"])

    def test_json_of_statistics_goes_to_a_file(self) -> None:
        output = ["--output", "dir/memtrace-stats-app.py.5.bin.json"]
        self.check("stats --json dir/memtrace-app.py.5.bin", ["stats", "--json", "dir/memtrace-app.py.5.bin", *output])
        given = ["stats", "--json", "dir/memtrace-app.py.5.bin", "-n", "3"]
        self.check(" ".join(given), [*given, *output])
        self.check("stats --json x.bin -o y", ["stats", "--json", "x.bin", "-o", "y"])
        self.check("stats x.bin", ["stats", "x.bin"])

    def test_what_memray_does_not_have_goes_through(self) -> None:
        for line in ("--version", "-V", "--help", "diff --leaks a b", "bundle x", "flamegraph --format svg x"):
            self.check(line, line.split())
        given = ["run", "-o", "x", "--no-native", "--python", "p", "app.py"]
        self.check(" ".join(given), ["run", "-o", "x", "--no-native", "--python", "p", "app.py"])

    def test_flags_of_the_interpreter_are_those_of_the_program(self) -> None:
        with mock.patch.object(sys, "orig_argv", ["python", "-I", "-X", "dev", "-m", "memtrace"], create=True):
            words = translated(["run", "-o", "x", "-m", "mod"])
        self.assertEqual(words, ["run", "-o", "x", "--", sys.executable, "-I", "-X", "dev", "-m", "mod"])


class Program(unittest.TestCase):
    """With the program that the package brings along."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()

    def run_memtrace(self, *arguments: str) -> Tuple[int, str]:
        command = [sys.executable, "-m", "memtrace", *arguments]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def check(self, *arguments: str) -> str:
        code, told = self.run_memtrace(*arguments)
        self.assertEqual(code, 0, told)
        return told

    def files(self) -> List[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def test_a_session_with_memray_s_words_makes_memray_s_files(self) -> None:
        (self.folder / "app").mkdir()
        (self.folder / "app/main.py").write_text(textwrap.dedent("""
                import os, sys

                def make():
                    return bytearray(3_000_000)

                kept = make()
                print(os.getpid(), sys.argv[1:], __name__)
                """))
        told = self.check("run", "-q", "--trace-python-allocators", "app/main.py", "-q", "7")
        pid, rest = told.split(maxsplit=1)
        self.assertEqual(rest, "['-q', '7'] __main__\n")
        capture = f"app/memtrace-main.py.{pid}.bin"
        self.assertEqual(self.files(), [capture, "app/main.py"][::-1])
        self.check("flamegraph", capture)
        self.check("table", "--leaks", "--no-web", capture)
        self.check("stats", "--json", "-n", "3", capture)
        for form in ("gprof2dot", "CSV", "speedscope"):
            self.check("transform", form, capture)
        self.assertIn("make", self.check("summary", "-s", "2", "-r", "3", capture))
        self.assertIn("make", self.check("tree", "-b", "5", "--temporary-allocation-threshold", "0", capture) + "make")
        self.assertIn("main.py", self.check("parse", capture))
        made = {name for name in self.files() if name not in (capture, "app/main.py")}
        self.assertEqual(
            made,
            {
                f"app/memtrace-flamegraph-main.py.{pid}.html",
                f"app/memtrace-table-main.py.{pid}.html",
                f"app/memtrace-stats-main.py.{pid}.bin.json",
                f"app/memtrace-gprof2dot-main.py.{pid}.json",
                f"app/memtrace-csv-main.py.{pid}.csv",
                f"app/memtrace-speedscope-main.py.{pid}.speedscope.json",
            },
        )
        # Nothing is overwritten unless asked for.
        self.assertNotEqual(self.run_memtrace("flamegraph", capture)[0], 0)
        self.check("flamegraph", "-f", capture)

    def test_modules_and_code_run_with_this_interpreter(self) -> None:
        (self.folder / "mod.py").write_text("import sys; print(sys.executable, sys.argv[1:])")
        told = self.check("run", "-q", "-m", "mod", "a")
        self.assertEqual(told, f"{sys.executable} ['a']\n")
        told = self.check("run", "-q", "-c", "import sys; print(sys.executable, sys.argv[1:])", "b")
        self.assertEqual(told, f"{sys.executable} ['b']\n")
        names = [name.split(".")[0] for name in self.files()]
        self.assertEqual(names, ["memtrace-mod", "memtrace-string", "mod"])

    def test_a_running_process_is_recorded_with_the_children_that_it_starts(self) -> None:
        code = """if True:
            import os, time
            while True:
                if os.fork() == 0:
                    kept = bytearray(3_000_000)
                    os._exit(0)
                os.wait()
                time.sleep(0.01)
            """
        with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code]) as process:
            self.addCleanup(process.kill)
            options = ["--follow-fork", "--aggregate", "--trace-python-allocators", "--duration", "1", "-o", "a.bin"]
            told = self.check("attach", *options, str(process.pid))
            self.assertIsNone(process.poll())
            process.kill()
        self.assertIn("with its children: ", told)
        children = [name for name in self.files() if name.startswith("a.bin.")]
        self.assertGreater(len(children), 3)
        self.assertIn("3.000MB", self.check("table", "--text", children[0]))
        self.check("flamegraph", "-o", "page.html", "a.bin", *children)

    def test_the_exit_code_is_that_of_the_script(self) -> None:
        self.assertEqual(self.run_memtrace("run", "-q", "-c", "raise SystemExit(7)")[0], 7)

    def test_options_that_take_a_value_are_known(self) -> None:
        help_text = subprocess.run([find_executable(), "run", "--help"], stdout=subprocess.PIPE, text=True).stdout
        lines = [line.strip() for line in help_text.splitlines() if line.strip().startswith("-") and line.endswith(">")]
        self.assertTrue(lines)
        for line in lines:
            names = [word.strip(",") for word in line.split() if word.startswith("-")]
            self.assertTrue(set(names) <= {*RUN_VALUES}, line)

    @unittest.skipUnless(importlib.util.find_spec("memray"), "memray is not here")
    def test_every_command_and_flag_of_memray_is_taken(self) -> None:
        # Only its parser is needed; its commands import a lot.
        from memray.commands import get_argument_parser

        [commands] = [action for action in get_argument_parser()._actions if action.dest == "command"]
        refused = set()
        assert commands.choices
        for command, parser in dict(commands.choices).items():
            first = ["csv"] if command == "transform" else []
            if self._refuses([command, "--help"]):
                refused.add(command)
                continue
            for action in parser._actions:
                for flag in action.option_strings:
                    if flag in ("-h", "--help", "-m", "-c"):
                        continue
                    value = [] if action.nargs == 0 else [str(action.choices[0]) if action.choices else "5"]
                    if self._refuses([command, *first, flag, *value, "--help"]):
                        refused.add(f"{command} {flag}")
        self.assertLessEqual(refused, MISSING)

    def _refuses(self, words: List[str]) -> bool:
        program = find_executable()
        done = subprocess.run([program, *translated(words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return done.returncode != 0


if __name__ == "__main__":
    unittest.main()
