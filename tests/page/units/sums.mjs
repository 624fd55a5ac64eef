// Decoding, sums of a range of time, filters and their choices, each beside a naive twin over the rows.

import assert from "node:assert/strict";
import { decode } from "./decode.js";
import { linesOfFile, partsBy } from "./details.js";
import { encode } from "./encode.mjs";
import { choices, everything, leftOut, nodeSums } from "./filters.js";
import { countedRows, FRAMES, processOf, randomCase, summed } from "./random.mjs";
import { cellSums, peakSeconds } from "./range.js";
import { functionRows, siteRows, sortedRows, columnsOf } from "./table.js";

// Numbers up to the largest whole ones, and differences both ways.
const numbers = [0, 1, 127, 128, 300, 2 ** 31, 2 ** 32 + 5, 2 ** 53 - 1];
const differences = [5, 3, 3, 1000000, 0, 2 ** 40, 7];
const decoded = decode(encode({ any: "thing" }, [["a", numbers], ["none", []], ["b", differences, "delta"], ["c", [-3, 0, 2 ** 40, -(2 ** 40)], "signed"]]));
assert.deepEqual(Array.from(decoded.columns.get("a")), numbers);
assert.deepEqual(Array.from(decoded.columns.get("b")), differences);
assert.deepEqual(Array.from(decoded.columns.get("c")), [-3, 0, 2 ** 40, -(2 ** 40)]);
assert.equal(decoded.columns.get("none").length, 0);
assert.equal(decoded.header.any, "thing");

