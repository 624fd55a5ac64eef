// @ts-check
// Trees of frames made from sums by stack: callees from the root, callers from the allocation, and the two sides of one
// function. What a tree looks like is the business of `view.js`.

import { OwnFrame } from "./profile.js";
import { outermostCalls, subtreeSums } from "./totals.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./range.js").Sums} Sums */

/**
 * Parents stand before their children. `origin` is a node of the profile whose stack leads here.
 * @typedef {object} Tree
 * @property {number[]} parent
 * @property {number[]} frame
 * @property {number[]} origin
 * @property {number[]} selfBytes
 * @property {number[]} selfCount
 * @property {number[]} baseBytes of its own, what was there before, where two recordings are compared
 * @property {number[]} baseCount
 */

/** A tree of callers may have more nodes than the profile; behind this many the smallest ends are folded. */
const MOST_CALLERS = 150_000;

/**
 * @param {number} frame of the root
 * @param {number} origin
 * @returns {Tree}
 */
function lonelyRoot(frame, origin) {
  return { parent: [-1], frame: [frame], origin: [origin], selfBytes: [0], selfCount: [0], baseBytes: [0], baseCount: [0] };
}

/**
 * @param {Tree} tree
 * @param {number} parent
 * @param {number} frame
 * @param {number} origin
 * @returns {number}
 */
function addNode(tree, parent, frame, origin) {
  tree.parent.push(parent);
  tree.frame.push(frame);
  tree.origin.push(origin);
  tree.selfBytes.push(0);
  tree.selfCount.push(0);
  tree.baseBytes.push(0);
  tree.baseCount.push(0);
  return tree.parent.length - 1;
}

/**
 * @param {Tree} tree
 * @param {number} at
 * @param {Sums} sums
 * @param {number} node of the sums
 */
function addSums(tree, at, { bytes, count, base }, node) {
  tree.selfBytes[at] += bytes[node];
  tree.selfCount[at] += count[node];
  if (!base) return;
  tree.baseBytes[at] += base.bytes[node];
  tree.baseCount[at] += base.count[node];
}

/**
 * All stacks from their root. Hidden frames give what they hold to their callers, and siblings that become equal are
 * one.
 * @param {Profile} profile
 * @param {Sums} own by node
 * @param {number} hidden roles of frames that are not shown
 * @returns {Tree}
 */
export function calleesOfAll(profile, own, hidden) {
  const tree = lonelyRoot(OwnFrame.root, 0);
  mergeBelow(profile, own, hidden, tree, 0, null);
  return tree;
}

/**
 * The same with a frame for each thread below the root.
 * @param {Profile} profile
 * @param {(thread: number) => Sums} ownOf by node
 * @param {number} hidden
 * @returns {Tree}
 */
export function calleesByThread(profile, ownOf, hidden) {
  const tree = lonelyRoot(OwnFrame.root, 0);
  profile.threadFrames.forEach((frame, thread) => {
    const own = ownOf(thread);
    if (!own.count.some((count) => count > 0)) return;
    mergeBelow(profile, own, hidden, tree, addNode(tree, 0, frame, 0), null);
  });
  return tree;
}

/**
 * What a function calls, its outermost calls taken together.
 * @param {Profile} profile
 * @param {Sums} own by node
 * @param {number} hidden
 * @param {number} root a frame of the function
 * @returns {Tree}
 */
export function calleesOf(profile, own, hidden, root) {
  const starts = outermostCalls(profile, root);
  const tree = lonelyRoot(root, starts.indexOf(1));
  mergeBelow(profile, own, hidden, tree, 0, starts);
  return tree;
}

/**
 * Who calls what allocates: each stack read from its end.
 * @param {Profile} profile
 * @param {Sums} own by node
 * @param {number} hidden
 * @param {"bytes" | "count"} metric
 * @returns {Tree}
 */
export function callersOfAll(profile, own, hidden, metric) {
  const starts = [];
  for (let node = 0; node < profile.nodes; node += 1) if (own.count[node] > 0 || own.bytes[node] > 0) starts.push(node);
  return mergeAbove(profile, own, hidden, metric, lonelyRoot(OwnFrame.root, 0), starts, (node) => node);
}

/**
 * Who calls a function.
 * @param {Profile} profile
 * @param {Sums} own by node
 * @param {number} hidden
 * @param {"bytes" | "count"} metric
 * @param {number} root a frame of the function
 * @returns {Tree}
 */
export function callersOf(profile, own, hidden, metric, root) {
  const below = subtreeSums(profile, own);
  const calls = outermostCalls(profile, root);
  const starts = [];
  for (let node = 0; node < profile.nodes; node += 1) if (calls[node] && below.count[node] > 0) starts.push(node);
  const tree = lonelyRoot(root, calls.indexOf(1));
  return mergeAbove(profile, below, hidden, metric, tree, starts, (node) => profile.parent[node]);
}

