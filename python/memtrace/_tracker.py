"""Recording without a `with`, and what a fork does to a recording."""

import os
from types import FrameType
from typing import Any, Callable, Optional, Union

from . import _memtrace
from ._memtrace import Tracker

_started: Optional[Tracker] = None

# The recorder stops by itself in a child; here only the note that there is a tracker goes.
os.register_at_fork(after_in_child=_memtrace.after_fork_in_child)


def start(file_name: Union[str, "os.PathLike[str]", None] = None, **arguments: Any) -> None:
    """Begins to record this process, until `stop`. Takes what `Tracker` takes.

    Raises:
        RuntimeError: It is recorded already.
    """
    global _started
    tracker = Tracker(file_name, **arguments)
    tracker.__enter__()
    _started = tracker


def stop() -> None:
    """Ends what `start` has begun.

    Raises:
        RuntimeError: Nothing was begun.
    """
    global _started
    tracker, _started = _started, None
    if tracker is None:
        raise RuntimeError("memtrace.stop() without memtrace.start()")
    tracker.__exit__(None, None, None)


def start_thread_trace(frame: FrameType, event: str, arg: Any) -> Callable[[FrameType, str, Any], Any]:
    """Accepted by `threading.setprofile`, for code that was written for memray: threads are recorded without it."""
    return start_thread_trace
