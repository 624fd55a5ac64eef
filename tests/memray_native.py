"""Prints the stacks that hold memory at the peak of a recording that memray made with --native, for
tests/native_stacks/memray.rs.

    python memray_native.py CAPTURE SCRIPT FUNCTION

A line for each stack with FUNCTION of SCRIPT on it, from there on: `function (file:line);... BYTES`, Python and native
frames as memray joins them.
"""

import sys
from collections import Counter

from memray import FileReader


def main(capture, script, function):
    n_bytes = Counter()
    with FileReader(capture) as reader:
        for record in reader.get_high_watermark_allocation_records(merge_threads=True):
            frames = list(reversed(record.hybrid_stack_trace()))
            start = next((at for at, frame in enumerate(frames) if frame[0] == function and frame[1] == script), None)
            if start is not None:
                n_bytes[";".join("%s (%s:%d)" % frame[:3] for frame in frames[start:])] += record.size
    for stack, held in n_bytes.items():
        print(stack, held)


if __name__ == "__main__":
    main(*sys.argv[1:])
