// @ts-check
// The panel beside the graph: one frame with its source, its numbers by allocator and by thread, and the other lines of
// its file that allocate.

import { button, byId, element } from "./dom.js";
import { counted, exact, humanBytes, share } from "./format.js";
import { behind } from "./paths.js";
import { subtreeSums, sumsIn, sumsThrough } from "./totals.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./range.js").Sums} Sums */
/** @typedef {import("./shown.js").Side} Side */
/** @typedef {{label: string, bytes: number, count: number}} Part */

const MOST_PARTS = 12;
const MOST_LINES = 60;

/**
 * What the stacks behind a node allocated, by a property of their cells, the largest first.
 * @param {Profile} profile
 * @param {Sums} cells
 * @param {Uint8Array} out which cells the filters leave out
 * @param {{stacks: Uint8Array, thread: number}} behindNode
 * @param {(cell: number) => number} valueOf
 * @param {(value: number) => string} labelOf
 * @returns {Part[]}
 */
export function partsBy(profile, cells, out, { stacks, thread }, valueOf, labelOf) {
  /** @type {Map<number, Part>} */
  const parts = new Map();
  for (let cell = 0; cell < profile.cells.size; cell += 1) {
    if (out[cell] !== 0 || stacks[profile.cells.node[cell]] === 0) continue;
    if (thread >= 0 && profile.cells.thread[cell] !== thread) continue;
    if (cells.count[cell] === 0 && cells.bytes[cell] === 0) continue;
    const value = valueOf(cell);
    const part = parts.get(value) ?? { label: labelOf(value), bytes: 0, count: 0 };
    parts.set(value, part);
    part.bytes += cells.bytes[cell];
    part.count += cells.count[cell];
  }
  return Array.from(parts.values()).sort((a, b) => b.bytes - a.bytes || b.count - a.count);
}

/**
 * The lines of a frame's file that are in the page, each with all that passes through it and its own.
 * @param {Profile} profile
 * @param {Sums} own by node
 * @param {number} frame
 * @returns {{line: number, source: string, bytes: number, count: number, ownBytes: number, ownCount: number}[]}
 */
export function linesOfFile(profile, own, frame) {
  const file = profile.files[frame];
  // Frames of other files share one key that nobody asks for.
  const keys = Int32Array.from(profile.functions, (_, other) => (profile.files[other] === file ? profile.lines[other] + 1 : 0));
  const nKeys = keys.reduce((most, key) => Math.max(most, key), 0) + 1;
  const all = sumsThrough(profile, subtreeSums(profile, own), keys, nKeys);
  const self = sumsIn(profile, own, keys, nKeys);
  const sources = new Map();
  profile.files.forEach((other, at) => other === file && sources.set(profile.lines[at], profile.sources[at]));
  return Array.from(sources, ([line, source]) => ({
    line,
    source,
    bytes: all.bytes[line + 1],
    count: all.count[line + 1],
    ownBytes: self.bytes[line + 1],
    ownCount: self.count[line + 1],
  }))
    .filter(({ count, bytes }) => count > 0 || bytes > 0)
    .sort((a, b) => a.line - b.line);
}

/**
 * Fills the panel.
 * @param {Side} side
 * @param {number} node
 * @param {{cells: Sums, out: Uint8Array, own: Sums}} sums
 * @param {{onFunction: () => void, onCopy: () => void}} listener
 */
