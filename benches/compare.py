"""What recording costs: every row of `benches/rows.py` under no tool, under no tool again, memtrace and memray, in
rounds that alternate between them; then what the figures are worth beside their limits. Called by benches/run."""

import argparse
import dataclasses
import os
import pathlib
import platform
import subprocess
import tempfile
import time

import measure
import rows
import table

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "fixtures" / "programs"
RESULTS = ROOT / "benches" / "results"
MEMTRACE = os.environ.get("MEMTRACE_BIN", str(ROOT / "target" / "release" / "memtrace"))
ENVIRONMENTS = pathlib.Path(os.environ.get("MEMTRACE_TEST_ENV", pathlib.Path.home() / ".cache" / "memtrace-tests"))


@dataclasses.dataclass
class Setting:
    """What is the same for all rows."""

    programs: str
    library: str
    memtrace: str
    columns: list
    rounds: int


def main():
    options = parse_arguments()
    text = []

    def say(line):
        print(line, flush=True)
        text.append(line)

    say(f"# What recording costs, {time.strftime('%Y-%m-%d')}\n\n{machine(options)}\n\n{table.head()}")
    results = []
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        setting = Setting(str(PROGRAMS), build_library(folder), MEMTRACE, options.columns, options.rounds)
        for row in options.rows:
            for minor in options.pythons:
                results.append(measure.measure(row.is_scaled(options.scale), minor, interpreter(minor), setting))
                say(table.line(results[-1]))
    say(f"\n{table.summary(results)}")
    if options.json:
        pathlib.Path(options.json).write_text(measure.as_json(results))
    if options.keep:
        keep("\n".join(text) + "\n")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="benches/run", description=__doc__.split(":")[0])
    names = "; ".join(row.name for row in rows.ROWS)
    parser.add_argument("--rows", default="", help=f"some of them, separated by semicolons; a part of a name will do: {names}")
    parser.add_argument("--columns", default="", help="memtrace or memray only; the program alone and the control are always there")
    parser.add_argument("--rounds", type=int, default=5, help="how often each column runs (5)")
    parser.add_argument("--pythons", default="3.11,3.13", help="minors, separated by commas (3.11,3.13)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the work of every program (1)")
    parser.add_argument("--json", help="a file for the figures of every run")
    parser.add_argument("--keep", action="store_true", help="keep the table as benches/results/DATE.md, in the place of the last one")
    options = parser.parse_args()
    wanted = [part.strip() for part in options.rows.split(";")]
    options.rows = [row for row in rows.ROWS if any(part in row.name for part in wanted)]
    chosen = [part.strip() for part in options.columns.split(",") if part.strip()]
    if not options.rows or not set(chosen) <= set(rows.COLUMNS):
        parser.error("there is no such row or column")
    options.columns = [it for it in rows.COLUMNS if not chosen or it in (*chosen, rows.ALONE, rows.AGAIN)]
    options.pythons = [part.strip() for part in options.pythons.split(",") if part.strip()]
    absent = [minor for minor in options.pythons if not os.path.exists(interpreter(minor))]
    if absent:
        parser.error(f"there is no environment for {', '.join(absent)} in {ENVIRONMENTS}")
    return options


def interpreter(minor):
    return str(ENVIRONMENTS / f"venv-{minor}" / "bin" / "python")


def machine(options):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    pythons = [subprocess.check_output([interpreter(minor), "-VV"], text=True).split(" (")[0] for minor in options.pythons]
    memray = subprocess.check_output([interpreter(options.pythons[0]), "-m", "memray", "--version"], text=True).strip()
    memtrace = subprocess.check_output([MEMTRACE, "--version"], text=True).strip()
    busy = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} x {cpu}, Linux {platform.release()}, {' '.join(platform.libc_ver())}; "
        f"{', '.join(pythons)}; {memtrace}; memray {memray}.\n"
        f"Medians of {options.rounds} rounds, their range in brackets; work x {options.scale:g}; load {busy:.1f} at the start."
    )


def build_library(folder):
    library = os.path.join(folder, "malloc_loop.so")
    options = ["-O1", "-fno-builtin", "-pthread", "-shared", "-fPIC"]
    subprocess.check_call(["cc", *options, "-o", library, str(PROGRAMS / "malloc_loop.c")])
    return library


def keep(text):
    RESULTS.mkdir(exist_ok=True)
    for old in RESULTS.glob("*.md"):
        old.unlink()
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}.md"
    path.write_text(text)
    print(f"\nkept in {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