const namesOf = (profile, node) => {
  const names = [];
  for (let at = node; at > 0; at = profile.parent[at]) names.unshift(profile.functions[profile.frame[at]]);
  return names.join(";");
};
const bare = (stack) => stack.replace(/#\d+/g, "");
const nodeTable = (profile, own) => {
  const sums = {};
  for (let node = 0; node < profile.nodes; node += 1) {
    if (own.count[node] === 0) continue;
    const sum = (sums[namesOf(profile, node)] ??= [0, 0]);
    sum[0] += own.bytes[node];
    sum[1] += own.count[node];
  }
  return sums;
};
const choiceTable = (rows) => Object.fromEntries(rows.filter(({ count }) => count > 0).map(({ value, bytes, count }) => [value, [bytes, count]]));

for (let seed = 1; seed <= 150; seed += 1) {
  const { roll, rows, profile, nBuckets } = randomCase(seed);
  const from = roll(nBuckets);
  const to = from + roll(nBuckets - from);
  for (const tab of ["peak", "leaks", "churn"]) {
    const counted = countedRows(rows, tab, from, to);
    const cells = cellSums(profile, tab, { from, to });
    const all = leftOut(profile, { chosen: everything(), isThrough: false, dropsImports: false });
    const own = nodeSums(profile, cells, all);
    assert.deepEqual(nodeTable(profile, own), summed(counted, (row) => bare(row.stack)), `${tab} ${from}-${to} of ${seed}`);

    // Filters, one of each kind by chance.
    const moduleKeys = profile.modules.map(({ key }) => key);
    const moduleOfName = (name) => profile.moduleOf[profile.functions.indexOf(bare(name))];
    const innermost = (row) => (row.stack === "" ? moduleKeys.indexOf("r:all") : moduleOfName(row.stack.split(";").at(-1)));
    const through = (row) => [moduleKeys.indexOf("r:all"), ...row.stack.split(";").filter((name) => name !== "").map(moduleOfName)];
    const isThrough = roll(2) === 0;
    const some = (n) => (roll(2) === 0 ? null : Array.from({ length: n }, (_, value) => value).filter(() => roll(2) === 0));
    const chosen = { process: some(2), thread: some(3), allocator: some(2), size: some(3), module: some(moduleKeys.length) };
    const dropsImports = roll(3) === 0;
    const tests = {
      process: (row) => chosen.process === null || chosen.process.includes(processOf(row)),
      thread: (row) => chosen.thread === null || chosen.thread.includes(row.thread),
      allocator: (row) => chosen.allocator === null || chosen.allocator.includes(row.allocator),
      size: (row) => chosen.size === null || chosen.size.includes(row.size),
      module: (row) => chosen.module === null || (isThrough ? through(row) : [innermost(row)]).some((module) => chosen.module.includes(module)),
      imports: (row) => !dropsImports || !/boot|load/.test(row.stack),
    };
    const out = leftOut(profile, { chosen, isThrough, dropsImports });
    const left = counted.filter((row) => Object.values(tests).every((test) => test(row)));
    const narrowed = nodeSums(profile, cells, out);
    assert.deepEqual(nodeTable(profile, narrowed), summed(left, (row) => bare(row.stack)), `filters of ${seed}`);

    // What each choice of a filter would hold, under all the others.
    const valueOf = { process: processOf, thread: (row) => row.thread, allocator: (row) => row.allocator, size: (row) => row.size };
    valueOf.module = isThrough ? through : innermost;
    for (const dimension of Object.keys(valueOf)) {
      const others = counted.filter((row) => Object.entries(tests).every(([name, test]) => name === dimension || test(row)));
      const wanted = summed(others, valueOf[dimension]);
      assert.deepEqual(choiceTable(choices(profile, dimension, cells, out, isThrough)), wanted, `${dimension} of ${seed}`);
    }

    // The table, and the parts of one stack.
    const frameName = (row) => row.stack.split(";").at(-1) || "all";
    const isSplit = roll(2) === 0;
    const line = ({ frame, allocator, thread }) => `${profile.functions[frame]}:${profile.lines[frame]} ${allocator} ${thread}`;
    const lineOf = (row) => `${bare(frameName(row))}:${FRAMES[frameName(row)]?.line ?? (frameName(row) === "all" ? 0 : 1)} ${row.allocator} ${isSplit ? row.thread : -1}`;
    const sites = siteRows(profile, cells, out, isSplit);
    assert.deepEqual(summed(sites, line), summed(left, lineOf), `table of ${seed}`);
    const functions = functionRows(profile, narrowed);
    const functionsOf = (row) => row.stack.split(";").filter((name) => name !== "").map(bare);
    assert.deepEqual(summed(functions, ({ frame }) => profile.functions[frame]), summed(left.filter(({ stack }) => stack !== ""), functionsOf), `functions of ${seed}`);
    const columns = columnsOf(profile, { rows: "functions", isSplit });
    const sorted = sortedRows(functions, columns, "ownBytes", null).map(({ ownBytes }) => ownBytes);
    assert.deepEqual(sorted, sorted.slice().sort((a, b) => b - a));
    const named = sortedRows(functions, columns, "function", null).map(({ frame }) => profile.functions[frame]);
    assert.deepEqual(named, named.slice().sort());
    assert.deepEqual(sortedRows(functions, columns, "-function", null).map(({ frame }) => profile.functions[frame]), named.reverse());

    const stacks = Uint8Array.from({ length: profile.nodes }, (_, node) => Number(namesOf(profile, node).startsWith("main")));
    const parts = partsBy(profile, cells, out, { stacks, thread: -1 }, (cell) => profile.cells.thread[cell], String);
    const ofMain = left.filter((row) => bare(row.stack).startsWith("main"));
    assert.deepEqual(summed(parts, ({ label }) => label), summed(ofMain, (row) => String(row.thread)), `parts of ${seed}`);
    const lines = linesOfFile(profile, narrowed, profile.functions.indexOf("work"));
    const linesOf = (row) => row.stack.split(";").map((name) => FRAMES[name]).filter((frame) => frame?.file === "/srv/app.py").map(({ line: number }) => number);
    assert.deepEqual(summed(lines, (row) => row.line), summed(left, linesOf), `lines of ${seed}`);
  }
}

// The last of equal peaks is the peak, and its moment lies in its bucket.
const flat = randomCase(3).profile;
flat.buckets[0].peakBytes.fill(7);
assert.ok(peakSeconds(flat, { from: 0, to: flat.nBuckets - 1 }, 0) >= flat.nBuckets - 1);
console.log("ok");
