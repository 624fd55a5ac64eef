"""Figures from runs, and what they are worth.

A figure is the median over the rounds. It passes a limit when it is not above it by more than the control's spread:
half of the distance between the smallest and the largest figure of `again`, which is the program alone once more, so
that whatever it differs by is the machine and no tool.
"""

import dataclasses
import math
import statistics

import rows
from rows import AGAIN, ALONE, MEMRAY, MEMTRACE


@dataclasses.dataclass
class Figure:
    """What a column comes to, round by round."""

    values: list

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def spread(self):
        return (max(self.values) - min(self.values)) / 2


@dataclasses.dataclass
class Verdict:
    """A figure, its limits, and which of them it keeps; a limit may be missing."""

    what: str
    value: float
    spread: float
    certain: float = None
    goal: float = None

    def keeps(self, limit):
        return None if limit is None else self.value <= limit + self.spread

    def text(self):
        if self.keeps(self.goal):
            return "goal"
        return "certain" if self.keeps(self.certain) else "**no**"

    @property
    def is_kept(self):
        return self.keeps(self.certain if self.certain is not None else self.goal)


def figure(measured, column):
    """The row's kind of figure for a column."""
    pairs = zip(measured.runs[column], measured.runs[ALONE])
    return Figure([of_round(measured.row, tool, alone) for tool, alone in pairs])


def of_round(row, tool, alone):
    match row.figure:
        case rows.RATIO:
            return tool.cpu_seconds / alone.cpu_seconds
        case rows.EVENT_NANOS:
            return (tool.cpu_seconds - alone.cpu_seconds) * 1e9 / (row.size * rows.EVENTS_PER_ROUND)
        case rows.ADDED_MILLIS:
            return (tool.wall_seconds - alone.wall_seconds) * 1e3
        case rows.ADDED_MIB:
            return (tool.printed - alone.printed) / 1024


def of_row(measured):
    """The verdict on a row with limits of its own; `None` for the others."""
    if measured.row.limits is None or MEMTRACE not in measured.runs:
        return None
    ours, control = figure(measured, MEMTRACE), figure(measured, AGAIN)
    return Verdict(f"{measured.row.name}, {measured.minor}", ours.median, control.spread, *measured.row.limits)


def beside_memray(measured):
    """Our overhead as a part of memray's, where that is notable; `None` elsewhere."""
    if measured.row.figure not in (rows.RATIO, rows.EVENT_NANOS) or not {MEMTRACE, MEMRAY} <= set(measured.runs):
        return None
    overheads = {column: overhead(measured, column) for column in (AGAIN, MEMTRACE, MEMRAY)}
    memrays = overheads[MEMRAY].median
    if memrays < rows.MEMRAYS_NOTABLE_OVERHEAD:
        return None
    what = f"part of memray's overhead: {measured.row.name}, {measured.minor}"
    spread = overheads[AGAIN].spread / memrays
    return Verdict(what, overheads[MEMTRACE].median / memrays, spread, certain=rows.PART_OF_MEMRAYS)


def overhead(measured, column):
    pairs = zip(measured.runs[column], measured.runs[ALONE])
    return Figure([tool.cpu_seconds / alone.cpu_seconds - 1 for tool, alone in pairs])


def of_groups(results):
    """Geometric means of the groups, round by round, for each interpreter."""
    for group, limits in rows.GROUP_LIMITS.items():
        for minor in minors(results):
            members = [it for it in results if it.row.group == group and it.minor == minor and MEMTRACE in it.runs]
            if members:
                ours, control = mean_figure(members, MEMTRACE), mean_figure(members, AGAIN)
                what = f"{group}, {minor}: geometric mean of {len(members)}"
                yield Verdict(what, ours.median, control.spread, *limits)


def mean_figure(members, column):
    return Figure([geometric_mean(values) for values in zip(*(figure(it, column).values for it in members))])


def of_native_stacks(results):
    """What native stacks add, on rows that were measured with and without them."""
    rows_without = {(it.row.name, it.minor): it for it in results}
    for measured in results:
        plain = rows_without.get((measured.row.name.removesuffix(rows.NATIVE), measured.minor))
        if plain is None or plain is measured or measured.row.group or MEMTRACE not in measured.runs:
            continue
        name = f"{plain.row.name}, {measured.minor}"
        ours = [seconds * 1e9 / measured.events.count for seconds in added_by_native(measured, plain, MEMTRACE)]
        control = [seconds * 1e9 / measured.events.count for seconds in added_by_native(measured, plain, AGAIN)]
        what = f"ns per event that native stacks add: {name}"
        yield Verdict(what, Figure(ours).median, Figure(control).spread, *rows.NATIVE_NANOS)
        if MEMRAY in measured.runs:
            theirs = Figure(added_by_native(measured, plain, MEMRAY)).median * 1e9 / measured.events.count
            spread = Figure(control).spread / theirs
            what = f"part of what they add under memray ({theirs:.0f} ns): {name}"
            yield Verdict(what, Figure(ours).median / theirs, spread, certain=rows.NATIVE_PART_OF_MEMRAYS)


def added_by_native(measured, plain, column):
    """Seconds of CPU time, round by round."""
    with_native, without = ([tool.cpu_seconds - alone.cpu_seconds for tool, alone in zip(it.runs[column], it.runs[ALONE])]
                            for it in (measured, plain))
    return [one - other for one, other in zip(with_native, without)]


def of_captures(results):
    """What the captures take."""
    large = [it for it in results if it.events and it.events.count >= rows.MANY_EVENTS]
    if large:
        worst = max(large, key=lambda it: it.events.bytes_each())
        what = f"raw bytes per event, the most of {len(large)} captures with 10 M events ({worst.row.name}, {worst.minor})"
        yield Verdict(what, worst.events.bytes_each(), 0, *rows.RAW_BYTES_PER_EVENT)
    both = [it for it in results if {MEMTRACE, MEMRAY} <= set(it.capture_bytes)]
    if both:
        worst = max(both, key=capture_ratio)
        what = f"capture / memray's, the most of {len(both)} ({worst.row.name}, {worst.minor})"
        yield Verdict(what, capture_ratio(worst), 0, certain=rows.CAPTURE_RATIO_EACH)
        mean = geometric_mean([capture_ratio(it) for it in both])
        yield Verdict("capture / memray's, geometric mean", mean, 0, goal=rows.CAPTURE_RATIO_MEAN)


def capture_ratio(measured):
    return measured.capture_bytes[MEMTRACE] / measured.capture_bytes[MEMRAY]


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def minors(results):
    return list(dict.fromkeys(measured.minor for measured in results))


def all_verdicts(results):
    verdicts = [of_row(it) for it in results] + [beside_memray(it) for it in results]
    return [verdict for verdict in verdicts if verdict] + over_all(results)


def over_all(results):
    """What is judged over many rows."""
    return [*of_groups(results), *of_native_stacks(results), *of_captures(results)]
