"""CPU time of programs under no tool, memtrace and memray, in one run, alternating. Called by benches/run.

Each round runs every column once, beginning with another one each time, so that a machine that warms up or gets busy
does so for all of them. A figure is the median over the rounds of this column's CPU time (user and system, of the whole
process tree, from start to exit) divided by that of the program alone in the same round. The column `again` is the
program alone once more: what it differs from 1 is what the machine does, not a tool.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "fixtures" / "programs"
MEMTRACE = os.environ.get("MEMTRACE_BIN", str(ROOT / "target" / "release" / "memtrace"))
ENVIRONMENTS = pathlib.Path(os.environ.get("MEMTRACE_TEST_ENV", pathlib.Path.home() / ".cache" / "memtrace-tests"))

ROWS = {
    "nothing": ["allocations.py", "1", "bytes", "0"],
    "richards": ["richards.py", "400000"],
    "deltablue": ["deltablue.py", "30000"],
    "bytes, depth 10": ["allocations.py", "8000000", "bytes", "10"],
    "bytes, depth 50": ["allocations.py", "8000000", "bytes", "50"],
    "bytes, depth 200": ["allocations.py", "8000000", "bytes", "200"],
    "objects, depth 10": ["allocations.py", "2000000", "objects", "10"],
    "json": ["json_texts.py", "20"],
    "pandas": ["pandas_frames.py", "1000000"],
    "django": ["django_site.py", "2000"],
    "fastapi": ["fastapi_service.py", "2000"],
    "html5lib": ["html5lib_page.py", "1000"],
}

ALONE, AGAIN = "alone", "again"
COLUMNS = {
    ALONE: lambda python, capture: [python],
    AGAIN: lambda python, capture: [python],
    "memtrace malloc": lambda python, capture: [
        MEMTRACE, "run", "-q", "-f", "--no-python-allocators", "--python", python, "-o", capture],
    "memray": lambda python, capture: [python, "-m", "memray", "run", "-q", "-f", "-o", capture],
    "memtrace objects": lambda python, capture: [MEMTRACE, "run", "-q", "-f", "--python", python, "-o", capture],
    "memray objects": lambda python, capture: [
        python, "-m", "memray", "run", "-q", "-f", "--trace-python-allocators", "-o", capture],
}


def main():
    options = parse_arguments()
    describe_machine(options)
    results = []
    for minor in options.pythons:
        for row in options.rows:
            results.append(measure(row, minor, options))
            print_row(results[-1], options, is_first=len(results) == 1)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="benches/run", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS), help="some of: " + ", ".join(ROWS) + " (a part of a name will do; separated by commas)")
    parser.add_argument("--columns", default="", help="some of: " + ", ".join(COLUMNS) + " (separated by commas; `alone` and `again` are always there)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (5)")
    parser.add_argument("--pythons", default="", help="minors, such as 3.11,3.13 (the oldest that is here)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the size of every program (1)")
    parser.add_argument("--json", help="a file for the figures")
    options = parser.parse_args()
    wanted = [part.strip() for part in options.rows.replace(", depth", " depth").split(",")]
    options.rows = [row for row in ROWS if any(part in row.replace(",", "") for part in wanted)]
    columns = [part.strip() for part in options.columns.split(",") if part.strip()]
    unknown = set(columns) - set(COLUMNS)
    if unknown or not options.rows:
        parser.error(f"unknown column or row: {', '.join(unknown) or ', '.join(wanted)}")
    options.columns = [name for name in COLUMNS if not columns or name in columns or name in (ALONE, AGAIN)]
    here = sorted(folder.name.removeprefix("venv-") for folder in ENVIRONMENTS.glob("venv-*"))
    options.pythons = [part.strip() for part in options.pythons.split(",") if part.strip()] or here[:1]
    if not set(options.pythons) <= set(here):
        parser.error(f"there are environments for {', '.join(here) or 'no interpreter'} in {ENVIRONMENTS}")
    return options


def interpreter(minor):
    return str(ENVIRONMENTS / f"venv-{minor}" / "bin" / "python")


def describe_machine(options):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    versions = [subprocess.check_output([interpreter(minor), "-VV"], text=True).split(" (")[0] for minor in options.pythons]
    memray = subprocess.check_output([interpreter(options.pythons[0]), "-m", "memray", "--version"], text=True).strip()
    memtrace = subprocess.check_output([MEMTRACE, "--version"], text=True).strip()
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {cpu}, Linux {platform.release()}, {' '.join(platform.libc_ver())}")
    print(f"{', '.join(versions)}; {memtrace}; memray {memray}; {options.repeats} rounds\n")


def measure(row, minor, options):
    script, size, *more = ROWS[row]
    command = [str(PROGRAMS / script), str(max(1, int(int(size) * options.scale))), *more]
    python = interpreter(minor)
    seconds = {name: [] for name in options.columns}
    sizes = {}
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        # Compiles what is imported and reads it into the page cache.
        cpu_seconds([python, *command])
        for number in range(options.repeats):
            start = number % len(options.columns)
            for name in options.columns[start:] + options.columns[:start]:
                capture = os.path.join(folder, "capture")
                seconds[name].append(cpu_seconds([*COLUMNS[name](python, capture), *command]))
                if os.path.exists(capture):
                    sizes[name] = os.path.getsize(capture)
                    os.remove(capture)
    return {"row": row, "python": minor, "seconds": seconds, "capture_bytes": sizes}


def cpu_seconds(command):
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}\n{output.read().decode(errors='replace')}")
    return usage.ru_utime + usage.ru_stime


def print_row(result, options, is_first):
    if is_first:
        names = options.columns[1:]
        print("| program | Python | alone | " + " | ".join(names) + " | captures |")
        print("|---|---|---|" + "---|" * len(names) + "---|", flush=True)
    seconds = result["seconds"]
    cells = []
    for name in options.columns[1:]:
        ratios = [tool / alone for tool, alone in zip(seconds[name], seconds[ALONE])]
        cell = f"{statistics.median(ratios):.3f}x"
        cells.append(f"{cell} ({min(ratios):.2f}–{max(ratios):.2f})" if len(ratios) > 1 else cell)
    captures = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in result["capture_bytes"].items())
    alone = statistics.median(seconds[ALONE])
    print(f"| {result['row']} | {result['python']} | {alone:.2f} s | " + " | ".join(cells) + f" | {captures} |", flush=True)


if __name__ == "__main__":
    main()
