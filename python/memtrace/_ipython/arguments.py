"""What may stand behind the magics: memray's options of ``%%memray_flamegraph``, and ours of ``%memtrace``."""

from __future__ import annotations

import argparse
from typing import List, Tuple


def flamegraph_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="%%memtrace_flamegraph")
    _add_native(parser)
    parser.add_argument("--follow-fork", action="store_true", help="Record forked child processes as well")
    parser.add_argument(
        "--trace-python-allocators",
        action="store_true",
        help="Record every Python object, and not only what reaches malloc",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--leaks", action="store_true", help="Show what was not freed, instead of what was there at the peak"
    )
    which.add_argument(
        "--temporary-allocation-threshold",
        metavar="N",
        type=int,
        default=-1,
        help="Show what was freed with at most N other allocations of its thread in between",
    )
    which.add_argument(
        "--temporary-allocations",
        action="store_const",
        dest="temporary_allocation_threshold",
        const=1,
        help="Equivalent to --temporary-allocation-threshold=1",
    )
    parser.add_argument("--temporal", action="store_true", help="Open with a range of time to choose")
    parser.add_argument("--split-threads", action="store_true", help="Show each thread by itself")
    parser.add_argument(
        "--inverted", action="store_true", help="Begin with what allocated, and show above it who called"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="Where the page goes (by default below memtrace-results)")
    parser.add_argument("--max-memory-records", type=int, metavar="N", help="Draw the time line with at most N points")
    return parser


def text_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="%memtrace", usage="%(prog)s [options] statement")
    _add_native(parser)
    parser.add_argument(
        "--no-python-allocators",
        action="store_true",
        help="Record only what reaches malloc: faster, but small objects show up as arenas",
    )
    parser.add_argument(
        "--leaks", action="store_true", help="Show what was not freed, instead of what was there at the peak"
    )
    parser.add_argument(
        "-r", "--max-rows", type=int, default=10, metavar="N", help="Show at most N functions (default 10)"
    )
    return parser


def _add_native(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--native", action="store_true", help="Record native stacks (C, C++, Rust) as well")


def split_statement(line: str) -> Tuple[List[str], str]:
    """The options of a line, and the statement behind them, which is left as it was typed."""
    options = []
    rest = line.strip()
    while rest.startswith("-"):
        word, _, rest = rest.partition(" ")
        rest = rest.lstrip()
        if word == "--":
            break
        options.append(word)
        if word in ("-r", "--max-rows"):
            value, _, rest = rest.partition(" ")
            options.append(value)
            rest = rest.lstrip()
    return options, rest
