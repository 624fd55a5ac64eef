"""Finds the program ``memtrace`` that was installed with the package."""

import os
import sys
import sysconfig


def find_executable() -> str:
    """The path of the program.

    Raises:
        FileNotFoundError: It is nowhere that installers put programs.
    """
    tried = []
    for folder in _folders():
        path = os.path.join(folder, "memtrace")
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
        tried.append(path)
    raise FileNotFoundError("cannot find the program memtrace, which is installed with this package; tried " + ", ".join(tried))


def _folders():  # type: () -> list[str]
    here = os.path.dirname(os.path.abspath(__file__))
    folders = [
        sysconfig.get_path("scripts"),
        # `pip install --user`
        sysconfig.get_path("scripts", scheme="posix_user") if os.name == "posix" else None,
        # `pip install --target` and `--prefix`
        os.path.join(os.path.dirname(here), "bin"),
        os.path.normpath(os.path.join(here, "..", "..", "..", "..", "bin")),
        os.path.dirname(sys.executable),
    ]
    return [folder for folder in dict.fromkeys(folders) if folder]
