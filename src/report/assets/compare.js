// @ts-check
// Two recordings in one page: what the first of its processes held before, and the others after. Every width is both
// together, so that what is gone has a place in the graph as well; the colour says which way it went.

import { exact, humanBytes } from "./format.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./palette.js").Theme} Theme */
/** @typedef {import("./view.js").View} View */
/** @typedef {{before: number, after: number}} Pair */

/**
 * The cells of the new recording left out as well.
 * @param {Profile} profile
 * @param {Uint8Array} out which cells the filters leave out
 * @returns {Uint8Array}
 */
export function outOfBase({ header, cells }, out) {
  const first = header.open.compares?.n_base ?? 0;
  return out.map((bits, cell) => (cells.process[cell] < first ? bits : 255));
}

/**
 * What a node held before and after.
 * @param {View} view
 * @param {number} node
 * @param {"bytes" | "count"} [metric]
 * @returns {Pair}
 */
export function pairOf(view, node, metric = view.metric) {
  const before = view.base[metric][node];
  return { before, after: view[metric][node] - before };
}

/**
 * From -1, all is gone, to 1, all is new. When shares are compared, each is one of what its recording has in all.
 * @param {View} view
 * @param {number} node
 * @returns {number}
 */
export function balance(view, node) {
  const whole = pairOf(view, 0);
  const isNormalised = view.profile.header.open.compares?.normalised && whole.before > 0;
  const scale = isNormalised ? whole.after / whole.before : 1;
  const { before, after } = pairOf(view, node);
  const sum = after + before * scale;
  return sum > 0 ? (after - before * scale) / sum : 0;
}

/**
 * @param {Theme} theme
 * @param {number} part as `balance` gives it
 * @returns {string}
 */
export function balanceColour(theme, part) {
  const { more, less, same, full } = theme.change;
  const [hue, saturation] = part > 0 ? more : less;
  // The root, because a change of a tenth should be seen.
  const strength = Math.sqrt(Math.abs(part));
  const lightness = same + (full - same) * strength;
  return `hsl(${hue} ${Math.round(saturation * Math.min(1, 2 * strength))}% ${lightness.toFixed(1)}%)`;
}

/**
 * `+1.2 MB (+30 %)`.
 * @param {Pair} pair
 * @param {"bytes" | "count"} metric
 * @returns {string}
 */
export function changeText({ before, after }, metric) {
  const change = after - before;
  const amount = metric === "bytes" ? humanBytes(Math.abs(change)) : exact(Math.abs(change));
  if (change === 0) return "no change";
  const sign = change > 0 ? "+" : "−";
  if (before === 0) return `${sign}${amount} (new)`;
  if (after === 0) return `${sign}${amount} (gone)`;
  const percent = (100 * Math.abs(change)) / before;
  if (percent < 0.1) return `${sign}${amount} (<0.1 %)`;
  return `${sign}${amount} (${sign}${percent < 10 ? percent.toFixed(1) : exact(Math.round(percent))} %)`;
}
