"""Numbers with names, the same as memray's."""

import enum


class AllocatorType(enum.IntEnum):
    """The function that handed memory out or took it back."""

    PYMALLOC_FREE = 1
    PYMALLOC_MALLOC = 2
    PYMALLOC_CALLOC = 3
    PYMALLOC_REALLOC = 4
    FREE = 5
    MALLOC = 6
    REALLOC = 7
    CALLOC = 8
    POSIX_MEMALIGN = 9
    ALIGNED_ALLOC = 10
    MEMALIGN = 11
    VALLOC = 12
    PVALLOC = 13
    MMAP = 14
    MUNMAP = 15


class FileFormat(enum.IntEnum):
    """What a capture keeps.

    ``ALL_ALLOCATIONS`` keeps every allocation and every free. ``AGGREGATED_ALLOCATIONS`` keeps what was there when the
    heap was largest and when tracking ended, by call stack.
    """

    ALL_ALLOCATIONS = 0
    AGGREGATED_ALLOCATIONS = 1
