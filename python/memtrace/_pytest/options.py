"""The plugin's options: on the command line, in an ini file, and by memray's names."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest

if TYPE_CHECKING:
    from typing import Literal


@dataclass(frozen=True)
class Settings:
    """What the user wants."""

    is_active: bool
    """Every test is recorded, and not only those with a limit."""
    folder: Path | None
    """Where captures are kept; in a temporary folder without."""
    prefix: str | None
    """How names of captures begin."""
    shows_summary: bool
    n_tests: int
    """Tests in the summary; 0 for all."""
    n_frames: int
    """Frames of a stack."""
    is_native: bool
    records_python_allocators: bool
    fails_on_increase: bool
    verbosity: int
    """Of failures: below 0 without stacks, from 2 on with all of them."""


@dataclass(frozen=True)
class _Option:
    """An option, which is also a key of the ini file. In both it has a name of ours and the one of pytest-memray."""

    name: str
    memray_name: str
    memray_key: str
    help: str
    parse: Callable[[str], Any] | None = None
    """What its value means; without one it is on or off."""
    has_key: bool = True

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    @property
    def key_type(self) -> Literal["bool", "string"]:
        return "string" if self.parse else "bool"


def _folder(text: str) -> str:
    """A folder that can be written to; it is made when it is not there."""
    folder = Path(text).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise argparse.ArgumentTypeError(f"{folder} must be a directory") from None
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot create directory {folder} due to {error}") from None
    if not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{folder} is read-only")
    return str(folder)


def _positive(text: str) -> int:
    if int(text) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is an invalid positive int value")
    return int(text)


def _natural(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return int(text)


_ACTIVE = _Option("memtrace", "memray", "memray", "Record the memory of every test")
_FOLDER = _Option(
    "memtrace-bin-path",
    "memray-bin-path",
    "",
    "Keep the captures in this folder (by default they are temporary)",
    _folder,
    has_key=False,
)
_PREFIX = _Option(
    "memtrace-bin-prefix",
    "memray-bin-prefix",
    "",
    "How the names of kept captures begin (by default with something random)",
    str,
    has_key=False,
)
_HIDDEN = _Option("hide-memtrace-summary", "hide-memray-summary", "hide_memray_summary", "Show no summary at the end")
_TESTS = _Option(
    "memtrace-most-allocations",
    "most-allocations",
    "most_allocations",
    "Show the N tests with the highest peaks (default 5, 0 for all)",
    _natural,
)
_FRAMES = _Option("memtrace-stacks", "stacks", "stacks", "Show N frames of a stack (default 5)", _positive)
_NATIVE = _Option("memtrace-native", "native", "native", "Record native stacks as well, and show both (slower)")
_ALLOCATORS = _Option(
    "memtrace-trace-python-allocators",
    "trace-python-allocators",
    "trace_python_allocators",
    "Record every Python object, and not only what reaches malloc (slower)",
)
_INCREASE = _Option(
    "memtrace-fail-on-increase",
    "fail-on-increase",
    "fail-on-increase",
    "Fail tests marked with limit_memory that take more memory than when they passed last",
)
_OPTIONS = (_ACTIVE, _FOLDER, _PREFIX, _HIDDEN, _TESTS, _FRAMES, _NATIVE, _ALLOCATORS, _INCREASE)

_VERBOSITY = "verbosity_memtrace"
_MEMRAY_VERBOSITY = "verbosity_memray"


def register(parser: pytest.Parser) -> None:
    """Tells pytest what there is."""
    group = parser.getgroup("memtrace", "memory (memtrace; pytest-memray's names are understood as well)")
    for option in _OPTIONS:
        if option.parse:
            group.addoption(
                f"--{option.name}", type=option.parse, metavar="N" if option.has_key else "X", help=option.help
            )
        else:
            group.addoption(f"--{option.name}", action="store_true", default=None, help=option.help)
        if option.has_key:
            parser.addini(option.key, option.help, type=option.key_type)
    help_text = (
        "Verbosity of exceeded limits: below 0 without stacks, from 2 on with all of them (default: as -v and -q say)"
    )
    parser.addini(_VERBOSITY, help_text, default="auto")


def accept_names_of_memray(config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Names of pytest-memray mean ours where nobody else has them. Their short ones (``--native``) are likely to."""
    for option in _OPTIONS:
        theirs = f"--{option.memray_name}"
        for index, arg in enumerate(args):
            if arg == "--":
                break
            name, equals, value = arg.partition("=")
            if name == theirs and not _knows_option(parser, theirs):
                args[index] = f"--{option.name}{equals}{value}"
        if option.has_key and not _knows_key(config, option.memray_key):
            parser.addini(option.memray_key, f"The same as {option.key}", type=option.key_type)
    if not _knows_key(config, _MEMRAY_VERBOSITY):
        parser.addini(_MEMRAY_VERBOSITY, f"The same as {_VERBOSITY}", default="auto")


def _knows_option(parser: pytest.Parser, name: str) -> bool:
    try:
        _, unknown = parser.parse_known_and_unknown_args([name])
    except pytest.UsageError:
        # Somebody's that wants a value.
        return True
    return name not in unknown


def _knows_key(config: pytest.Config, key: str) -> bool:
    try:
        config.getini(key)
    except (KeyError, ValueError):
        return False
    return True


def settings(config: pytest.Config) -> Settings:
    """What the command line says, else the ini file."""

    def value(option: _Option) -> Any:
        given = config.getoption(option.key)
        if given is not None or not option.has_key:
            return given
        for key in (option.key, option.memray_key):
            text = config.getini(key)
            if text:
                return _parsed(option, key, text)
        return None

    folder = value(_FOLDER)
    n_tests = value(_TESTS)
    return Settings(
        is_active=bool(value(_ACTIVE)),
        folder=Path(folder) if folder else None,
        prefix=value(_PREFIX),
        shows_summary=not value(_HIDDEN),
        n_tests=5 if n_tests is None else n_tests,
        n_frames=value(_FRAMES) or 5,
        is_native=bool(value(_NATIVE)),
        records_python_allocators=bool(value(_ALLOCATORS)),
        fails_on_increase=bool(value(_INCREASE)),
        verbosity=_verbosity(config),
    )


def _parsed(option: _Option, key: str, text: Any) -> Any:
    if option.parse is None:
        return text
    try:
        return option.parse(text)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise pytest.UsageError(f"{key} in the ini file: {error}") from None


def _verbosity(config: pytest.Config) -> int:
    for key in (_VERBOSITY, _MEMRAY_VERBOSITY):
        level = config.getini(key)
        if level != "auto":
            return int(level)
    return int(config.getoption("verbose"))
