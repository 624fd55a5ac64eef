"""Records tests while their bodies run, fails those that exceed a limit, and sends what was measured with the report.

The tracker encloses the test function alone: not fixtures, not pytest. So its stacks begin with the test.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import inspect
import sys
import tempfile
import unittest
import uuid
from pathlib import Path
from typing import Any, Callable, Generator, List, Optional

import pytest

from memtrace import FileDestination, FileFormat, FileReader, Tracker
from memtrace._pytest.limits import Evidence, LimitExceeded, limits_of
from memtrace._pytest.options import Settings
from memtrace._pytest.summary import MEASURED, measure

# What the main process of pytest-xdist tells its workers.
_WORKER_INPUT = "memtrace"


class Recorder:
    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self._measured: dict[str, dict[str, Any]] = {}
        self._temporary: Optional[tempfile.TemporaryDirectory[str]] = None
        told = getattr(config, "workerinput", {}).get(_WORKER_INPUT)
        if told:
            self.folder, self.prefix = Path(told["folder"]), told["prefix"]
            return
        if settings.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="memtrace-pytest-")
        self.folder = settings.folder or Path(self._temporary.name if self._temporary else "")
        self.prefix = settings.prefix or uuid.uuid4().hex

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker of pytest-xdist begins: its captures go where ours would."""
        node.workerinput[_WORKER_INPUT] = {"folder": str(self.folder), "prefix": self.prefix}

    def pytest_unconfigure(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, None, None]:
        yield from self._with_recorded_function(pyfuncitem)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        # Methods of unittest.TestCase are called by unittest, and not by the hook above.
        if isinstance(item, pytest.Function) and item.cls and issubclass(item.cls, unittest.TestCase):
            yield from self._with_recorded_function(item)
        else:
            yield

    def _with_recorded_function(self, item: pytest.Function) -> Generator[None, None, None]:
        if not self.settings.is_active and not limits_of(item):
            yield
            return
        # Put back afterwards: plugins that repeat a test (flaky) would have it recorded twice at once.
        function = item.obj
        item.obj = self._recorded(item, function)
        yield
        item.obj = function

    def _recorded(self, item: pytest.Function, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call(*args: Any, **kwargs: Any) -> Any:
                with self._recording(item) as recording:
                    with recording.tracker:
                        result = await function(*args, **kwargs)
                        recording.settle()
                    self.judge(recording)
                return result

        else:

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                with self._recording(item) as recording:
                    with recording.tracker:
                        result = function(*args, **kwargs)
                        recording.settle()
                    self.judge(recording)
                return result

        return call

    @contextlib.contextmanager
    def _recording(self, item: pytest.Item) -> Generator[_Recording, None, None]:
        """A call of a test function, and its capture for as long as it is needed."""
        is_kept = self.settings.folder is not None
        capture = self.folder / (file_name(self.prefix, item.nodeid) if is_kept else f"{uuid.uuid4().hex}.bin")
        try:
            yield _Recording(item, capture, self.settings)
        finally:
            if not is_kept and capture.exists():
                capture.unlink()

    def judge(self, recording: _Recording) -> None:
        """A test has passed: takes its measure, and fails it when it exceeded a limit."""
        test = recording.item.nodeid
        with FileReader(str(recording.capture)) as reader:
            if self.settings.is_active:
                self._measured[test] = measure(reader)
            evidence = Evidence(test, reader, self.settings, self.config, recording.surviving_objects())
            for limit in recording.limits:
                limit.check(evidence)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
        outcome = yield
        if call.when != "call":
            return
        report = outcome.get_result()
        measured = self._measured.pop(item.nodeid, None)
        if measured is not None:
            setattr(report, MEASURED, measured)
        if call.excinfo is not None and isinstance(call.excinfo.value, LimitExceeded) and call.excinfo.value.section:
            report.sections.append(call.excinfo.value.section)

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_report_teststatus(self, report: Any) -> Generator[None, Any, None]:
        outcome = yield
        if (
            report.when == "call"
            and report.failed
            and any(title.startswith("memtrace") for title, _ in report.sections)
        ):
            outcome.force_result(("failed", "M", "MEMORY PROBLEMS"))


class _Recording:
    """One call of a test function."""

    def __init__(self, item: pytest.Item, capture: Path, settings: Settings) -> None:
        self.item = item
        self.capture = capture
        self.limits = limits_of(item)
        self.needs_objects = any(limit.needs_objects for limit in self.limits)
        needs_everything = any(limit.needs_everything for limit in self.limits)
        options: dict[str, Any] = {"track_object_lifetimes": True} if self.needs_objects else {}
        self.tracker = Tracker(
            destination=FileDestination(
                str(self.capture), overwrite=True, compress_on_exit=settings.folder is not None
            ),
            native_traces=settings.is_native or needs_everything,
            trace_python_allocators=settings.records_python_allocators or needs_everything,
            # What is read once and goes need not be made small.
            file_format=FileFormat.AGGREGATED_ALLOCATIONS if settings.folder is not None else FileFormat.ALL_ALLOCATIONS,
            **options,
        )

    def settle(self) -> None:
        """Lets go of what only caches and cycles hold, so that it is no leak."""
        if self.needs_objects:
            gc.collect()
            sys._clear_internal_caches()  # type: ignore[attr-defined,unused-ignore]

    def surviving_objects(self) -> List[object]:
        return list(self.tracker.get_surviving_objects()) if self.needs_objects else []


def file_name(prefix: str, test: str) -> str:
    """The name of a test's capture, as in pytest-memray. One that is too long ends in a digest of the whole."""
    # Reports may put a file of the same name with this suffix beside it.
    longest = 255 - len(".symbols")
    name = f"{prefix}-{test.replace('::', '-').replace('/', '-')}.bin"
    encoded = name.encode()
    if len(encoded) <= longest:
        return name
    end = f"-{hashlib.sha256(encoded).hexdigest()[:16]}.bin"
    return encoded[: longest - len(end)].decode(errors="ignore") + end
