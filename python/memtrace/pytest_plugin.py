"""The pytest plugin: records tests, checks limits of memory, and sums up which tests took most.

pytest finds it by its entry point and calls the hooks below. Nothing is recorded unless ``--memtrace`` asks for it or a
test has a limit, and it must never change how a test suite runs that wants neither: its options have a prefix, and
memray's names are taken only where nobody else has them.
"""

from __future__ import annotations

import sys
from typing import Generator

import pytest

from memtrace._pytest import options
from memtrace._pytest.limits import (
    LIMITS,
    LeakedObjectsFilterFunction,
    LeaksFilterFunction,
    Stack,
    StackFrame,
)
from memtrace._pytest.recorder import Recorder
from memtrace._pytest.summary import Summary

__all__ = ["LeakedObjectsFilterFunction", "LeaksFilterFunction", "Stack", "StackFrame"]


def pytest_addoption(parser: pytest.Parser) -> None:
    options.register(parser)


@pytest.hookimpl(hookwrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    # By now every plugin and conftest.py has said which names are its own.
    yield
    options.accept_names_of_memray(early_config, parser, args)


def pytest_configure(config: pytest.Config) -> None:
    for name, limit in LIMITS.items():
        config.addinivalue_line("markers", f"{name}{limit.SIGNATURE}: {limit.__doc__}")
    settings = options.settings(config)
    if any(config.pluginmanager.hasplugin(name) for name in ("memray", "pytest_memray.plugin")):
        # pytest-memray checks the same markers, and two tools can't record one test.
        if settings.is_active:
            raise pytest.UsageError(
                "--memtrace and pytest-memray exclude each other; turn that one off with -p no:memray"
            )
        return
    config.pluginmanager.register(Recorder(config, settings), "memtrace_recorder")
    if settings.is_active and settings.shows_summary:
        config.pluginmanager.register(Summary(settings), "memtrace_summary")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.version_info >= (3, 13, 3):
        return
    for item in items:
        if item.get_closest_marker("limit_leaked_objects"):
            version = ".".join(map(str, sys.version_info[:3]))
            raise pytest.UsageError(
                f"{item.nodeid}: limit_leaked_objects requires Python 3.13.3 or later, and this is {version}"
            )
