"""Questions put to memray's API and to ours: the answers and the exceptions are the same, but for what is listed here.

Each is an expression, evaluated in a process for each package, in which the package goes by the name ``M``.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from typing import Dict, List

try:
    import memray
except ImportError:
    memray = None  # type: ignore[assignment]

#: What stands there for every question.
SETTING = """
import contextlib, copy, importlib, inspect, os, pathlib, pickle, signal, subprocess, sys
M = importlib.import_module(sys.argv[1])
# Where memray has what it does not export.
I = importlib.import_module("memray._memray") if M.__name__ == "memray" else M

def make(n):
    return bytearray(n)

def deepest():
    kept.append(make(3_000_000))

kept, names = [], iter(range(1000))
with M.Tracker("some.bin"):
    deepest()
    for _ in range(10):
        make(100_000)

def signature(function):
    found = inspect.signature(function).parameters.values()
    return [(it.name, "required" if it.default is it.empty else it.default) for it in found]

def fresh():
    return f"fresh{next(names)}.bin"

open("empty.bin", "w").close()
pathlib.Path("text.bin").write_text("no capture, but some text\\n" * 50)
pathlib.Path("zeros.bin").write_bytes(bytes(5000))
os.mkdir("folder.bin")

def record(*numbers):
    return M.AllocationRecord(numbers or (1, 2, 3, 6, 5, 6, 7, 8))

def temporal():
    return I.TemporalAllocationRecord((1, 6, 3, 4, 5))

def reader(name="some.bin", **arguments):
    return M.FileReader(name, **arguments)

def large(records=None):
    [found] = [it for it in records or reader().get_allocation_records() if it.size > 2_000_000]
    return found

def place(stack):
    return [(function, os.path.basename(file), line) for function, file, line in stack]

def track(*arguments, **named):
    with M.Tracker(*arguments, **named) as tracker:
        pass
    return type(tracker).__name__

def is_read(capture):
    with M.FileReader(capture) as reader:
        return [it.size for it in reader.get_allocation_records()]

ASK = {
    "all": lambda it: it.get_allocation_records(),
    "peak": lambda it: it.get_high_watermark_allocation_records(),
    "leaks": lambda it: it.get_leaked_allocation_records(),
    "temporary": lambda it: it.get_temporary_allocation_records(),
    "temporal": lambda it: it.get_temporal_allocation_records(),
    "lifetimes": lambda it: it.get_object_lifetime_events(),
}

def after(when, what):
    "What comes of a question to a reader that is closed before it, behind it, or behind its first answer."
    it = reader()
    if when == "before":
        it.close()
    answers = ASK[what](it)
    if when == "behind":
        it.close()
    first = next(answers)
    it.close()
    return len(list(answers)) >= 0

def nested(first, second):
    with first:
        with second:
            pass

def killed():
    program = (
        "import importlib, os, signal, sys; M = importlib.import_module(sys.argv[1]); M.Tracker(sys.argv[2]).__enter__();"
        "kept = bytearray(3_000_000); os.kill(os.getpid(), signal.SIGKILL)"
    )
    capture = fresh()
    status = subprocess.run([sys.executable, "-c", program, M.__name__, capture]).returncode
    return status, [it for it in is_read(capture) if it > 2_000_000]
"""

#: As sections of expressions, one a line.
QUESTIONS = """
# enumerations
repr(M.FileFormat.ALL_ALLOCATIONS), str(M.FileFormat.ALL_ALLOCATIONS), M.FileFormat(1), M.FileFormat["ALL_ALLOCATIONS"]
[(it.name, it.value, repr(it), str(it)) for it in M.AllocatorType]
isinstance(M.AllocatorType.MALLOC, int), M.AllocatorType(14).name, M.AllocatorType.FREE == 5
M.AllocatorType(99)
M.FileFormat(99)

# destinations
M.FileDestination("a"), M.FileDestination("a") == M.FileDestination("a"), len({M.FileDestination("a"), M.FileDestination("a")})
M.FileDestination("a", True, False, True)
M.FileDestination()
setattr(M.FileDestination("a"), "path", "b")
isinstance(M.FileDestination("a"), M.Destination), isinstance(M.SocketDestination(1), M.Destination)
M.SocketDestination(1), M.SocketDestination(1, "0.0.0.0")
M.SocketDestination()

