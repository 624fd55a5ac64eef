"""The magics: ``%%memtrace_flamegraph`` shows a page below the cell, ``%memtrace`` a few lines of text."""

from __future__ import annotations

import argparse
import json
import linecache
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, Optional

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_cell_magic, magics_class
from IPython.display import IFrame, display

from memtrace import FileReader, Tracker
from memtrace._executable import find_executable
from memtrace._ipython import arguments, cell, text

_RESULTS = "memtrace-results"


@magics_class
class MemtraceMagics(Magics):  # type: ignore[misc,unused-ignore] # IPython's has no types
    @cell_magic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def memtrace_flamegraph(self, line: str, code: str) -> None:
        """Record the memory of the code in the cell and show a flame graph."""
        options = _parsed(arguments.flamegraph_parser(), shlex.split(line))
        if options is None:
            return
        if options.temporal and options.temporary_allocation_threshold >= 0:
            raise UsageError("Can't create a temporal flame graph of temporary allocations")
        results = Path(_RESULTS)
        results.mkdir(exist_ok=True)
        # Relative, as the page is shown by a path that starts at the notebook.
        folder = results / Path(tempfile.mkdtemp(dir=results)).name
        capture = folder / "capture.bin"
        has_recorded = False
        try:
            tracker = Tracker(
                str(capture),
                native_traces=options.native,
                trace_python_allocators=options.trace_python_allocators,
                follow_fork=options.follow_fork,
            )
            has_recorded = cell.run(self.shell, code, tracker)
        finally:
            if not has_recorded:
                shutil.rmtree(folder)
        if not has_recorded:
            return
        page = Path(options.output or folder / "flamegraph.html")
        # Forked children wrote captures of their own beside it.
        captures = [capture, *sorted(folder.glob("capture.bin.*"))]
        cells = folder / "cells.json"
        cells.write_text(json.dumps(_typed_sources()))
        _draw(captures, page, [*_report_flags(options), f"--typed-sources={cells}"])
        cells.unlink()
        for path in captures:
            path.unlink()
        if options.output:
            folder.rmdir()
        print(f"Results saved to {page}")
        display(IFrame(str(page), width="100%", height="600"))  # type: ignore[no-untyped-call,unused-ignore]

    @line_cell_magic  # type: ignore[misc,untyped-decorator,unused-ignore]
    def memtrace(self, line: str, code: Optional[str] = None) -> None:
        """Record the memory of a statement and print its peak, its allocations, and the functions that made them."""
        words, statement = arguments.split_statement(line)
        options = _parsed(arguments.text_parser(), words)
        if options is None:
            return
        if code is None:
            code = statement
        elif statement:
            raise UsageError("%%memtrace takes its code from the cell, and options from its line")
        with tempfile.TemporaryDirectory(prefix="memtrace-") as folder:
            capture = Path(folder, "capture.bin")
            tracker = Tracker(
                str(capture),
                native_traces=options.native,
                trace_python_allocators=not options.no_python_allocators,
            )
            if cell.run(self.shell, code, tracker):
                with FileReader(str(capture)) as reader:
                    print(text.summary(reader, leaks=options.leaks, max_rows=options.max_rows), end="")


def _parsed(parser: argparse.ArgumentParser, words: List[str]) -> Optional[argparse.Namespace]:
    try:
        return parser.parse_args(words)
    except SystemExit:
        # argparse has said why already.
        return None


def _report_flags(options: argparse.Namespace) -> List[str]:
    flags = [f"--{name}" for name in ("leaks", "temporal", "inverted") if getattr(options, name)]
    if options.split_threads:
        flags.append("--split-threads")
    if options.temporary_allocation_threshold >= 0:
        flags.append(f"--temporary-allocation-threshold={options.temporary_allocation_threshold}")
    if options.max_memory_records is not None:
        flags.append(f"--max-memory-records={options.max_memory_records}")
    return flags


def _typed_sources() -> Dict[str, str]:
    """The code of cells, by the names that frames have: IPython tells `linecache` of it, which finds no file to compare."""
    entries = ((name, entry) for name, entry in list(linecache.cache.items()) if len(entry) == 4)
    return {name: "".join(lines) for name, (_, modified, lines, _) in entries if modified is None}


def _draw(captures: List[Path], page: Path, flags: List[str]) -> None:
    command = [find_executable(), "flamegraph", "--force", "--output", str(page), *flags, *map(str, captures)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise UsageError(done.stderr.strip())
    # What the report is not sure of.
    sys.stderr.writelines(line for line in done.stderr.splitlines(True) if not line.startswith("memtrace: wrote "))


for _magic, _parser in (
    (MemtraceMagics.memtrace_flamegraph, arguments.flamegraph_parser()),
    (MemtraceMagics.memtrace, arguments.text_parser()),
):
    _magic.__doc__ = f"{_magic.__doc__}\n\n{_parser.format_help()}"
