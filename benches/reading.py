"""What reading a capture costs: the peak by stack, a whole page, and what `transform` and `diff` make of it, of
memtrace's and of memray's own capture of the same program, in rounds that alternate between them. Called by
`benches/run reading`."""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "fixtures" / "programs"
MEMTRACE = os.environ.get("MEMTRACE_BIN", str(ROOT / "target" / "release" / "memtrace"))
ENVIRONMENTS = pathlib.Path(os.environ.get("MEMTRACE_TEST_ENV", pathlib.Path.home() / ".cache" / "memtrace-tests"))


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    # A script of fixtures/programs and its arguments; `{size}` is the size of the work, `{library}` live_blocks.c built.
    command: str
    size: int
    # Events per second, in millions, that it takes at least; and how many times memray's.
    certain: float = 25


ROWS = [
    Row("small objects", "allocations.py {size} objects 10", 2_000_000),
    Row("json", "json_texts.py {size} 2", 12),
    Row("pandas", "pandas_frames.py {size}", 1_000_000),
    Row("20 M live blocks", "live_blocks.py {size} {size} {library}", 20_000_000, certain=8),
]
TIMES_MEMRAYS = 3

# memray's reader without a report: what was alive at the peak, by stack.
PEAK = """
import sys
from memray import FileReader
with FileReader(sys.argv[1]) as reader:
    print(sum(record.size for record in reader.get_high_watermark_allocation_records(merge_threads=True)))
"""


# What is made of a capture besides, and whether memray makes it too. heaptrack's has every event; a diff reads two.
OTHERS = {
    "transform csv": True,
    "transform gprof2dot": True,
    "transform speedscope": True,
    "transform pprof": False,
    "transform heaptrack": False,
    "diff": False,
}


@dataclasses.dataclass
class Run:
    wall_seconds: float
    cpu_seconds: float
    peak_mib: float


def main():
    options = parse_arguments()
    python = str(ENVIRONMENTS / f"venv-{options.python}" / "bin" / "python")
    print(f"# What reading costs, {time.strftime('%Y-%m-%d')}\n")
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start; medians of {options.rounds} rounds; work x {options.scale:g}.\n")
    headings = ["program", "tool", "events", "M events/s", "CPU", "peak memory", "page after", "its memory", "page", "limit", "verdict"]
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        options_of_cc = ["-O1", "-fno-builtin", "-shared", "-fPIC", "-o", f"{folder}/live_blocks.so"]
        subprocess.check_call(["cc", *options_of_cc, str(PROGRAMS / "live_blocks.c")])
        others = [line for row in options.rows for line in measure(row, python, folder, options)]
    headings = ["program", "made", "memtrace", "its memory", "memray", "its memory"]
    print(f"\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}", *others, sep="\n", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="benches/run reading", description=__doc__.split(":")[0])
    names = "; ".join(row.name for row in ROWS)
    parser.add_argument("--rows", default="", help=f"some of them, separated by semicolons; a part of a name will do: {names}")
    parser.add_argument("--columns", default="memtrace,memray", help="memtrace, memray or both (memtrace,memray)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each of them reads (5)")
    parser.add_argument("--pythons", dest="python", default="3.11", help="the minor that runs the programs (3.11)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the work of every program (1)")
    options = parser.parse_args()
    wanted = [part.strip() for part in options.rows.split(";")]
    options.rows = [row for row in ROWS if any(part in row.name for part in wanted)]
    options.columns = options.columns.split(",")
    if not options.rows or not set(options.columns) <= {"memtrace", "memray"}:
        parser.error("there is no such row or column")
    return options


