// @ts-check
// What was alive, left over or born in a range of time, by cell: the one pass over the intervals.
//
// Time is cut into buckets, and each bucket of a process into two segments: 2b up to the moment of its highest heap,
// 2b + 1 after it. `died` is 0 for what was never given back, else one more than the segment of the free.

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./decode.js").Tab} Tab */
/** @typedef {{from: number, to: number}} Range buckets, both included */
/** @typedef {{bytes: Float64Array, count: Float64Array, base?: Sums}} Sums of them, where two recordings are compared, the first one's */

/**
 * Bytes and allocations of each cell.
 * @param {Profile} profile
 * @param {Tab} tab
 * @param {Range} range
 * @returns {Sums}
 */
export function cellSums(profile, tab, range) {
  const { cell, born, died, bytes, count } = profile.intervals;
  const { process, size } = profile.cells;
  const sums = { bytes: new Float64Array(size), count: new Float64Array(size) };
  // What counts was born in [first..last] and is there at the end of `moment`; a moment of -1 asks for no survival.
  const moments = profile.processes.map((_, index) => momentOf(profile, tab, range, index));
  for (let row = 0; row < cell.length; row += 1) {
    const { first, last, moment } = moments[process[cell[row]]];
    if (born[row] < first || born[row] > last) continue;
    if (moment >= 0 && died[row] !== 0 && died[row] - 1 <= moment) continue;
    sums.bytes[cell[row]] += bytes[row];
    sums.count[cell[row]] += count[row];
  }
  return sums;
}

/**
 * @param {Profile} profile
 * @param {Tab} tab
 * @param {Range} range
 * @param {number} process
 * @returns {{first: number, last: number, moment: number}} segments
 */
function momentOf(profile, tab, { from, to }, process) {
  if (tab === "peak") {
    const moment = 2 * peakBucket(profile, { from, to }, process);
    return { first: 0, last: moment, moment };
  }
  return { first: 2 * from, last: 2 * to + 1, moment: tab === "leaks" ? 2 * to + 1 : -1 };
}

/**
 * The bucket of a range with a process's highest heap, the last of equals.
 * @param {Profile} profile
 * @param {Range} range
 * @param {number} process
 */
function peakBucket(profile, { from, to }, process) {
  const { peakBytes } = profile.buckets[process];
  let best = from;
  for (let bucket = from; bucket <= to; bucket += 1) if (peakBytes[bucket] >= peakBytes[best]) best = bucket;
  return best;
}

/**
 * When a process's heap was highest in a range, in seconds from the start.
 * @param {Profile} profile
 * @param {Range} range
 * @param {number} process
 */
export function peakSeconds(profile, range, process) {
  const bucket = peakBucket(profile, range, process);
  return (profile.header.start_nanos + bucket * profile.bucketNanos + profile.buckets[process].peakNanos[bucket]) / 1e9;
}

/**
 * The times at which a bucket begins and ends, in seconds from the start.
 * @param {Profile} profile
 * @param {number} bucket
 */
export function bucketSeconds(profile, bucket) {
  const { start_nanos, bucket_nanos } = profile.header;
  return { begin: (start_nanos + bucket * bucket_nanos) / 1e9, end: (start_nanos + (bucket + 1) * bucket_nanos) / 1e9 };
}
