"""What ``%memtrace`` prints: totals, and the functions that hold most."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple


def summary(reader: Any, *, leaks: bool, max_rows: int) -> str:
    """A few lines of text about a capture that was read."""
    ask = reader.get_leaked_allocation_records if leaks else reader.get_high_watermark_allocation_records
    records = list(ask(merge_threads=True))
    total_bytes = sum(record.size for record in records)
    metadata = reader.metadata
    lines = [f"peak {size(metadata.peak_memory)}, {metadata.total_allocations:,} allocations"]
    rows = _by_function(records, metadata.has_native_traces)
    if leaks:
        lines.append(f"not freed {size(total_bytes)}")
    lines.extend(
        f"{size(n_bytes):>12}  {n_bytes / total_bytes:7.2%}  {count:>9,}x  {place}"
        for n_bytes, count, place in rows[:max_rows]
    )
    if len(rows) > max_rows:
        lines.append(f"...and {len(rows) - max_rows} more functions")
    return "\n".join(lines) + "\n"


def _by_function(records: List[Any], is_native: bool) -> List[Tuple[int, int, str]]:
    """Bytes, allocations and place of each function that allocated, the largest first."""
    sums: Dict[Tuple[str, str], Tuple[int, int, str]] = {}
    for record in sorted(records, key=lambda record: record.size, reverse=True):
        frames = record.hybrid_stack_trace(max_stacks=1) if is_native else record.stack_trace(max_stacks=1)
        function, file, line = frames[0] if frames else ("???", "", 0)
        # The line is the one that holds most.
        place = f"{function} ({file}:{line})" if frames else "no Python function"
        n_bytes, count, place = sums.get((function, file), (0, 0, place))
        sums[function, file] = (n_bytes + record.size, count + record.n_allocations, place)
    return sorted(sums.values(), reverse=True)


def size(n_bytes: float) -> str:
    """``1.234MB``, as in the reports."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while n_bytes >= 1000 and len(units) > 1:
        n_bytes /= 1000
        units.pop(0)
    return f"{n_bytes:.3f}{units[0]}"
