"""A pytest plugin: what tests take, and limits for it.

``pytest --memtrace`` tells at the end which tests took the most. The markers ``limit_memory``, ``limit_leaks`` and
``limit_leaked_objects`` make a test fail that takes or keeps too much. Options, settings and markers are those of
pytest-memray; where its options have ``memray`` in their names, ``memtrace`` does as well.
"""

import functools
import importlib.util
import inspect
import re
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Generator, Iterable, List, Optional, Tuple

import pytest

from ._enums import FileFormat
from ._memtrace import AllocationRecord, Tracker
from ._reader import FileReader

MARKERS = {
    "limit_memory": "limit_memory(limit, current_thread_only=False): fail the test when it takes more memory than this",
    "limit_leaks": "limit_leaks(limit, filter_fn=None, current_thread_only=False): fail the test when one place in "
    "the code keeps more memory than this",
    "limit_leaked_objects": "limit_leaked_objects(filter_fn=None): fail the test when objects survive it",
}

#: Functions that the summary lists for each test, and allocations that a failure lists.
N_FUNCTIONS = 5
N_ALLOCATIONS = 10


@dataclass(frozen=True)
class StackFrame:
    """One frame of a call stack."""

    function: str
    filename: str
    lineno: int


@dataclass(frozen=True)
class Stack:
    """The call stack of an allocation, the most recent call first."""

    frames: Tuple[StackFrame, ...]


def _is_beside_memray(plugins: pytest.PytestPluginManager) -> bool:
    """Where pytest-memray is installed, its options and the tests with markers are its own."""
    return importlib.util.find_spec("pytest_memray") is not None and not plugins.is_blocked("memray")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    is_alone = not _is_beside_memray(pluginmanager)
    group = parser.getgroup("memtrace")

    def add(name: str, help: str, **how: Any) -> None:
        names = [name]
        if is_alone and "memtrace" in name:
            names.append(name.replace("memtrace", "memray"))
        if is_alone or "memtrace" in name:
            destination = name.strip("-").replace("-", "_")
            group.addoption(*names, dest=destination, default=None, help=help, **how)

    add("--memtrace", "Record what each test allocates", action="store_true")
    add("--memtrace-bin-path", "Folder that captures are kept in", type=Path)
    add("--memtrace-bin-prefix", "What the names of these captures begin with")
    add("--hide-memtrace-summary", "Tell nothing at the end", action="store_true")
    add("--most-allocations", "How many tests are told of at the end (0: all)", type=int)
    add("--stacks", "How many calls are shown of each allocation", type=_positive)
    add("--native", "Record native calls as well", action="store_true")
    add("--trace-python-allocators", "Record every Python object", action="store_true")
    add("--fail-on-increase", "Fail a limited test that takes more than when it last passed", action="store_true")
    parser.addini("memtrace", "Record what each test allocates", type="bool")
    parser.addini("hide_memtrace_summary", "Tell nothing at the end", type="bool")
    if is_alone:
        parser.addini("memray", "Record what each test allocates", type="bool")
        parser.addini("hide_memray_summary", "Tell nothing at the end", type="bool")
        parser.addini("most_allocations", "How many tests are told of at the end (0: all)")
        parser.addini("stacks", "How many calls are shown of each allocation")
        parser.addini("native", "Record native calls as well", type="bool")
        parser.addini("trace_python_allocators", "Record every Python object", type="bool")
        parser.addini("fail-on-increase", "Fail a limited test that takes more than when it last passed", type="bool")
        parser.addini("verbosity_memray", "How much a failed limit tells: below 0 one line, from 2 on all", default="auto")


def pytest_configure(config: pytest.Config) -> None:
    settings = Settings.of(config)
    is_alone = not _is_beside_memray(config.pluginmanager)
    if settings.is_active or is_alone:
        config.pluginmanager.register(Plugin(config, settings), "memtrace_plugin")
    if is_alone:
        for line in MARKERS.values():
            config.addinivalue_line("markers", line)


@dataclass(frozen=True)
class Settings:
    """What options and settings say."""

    is_active: bool
    hides_summary: bool
    bin_path: Optional[Path]
    bin_prefix: str
    n_tests: int
    n_calls: int
    native: bool
    trace_python_allocators: bool
    fails_on_increase: bool

    @staticmethod
    def of(config: pytest.Config) -> "Settings":
        def value(option: str, *settings: str) -> Any:
            found = config.getoption(option, None)
            for setting in settings:
                if found is None:
                    try:
                        found = config.getini(setting) or None
                    except (KeyError, ValueError):
                        pass
            return found

        n_tests = value("most_allocations", "most_allocations")
        return Settings(
            is_active=bool(value("memtrace", "memtrace", "memray")),
            hides_summary=bool(value("hide_memtrace_summary", "hide_memtrace_summary", "hide_memray_summary")),
            bin_path=value("memtrace_bin_path"),
            bin_prefix=value("memtrace_bin_prefix") or uuid.uuid4().hex,
            n_tests=5 if n_tests is None else int(n_tests),
            n_calls=int(value("stacks", "stacks") or 1),
            native=bool(value("native", "native")),
            trace_python_allocators=bool(value("trace_python_allocators", "trace_python_allocators")),
            fails_on_increase=bool(value("fail_on_increase", "fail-on-increase")),
        )


