// @ts-check
// The profile as it would be without native stacks: what native frames allocated belongs to the Python frame around
// them, as in a capture that was read as Python only.

import { Kind } from "./palette.js";
import { endsOf, OwnFrame } from "./profile.js";

/** @typedef {import("./profile.js").Profile} Profile */

/**
 * Whether there is a choice: frames of both kinds.
 * @param {Profile} profile
 */
export const hasBoth = (profile) => profile.kinds.includes(Kind.native) && profile.hasPython;

/**
 * The same frames, cells and times, with a tree of their own. Stacks that become equal are one.
 * @param {Profile} profile
 * @returns {Profile}
 */
export function withoutNative(profile) {
  const { kinds, frames } = profile;
  /** @type {Map<number, number>} */
  const known = new Map();
  /** Nodes in the order in which they are met. */
  const met = { frame: [OwnFrame.root], children: /** @type {number[][]} */ ([[]]) };
  const childOf = (/** @type {number} */ parent, /** @type {number} */ frame) => {
    const key = parent * frames + frame;
    let child = known.get(key);
    if (child === undefined) {
      child = met.frame.push(frame) - 1;
      met.children.push([]);
      met.children[parent].push(child);
      known.set(key, child);
    }
    return child;
  };
  const metOf = new Uint32Array(profile.nodes);
  for (let node = 1; node < profile.nodes; node += 1) {
    const around = metOf[profile.parent[node]];
    const frame = profile.frame[node];
    metOf[node] = kinds[frame] === Kind.native ? around : childOf(around, frame);
  }
  // Nobody allocates at the root: what has no Python frame left says so.
  const { cells } = profile;
  const metOfCells = cells.node.map((node) => metOf[node] || (node > 0 ? childOf(0, OwnFrame.noStack) : 0));

  const nodes = met.frame.length;
  const [frame, depth, parent, numberOf] = [new Uint32Array(nodes), new Uint32Array(nodes), new Int32Array(nodes), new Uint32Array(nodes)];
  const waiting = [{ node: 0, above: -1 }];
  let number = 0;
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const { node, above } = next;
    frame[number] = met.frame[node];
    parent[number] = above;
    depth[number] = above < 0 ? 0 : depth[above] + 1;
    numberOf[node] = number;
    for (const child of met.children[node].reverse()) waiting.push({ node: child, above: number });
    number += 1;
  }
  const own = { nodes, frame, depth, parent, end: endsOf(parent), cells: { ...cells, node: metOfCells.map((node) => numberOf[node]) } };
  return Object.assign(Object.create(profile), own);
}
