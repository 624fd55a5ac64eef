"""The markers: what a test is allowed, whether it kept to it, and where the bytes went when it did not.

Each limit says how it wants the test recorded. Its arguments are checked before the test runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, Iterable, List, Optional, Protocol, Tuple, Type

import pytest

from memtrace import AllocationRecord, FileReader
from memtrace._pytest import sizes
from memtrace._pytest.options import Settings

Frame = Tuple[str, str, int]

# Its function is the outermost frame of every test.
_RECORDER = str(Path(__file__).with_name("recorder.py"))


@dataclass
class StackFrame:
    """One frame of a call stack.

    Each frame has attributes to tell you what code was executing.
    """

    function: str
    """The function being executed, or ``"???"`` if unknown."""
    filename: str
    """The source file being executed, or ``"???"`` if unknown."""
    lineno: int
    """The line number of the executing line, or ``0`` if unknown."""


@dataclass
class Stack:
    """The call stack that led to some memory allocation."""

    frames: Tuple[StackFrame, ...]
    """The frames that make up the call stack, most recent first."""


class LeaksFilterFunction(Protocol):
    """Decides whether a leak counts, for `limit_leaks`."""

    def __call__(self, stack: Stack) -> bool:
        """Whether allocations from this stack are to be reported."""
        ...


class LeakedObjectsFilterFunction(Protocol):
    """Decides whether a leaked object counts, for `limit_leaked_objects`."""

    def __call__(self, obj: object) -> bool:
        """Whether a leak of this object is to be reported."""
        ...


# Declared as an attribute of a function, which no type checker can follow.
_Failed: Any = pytest.fail.Exception


class LimitExceeded(_Failed):  # type: ignore[misc]
    """A test took more than it may. Shown as its message, and not as a place in our code."""

    def __init__(self, message: str, title: str, details: str | None) -> None:
        super().__init__(message, pytrace=False)
        self.section = None if details is None else (f"memtrace: {title}", details)


# The name that the last line of a run shows.
LimitExceeded.__module__ = "builtins"


@dataclass(frozen=True)
class Evidence:
    """What is known of a test when it has ended."""

    test: str
    reader: FileReader
    settings: Settings
    config: pytest.Config
    surviving_objects: List[object]


class Limit(Protocol):
    """What one marker asks for."""

    SIGNATURE: ClassVar[str]
    needs_everything: ClassVar[bool]
    """Whether every Python object and native stacks are to be recorded."""
    needs_objects: ClassVar[bool]
    """Whether lifetimes of objects are."""

    def check(self, evidence: Evidence) -> None:
        """Raises `LimitExceeded` when it was not kept."""
        ...


class LimitMemory:
    """Fail the test when its peak reaches the limit, like "24 MB"."""

    SIGNATURE: ClassVar[str] = "(limit, *, current_thread_only=False)"
    needs_everything: ClassVar[bool] = False
    needs_objects: ClassVar[bool] = False

    def __init__(self, limit: str, *, current_thread_only: bool = False) -> None:
        self.limit_bytes = sizes.parse(limit)
        self.current_thread_only = current_thread_only

    def check(self, evidence: Evidence) -> None:
        reader = evidence.reader
        records = _records(reader, reader.get_high_watermark_allocation_records, self.current_thread_only)
        peak_bytes = sum(record.size for record in records)
        settings = evidence.settings
        cache = getattr(evidence.config, "cache", None)
        key = f"memtrace/{evidence.test}"
        before = cache.get(key, None) if cache and settings.fails_on_increase else None
        if peak_bytes >= self.limit_bytes:
            message = f"Test was limited to {sizes.show(self.limit_bytes)} but allocated {sizes.show(peak_bytes)}"
        elif before is not None and peak_bytes > before:
            message = f"Test previously used {sizes.show(before)} but now uses {sizes.show(peak_bytes)}"
        else:
            # What a test takes that fails is no measure for the next time.
            if cache:
                cache.set(key, peak_bytes)
            return
        details = None
        if settings.verbosity >= 0:
            n_shown = len(records) if settings.verbosity >= 2 else 10
            stacks = _list_of_stacks(records, settings.is_native, settings.n_frames, n_shown)
            details = f"List of allocations:\n{stacks}"
        raise LimitExceeded(message, "largest stacks at the peak", details)


class LimitLeaks:
    """Fail the test when any stack leaks as much as the limit, like "1 KB"."""

    SIGNATURE: ClassVar[str] = "(location_limit, *, filter_fn=None, current_thread_only=False)"
    needs_everything: ClassVar[bool] = True
    needs_objects: ClassVar[bool] = False

    def __init__(
        self,
        location_limit: str,
        *,
        filter_fn: Optional[LeaksFilterFunction] = None,
        current_thread_only: bool = False,
    ) -> None:
        self.limit_bytes = sizes.parse(location_limit)
        self.filter_fn = filter_fn
        self.current_thread_only = current_thread_only

    def check(self, evidence: Evidence) -> None:
        reader = evidence.reader
        records = _records(reader, reader.get_leaked_allocation_records, self.current_thread_only)
        leaks = [record for record in records if record.size >= self.limit_bytes and not _is_ours(record)]
        leaks = [record for record in leaks if self._counts(record)]
        if leaks:
            stacks = _list_of_stacks(leaks, True, evidence.settings.n_frames, len(leaks))
            raise LimitExceeded(
                f"Test was allowed to leak {sizes.show(self.limit_bytes)} per location"
                " but at least one location leaked more",
                "leaks by stack",
                f"List of leaked allocations:\n{stacks}",
            )

    def _counts(self, record: AllocationRecord) -> bool:
        if self.filter_fn is None:
            return True
        return self.filter_fn(Stack(tuple(StackFrame(*frame) for frame in record.hybrid_stack_trace())))


class LimitLeakedObjects:
    """Fail the test when objects that it made are alive when it has ended."""

    SIGNATURE: ClassVar[str] = "(*, filter_fn=None)"
    needs_everything: ClassVar[bool] = False
    needs_objects: ClassVar[bool] = True

    def __init__(self, *, filter_fn: Optional[LeakedObjectsFilterFunction] = None) -> None:
        self.filter_fn = filter_fn

    def check(self, evidence: Evidence) -> None:
        leaked = [obj for obj in evidence.surviving_objects if self.filter_fn is None or self.filter_fn(obj)]
        if leaked:
            message = f"Test leaked {len(leaked)} objects"
            objects = _list_of_objects(leaked, _origins(evidence.reader, leaked), evidence.settings.n_frames)
            raise LimitExceeded(message, "leaked objects", f"List of leaked objects:\n{objects}")


LIMITS: Dict[str, Type[Limit]] = {
    "limit_memory": LimitMemory,
    "limit_leaks": LimitLeaks,
    "limit_leaked_objects": LimitLeakedObjects,
}


def _records(
    reader: FileReader, ask: Callable[..., Iterable[AllocationRecord]], current_thread_only: bool
) -> List[AllocationRecord]:
    """The answer to a question about a capture, largest first."""
    records = list(ask(merge_threads=not current_thread_only))
    if current_thread_only:
        records = [record for record in records if record.tid == reader.metadata.main_thread_id]
    return sorted(records, key=lambda record: record.size, reverse=True)


def _is_ours(record: AllocationRecord) -> bool:
    """Whether the recorder itself allocated it, around the call of the test."""
    return any(file == _RECORDER for _, file, _ in record.stack_trace(max_stacks=1))


def _list_of_stacks(records: List[AllocationRecord], is_native: bool, n_frames: int, n_shown: int) -> str:
    lines = []
    for record in records[:n_shown]:
        frames, is_cut = _innermost_frames(record, is_native, n_frames)
        if not frames:
            continue
        times = "1 allocation" if record.n_allocations == 1 else f"{record.n_allocations} allocations"
        lines.append(f"    - {sizes.show(record.size)} ({times}) allocated here:")
        lines.extend(f"        {function}:{file}:{line}" for function, file, line in frames)
        if is_cut:
            lines.append("        ...")
    if len(records) > n_shown:
        rest_bytes = sum(record.size for record in records[n_shown:])
        lines.append(f"    ...and {len(records) - n_shown} more with {sizes.show(rest_bytes)}")
    return "\n".join(lines)


def _innermost_frames(record: AllocationRecord, is_native: bool, n_frames: int) -> Tuple[List[Frame], bool]:
    """As many frames as wanted, and whether there are more. Native ones do not count, as they lead to no test."""
    python = [frame for frame in record.stack_trace() if frame[1] != _RECORDER]
    if not is_native:
        return python[:n_frames], len(python) > n_frames
    frames = [frame for frame in record.hybrid_stack_trace() if frame[1] != _RECORDER]
    if len(python) <= n_frames:
        return frames, False
    wanted = set(python[:n_frames])
    last = max((index for index, frame in enumerate(frames) if frame in wanted), default=n_frames - 1)
    return frames[: last + 1], True


def _origins(reader: FileReader, objects: List[object]) -> Dict[int, List[Frame]]:
    """Where the objects were made, by identity."""
    made = (record for record in reader.get_object_lifetime_events(objects) if record.is_created)
    return {record.address: [frame for frame in record.stack_trace() if frame[1] != _RECORDER] for record in made}


def _list_of_objects(objects: List[object], origins: Dict[int, List[Frame]], n_frames: int) -> str:
    counts: Dict[str, int] = {}
    for obj in objects:
        name = type(obj).__name__
        counts[name] = counts.get(name, 0) + 1
    by_count = sorted(counts.items(), key=lambda item: item[1], reverse=True)
    lines = [f"    Object types that leaked (total: {len(objects)} objects):"]
    lines.extend(f"        - {count} {name} instance(s)" for name, count in by_count[:10])
    if len(by_count) > 10:
        lines.append(f"        ... and {len(by_count) - 10} more types")
    lines.append("    Sample of leaked objects:")
    for obj in objects[:10]:
        lines.append(f"        - {type(obj).__name__}: {_shown(obj)}")
        frames = origins.get(id(obj), [])
        lines.extend(f"            {function}:{file}:{line}" for function, file, line in frames[:n_frames])
        if len(frames) > n_frames:
            lines.append("            ...")
    if len(objects) > 10:
        lines.append(f"        ... and {len(objects) - 10} more")
    return "\n".join(lines)


def _shown(obj: object) -> str:
    try:
        text = repr(obj)
    except Exception:
        return "<repr failed>"
    return text if len(text) <= 100 else text[:97] + "..."


def limits_of(item: pytest.Item) -> List[Limit]:
    """What a test is allowed: of several markers of a kind the nearest one holds."""
    limits = []
    for name, limit in LIMITS.items():
        marker = item.get_closest_marker(name)
        try:
            limits += [limit(*marker.args, **marker.kwargs)] if marker else []
        except (TypeError, ValueError) as error:
            # In a line, and not with the frames of ours that noticed it.
            pytest.fail(f"@pytest.mark.{name}{limit.SIGNATURE}: {error}", pytrace=False)
    return limits
