"""``python -m memtrace`` is the program ``memtrace``, recording with this Python."""

import os
import sys
from typing import List, NoReturn

from ._executable import find_executable


def main(arguments: List[str]) -> NoReturn:
    """Becomes the program."""
    program = find_executable()
    if arguments[:1] == ["run"] and sys.executable and not _names_python(arguments):
        arguments = ["run", "--python", sys.executable, *arguments[1:]]
    os.execv(program, ["memtrace", *arguments])


def _names_python(arguments: List[str]) -> bool:
    return any(argument == "--python" or argument.startswith("--python=") for argument in arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
