"""The figures as Markdown."""

import judge
import rows
from rows import AGAIN, MEMRAY, MEMTRACE

HEADINGS = [
    "program", "Python", "level", "alone", "again (control)", "memtrace", "memray", "limits", "verdict",
    "of memray's overhead", "capture", "memray's", "events", "raw bytes per event",
]


def head():
    return f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}"


def line(measured):
    row = measured.row
    verdict, part = judge.of_row(measured), judge.beside_memray(measured)
    alone = judge.statistics.median(run.cpu_seconds for run in measured.runs[rows.ALONE])
    events = measured.events
    cells = [
        row.name,
        measured.minor,
        row.level,
        f"{alone:.2f} s",
        figure(measured, AGAIN),
        figure(measured, MEMTRACE),
        figure(measured, MEMRAY),
        limits(row.figure, row.limits) if row.limits else "in the mean" if row.group else "",
        verdict.text() if verdict else "",
        f"{part.value:.0%}{'' if part.is_kept else ' **no**'}" if part else "",
        megabytes(measured, MEMTRACE),
        megabytes(measured, MEMRAY),
        f"{events.count / 1e6:.1f} M" if events else "",
        f"{events.bytes_each():.2f}" if events else "",
    ]
    return f"| {' | '.join(cells)} |"


def figure(measured, column):
    if column not in measured.runs:
        return ""
    found = judge.figure(measured, column)
    kind = measured.row.figure
    if len(found.values) == 1:
        return amount(kind, found.median)
    return f"{amount(kind, found.median)} ({amount(kind, min(found.values))} to {amount(kind, max(found.values))})"


def amount(kind, value):
    return {
        rows.RATIO: f"{value:.3f}x",
        rows.EVENT_NANOS: f"{value:.1f} ns",
        rows.ADDED_MILLIS: f"{value:+.0f} ms",
        rows.ADDED_MIB: f"{value:+.1f} MiB",
    }[kind]


def limits(kind, both):
    unit = "x" if kind == rows.RATIO else " " + kind.split()[0]
    return " / ".join(f"{limit:g}" for limit in both) + unit


def megabytes(measured, column):
    size = measured.capture_bytes.get(column)
    return "" if size is None else f"{size / 1e6:.2f} MB"


def summary(results):
    """What is judged over many rows, and everything that keeps no limit."""
    lines = ["| over all rows | figure | certain | goal | verdict |", "|---|---|---|---|---|"]
    for verdict in judge.over_all(results):
        certain, goal = ("" if it is None else f"{it:g}" for it in (verdict.certain, verdict.goal))
        lines.append(f"| {verdict.what} | {verdict.value:.3f} | {certain} | {goal} | {verdict.text()} |")
    missed = [verdict for verdict in judge.all_verdicts(results) if not verdict.is_kept]
    lines += ["", f"{len(missed)} limits are not kept." if missed else "Every limit is kept."]
    for verdict in missed:
        limit = verdict.certain if verdict.certain is not None else verdict.goal
        lines.append(f"- {verdict.what}: {verdict.value:.3f}, at most {limit:.3g} (the control's spread is {verdict.spread:.3f})")
    return "\n".join(lines)
