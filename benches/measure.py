"""Runs the columns of a row in turn, round after round.

Each round begins with another column, so that a machine that warms up or gets busy does so for all of them.
"""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time

import capture
from rows import MEMRAY, MEMTRACE, command_of


@dataclasses.dataclass
class Run:
    cpu_seconds: float  # user and system, of the whole process tree
    wall_seconds: float
    # The first number that the program printed: KiB of the rows about resident memory.
    printed: int


@dataclasses.dataclass
class Measured:
    """All rounds of a row with one interpreter; the n-th run of each column is of the same round."""

    row: object
    minor: str
    runs: dict
    # Bytes of the captures by column, and what is in memtrace's.
    capture_bytes: dict
    events: object = None


def measure(row, minor, python, setting):
    """`setting`: programs (their folder), library, memtrace, columns, rounds."""
    script, *arguments = shlex.split(row.command.format(size=row.size, library=setting.library))
    program = [os.path.join(setting.programs, script), *arguments]
    measured = Measured(row, minor, {column: [] for column in setting.columns}, {})
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        # Compiles what is imported and reads it into the page cache.
        run([python, *program])
        path = os.path.join(folder, "capture")
        for number in range(setting.rounds):
            start = number % len(setting.columns)
            for column in setting.columns[start:] + setting.columns[:start]:
                command = command_of(column, row.level, setting.memtrace, python, path)
                measured.runs[column].append(run([*command, *program]))
                if column in (MEMTRACE, MEMRAY):
                    measured.capture_bytes[column] = os.path.getsize(path)
                    if column == MEMTRACE and measured.events is None:
                        measured.events = capture.events_in(path, setting.memtrace)
                    os.remove(path)
    return measured


def run(command):
    with tempfile.TemporaryFile() as output:
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall_seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
        if process.returncode != 0:
            sys.exit(f"{shlex.join(command)} ended with {process.returncode}\n{text}")
    number = re.search(r"\d+", text)
    return Run(usage.ru_utime + usage.ru_stime, wall_seconds, int(number.group()) if number else 0)


def as_json(results):
    return json.dumps([dataclasses.asdict(measured) for measured in results], indent=1) + "\n"