/**
 * @param {Profile} profile
 * @param {Sums} own by node
 * @param {number} hidden
 * @param {Tree} tree
 * @param {number} top the tree's node below which they go
 * @param {Uint8Array | null} starts which nodes of the profile are the top; null: its root
 */
function mergeBelow(profile, own, hidden, tree, top, starts) {
  const { parent, frame, roles, nodes, frames } = profile;
  const below = subtreeSums(profile, own);
  const target = new Int32Array(nodes).fill(-1);
  /** @type {Map<number, number>} */
  const known = new Map();
  for (let node = 0; node < nodes; node += 1) {
    if (below.count[node] === 0 && below.bytes[node] === 0) continue;
    const above = node === 0 ? -1 : target[parent[node]];
    const isTop = starts === null ? node === 0 : starts[node] === 1;
    if (isTop) {
      target[node] = top;
    } else if (above >= 0) {
      target[node] = (roles[frame[node]] & hidden) !== 0 ? above : childOf(tree, known, frames, above, frame[node], node);
    }
    if (target[node] < 0) continue;
    addSums(tree, target[node], own, node);
  }
}

/**
 * @param {Tree} tree
 * @param {Map<number, number>} known
 * @param {number} frames
 * @param {number} parent
 * @param {number} frame
 * @param {number} origin
 */
function childOf(tree, known, frames, parent, frame, origin) {
  const key = parent * frames + frame;
  let child = known.get(key);
  if (child === undefined) {
    child = addNode(tree, parent, frame, origin);
    known.set(key, child);
  }
  return child;
}

/**
 * Stacks from their ends, the largest first, until there are as many nodes as one can look at: the sum of all depths
 * can be a hundred times the number of stacks. What is left then is "other" below where it belongs.
 * @param {Profile} profile
 * @param {Sums} sums by node
 * @param {number} hidden
 * @param {"bytes" | "count"} metric
 * @param {Tree} tree
 * @param {number[]} starts
 * @param {(node: number) => number} firstOf the innermost node that becomes a frame
 * @returns {Tree}
 */
function mergeAbove(profile, sums, hidden, metric, tree, starts, firstOf) {
  const { parent, frame, roles } = profile;
  const weights = sums[metric];
  const isHidden = (/** @type {number} */ node) => node > 0 && (roles[frame[node]] & hidden) !== 0;
  const heap = new Largest();
  let weight = 0;
  for (const start of starts) weight += weights[start];
  // A group's stacks agree from their ends up to its node; `at` is where each of them goes on.
  heap.push({ node: 0, members: starts, at: starts.map(firstOf), weight });
  for (let group = heap.pop(); group; group = heap.pop()) {
    const isFull = tree.parent.length >= MOST_CALLERS;
    /** @type {Map<number, {node: number, members: number[], at: number[], weight: number}>} */
    const callers = new Map();
    group.members.forEach((member, index) => {
      let node = group.at[index];
      while (isHidden(node)) node = parent[node];
      if (node <= 0) {
        addSums(tree, group.node, sums, member);
        return;
      }
      const key = isFull ? OwnFrame.other : frame[node];
      let caller = callers.get(key);
      if (!caller) {
        caller = { node: addNode(tree, group.node, key, member), members: [], at: [], weight: 0 };
        callers.set(key, caller);
      }
      caller.members.push(member);
      caller.at.push(isFull ? 0 : parent[node]);
      caller.weight += weights[member];
    });
    for (const caller of callers.values()) heap.push(caller);
  }
  return tree;
}

/** A heap of groups, the heaviest on top. */
class Largest {
  constructor() {
    /** @type {{node: number, members: number[], at: number[], weight: number}[]} */
    this.groups = [];
  }

  /** @param {{node: number, members: number[], at: number[], weight: number}} group */
  push(group) {
    const { groups } = this;
    let at = groups.length;
    for (let above = (at - 1) >> 1; at > 0 && groups[above].weight < group.weight; above = (at - 1) >> 1) {
      groups[at] = groups[above];
      at = above;
    }
    groups[at] = group;
  }

  pop() {
    const { groups } = this;
    const top = groups[0];
    const last = groups.pop();
    if (!last || groups.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= groups.length) break;
      if (child + 1 < groups.length && groups[child + 1].weight > groups[child].weight) child += 1;
      if (groups[child].weight <= last.weight) break;
      groups[at] = groups[child];
      at = child;
    }
    groups[at] = last;
    return top;
  }
}