# records that are made by hand
[getattr(record(), it) for it in ("tid", "address", "size", "allocator", "stack_id", "n_allocations")]
[getattr(record(), it) for it in ("native_stack_id", "native_segment_generation")]
record(), record(-1, 0, 0, 5, 0, 1, 0, 0), record(1, 0xabc, 1234567, 14, 0, 1, 0, 0)
record() == record(), record() != record(), record() == record(2, 2, 3, 6, 5, 6, 7, 8), record() == "x", record() == None
record() == (1, 2, 3, 6, 5, 6, 7, 8), record().__eq__(3), hash(record()) == hash((1, 2, 3, 6, 5, 6, 7, 8))
record() < record()
M.AllocationRecord()
M.AllocationRecord(3)
record().stack_trace()
record().native_stack_trace()
record().hybrid_stack_trace()
record().thread_name
record(-1, 2, 3, 6, 5, 6, 7, 8).thread_name
record(1, 2, 3, 5, 5, 6, 7, 8).stack_trace()
record(1, 2, 3, 5, 5, 6, 7, 8).hybrid_stack_trace()
record(1, 2, 3, 15, 5, 6, 7, 8).native_stack_trace()
setattr(record(), "size", 3)
setattr(record(), "other", 3)
type("Mine", (M.AllocationRecord,), {})((1, 2, 3, 6, 5, 6, 7, 8)).size
pickle.dumps(record())
copy.copy(record())
[getattr(temporal(), it) for it in ("tid", "allocator", "stack_id", "native_stack_id", "native_segment_generation", "intervals")]
temporal() == temporal()
temporal() == 3, hash(temporal()) == hash((1, 6, 3, 4, 5))
I.TemporalAllocationRecord()
I.Interval(1, None, 2, 3), I.Interval(1, 2, 3, 4) == I.Interval(1, 2, 3, 4), I.Interval(1, 2, 3, 4) == 3
I.Interval(allocated_before_snapshot=1, deallocated_before_snapshot=2, n_allocations=3, n_bytes=4).n_bytes
hash(I.Interval(1, 2, 3, 4))
I.Interval(-1, 2, 3, 4)
I.Interval()

# a reader's signatures
[signature(getattr(M.FileReader, it)) for it in dir(M.FileReader) if it.startswith("get_")]
[signature(getattr(M.AllocationRecord, it)) for it in dir(M.AllocationRecord) if it.endswith("_trace")]
[signature(it) for it in (M.FileDestination, M.SocketDestination, M.Metadata, M.dump_all_records, I.compute_statistics)]
M.FileReader()
reader("some.bin", True)
reader(other=1)
reader(max_memory_records="x")
reader(max_memory_records=-1)
len(list(reader(max_memory_records=1).get_memory_snapshots())) <= 1

# files that are no captures
[reader("missing.bin")]
[reader("empty.bin")]
[reader("text.bin")]
[reader("zeros.bin")]
[reader("folder.bin")]
[reader("/dev/null")]
[reader("a\\0b")]
[reader(3.5)]
[reader(None)]
[reader(987654)]
M.dump_all_records("missing.bin")
M.dump_all_records("empty.bin")
M.dump_all_records("text.bin")
M.dump_all_records("folder.bin")
I.compute_statistics("missing.bin")
I.compute_statistics("empty.bin")
I.compute_statistics("text.bin")
I.compute_statistics(None)

# ways to name a capture
[bool(list(reader(it).get_allocation_records())) for it in ("some.bin", b"some.bin", pathlib.Path("some.bin"))]
bool(list(reader(os.open("some.bin", os.O_RDONLY)).get_allocation_records()))

