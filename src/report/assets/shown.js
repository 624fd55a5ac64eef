// @ts-check
// What follows from the user's choices, step by step: sums by cell, filters, sums by stack, views. A step is done again
// only when what it depends on has changed.

import { outOfBase } from "./compare.js";
import { leftOut, nodeSums } from "./filters.js";
import { nodeOf } from "./paths.js";
import { Role } from "./profile.js";
import { cellSums } from "./range.js";
import { search } from "./search.js";
import { calleesByThread, calleesOf, calleesOfAll, callersOf, callersOfAll } from "./tree.js";
import { View } from "./view.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./decode.js").Tab} Tab */
/** @typedef {import("./range.js").Sums} Sums */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./paths.js").Reading} Reading */
/** @typedef {{view: View, reading: Reading}} Side */

export class Shown {
  /** @param {Profile} profile */
  constructor(profile) {
    this.profile = profile;
    /** @type {Map<string, {inputs: unknown[], value: any}>} */
    this.steps = new Map();
  }

  /**
   * Bytes and allocations by cell, before filters.
   * @param {State} state
   * @param {Tab} [tab]
   * @returns {Sums}
   */
  cells({ tab: current, from, to }, tab = current) {
    return this.step(`cells of ${tab}`, [from, to], () => cellSums(this.profile, tab, { from, to }));
  }

  /**
   * Which cells the filters leave out.
   * @param {State} state
   * @returns {Uint8Array}
   */
  out({ chosen, isThrough, imports }) {
    const inputs = [...Object.values(chosen), isThrough, imports === "none"];
    return this.step("out", inputs, () => leftOut(this.profile, { chosen, isThrough, dropsImports: imports === "none" }));
  }

  /**
   * Bytes and allocations by stack.
   * @param {State} state
   * @returns {Sums}
   */
  own(state) {
    const [cells, out] = [this.cells(state), this.out(state)];
    return this.step("own", [cells, out], () => this.sums(cells, out));
  }

  /**
   * Bytes and allocations by stack of the cells that are not left out.
   * @param {Sums} cells
   * @param {Uint8Array} out
   * @returns {Sums}
   */
  sums(cells, out) {
    const { profile } = this;
    const sums = nodeSums(profile, cells, out);
    return profile.isComparison ? { ...sums, base: nodeSums(profile, cells, outOfBase(profile, out)) } : sums;
  }

  /**
   * The sums of a tab, of all and of what the filters leave.
   * @param {State} state
   * @param {Tab} tab
   */
  total(state, tab) {
    const [cells, out] = [this.cells(state, tab), this.out(state)];
    return this.step(`total of ${tab}`, [cells, out], () => {
      const total = { bytes: 0, count: 0, allBytes: 0, allCount: 0, base: { bytes: 0, count: 0 } };
      const first = this.profile.header.open.compares?.n_base ?? 0;
      for (let cell = 0; cell < out.length; cell += 1) {
        total.allBytes += cells.bytes[cell];
        total.allCount += cells.count[cell];
        if (out[cell] !== 0) continue;
        total.bytes += cells.bytes[cell];
        total.count += cells.count[cell];
        if (this.profile.cells.process[cell] >= first) continue;
        total.base.bytes += cells.bytes[cell];
        total.base.count += cells.count[cell];
      }
      return total;
    });
  }

  /**
   * The views that are drawn: one, or a function's callers and callees.
   * @param {State} state
   * @returns {Side[]}
   */
  sides(state) {
    const { metric, about, isInverted, isSplit, imports, runners } = state;
    const own = this.own(state);
    const hidden = (imports === "all" ? 0 : Role.importing) | (runners ? 0 : Role.runner);
    const out = this.out(state);
    return this.step("sides", [own, metric, about, isInverted, isSplit, hidden], () => {
      const { profile } = this;
      const side = (/** @type {Reading["side"]} */ name, /** @type {import("./tree.js").Tree} */ tree, splits = false) => ({
        view: new View(profile, tree, metric),
        reading: { side: name, root: about, hidden, isSplit: splits },
      });
      if (about >= 0) {
        return [
          side("callers", callersOf(profile, own, hidden, metric, about)),
          side("callees", calleesOf(profile, own, hidden, about)),
        ];
      }
      if (isInverted) return [side("callers", callersOfAll(profile, own, hidden, metric))];
      if (!isSplit) return [side("callees", calleesOfAll(profile, own, hidden))];
      const ownOf = (/** @type {number} */ thread) => this.sums(this.cells(state), ofThread(profile, out, thread));
      return [side("callees", calleesByThread(profile, ownOf, hidden), true)];
    });
  }

  /**
   * @param {State} state
   * @returns {ReturnType<typeof search>}
   */
  found({ query, isPattern }) {
    return this.step("found", [query, isPattern], () => search(this.profile, query, isPattern));
  }

  /**
   * Which side is zoomed to which of its nodes.
   * @param {State} state
   * @returns {{side: number, node: number}}
   */
  zoom(state) {
    const sides = this.sides(state);
    const isAbove = state.zoom.startsWith("^");
    const side = isAbove ? 0 : sides.length - 1;
    const { view, reading } = sides[side];
    return { side, node: nodeOf(view, reading, state.zoom.replace("^", "")) };
  }

  /**
   * @template T
   * @param {string} name
   * @param {unknown[]} inputs
   * @param {() => T} make
   * @returns {T}
   */
  step(name, inputs, make) {
    const before = this.steps.get(name);
    if (before && before.inputs.length === inputs.length && before.inputs.every((input, at) => input === inputs[at])) {
      return before.value;
    }
    const value = make();
    this.steps.set(name, { inputs, value });
    return value;
  }
}

/**
 * @param {Profile} profile
 * @param {Uint8Array} out
 * @param {number} thread
 */
function ofThread(profile, out, thread) {
  return out.map((bits, cell) => (profile.cells.thread[cell] === thread ? bits : 255));
}
