// Profiles made by chance, the same ones in every run, and what a naive reading of them gives.

import { decode } from "./decode.js";
import { dataOf } from "./encode.mjs";
import { Profile } from "./profile.js";

/** Numbers below `most`, the same after the same seed. */
export function dice(seed) {
  let state = seed;
  return (most) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % most;
  };
}

export const FRAMES = {
  run: { kind: "standard", role: 2, file: "/usr/lib/python3.11/runpy.py" },
  main: { file: "/srv/app.py", line: 10 },
  "main#2": { file: "/srv/app.py", line: 11 },
  work: { file: "/srv/app.py", line: 20 },
  boot: { kind: "standard", role: 1, file: "<frozen importlib._bootstrap>" },
  load: { kind: "standard", role: 1, file: "<frozen importlib._bootstrap>", line: 2 },
  pkg: { kind: "library", file: "/srv/env/lib/python3.11/site-packages/pkg/a.py" },
  list_sort: { kind: "native", file: "/usr/src/Python-3.11.7/Objects/listobject.c", line: 7 },
  deep: { kind: "library", file: "/srv/env/lib/python3.11/site-packages/pkg/b.py" },
};

/** Two processes of three threads, some buckets, and rows as `dataOf` takes them. */
export function randomCase(seed) {
  const roll = dice(seed);
  const nBuckets = 1 + roll(6);
  const names = Object.keys(FRAMES);
  const rows = Array.from({ length: 1 + roll(60) }, () => {
    const stack = Array.from({ length: roll(6) }, () => names[roll(names.length)]).join(";");
    const born = roll(2 * nBuckets);
    const died = roll(3) === 0 ? 0 : 1 + born + roll(2 * nBuckets - born);
    const count = 1 + roll(5);
    return { stack, born, died, count, bytes: count * roll(1000), thread: roll(3), allocator: roll(2), size: roll(3) };
  });
  const facts = (pid) => ({ pid, cwd: "/srv", command: "app.py", notices: [], pythons: [], events: 1, end: null });
  const processes = [
    { facts: facts(1), threads: [{ number: 1, os_tid: 11, name: "MainThread" }, { number: 2, os_tid: 12, name: "" }] },
    { facts: facts(2), threads: [{ number: 1, os_tid: 21, name: "MainThread" }] },
  ];
  const peaks = [0, 1].flatMap((process) => Array.from({ length: nBuckets }, (_, bucket) => aliveAt(rows, process, 2 * bucket)));
  const buckets = { peak_bytes: peaks };
  const profile = new Profile(decode(dataOf(FRAMES, rows, { n_buckets: nBuckets, processes, buckets })));
  return { roll, rows, profile, nBuckets };
}

export const processOf = (row) => (row.thread < 2 ? 0 : 1);
const isAlive = (row, segment) => row.born <= segment && (row.died === 0 || row.died - 1 > segment);
const aliveAt = (rows, process, segment) =>
  rows.filter((row) => processOf(row) === process && isAlive(row, segment)).reduce((sum, row) => sum + row.bytes, 0);

/** The rows that a tab counts in a range, one by one. */
export function countedRows(rows, tab, from, to) {
  const peakOf = (process) => {
    let best = from;
    for (let bucket = from; bucket <= to; bucket += 1) if (aliveAt(rows, process, 2 * bucket) >= aliveAt(rows, process, 2 * best)) best = bucket;
    return best;
  };
  return rows.filter((row) => {
    if (tab === "peak") return isAlive(row, 2 * peakOf(processOf(row)));
    if (row.born < 2 * from || row.born > 2 * to + 1) return false;
    return tab === "churn" || isAlive(row, 2 * to + 1);
  });
}

/** `{path: [bytes, count]}` of rows, each path once, empty ones not at all. */
export function summed(rows, pathOf) {
  const sums = {};
  for (const row of rows) {
    for (const path of new Set([pathOf(row)].flat())) {
      const sum = (sums[path] ??= [0, 0]);
      sum[0] += row.bytes;
      sum[1] += row.count;
    }
  }
  return sums;
}