# a reader's life
(lambda it: (it.closed, it.close(), it.closed, it.close(), it.closed))(reader())
(lambda it: (it.__enter__() is it, it.__exit__(None, None, None), it.closed))(reader())
(lambda it: (it.close(), it.__enter__() is it, it.metadata == reader().metadata))(reader())
(lambda it: (it.close(), [snapshot.time > 0 for snapshot in it.get_memory_snapshots()][:1]))(reader())
[after("before", it) for it in ("all",)]
[after("before", it) for it in ("peak",)]
[after("before", it) for it in ("leaks",)]
[after("before", it) for it in ("temporary",)]
[after("before", it) for it in ("temporal",)]
[after("before", it) for it in ("lifetimes",)]
[after("behind", it) for it in ("all",)]
[after("behind", it) for it in ("peak",)]
[after("behind", it) for it in ("temporal",)]
[after("first", it) for it in ("all", "peak", "leaks", "temporary", "temporal")]
(lambda it: (it.close(), it.get_allocation_records() is None))(reader())
(lambda it: (it.close(), it.get_temporal_high_water_mark_allocation_records()))(reader())
[iter(ask(reader())) is None for ask in ASK.values()]
len(reader().get_allocation_records())
next(reader().get_object_lifetime_events())
reader().get_leaked_allocation_records(other=1)
[len(list(reader().get_high_watermark_allocation_records(it))) for it in (True, False, 1, None, "x")]
(lambda it: (os.rename("some.bin", "other.bin"), len(list(it.get_allocation_records())), os.rename("other.bin", "some.bin")))(reader())

# what it finds
[(it.allocator, it.size, it.n_allocations, it.tid) for it in reader().get_allocation_records()]
[type(getattr(large(), it)).__name__ for it in ("tid", "address", "size", "allocator", "stack_id", "n_allocations", "thread_name")]
place(large().stack_trace()), place(large().stack_trace(1)), place(large().stack_trace(max_stacks=2)), large().stack_trace(0)
place(large().hybrid_stack_trace()), large().native_stack_trace()
large().stack_trace(-1)
large().stack_trace("x")
[next(it for it in reader().get_allocation_records() if it.allocator == 5).stack_trace()]
[(it.tid, it.size, it.n_allocations, place(it.stack_trace())) for it in [large(reader().get_high_watermark_allocation_records())]]
[(it.tid, it.thread_name) for it in [large(reader().get_leaked_allocation_records())]]
[(it.tid, it.size) for it in [large(reader().get_leaked_allocation_records(merge_threads=False))]]
[(it.tid, it.size, it.n_allocations) for it in reader().get_temporary_allocation_records() if it.size > 90_000]
[it.tid for it in reader().get_temporal_allocation_records() if any(span.n_bytes > 2_000_000 for span in it.intervals)]
[type(it).__name__ for it in (reader().get_temporal_high_water_mark_allocation_records()[1],)]
[(type(it).__name__, it._fields, [type(field).__name__ for field in it]) for it in list(reader().get_memory_snapshots())[:1]]
[(name, type(value).__name__) for name, value in vars(reader().metadata).items()]
[(it.total_allocations, it.peak_memory, it.command_line[:3], it.main_thread_id) for it in [reader().metadata]]
[(it.python_allocator, it.has_native_traces, it.trace_python_allocators, it.file_format) for it in [reader().metadata]]
reader().metadata == reader().metadata, reader().metadata.start_time.tzinfo is not None
setattr(reader(), "metadata", 1)

# statistics
[(name, type(value).__name__) for name, value in vars(I.compute_statistics("some.bin")).items()]
[(it.total_num_allocations, it.total_memory_allocated, it.peak_memory_allocated) for it in [I.compute_statistics("some.bin")]]
[(sorted(it.allocation_count_by_size.items()), it.allocation_count_by_allocator) for it in [I.compute_statistics("some.bin")]]
[(place([where]), size) for where, size in I.compute_statistics("some.bin").top_locations_by_size]
[(place([where]), count) for where, count in I.compute_statistics("some.bin", num_largest=1).top_locations_by_count]
I.compute_statistics("some.bin").top_modules_by_allocation_size, I.compute_statistics("some.bin").top_modules_by_allocation_count
I.compute_statistics("some.bin", num_largest=0).top_locations_by_size
I.compute_statistics("some.bin", num_largest=-1)
I.compute_statistics("some.bin", num_largest="x")
I.compute_statistics("some.bin", True)

