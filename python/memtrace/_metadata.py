"""What a capture says about itself."""

from dataclasses import dataclass
from datetime import datetime

from ._enums import FileFormat


@dataclass
class Metadata:
    """What is known about a capture as a whole."""

    start_time: datetime
    end_time: datetime
    #: Records of allocations and of frees.
    total_allocations: int
    #: Distinct Python frames of all stacks.
    total_frames: int
    #: The largest size of the heap, in bytes.
    peak_memory: int
    command_line: str
    pid: int
    main_thread_id: int
    #: ``pymalloc``, ``mimalloc``, ``malloc``, one of them with ``debug`` behind it, or ``unknown``.
    python_allocator: str
    has_native_traces: bool
    trace_python_allocators: bool
    file_format: FileFormat