class Plugin:
    """Records tests, judges them, and tells at the end."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.captures: Dict[str, Path] = {}
        #: By test, as its report brought it, from another process perhaps.
        self.told: Dict[str, Dict[str, Any]] = {}
        self._temporary = None if settings.bin_path else tempfile.TemporaryDirectory(prefix="pytest-memtrace-")
        self.folder = settings.bin_path or Path(self._temporary.name if self._temporary else ".")
        self.folder.mkdir(parents=True, exist_ok=True)

    def pytest_unconfigure(self) -> None:
        if self._temporary:
            self._temporary.cleanup()

    def pytest_collection_modifyitems(self, items: List[pytest.Item]) -> None:
        if any(item.get_closest_marker("limit_leaked_objects") for item in items):
            raise pytest.UsageError("memtrace does not know the marker limit_leaked_objects yet")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, None]:
        markers = {marker.name for marker in pyfuncitem.iter_markers()} & set(MARKERS)
        if len(markers) > 1:
            raise ValueError("Only one memtrace marker can be applied to each test")
        if not markers and not self.settings.is_active:
            yield
            return
        looks_for_leaks = "limit_leaks" in markers
        capture = self._capture_of(pyfuncitem.nodeid)
        options = dict(
            native_traces=self.settings.native or looks_for_leaks,
            trace_python_allocators=self.settings.trace_python_allocators or looks_for_leaks,
            file_format=FileFormat.AGGREGATED_ALLOCATIONS,
        )
        self.captures[pyfuncitem.nodeid] = capture
        test = pyfuncitem.obj
        pyfuncitem.obj = _recorded(test, capture, options)
        try:
            yield
        finally:
            # A plugin that runs tests again calls this again.
            pyfuncitem.obj = test

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: "pytest.CallInfo[None]") -> Generator[None, Any, None]:
        outcome = yield
        report = outcome.get_result()
        capture = self.captures.pop(item.nodeid, None) if call.when == "call" else None
        if capture is None or not capture.exists():
            return
        with FileReader(capture) as reader:
            if self.settings.is_active:
                report.memtrace = _summary(reader)
            if report.outcome == "passed":
                for marker in item.iter_markers():
                    judge = {"limit_memory": self._judge_peak, "limit_leaks": self._judge_leaks}.get(marker.name)
                    finding = judge(item, reader, *marker.args, **marker.kwargs) if judge else None
                    if finding:
                        report.outcome = "failed"
                        report.longrepr = finding.sentence
                        if finding.details:
                            report.sections.append(("memtrace", finding.details))
        if self._temporary:
            capture.unlink()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = getattr(report, "memtrace", None)
        if found:
            self.told[report.nodeid] = found

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Generator[None, Any, None]:
        outcome = yield
        is_ours = any(name == "memtrace" for name, _ in getattr(report, "sections", []))
        if report.when == "call" and report.outcome == "failed" and is_ours:
            outcome.force_result(("failed", "M", "MEMORY PROBLEMS"))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.settings.hides_summary or not self.settings.is_active:
            return
        line = terminalreporter.write_line
        line("")
        terminalreporter.write_sep("=", "MEMTRACE REPORT")
        largest = sorted(self.told.items(), key=lambda it: -it[1]["peak"])
        for test, found in largest[: self.settings.n_tests or None]:
            line(f"Allocation results for {test} at the high watermark")
            line("")
            line(f"\t Total memory allocated: {_bytes(found['peak'])}")
            line(f"\t Total allocations: {found['n_records']}")
            line("\t Biggest allocating functions:")
            for place, size in found["places"]:
                line(f"\t\t- {place} -> {_bytes(size)}")
            line("\n")
        if self.settings.bin_path:
            line(f"Created {len(self.told)} captures in {self.folder} with prefix {self.settings.bin_prefix}")

    def _capture_of(self, test: str) -> Path:
        if self._temporary:
            return self.folder / f"{uuid.uuid4().hex}.bin"
        name = re.sub(r"[^\w.\[\]-]", "-", test.replace("::", "-"))
        path = self.folder / f"{self.settings.bin_prefix}-{name[-150:]}.bin"
        if path.exists():
            path.unlink()
        return path

    def _judge_peak(
        self, item: pytest.Item, reader: FileReader, limit: str, *, current_thread_only: bool = False
    ) -> "Optional[_Finding]":
        records = _of_thread(reader, reader.get_high_watermark_allocation_records, current_thread_only)
        total = sum(record.size for record in records)
        cache = getattr(self.config, "cache", None)
        if cache is not None:
            key = f"memtrace/{re.sub(r'[^A-Za-z0-9_.-]', '-', item.nodeid)}"
            before = cache.get(key, None)
            if self.settings.fails_on_increase and before is not None and total > before:
                sentence = f"Test previously used {_bytes(before)} but now uses {_bytes(total)}"
                return _Finding(sentence, "Test uses more memory than previous run")
            cache.set(key, total)
        allowed = parse_size(limit)
        if total < allowed:
            return None
        verbosity = self._verbosity()
        records.sort(key=lambda record: -record.size)
        shown = records if verbosity >= 2 else records[:N_ALLOCATIONS]
        details = "List of allocations:\n" + _listed(shown, self.settings.native, self.settings.n_calls)
        if len(records) > len(shown):
            details += f"\n    ...and {len(records) - len(shown)} more"
        sentence = f"Test was limited to {_bytes(allowed)} but allocated {_bytes(total)}"
        return _Finding(sentence, details if verbosity >= 0 else "")

    def _judge_leaks(
        self,
        item: pytest.Item,
        reader: FileReader,
        limit: str,
        *,
        filter_fn: Optional[Callable[[Stack], bool]] = None,
        current_thread_only: bool = False,
    ) -> "Optional[_Finding]":
        allowed = parse_size(limit)

        def is_leak(record: AllocationRecord) -> bool:
            if record.size < allowed:
                return False
            frames = tuple(StackFrame(*frame) for frame in record.hybrid_stack_trace())
            return filter_fn is None or filter_fn(Stack(frames))

        records = _of_thread(reader, reader.get_leaked_allocation_records, current_thread_only)
        leaks = [record for record in records if is_leak(record)]
        if not leaks:
            return None
        details = "List of leaked allocations:\n" + _listed(leaks, True, max(self.settings.n_calls, 5))
        sentence = f"Test was allowed to leak {_bytes(allowed)} per location but at least one location leaked more"
        return _Finding(sentence, details)

    def _verbosity(self) -> int:
        try:
            setting = str(self.config.getini("verbosity_memray"))
        except (KeyError, ValueError):
            setting = "auto"
        return int(self.config.getoption("verbose") if setting == "auto" else setting)


@dataclass(frozen=True)
class _Finding:
    sentence: str
    details: str


def _recorded(test: Callable[..., Any], capture: Path, options: Dict[str, Any]) -> Callable[..., Any]:
    """The test, recorded from its first line to its last."""
    if inspect.iscoroutinefunction(test):

        @functools.wraps(test)
        async def later(*args: Any, **kwargs: Any) -> Any:
            with Tracker(capture, **options):
                return await test(*args, **kwargs)

        return later

    @functools.wraps(test)
    def now(*args: Any, **kwargs: Any) -> Any:
        with Tracker(capture, **options):
            return test(*args, **kwargs)

    return now


def _of_thread(
    reader: FileReader, ask: Callable[..., Iterable[AllocationRecord]], current_thread_only: bool
) -> List[AllocationRecord]:
    main = reader.metadata.main_thread_id
    records = ask(merge_threads=not current_thread_only)
    return [record for record in records if not current_thread_only or record.tid == main]


def _summary(reader: FileReader) -> Dict[str, Any]:
    """What the end tells about a test; plain values, which pass from one process to another."""
    metadata = reader.metadata
    records = sorted(reader.get_high_watermark_allocation_records(), key=lambda record: -record.size)
    places = []
    for record in records[:N_FUNCTIONS]:
        for function, file, line in record.stack_trace(max_stacks=1):
            places.append([f"{function}:{file}:{line}", record.size])
    return {"peak": metadata.peak_memory, "n_records": metadata.total_allocations, "places": places}


def _listed(records: Iterable[AllocationRecord], native: bool, n_calls: int) -> str:
    lines = []
    for record in records:
        stack = record.hybrid_stack_trace() if native else record.stack_trace()
        if not stack:
            continue
        lines.append(f"    - {_bytes(record.size)} allocated here:")
        lines.extend(f"        {function}:{file}:{line}" for function, file, line in stack[:n_calls])
        if len(stack) > n_calls:
            lines.append("        ...")
    return "\n".join(lines)


_SIZE = re.compile(r"\s*(\+?\d*\.\d+|\+?\d+)\s*([KMGTP]?B)", re.IGNORECASE)


def parse_size(text: str) -> float:
    """The bytes in ``"24.1 MB"``; a KB has 1024."""
    match = _SIZE.match(text)
    if not match:
        raise ValueError(f"Invalid memory size format: {text}")
    number, unit = match.groups()
    return float(number) * float(1024 ** "BKMGTP".index(unit[0].upper()))


def _bytes(size: float) -> str:
    for unit in ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(size) < 1024:
            return f"{size:.1f}{unit}B"
        size /= 1024
    return f"{size:.1f}PiB"


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise ValueError(f"{text} is an invalid positive int value")
    return number