# a tracker's arguments
M.Tracker()
M.Tracker(None, destination=None)
M.Tracker("x.bin", destination=M.FileDestination("y.bin"))
M.Tracker(destination="x.bin")
M.Tracker(3)
M.Tracker("x.bin", True)
M.Tracker("x.bin", other=1)
M.Tracker("no/such/folder.bin")
M.Tracker("folder.bin")
M.Tracker("text.bin")
M.Tracker(destination=M.FileDestination("text.bin"))
M.Tracker(destination=M.FileDestination(3))
M.Tracker(fresh(), memory_interval_ms=-1)
M.Tracker(fresh(), memory_interval_ms="x")
M.Tracker(fresh(), memory_interval_ms=2**40)
M.Tracker(fresh(), file_format=7)
M.Tracker(fresh(), file_format="x")
M.Tracker(fresh()).get_surviving_objects()
setattr(M.Tracker(fresh()), "other", 1)
[track(fresh()), track(pathlib.Path(fresh())), track(os.devnull), track(fresh(), memory_interval_ms=0)]
[track(fresh(), native_traces=it) for it in (None, 0, 1, "x")]
[track(fresh(), trace_python_allocators=1), track(fresh(), follow_fork=None), track(fresh(), file_format=1)]
[track(destination=M.FileDestination(path)) for path in (fresh(), pathlib.Path(fresh()))]
[track(destination=M.FileDestination("text.bin", overwrite=True)), is_read("text.bin")]

# a tracker's life
(lambda name: (track(name), is_read(name)))(fresh())
(lambda it: (it.__enter__() is it, it.__exit__(ValueError, ValueError(), None)))(M.Tracker(fresh()))
M.Tracker(fresh()).__exit__(None, None, None)
nested(M.Tracker(fresh()), M.Tracker(fresh()))
(lambda it: nested(it, it))(M.Tracker(fresh()))
(lambda it: [it.__enter__(), it.__exit__(None, None, None), it.__enter__()])(M.Tracker(fresh()))
track(fresh())
(lambda name: (M.Tracker(name), os.path.exists(name))[1])(fresh())
killed()

# and the rest
[M.set_log_level(it) for it in (10, 30, True)]
M.set_log_level("x")
M.set_log_level()
[M.start_thread_trace(None, "return", None) is M.start_thread_trace]
isinstance(M.__version__, str)
"""

#: What memray does, and what we do instead.
DIFFERENT = {
    # Its comparison looks for an attribute that it does not have.
    "temporal() == temporal()": ("AttributeError", True),
}

PROGRAM = SETTING + """
import json
answers = {}
for question in json.load(open("questions.json")):
    try:
        answer = repr(eval(question))
    except BaseException as error:
        answer = [kind.__name__ for kind in type(error).__mro__]
    answers[question] = answer
json.dump(answers, open("answers.json", "w"))
"""


def questions() -> List[str]:
    return [line for line in QUESTIONS.splitlines() if line and not line.startswith("# ")]


def answers(package: str) -> "Dict[str, object]":
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "questions.json"), "w") as file:
            json.dump(questions(), file)
        with open(os.path.join(folder, "program.py"), "w") as file:
            file.write(PROGRAM)
        done = subprocess.run(
            [sys.executable, "program.py", package], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode:
            raise AssertionError(done.stdout.decode())
        with open(os.path.join(folder, "answers.json")) as file:
            return dict(json.load(file))


@unittest.skipIf(memray is None, "memray is not here")
class SameAnswers(unittest.TestCase):
    def test_everything_is_answered_as_by_memray(self) -> None:
        theirs, ours = answers("memray"), answers("memtrace")
        for question in questions():
            with self.subTest(question):
                self.check(question, theirs[question], ours[question])

    def check(self, question: str, theirs: object, ours: object) -> None:
        if question in DIFFERENT:
            raised, expected = DIFFERENT[question]
            # When memray mends it, the entry goes.
            self.assertIn(raised, theirs)  # type: ignore[arg-type]
            self.assertEqual(ours, repr(expected))
        elif isinstance(theirs, list):
            # Ours may say more about what went wrong, as FileNotFoundError does.
            self.assertIsInstance(ours, list, f"memray raises {theirs[0]}")
            self.assertIn(theirs[0], ours)  # type: ignore[arg-type]
        else:
            self.assertEqual(ours, theirs)


if __name__ == "__main__":
    unittest.main()
