"""Prints memray's record of a program as lines that tests/real.rs folds beside memtrace's own.

    python memray_records.py CAPTURE SCRIPT FUNCTION

An allocation's location is the leaf of its stack, when FUNCTION of SCRIPT is on that stack; else 0.

    l ID FUNCTION:FILE:LINE     a location, before its first use
    a ADDRESS SIZE ID           an allocation
    f ADDRESS                   its end
    m ADDRESS SIZE ID           a mapping
    u ADDRESS SIZE              its end, or that of a part of it
"""

import sys

from memray import AllocatorType, FileReader


def main(capture, script, function):
    write = sys.stdout.write
    locations = {}
    of_stack = {}

    def location(record):
        stack = record.stack_trace()
        if not any(frame[1] == script and frame[0] == function for frame in stack):
            return 0
        text = "%s:%s:%d" % stack[0]
        if text not in locations:
            locations[text] = len(locations) + 1
            write(f"l {locations[text]} {text}\n")
        return locations[text]

    with FileReader(capture) as reader:
        for record in reader.get_allocation_records():
            kind = record.allocator
            if kind == AllocatorType.FREE or kind == AllocatorType.PYMALLOC_FREE:
                write(f"f {record.address}\n")
                continue
            if kind == AllocatorType.MUNMAP:
                write(f"u {record.address} {record.size}\n")
                continue
            where = of_stack.get(record.stack_id)
            if where is None:
                where = of_stack[record.stack_id] = location(record)
            if kind == AllocatorType.MMAP:
                write(f"m {record.address} {record.size} {where}\n")
            else:
                write(f"a {record.address} {record.size} {where}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
