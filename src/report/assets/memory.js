// @ts-check
// The series of the time line: the heap and the resident set, and what the resident set consists of.

import { bucketSeconds } from "./range.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./profile.js").Series} Series */
/** @typedef {Record<Series, number>} Values of one bucket, summed over processes */
/** @typedef {{label: string, colour: string, isArea: boolean, isStepped: boolean}} Line */

/**
 * The parts of the resident set, from the bottom of the picture.
 * @type {{name: string, series: Series | null, label: string, title: string}[]}
 */
export const AREAS = [
  { name: "live", series: "endBytes", label: "Requested", title: "what the program asked for and has not given back" },
  { name: "arenas", series: "arenas", label: "Python arenas", title: "memory that pymalloc holds beside the objects in it" },
  { name: "slack", series: "slack", label: "Allocator slack", title: "memory that malloc holds beside what was asked for" },
  { name: "files", series: "files", label: "Mapped files", title: "libraries and files that are mapped" },
  { name: "unaccounted", series: null, label: "Unaccounted", title: "what is resident and not explained by the rest" },
];

/** @type {Series[]} */
const ALL_SERIES = ["peakBytes", "peakNanos", "endBytes", "rss", "slack", "arenas", "files", "reserved"];

/**
 * The figures of a bucket.
 * @param {Profile} profile
 * @param {number[]} processes
 * @param {number} bucket
 * @returns {Values}
 */
export function bucketValues(profile, processes, bucket) {
  const values = /** @type {Values} */ ({});
  for (const series of ALL_SERIES) {
    values[series] = processes.reduce((sum, process) => sum + (profile.buckets[process]?.[series][bucket] ?? 0), 0);
  }
  return values;
}

/** @param {Values} values */
export function unaccounted({ rss, endBytes, slack, arenas, files }) {
  return Math.max(0, rss - endBytes - slack - arenas - files);
}

/**
 * The figures of a bucket as rows; null where the capture does not tell.
 * @param {Values} values
 * @returns {{name: string, label: string, title: string, value: number | null}[]}
 */
export function explainedAt(values) {
  const knowsRss = values.rss > 0;
  const parts = AREAS.map(({ name, series, label, title }) => ({
    name,
    label,
    title,
    value: series === null ? (knowsRss ? unaccounted(values) : null) : values[series] || (series === "endBytes" ? 0 : null),
  }));
  return [
    ...parts.reverse(),
    { name: "rss", label: "Resident set", title: "what the system counts for the process", value: knowsRss ? values.rss : null },
    { name: "reserved", label: "Reserved", title: "addresses without memory behind them; no part of the resident set", value: values.reserved || null },
  ];
}

/**
 * What is drawn, as uPlot takes it: seconds, then a column for each line. The areas are sums from the bottom, the
 * highest first, so that each covers what is below it.
 * @param {Profile} profile
 * @param {number[]} processes
 * @param {boolean} isExplained
 * @returns {{data: (number | null)[][], series: Line[]}}
 */
export function plotLines(profile, processes, isExplained) {
  const buckets = Array.from({ length: profile.nBuckets }, (_, bucket) => bucketValues(profile, processes, bucket));
  const known = (/** @type {number} */ value) => (value > 0 ? value : null);
  const rss = { label: "Resident set", colour: "rss", isArea: false, isStepped: true };
  if (isExplained) {
    const ends = buckets.map((_, bucket) => bucketSeconds(profile, bucket).end);
    /** @type {(number | null)[][]} */
    const sums = [];
    let below = buckets.map(() => 0);
    for (const { series } of AREAS) {
      below = below.map((sum, bucket) => sum + (series === null ? unaccounted(buckets[bucket]) : buckets[bucket][series]));
      sums.unshift(below);
    }
    const areas = AREAS.map(({ label, name }) => ({ label, colour: name, isArea: true, isStepped: false })).reverse();
    const columns = [ends, ...sums, buckets.map((values) => known(values.rss))];
    // The picture begins where time does.
    columns.forEach((column, index) => column.unshift(index === 0 ? bucketSeconds(profile, 0).begin : (column[0] ?? null)));
    return { data: columns, series: [...areas, rss] };
  }
  // With one process the moment of each bucket's peak is a point of its own; peaks of several are no moment of theirs.
  const isOne = processes.length === 1;
  const begin = bucketSeconds(profile, 0).begin;
  const seconds = [begin];
  const heap = [0];
  const resident = [known(buckets[0]?.rss ?? 0)];
  buckets.forEach((values, bucket) => {
    const { begin, end } = bucketSeconds(profile, bucket);
    const peak = begin + values.peakNanos / 1e9;
    if (isOne && values.peakBytes > 0 && peak > seconds[seconds.length - 1] && peak < end) {
      seconds.push(peak);
      heap.push(values.peakBytes);
      resident.push(known(values.rss));
    }
    seconds.push(end);
    heap.push(values.endBytes);
    resident.push(known(values.rss));
  });
  return {
    data: [seconds, heap, resident],
    series: [{ label: "Heap", colour: "heap", isArea: false, isStepped: false }, rss],
  };
}

/**
 * The series as a table for other programs, a row for each process and bucket.
 * @param {Profile} profile
 * @returns {(string | number)[][]}
 */
export function seriesRows(profile) {
  /** @type {(string | number)[][]} */
  const rows = [
    ["pid", "seconds", "heap_peak_bytes", "heap_bytes", "rss_bytes", "slack_bytes", "arena_bytes", "file_bytes", "reserved_bytes", "unaccounted_bytes"],
  ];
  profile.processes.forEach(({ facts }, process) => {
    for (let bucket = 0; bucket < profile.nBuckets; bucket += 1) {
      const values = bucketValues(profile, [process], bucket);
      const { peakBytes, endBytes, rss, slack, arenas, files, reserved } = values;
      const seconds = bucketSeconds(profile, bucket).end.toFixed(6);
      rows.push([facts.pid ?? "", seconds, peakBytes, endBytes, rss, slack, arenas, files, reserved, rss > 0 ? unaccounted(values) : 0]);
    }
  });
  return rows;
}
