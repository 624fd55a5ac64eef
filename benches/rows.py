"""What is measured, and how much it may come to: the rows of the table and the columns of each of them, as data."""

import dataclasses

MALLOC, OBJECTS = "malloc", "objects"
# The same with the native stack of each event.
MALLOC_NATIVE, OBJECTS_NATIVE = "malloc, native", "objects, native"

# How a figure is made of a tool's runs and the program's own; `benches/judge.py` has the formulas.
RATIO = "ratio"  # CPU time of the whole process tree / the program's own
EVENT_NANOS = "ns per event"  # added CPU time / events
ADDED_MILLIS = "ms"  # added wall time
ADDED_MIB = "MiB"  # added resident memory, as the program prints it


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    # A script of fixtures/programs and its arguments; `{size}` is the size of the work, `{library}` malloc_loop.c built.
    command: str
    size: int
    # What is recorded: what reaches malloc, or Python's objects one by one.
    level: str
    # (certain, goal); rows of a group are judged together.
    limits: tuple = None
    figure: str = RATIO
    group: str = None
    # The work is what it is: `--scale` leaves it alone.
    is_fixed: bool = False

    def is_scaled(self, scale):
        return dataclasses.replace(self, size=max(1, round(self.size * scale))) if not self.is_fixed else self


REAL, REAL_NATIVE = "real programs", "real programs, native"
# Behind the name of a row with native stacks; that of the row without them is in front.
NATIVE = ", native"

ROWS = [
    Row("richards", "richards.py {size}", 300_000, MALLOC, (1.05, 1.01)),
    Row("deltablue", "deltablue.py {size}", 30_000, MALLOC, (1.05, 1.01)),
    Row("bytes, depth 10", "allocations.py {size} bytes 10", 8_000_000, MALLOC, (1.35, 1.2)),
    Row("bytes, depth 50", "allocations.py {size} bytes 50", 8_000_000, MALLOC, (1.5, 1.2)),
    Row("bytes, depth 200", "allocations.py {size} bytes 200", 8_000_000, MALLOC, (2.0, 1.2)),
    # The module, `main` 23 times, the loop, one of the five functions, `block`.
    Row("five call sites, depth 27", "allocations.py {size} sites 22", 8_000_000, MALLOC, (1.45, 1.25)),
    Row("small objects", "allocations.py {size} objects 10", 2_000_000, OBJECTS, (2.2, 1.6)),
    Row("json", "json_texts.py {size}", 12, OBJECTS, group=REAL),
    Row("pandas", "pandas_frames.py {size}", 1_000_000, OBJECTS, group=REAL),
    Row("ORM (Django)", "django_site.py {size}", 700, OBJECTS, group=REAL),
    Row("templates (jinja2)", "jinja_pages.py {size}", 600, OBJECTS, group=REAL),
    Row("html parser (html5lib)", "html5lib_page.py {size}", 1000, OBJECTS, group=REAL),
    Row("type checker (mypy)", "mypy_check.py {size}", 5, OBJECTS, group=REAL),
    Row("service loop (FastAPI)", "fastapi_service.py {size}", 1500, OBJECTS, group=REAL),
    Row("richards, objects", "richards.py {size}", 200_000, OBJECTS, group=REAL),
    Row("deltablue, objects", "deltablue.py {size}", 20_000, OBJECTS, group=REAL),
    Row("four threads of json", "json_threads.py {size} 4", 12_000, OBJECTS, (1.7, 1.3)),
    Row("C, 2 threads", "malloc_loop.py {size} {library} 2", 5_000_000, MALLOC, (30, 15), EVENT_NANOS),
    Row("a second of calls", "richards.py {size}", 300_000, MALLOC, (50, 50), ADDED_MILLIS, is_fixed=True),
    Row("resident, 1 thread", "resident.py {size} 1", 20_000, OBJECTS, (15, 6), ADDED_MIB, is_fixed=True),
    Row("resident, 200 threads", "resident.py {size} 200", 500, OBJECTS, (60, 30), ADDED_MIB, is_fixed=True),
]

# The rows that are measured with native stacks as well: those of real programs, and these, about 14 native frames deep.
WITH_NATIVE_TOO = ["bytes, depth 10", "five call sites, depth 27"]


def with_native(row):
    level = MALLOC_NATIVE if row.level == MALLOC else OBJECTS_NATIVE
    group = REAL_NATIVE if row.group else None
    return dataclasses.replace(row, name=row.name + NATIVE, level=level, limits=None, group=group)


ROWS += [with_native(row) for row in ROWS if row.group == REAL or row.name in WITH_NATIVE_TOO]

# Events of the work of the C row, for each unit of its size.
EVENTS_PER_ROUND = 2 * 2

# What is judged over many rows.
GROUP_LIMITS = {REAL: (1.5, 1.2), REAL_NATIVE: (2.2, 1.5)}
# What a native stack adds: nanoseconds of an event, and the part of what it adds under memray.
NATIVE_NANOS = (25, 12)
NATIVE_PART_OF_MEMRAYS = 1 / 8
RAW_BYTES_PER_EVENT = (6, 4)
# Captures with fewer events say more about code objects than about events.
MANY_EVENTS = 10_000_000
# Compressed capture / memray's: each one, and the geometric mean.
CAPTURE_RATIO_EACH = 1.2
CAPTURE_RATIO_MEAN = 0.5
# Where memray takes this much more, ours is at most this part of it.
MEMRAYS_NOTABLE_OVERHEAD = 0.2
PART_OF_MEMRAYS = 1 / 3

ALONE, AGAIN, MEMTRACE, MEMRAY = "alone", "again", "memtrace", "memray"
COLUMNS = [ALONE, AGAIN, MEMTRACE, MEMRAY]


def command_of(column, level, memtrace, python, capture):
    """The words in front of a script."""
    is_native, has_objects = level in (MALLOC_NATIVE, OBJECTS_NATIVE), level in (OBJECTS, OBJECTS_NATIVE)
    native = ["--native"] if is_native else []
    if column == MEMTRACE:
        options = native if has_objects else [*native, "--no-python-allocators"]
        return [memtrace, "run", "-q", "-f", *options, "--python", python, "-o", capture]
    if column == MEMRAY:
        options = ["--trace-python-allocators", *native] if has_objects else native
        return [python, "-m", "memray", "run", "-q", "-f", *options, "-o", capture]
    return [python]
