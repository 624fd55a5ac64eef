// @ts-check
// Which cells count under the filters that the user set, and what each choice of a filter would hold.

import { Role } from "./profile.js";
import { subtreeSums, sumsIn, sumsThrough } from "./totals.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./range.js").Sums} Sums */
/** @typedef {"process" | "thread" | "allocator" | "size" | "module"} Dimension */
/** @typedef {Record<Dimension, number[] | null>} Chosen which values of a dimension count; null: all */
/** @typedef {{chosen: Chosen, isThrough: boolean, dropsImports: boolean}} Filter */
/** @typedef {{label: string, value: number, bytes: number, count: number, kind?: number}} Choice */

/** The dimensions in the order of the menu, with their names there and in the address. */
export const DIMENSIONS = /** @type {{id: Dimension, title: string}[]} */ ([
  { id: "process", title: "Process" },
  { id: "thread", title: "Thread" },
  { id: "module", title: "Module" },
  { id: "allocator", title: "Allocator" },
  { id: "size", title: "Size of one allocation" },
]);

/** @returns {Chosen} */
export const everything = () => ({ process: null, thread: null, allocator: null, size: null, module: null });

const IMPORTS_BIT = 1 << 5;

/**
 * One byte per cell: a bit for each dimension (in the order above) that leaves the cell out, and one for imports.
 * @param {Profile} profile
 * @param {Filter} filter
 * @returns {Uint8Array} 0 where the cell counts
 */
export function leftOut(profile, { chosen, isThrough, dropsImports }) {
  const { cells } = profile;
  const out = new Uint8Array(cells.size);
  DIMENSIONS.forEach(({ id }, index) => {
    const values = chosen[id];
    if (values === null) return;
    const isChosen = new Set(values);
    const bit = 1 << index;
    if (id === "module" && isThrough) {
      const passes = nodesThrough(profile, (frame) => isChosen.has(profile.moduleOf[frame]));
      for (let cell = 0; cell < cells.size; cell += 1) if (!passes[cells.node[cell]]) out[cell] |= bit;
      return;
    }
    const valueOf = valuesOf(profile, id);
    for (let cell = 0; cell < cells.size; cell += 1) if (!isChosen.has(valueOf(cell))) out[cell] |= bit;
  });
  if (dropsImports) {
    const passes = nodesThrough(profile, (frame) => (profile.roles[frame] & Role.importing) !== 0);
    for (let cell = 0; cell < cells.size; cell += 1) if (passes[cells.node[cell]]) out[cell] |= IMPORTS_BIT;
  }
  return out;
}

/**
 * The sums of each node's own allocations, of the cells that count.
 * @param {Profile} profile
 * @param {Sums} sums by cell
 * @param {Uint8Array} out as `leftOut` gives it
 * @returns {Sums} by node
 */
export function nodeSums(profile, sums, out) {
  const { node, size } = profile.cells;
  const own = { bytes: new Float64Array(profile.nodes), count: new Float64Array(profile.nodes) };
  for (let cell = 0; cell < size; cell += 1) {
    if (out[cell] !== 0) continue;
    own.bytes[node[cell]] += sums.bytes[cell];
    own.count[node[cell]] += sums.count[cell];
  }
  return own;
}

/**
 * What each value of a dimension holds under the filters of all the others, the largest first. A module holds what its
 * own frames allocated, or with `isThrough` what was allocated anywhere below them.
 * @param {Profile} profile
 * @param {Dimension} dimension
 * @param {Sums} sums by cell
 * @param {Uint8Array} out
 * @param {boolean} isThrough
 * @returns {Choice[]}
 */
export function choices(profile, dimension, sums, out, isThrough) {
  const others = ~(1 << DIMENSIONS.findIndex(({ id }) => id === dimension));
  const labels = labelsOf(profile, dimension);
  const counting = Uint8Array.from(out, (bits) => bits & others);
  const { bytes, count } =
    dimension === "module" ? moduleSums(profile, sums, counting, isThrough) : valueSums(profile, dimension, sums, counting);
  const rows = labels.map((label, value) => ({
    label,
    value,
    bytes: bytes[value],
    count: count[value],
    kind: dimension === "module" ? profile.modules[value].kind : undefined,
  }));
  // Sizes have an order of their own.
  return dimension === "size" ? rows : rows.sort((a, b) => b.bytes - a.bytes || b.count - a.count || a.value - b.value);
}

/**
 * @param {Profile} profile
 * @param {Dimension} dimension
 * @param {Sums} sums by cell
 * @param {Uint8Array} out
 * @returns {Sums} by value
 */
function valueSums(profile, dimension, sums, out) {
  const nValues = labelsOf(profile, dimension).length;
  const found = { bytes: new Float64Array(nValues), count: new Float64Array(nValues) };
  const valueOf = valuesOf(profile, dimension);
  for (let cell = 0; cell < profile.cells.size; cell += 1) {
    if (out[cell] !== 0) continue;
    found.bytes[valueOf(cell)] += sums.bytes[cell];
    found.count[valueOf(cell)] += sums.count[cell];
  }
  return found;
}

/**
 * @param {Profile} profile
 * @param {Sums} sums by cell
 * @param {Uint8Array} out
 * @param {boolean} isThrough
 * @returns {Sums} by module
 */
function moduleSums(profile, sums, out, isThrough) {
  const own = nodeSums(profile, sums, out);
  const nModules = profile.modules.length;
  if (!isThrough) return sumsIn(profile, own, profile.moduleOf, nModules);
  return sumsThrough(profile, subtreeSums(profile, own), profile.moduleOf, nModules);
}

/**
 * The names of a dimension's values; with one there is nothing to choose.
 * @param {Profile} profile
 * @param {Dimension} dimension
 * @returns {string[]}
 */
export function labelsOf(profile, dimension) {
  switch (dimension) {
    case "process":
      return profile.processes.map((_, process) => profile.processLabel(process));
    case "thread":
      return profile.threads.map(({ label }) => label);
    case "allocator":
      return profile.header.allocators;
    case "size":
      return Array.from({ length: profile.header.size_classes.length + 1 }, (_, index) => profile.sizeClassLabel(index));
    case "module":
      return profile.modules.map(({ label }) => label);
  }
}

/**
 * @param {Profile} profile
 * @param {Dimension} dimension
 * @returns {(cell: number) => number}
 */
function valuesOf(profile, dimension) {
  const { cells, frame, moduleOf } = profile;
  switch (dimension) {
    case "process":
      return (cell) => cells.process[cell];
    case "thread":
      return (cell) => cells.thread[cell];
    case "allocator":
      return (cell) => cells.allocator[cell];
    case "size":
      return (cell) => cells.sizeClass[cell];
    case "module":
      return (cell) => moduleOf[frame[cells.node[cell]]];
  }
}

/**
 * One flag per node: whether a frame of its stack is one of these.
 * @param {Profile} profile
 * @param {(frame: number) => boolean} isWanted
 */
function nodesThrough(profile, isWanted) {
  const wanted = Uint8Array.from({ length: profile.frames }, (_, frame) => Number(isWanted(frame)));
  const passes = new Uint8Array(profile.nodes);
  for (let node = 0; node < profile.nodes; node += 1) {
    passes[node] = wanted[profile.frame[node]] | (node > 0 ? passes[profile.parent[node]] : 0);
  }
  return passes;
}