def measure(row, python, folder, options):
    """Prints the row, and returns the lines of the other table."""
    captures = {column: f"{folder}/{column}.bin" for column in options.columns}
    for column, path in captures.items():
        subprocess.check_call(recording(column, row, python, path, folder, options.scale), stdout=subprocess.DEVNULL)
    page = f"{folder}/page.html"
    commands = {
        "memtrace": (["summary", "--json"], ["flamegraph", "-f", "-o", page]),
        "memray": ([python, "-c", PEAK], [python, "-m", "memray", "flamegraph", "-f", "-o", page]),
    }
    peaks, pages, sizes = ({column: [] for column in captures} for _ in range(3))
    for number in range(options.rounds):
        start = number % len(options.columns)
        for column in options.columns[start:] + options.columns[:start]:
            before = [MEMTRACE] if column == "memtrace" else []
            peak, whole_page = commands[column]
            peaks[column].append(run([*before, *peak, captures[column]]))
            pages[column].append(run([*before, *whole_page, captures[column]]))
            sizes[column] = os.path.getsize(page)
    counts = {column: events(column, path, python) for column, path in captures.items()}
    rates = {column: counts[column] / median(peaks[column], "wall_seconds") / 1e6 for column in captures}
    for column, n_events in counts.items():
        cells = [
            row.name,
            column,
            f"{n_events / 1e6:.1f} M",
            f"{rates[column]:.1f}",
            f"{median(peaks[column], 'cpu_seconds') * 1e9 / n_events:.0f} ns each",
            f"{median(peaks[column], 'peak_mib'):.0f} MiB",
            f"{median(pages[column], 'wall_seconds'):.2f} s",
            f"{median(pages[column], 'peak_mib'):.0f} MiB",
            f"{sizes[column] / 1e6:.2f} MB",
        ]
        if column == "memtrace":
            least = max(row.certain, TIMES_MEMRAYS * rates.get("memray", 0))
            cells += [f"{least:.0f} M/s", "kept" if rates[column] >= least else "**no**"]
        print(f"| {' | '.join(cells)} |", flush=True)
    others = list(measure_others(row, captures, python, f"{folder}/made", options))
    for path in captures.values():
        os.remove(path)
    return others


def measure_others(row, captures, python, made, options):
    for name, is_memrays in OTHERS.items():
        runs = {column: [] for column in captures if column == "memtrace" or is_memrays}
        for number in range(options.rounds):
            for column in sorted(runs, reverse=number % 2 == 1):
                capture = captures[column]
                tool = [MEMTRACE] if column == "memtrace" else [python, "-m", "memray"]
                if name == "diff":
                    runs[column].append(run([*tool, name, capture, capture]))
                else:
                    runs[column].append(run([*tool, *name.split()[:1], "-f", "-o", made, *name.split()[1:], capture]))
        cells = [row.name, name]
        for column in ["memtrace", "memray"]:
            it = runs.get(column)
            cells += [f"{median(it, 'wall_seconds'):.2f} s", f"{median(it, 'peak_mib'):.0f} MiB"] if it else ["", ""]
        yield f"| {' | '.join(cells)} |"


def recording(column, row, python, path, folder, scale):
    size = max(1, round(row.size * scale))
    script, *arguments = shlex.split(row.command.format(size=size, library=f"{folder}/live_blocks.so"))
    if column == "memtrace":
        start = [MEMTRACE, "run", "-q", "-f", "--python", python, "-o", path]
    else:
        start = [python, "-m", "memray", "run", "-q", "-f", "--trace-python-allocators", "-o", path]
    return [*start, str(PROGRAMS / script), *arguments]


def events(column, path, python):
    if column == "memtrace":
        stats = json.loads(subprocess.check_output([MEMTRACE, "stats", "--json", path], stderr=subprocess.DEVNULL))
        return stats["metadata"]["total_allocations"]
    count = "import sys; from memray import FileReader; print(FileReader(sys.argv[1]).metadata.total_allocations)"
    return int(subprocess.check_output([python, "-c", count, path]))


def run(command):
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}")
    return Run(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def median(runs, what):
    return statistics.median(getattr(it, what) for it in runs)


if __name__ == "__main__":
    main()