export function fillDetails({ view, reading }, node, { cells, out, own }, listener) {
  const { profile } = view;
  const frame = view.frame[node];
  const parts = [element("h3", "name", profile.functions[frame])];
  const place = profile.location(frame);
  if (place !== "") parts.push(element("p", "place", place));
  const isCode = profile.files[frame] >= 0 && profile.lines[frame] > 0;
  if (profile.sources[frame] !== "") parts.push(element("code", "source", profile.sources[frame]));
  else if (isCode) parts.push(element("p", "quiet", "The source line is not in the page."));

  const numbers = element("dl", "numbers");
  const number = (/** @type {string} */ label, /** @type {number} */ bytes, /** @type {number} */ count) => {
    const value = element("dd", "", [element("b", "", humanBytes(bytes)), ` in ${counted(count, "allocation")}`]);
    value.title = `${exact(bytes)} bytes`;
    numbers.append(element("dt", "", label), value);
  };
  number(reading.side === "callees" ? "Here and below" : "Through here", view.bytes[node], view.count[node]);
  if (reading.side === "callees") number("This frame itself", view.selfBytes[node], view.selfCount[node]);
  parts.push(numbers);

  const tools = element("div", "tools");
  if (node > 0 && isCode) tools.append(button("Callers and callees", listener.onFunction));
  if (node > 0) tools.append(button("Copy stack", listener.onCopy));
  if (tools.children.length > 0) parts.push(tools);

  const stacks = behind(view, reading, node);
  const by = (/** @type {string} */ title, /** @type {ArrayLike<number>} */ values, /** @type {(value: number) => string} */ labelOf) => {
    const rows = partsBy(profile, cells, out, stacks, (cell) => values[cell], labelOf);
    parts.push(element("h4", "", title), bars(rows, view, node));
  };
  if (profile.processes.length > 1) by("By process", profile.cells.process, (value) => profile.processLabel(value));
  by("By allocator", profile.cells.allocator, (value) => profile.header.allocators[value] ?? "");
  by("By thread", profile.cells.thread, (value) => profile.threads[value]?.label ?? "");
  if (isCode) parts.push(...fileLines(profile, own, frame, view.metric));
  byId("details-body").replaceChildren(...parts);
}

/**
 * @param {Part[]} rows
 * @param {import("./view.js").View} view
 * @param {number} node
 */
function bars(rows, view, node) {
  const table = element("table", "bars");
  for (const row of rows.slice(0, MOST_PARTS)) {
    const meter = /** @type {HTMLMeterElement} */ (element("meter"));
    meter.max = Math.max(1, view.weight[node]);
    meter.value = row[view.metric];
    const value = element("td", "number", view.metric === "bytes" ? humanBytes(row.bytes) : exact(row.count));
    value.title = `${exact(row.bytes)} bytes in ${counted(row.count, "allocation")}`;
    const part = element("td", "number quiet", share(row[view.metric], view.weight[node]));
    table.append(element("tr", "", [element("th", "", [row.label, meter]), value, part]));
  }
  if (rows.length > MOST_PARTS) {
    const rest = rows.slice(MOST_PARTS).reduce((sum, row) => sum + row[view.metric], 0);
    const text = `${rows.length - MOST_PARTS} more`;
    table.append(element("tr", "", [element("th", "quiet", text), element("td", "number quiet", view.metric === "bytes" ? humanBytes(rest) : exact(rest)), element("td")]));
  }
  return table;
}

/**
 * @param {Profile} profile
 * @param {Sums} own
 * @param {number} frame
 * @param {"bytes" | "count"} metric
 * @returns {HTMLElement[]}
 */
function fileLines(profile, own, frame, metric) {
  const lines = linesOfFile(profile, own, frame);
  const here = lines.findIndex(({ line }) => line === profile.lines[frame]);
  const first = Math.max(0, Math.min(here - MOST_LINES / 2, lines.length - MOST_LINES));
  const table = element("table", "lines");
  for (const row of lines.slice(first, first + MOST_LINES)) {
    const [all, self] = metric === "bytes" ? [row.bytes, row.ownBytes] : [row.count, row.ownCount];
    const text = (/** @type {number} */ value) => (value === 0 ? "" : metric === "bytes" ? humanBytes(value) : exact(value));
    const line = element("tr", row.line === profile.lines[frame] ? "here" : "", [
      element("th", "number", String(row.line)),
      element("td", "number", text(all)),
      element("td", "number quiet", text(self)),
      element("td", "code", row.source),
    ]);
    line.title = row.source;
    table.append(line);
  }
  const head = element("tr", "", ["Line", "Total", "Own", ""].map((title, at) => element("th", at < 3 ? "number" : "", title)));
  table.prepend(head);
  return [element("h4", "", "This file, line by line"), table];
}
