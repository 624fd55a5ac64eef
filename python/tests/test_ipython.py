"""The magics, in a shell without a terminal and in a notebook that a kernel of its own executes. They need IPython."""

import base64
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import unittest
import zlib
from pathlib import Path
from typing import Any, List, Tuple


def has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


SHELL = """
import json, sys
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

config = Config()
config.HistoryAccessor.enabled = False
config.InteractiveShell.colors = "nocolor"
shell = InteractiveShell.instance(display_pub_class=CapturingDisplayPublisher, config=config)
for cell in json.load(open("cells.json")):
    shell.run_cell(cell)
shown = [it["data"].get("text/html", "") for it in shell.display_pub.outputs]
left = [name for name in shell.user_ns if name.startswith("__memtrace")]
json.dump({"html": shown, "left": left + shell.ast_transformers}, open("outcome.json", "w"))
"""


def text_of(page: Path) -> str:
    """What its data have as text: names, and lines of code."""
    _, _, rest = page.read_text().partition('<script type="application/octet-stream" id="data">')
    data = zlib.decompress(base64.b64decode(rest.partition("</script>")[0]), wbits=-15)
    return data[4 : 4 + int.from_bytes(data[:4], "little")].decode()


class InFolder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def pages(self) -> List[Path]:
        return sorted(self.folder.glob("memtrace-results/*/flamegraph.html"))


