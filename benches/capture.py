"""How many events a capture holds, and how many bytes their records take before compression: read from the headers of
its blocks (`BlockHeader` in `format/src/header.rs`)."""

import dataclasses
import json
import struct
import subprocess

HEADER_LEN = 4096
# `PACKED_ALIGN`: where blocks can start.
BLOCK_ALIGN = 64
# magic, kind, codec, image, capacity, lane, sequence, thread, start, node, CRC, committed, state, CRC, raw length
BLOCK_HEADER = struct.Struct("<4sBBHIIIIQIIIIII")
BLOCK_MAGIC = b"MTBK"
EVENTS = 1
RAW = 0


@dataclasses.dataclass
class Events:
    count: int
    record_bytes: int

    def bytes_each(self):
        return self.record_bytes / self.count if self.count else 0.0


def events_in(path, memtrace):
    stats = json.loads(subprocess.check_output([memtrace, "stats", "--json", path], stderr=subprocess.DEVNULL))
    return Events(stats["metadata"]["total_allocations"], record_bytes(path))


def record_bytes(path):
    """Blocks of events only: code objects and the launcher's samples have blocks of their own."""
    total = 0
    offset = HEADER_LEN
    with open(path, "rb") as file:
        while True:
            file.seek(offset)
            header = file.read(BLOCK_HEADER.size)
            if len(header) < BLOCK_HEADER.size:
                return total
            magic, kind, codec, _, capacity, *_, committed, _, _, raw_len = BLOCK_HEADER.unpack(header)
            if magic != BLOCK_MAGIC:
                offset += BLOCK_ALIGN
                continue
            if kind == EVENTS:
                total += committed if codec == RAW else raw_len
            offset += max(capacity, BLOCK_ALIGN)
