"""Captures for the tests, each recorded once: programs run under `memtrace run`."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Tuple

_FOLDER = tempfile.mkdtemp(prefix="memtrace-python-tests-")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def scratch(name: str) -> str:
    """A path in a folder that goes with the tests."""
    return os.path.join(_FOLDER, name)


@functools.lru_cache(maxsize=None)
def record(code: str, *options: str) -> str:
    """The capture of a program given as text."""
    script = scratch(f"program{abs(hash((code, options)))}.py")
    with open(script, "w") as file:
        file.write(code)
    capture = script[:-3] + ".bin"
    command = [sys.executable, "-m", "memtrace", "run", "-q", "-o", capture, *options, script]
    subprocess.run(command, check=True)
    return capture


def script_of(capture: str) -> str:
    """The program that a capture is of."""
    return capture[:-4] + ".py"


#: What a bytearray takes beside its bytes: a zero behind them, or as much as bytes do.
EXTRA = 1 if sys.version_info < (3, 15) else sys.getsizeof(b"")
#: Sizes that nothing else has.
MANY, ONE, MAPPED = 1_111_117, 2_222_223, 3_333_333

PROGRAM = f"""
import mmap, threading

class Maker:
    def make(self):
        def inner(n):
            return bytearray(n)
        return inner

def keep():
    return [Maker().make()({MANY}) for _ in range(3)]

def work():
    global of_thread
    of_thread = Maker().make()({ONE})

kept = keep()
thread = threading.Thread(target=work)
thread.start()
thread.join()
region = mmap.mmap(-1, {MAPPED})
region.close()
for _ in range(5):
    bytearray({ONE} + 1)
"""


def program() -> str:
    return record(PROGRAM)


def find(records, size: int) -> list:  # type: ignore[no-untyped-def, type-arg]
    """The records of bytearrays of that many bytes."""
    return [record for record in records if record.size == size + EXTRA]


def sums_of(records, size: int) -> list:  # type: ignore[no-untyped-def, type-arg]
    """The sums of so many bytes and a little: of small objects that the same line makes."""
    return [record for record in records if size <= record.size < size + 1000]


def stack(record) -> Tuple[str, ...]:  # type: ignore[no-untyped-def]
    return tuple(function for function, _, _ in record.stack_trace())
