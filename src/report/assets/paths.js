// @ts-check
// How a node of a view is known outside of it: a stack of the profile and how far along it. Such a key survives other
// sums, other filters and a link; and it tells which stacks a node stands for.

import { outermostCalls } from "./totals.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./view.js").View} View */

/**
 * How a view's paths lie in the profile.
 * @typedef {object} Reading
 * @property {"callees" | "callers"} side towards the end of stacks, or towards their root
 * @property {number} root a frame of the function in the middle, or -1
 * @property {number} hidden roles of frames that are not shown
 * @property {boolean} isSplit whether threads stand below the root
 */

/**
 * `stack`, `stack~levels` or `stack@thread`; empty for the root.
 * @param {View} view
 * @param {Reading} reading
 * @param {number} node
 * @returns {string}
 */
export function keyOf(view, reading, node) {
  if (node <= 0) return "";
  const { profile } = view;
  if (reading.isSplit) {
    const frames = view.path(node);
    const thread = profile.threadFrames.indexOf(frames[0]);
    return `${frames.length === 1 ? 0 : view.origin[node]}@${thread}`;
  }
  const isWhole = reading.side === "callees" && reading.root < 0;
  return isWhole ? String(view.origin[node]) : `${view.origin[node]}~${view.depth[node]}`;
}

/**
 * The node of a key, or the nearest one on the way to it.
 * @param {View} view
 * @param {Reading} reading
 * @param {string} key
 * @returns {number}
 */
export function nodeOf(view, reading, key) {
  const parts = /^(\d+)(?:~(\d+))?(?:@(\d+))?$/.exec(key);
  if (!parts) return 0;
  const { profile } = view;
  const origin = Number(parts[1]);
  if (origin >= profile.nodes) return 0;
  const levels = parts[2] === undefined ? Infinity : Number(parts[2]);
  const frames = framesAbove(profile, reading, origin, levels);
  if (reading.side === "callees") frames.reverse();
  if (reading.isSplit) frames.unshift(profile.threadFrames[Number(parts[3] ?? 0)] ?? -1);
  return view.follow(frames);
}

/**
 * The frames of a stack from its end, or in a view of callers from where that view begins.
 * @param {Profile} profile
 * @param {Reading} reading
 * @param {number} origin
 * @param {number} most
 */
function framesAbove(profile, { side, root, hidden }, origin, most) {
  const frames = [];
  let node = side === "callers" && root >= 0 ? profile.parent[origin] : origin;
  for (; node > 0 && frames.length < most; node = profile.parent[node]) {
    if ((profile.roles[profile.frame[node]] & hidden) === 0) frames.push(profile.frame[node]);
  }
  return frames;
}

/**
 * One flag per node of the profile: whether what its stack allocated is part of a node of the view. Of views that are
 * split by thread the thread is told beside.
 * @param {View} view
 * @param {Reading} reading
 * @param {number} node
 * @returns {{stacks: Uint8Array, thread: number}} thread is -1 where all count
 */
export function behind(view, reading, node) {
  const { profile } = view;
  const frames = view.path(node);
  const thread = reading.isSplit && frames.length > 0 ? profile.threadFrames.indexOf(frames[0]) : -1;
  if (thread >= 0) frames.shift();
  const calls = reading.root >= 0 ? outermostCalls(profile, reading.root) : null;
  const stacks =
    reading.side === "callees" ? stacksBelow(profile, reading, frames, calls) : stacksFrom(profile, reading, frames, calls);
  return { stacks, thread };
}

/**
 * @param {Profile} profile
 * @param {Reading} reading
 * @param {number[]} frames
 * @param {Uint8Array | null} calls
 */
function stacksBelow(profile, { hidden }, frames, calls) {
  const stacks = new Uint8Array(profile.nodes);
  // How many frames of the path each node has come along; -1 where it has left it, or not begun.
  const come = new Int32Array(profile.nodes).fill(-1);
  for (let node = 0; node < profile.nodes; node += 1) {
    const frame = profile.frame[node];
    const before = node === 0 ? -1 : come[profile.parent[node]];
    if (calls ? calls[node] === 1 : node === 0) come[node] = 0;
    else if (before === frames.length) come[node] = before;
    else if (before >= 0 && (profile.roles[frame] & hidden) !== 0) come[node] = before;
    else if (before >= 0 && frames[before] === frame) come[node] = before + 1;
    stacks[node] = Number(come[node] === frames.length);
  }
  return stacks;
}

/**
 * @param {Profile} profile
 * @param {Reading} reading
 * @param {number[]} frames
 * @param {Uint8Array | null} calls
 */
function stacksFrom(profile, reading, frames, calls) {
  const stacks = new Uint8Array(profile.nodes);
  for (let node = 0; node < profile.nodes; node += 1) {
    if (calls && calls[node] === 0) continue;
    const above = framesAbove(profile, reading, node, frames.length);
    if (above.length < frames.length || !frames.every((frame, index) => above[index] === frame)) continue;
    if (calls) stacks.fill(1, node, profile.end[node]);
    else stacks[node] = 1;
  }
  return stacks;
}

/**
 * The stack of a node of a view as lines of text, its end first and its root last, as tracebacks are read upwards.
 * @param {View} view
 * @param {Reading} reading
 * @param {number} node
 * @returns {string}
 */
export function stackText(view, reading, node) {
  const { profile } = view;
  const frames = view.path(node);
  if (reading.root >= 0) frames.unshift(reading.root);
  if (reading.side === "callees") frames.reverse();
  return frames
    .map((frame) => {
      const place = profile.location(frame);
      const source = profile.sources[frame];
      return `${profile.functions[frame]}${place === "" ? "" : `  ${place}`}${source === "" ? "" : `\n    ${source}`}`;
    })
    .join("\n");
}
