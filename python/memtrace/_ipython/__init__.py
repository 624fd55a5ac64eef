"""The IPython extension: ``%load_ext memtrace`` comes here."""

from __future__ import annotations

from typing import Any


def load_ipython_extension(ipython: Any) -> None:
    from memtrace._ipython.magics import MemtraceMagics

    ipython.register_magics(MemtraceMagics)