@unittest.skipUnless(has("IPython"), "IPython is not here")
class Magics(InFolder):
    def run_cells(self, *cells: str) -> Tuple[str, List[str]]:
        """What they printed, and what they showed as HTML."""
        cells = ("%load_ext memtrace", *map(textwrap.dedent, cells))
        (self.folder / "cells.json").write_text(json.dumps(cells))
        done = subprocess.run(
            [sys.executable, "-c", SHELL], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        outcome = json.loads((self.folder / "outcome.json").read_text())
        self.assertEqual(outcome["left"], [])
        return done.stdout, outcome["html"]

    def test_a_cell_is_shown_as_a_flame_graph(self) -> None:
        told, html = self.run_cells("""\
            %%memtrace_flamegraph
            def make(n):
                return bytearray(n)
            text = '''first
            second'''
            kept = make(3_000_000)
            len(text)
            """)
        [page] = self.pages()
        # The string has kept its lines, and the last value is shown as without us.
        self.assertRegex(told, r"Out\[\d+\]: 12\n")
        self.assertIn(f"Results saved to {page.relative_to(self.folder)}", told)
        self.assertEqual(len(html), 1, told)
        self.assertRegex(html[0], rf'<iframe\s+width="100%"\s+height="600"\s+src="{page.relative_to(self.folder)}"')
        self.assertIn("return bytearray(n)", text_of(page))
        # The capture is gone.
        self.assertEqual([path.name for path in page.parent.iterdir()], ["flamegraph.html"])

    def test_every_option_of_memray_is_understood(self) -> None:
        lines = [
            "--native --trace-python-allocators",
            "--leaks --split-threads --inverted --max-memory-records 5",
            "--temporal",
            "--leaks --temporal",
            "--temporary-allocations",
            "--temporary-allocation-threshold=3",
            "-o memtrace-results/mine/flamegraph.html",
        ]
        (self.folder / "memtrace-results/mine").mkdir(parents=True)
        told, html = self.run_cells(*(f"%%memtrace_flamegraph {line}\nx = bytearray(2_000_000)" for line in lines))
        self.assertEqual((len(html), len(self.pages())), (len(lines), len(lines)), told)

    def test_a_cell_that_raises_is_shown_all_the_same(self) -> None:
        told, html = self.run_cells("%%memtrace_flamegraph\nx = bytearray(2_000_000)\n1 / 0")
        self.assertIn("ZeroDivisionError", told)
        self.assertRegex(told, r"(line|---->) 2")
        self.assertEqual(len(html), 1, told)

    def test_a_wrong_line_says_why_and_runs_nothing(self) -> None:
        for line, why in (
            ("%%memtrace_flamegraph --oopsie", "usage: %%memtrace_flamegraph"),
            ("%%memtrace_flamegraph --leaks --temporary-allocations", "not allowed with argument"),
            (
                "%%memtrace_flamegraph --temporal --temporary-allocations",
                "Can't create a temporal flame graph of temporary allocations",
            ),
            ("%%memtrace_flamegraph -h", "show this help message"),
            ("%memtrace --oopsie 1", "usage: %memtrace"),
        ):
            told, html = self.run_cells(f"{line}\nprint('has run')" if line.startswith("%%") else line)
            self.assertIn(why, told)
            self.assertNotIn("has run", told)
            self.assertEqual((html, self.pages()), ([], []), told)

    def test_a_cell_that_can_t_be_parsed_leaves_nothing(self) -> None:
        told, html = self.run_cells("%%memtrace_flamegraph\nif True print(")
        self.assertIn("SyntaxError", told)
        self.assertEqual((html, list(self.folder.glob("memtrace-results/*"))), ([], []), told)

    def test_a_line_is_summed_up_as_text(self) -> None:
        told, _ = self.run_cells(
            "def make(n):\n    return bytearray(n)",
            "%memtrace kept = [make(1_000_000) for _ in range(3)]",
            "len(kept)",
        )
        self.assertRegex(told, r"peak 3\.\d{3}MB, [\d,]+ allocations\n +3\.000MB +9\d\.\d\d% +\d+x  make \(.*:2\)\n")
        self.assertRegex(told, r"Out\[\d+\]: 3\n")

    def test_a_line_records_small_objects_unless_told_otherwise(self) -> None:
        told, _ = self.run_cells("%memtrace kept = [(number,) for number in range(50_000)]")
        [count] = re.findall(r"peak .*, ([\d,]+) allocations", told)
        self.assertGreater(int(count.replace(",", "")), 50_000)
        told, _ = self.run_cells("%memtrace --no-python-allocators kept = [(number,) for number in range(50_000)]")
        [count] = re.findall(r"peak .*, ([\d,]+) allocations", told)
        self.assertLess(int(count.replace(",", "")), 10_000)

    def test_text_can_be_about_leaks_and_about_a_cell(self) -> None:
        told, _ = self.run_cells(
            """\
            %%memtrace --leaks -r 1
            kept = bytearray(1_000_000)
            bytearray(5_000_000)
            other = (lambda: bytearray(2_000))()
            """
        )
        self.assertRegex(told, r"peak 6\.\d{3}MB, [\d,]+ allocations\nnot freed 1\.\d{3}MB\n +1\.0\d{2}MB")
        self.assertIn("...and 1 more functions", told)

    def test_one_recording_at_a_time(self) -> None:
        told, html = self.run_cells("%%memtrace_flamegraph\n%memtrace 1 + 1\nx = bytearray(2_000_000)")
        self.assertIn("RuntimeError", told)
        self.assertNotIn("peak", told)
        self.assertEqual(len(html), 1, told)


@unittest.skipUnless(has("IPython", "ipykernel", "nbclient", "nbformat"), "a kernel or nbclient is not here")
class Notebook(InFolder):
    def test_a_notebook_shows_the_page_below_its_cell(self) -> None:
        import nbclient
        import nbformat.v4 as v4

        sources = [
            "%load_ext memtrace",
            "%%memtrace_flamegraph --native\nkept = [bytearray(1_000_000) for _ in range(4)]\nsum(map(len, kept))",
            "%memtrace other = bytearray(2_000_000)",
        ]
        make: Any = v4
        notebook = make.new_notebook(cells=[make.new_code_cell(source) for source in sources])
        # This is the Python that runs us, with the paths that it has.
        nbclient.NotebookClient(
            notebook, kernel_name="python3", resources={"metadata": {"path": self.folder}}
        ).execute()
        _, cell, line = [code["outputs"] for code in notebook.cells]
        [page] = self.pages()
        html = [output["data"]["text/html"] for output in cell if "text/html" in output.get("data", {})]
        self.assertEqual(len(html), 1, cell)
        self.assertIn("kept = [bytearray(1_000_000) for _ in range(4)]", text_of(page))
        self.assertIn(f'src="{page.relative_to(self.folder)}"', html[0])
        self.assertIn("4000000", [output["data"].get("text/plain") for output in cell if "data" in output])
        printed = "".join(output.get("text", "") for output in line)
        self.assertRegex(printed, r"^peak 2\.\d{3}MB, [\d,]+ allocations\n +2\.000MB")


if __name__ == "__main__":
    unittest.main()
