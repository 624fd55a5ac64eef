"""Reading a recording that goes on."""

import operator
from types import TracebackType
from typing import Iterator, Optional, Type

from ._memtrace import AllocationRecord, Connection


class SocketReader:
    """Reads what a `Tracker` with a `SocketDestination` records, or a program under ``memtrace run --live-remote``::

        with memtrace.SocketReader(5678) as reader:
            while reader.is_active:
                print(sum(record.size for record in reader.get_current_snapshot(merge_threads=True)))
                time.sleep(1)

    Entering the ``with`` waits for a recording to be offered on the port. It has to be one of the same user, on the same
    machine. Everything is read when it is asked for, and the recorded program never waits for the reader.

    Args:
        port: Where the recording is offered.
    """

    def __init__(self, port: int) -> None:
        self._port = operator.index(port)
        self._connection: Optional[Connection] = None
        self._command_line: Optional[str] = None
        self._pid: Optional[int] = None
        self._has_native_traces = False

    def __enter__(self) -> "SocketReader":
        if self._connection is not None:
            raise ValueError("Can not enter the context of a SocketReader object more than once, at the same time.")
        connection = Connection(self._port)
        self._connection = connection
        self._command_line = connection.command_line
        self._pid = connection.pid
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        exc_traceback: Optional[TracebackType],
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        self._has_native_traces = connection.has_native_traces
        connection.close()

    @property
    def command_line(self) -> Optional[str]:
        """Of the recorded program; ``None`` before the reader was entered."""
        return self._command_line

    @property
    def pid(self) -> Optional[int]:
        """The recorded process; ``None`` before the reader was entered."""
        return self._pid

    @property
    def is_active(self) -> bool:
        """Whether there is a recording that goes on. When it has ended, its last snapshot can still be asked for."""
        return self._connection is not None and self._connection.is_active

    @property
    def has_native_traces(self) -> bool:
        """Whether native stacks are recorded. Of a program under ``memtrace run`` that is known when there are some."""
        return self._has_native_traces if self._connection is None else self._connection.has_native_traces

    def get_current_snapshot(self, *, merge_threads: bool) -> Iterator[AllocationRecord]:
        """What is allocated now and was not given back, summed up by call stack and allocator; nothing outside of the
        ``with``.

        Args:
            merge_threads: Whether threads are taken together.
        """
        if self._connection is not None:
            yield from self._connection.snapshot(merge_threads)
