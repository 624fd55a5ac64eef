"""Reports, as functions: each is a subcommand of the program ``memtrace``, and gives a path or a text."""

import errno
import os
import subprocess
from typing import List, Optional, Union

from ._executable import find_executable

Path = Union[str, "os.PathLike[str]"]


def flamegraph(
    capture: Path,
    output: Optional[Path] = None,
    *,
    leaks: bool = False,
    temporary_allocation_threshold: Optional[int] = None,
    temporal: bool = False,
    split_threads: bool = False,
    inverted: bool = False,
    max_memory_records: Optional[int] = None,
    overwrite: bool = False,
) -> str:
    """Makes the page of a capture and returns its path.

    Args:
        capture: The capture.
        output: Where the page goes: at first beside the capture.
        leaks: Opens with what was never given back, and not with the peak.
        temporary_allocation_threshold: A page of what was given back after at most so many further allocations.
        temporal: Opens with the time line.
        split_threads: Opens with each thread by itself.
        inverted: Opens with what allocated at the root.
        max_memory_records: How many points the time line has at most.
        overwrite: Whether a file that is there already is replaced.
    """
    options: List[str] = []
    options += ["--leaks"] if leaks else []
    options += ["--temporal"] if temporal else []
    options += ["--split-threads"] if split_threads else []
    options += ["--inverted"] if inverted else []
    options += ["--force"] if overwrite else []
    if temporary_allocation_threshold is not None:
        options += ["--temporary-allocation-threshold", str(temporary_allocation_threshold)]
    if max_memory_records is not None:
        options += ["--max-memory-records", str(max_memory_records)]
    return _page("flamegraph", capture, output, options)


def table(
    capture: Path,
    output: Optional[Path] = None,
    *,
    leaks: bool = False,
    split_threads: bool = False,
    overwrite: bool = False,
) -> str:
    """Makes the page of a capture that opens with its table and returns its path."""
    options = ["--leaks"] if leaks else []
    options += ["--split-threads"] if split_threads else []
    options += ["--force"] if overwrite else []
    return _page("table", capture, output, options)


def summary(capture: Path) -> str:
    """What each function held at the peak, as text."""
    return _text("summary", capture)


def tree(capture: Path) -> str:
    """The calls that held memory at the peak, as text."""
    return _text("tree", capture, "--text")


def stats(capture: Path, *, json: bool = False) -> str:
    """Totals of all allocations, as text or as JSON."""
    return _text("stats", capture, *(["--json"] if json else []))


def _page(report: str, capture: Path, output: Optional[Path], options: List[str]) -> str:
    if output is None:
        folder, name = os.path.split(os.fspath(capture))
        stem = name[: -len(".bin")] if name.endswith(".bin") else name
        output = os.path.join(folder, f"memtrace-{report}-{stem}.html")
    if "--force" not in options and os.path.exists(output):
        raise FileExistsError(errno.EEXIST, "The page is there already; overwrite=True replaces it", os.fspath(output))
    _run([report, "-o", os.fspath(output), *options, os.fspath(capture)])
    return os.fspath(output)


def _text(report: str, capture: Path, *options: str) -> str:
    return _run([report, *options, os.fspath(capture)])


def _run(arguments: List[str]) -> str:
    done = subprocess.run([find_executable(), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode > 1 or not done.stdout and done.returncode:
        # The program says first who speaks, as programs do.
        raise OSError(done.stderr.strip().replace("memtrace: ", "", 1))
    return done.stdout
