"""Bytes as people write them in a limit and read them in a report. As in pytest-memray, a KB is 1024 bytes."""

from __future__ import annotations

import re

_UNITS = "KMGTPEZ"
_LIMIT = re.compile(r"\s*\+?(\d*\.\d+|\d+)\s*([KMGTP]?)(i?)B\s*", re.IGNORECASE)


def parse(text: str) -> float:
    """The number of bytes: ``24 MB``, ``24 MiB`` and ``0.5 gb`` are understood, and mean powers of 1024."""
    match = _LIMIT.fullmatch(text)
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"Invalid memory size format: {text!r} is not a number and one of B, KB, MB, GB, TB, PB")
    exponent = _UNITS.index(match[2].upper()) + 1 if match[2] else 0
    return float(match[1]) * float(1024**exponent)


def show(n_bytes: float) -> str:
    """``1.5MiB``."""
    if n_bytes < 1024:
        return f"{n_bytes:.1f}B"
    for unit in _UNITS:
        n_bytes /= 1024
        if n_bytes < 1024:
            break
    return f"{n_bytes:.1f}{unit}iB"
