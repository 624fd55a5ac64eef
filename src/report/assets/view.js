// @ts-check
// A tree laid out for drawing: in pre-order, the widest child first, so that a drawing skips a subtree by one
// assignment. Positions and widths are in the units of the metric: bytes or allocations.

import { Kind } from "./palette.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./tree.js").Tree} Tree */

export class View {
  /**
   * @param {Profile} profile
   * @param {Tree} tree
   * @param {"bytes" | "count"} metric
   */
  constructor(profile, tree, metric) {
    this.profile = profile;
    this.metric = metric;
    const sums = sumsOf(tree);
    const order = widestFirst(tree, sums[metric], profile);
    const size = order.length;
    this.size = size;
    this.parent = new Int32Array(size);
    this.depth = new Uint32Array(size);
    /** One past the last node of each subtree. */
    this.end = new Uint32Array(size);
    this.frame = new Uint32Array(size);
    this.bytes = new Float64Array(size);
    this.count = new Float64Array(size);
    this.selfBytes = new Float64Array(size);
    this.selfCount = new Float64Array(size);
    this.left = new Float64Array(size);
    /** A node of the profile whose stack leads to each node. */
    this.origin = new Uint32Array(size);
    /** What was there before, of both together; 0 where nothing is compared. */
    this.base = { bytes: new Float64Array(size), count: new Float64Array(size) };
    /** Width of each node in the metric. */
    this.weight = metric === "bytes" ? this.bytes : this.count;

    const place = new Int32Array(size);
    for (let at = 0; at < size; at += 1) place[order[at]] = at;
    const filled = new Float64Array(size);
    for (let at = 0; at < size; at += 1) {
      const from = order[at];
      const parent = at === 0 ? -1 : place[tree.parent[from]];
      this.parent[at] = parent;
      this.depth[at] = at === 0 ? 0 : this.depth[parent] + 1;
      this.frame[at] = tree.frame[from];
      this.bytes[at] = sums.bytes[from];
      this.count[at] = sums.count[from];
      this.base.bytes[at] = sums.baseBytes[from];
      this.base.count[at] = sums.baseCount[from];
      this.selfBytes[at] = tree.selfBytes[from];
      this.selfCount[at] = tree.selfCount[from];
      this.origin[at] = tree.origin[from];
      if (at > 0) {
        this.left[at] = this.left[parent] + filled[parent];
        filled[parent] += this.weight[at];
      }
    }
    for (let at = size - 1; at >= 0; at -= 1) {
      this.end[at] = Math.max(this.end[at], at + 1);
      if (at > 0) this.end[this.parent[at]] = Math.max(this.end[this.parent[at]], this.end[at]);
    }
  }

  /**
   * Whether a node is the other one or lies above it.
   * @param {number} node
   * @param {number} below
   */
  isAncestor(node, below) {
    return node <= below && below < this.end[node];
  }

  /**
   * The node at a depth and position, or -1.
   * @param {number} depth
   * @param {number} position in the metric's units
   */
  at(depth, position) {
    let node = 0;
    if (position < 0 || position >= this.weight[0]) return -1;
    for (let level = 0; level < depth; level += 1) {
      let child = node + 1;
      while (child < this.end[node] && position >= this.left[child] + this.weight[child]) child = this.end[child];
      if (child >= this.end[node]) return -1;
      node = child;
    }
    return node;
  }

  /**
   * The frames from the root to a node, the root's not among them.
   * @param {number} node
   * @returns {number[]}
   */
  path(node) {
    const frames = [];
    for (let at = node; at > 0; at = this.parent[at]) frames.push(this.frame[at]);
    return frames.reverse();
  }

  /**
   * The node at the end of a path, or the last one on the way to it.
   * @param {number[]} frames
   * @returns {number}
   */
  follow(frames) {
    let node = 0;
    for (const frame of frames) {
      let child = node + 1;
      while (child < this.end[node] && this.frame[child] !== frame) child = this.end[child];
      if (child >= this.end[node]) return node;
      node = child;
    }
    return node;
  }

  /**
   * The share of what was matched, each stack counted once however many of its frames match.
   * @param {Uint8Array} matches one flag per frame of the profile
   * @param {number} [below] only stacks through this node
   */
  matched(matches, below = 0) {
    const found = { bytes: 0, count: 0, nodes: 0 };
    for (let node = below; node >= 0; node = this.parent[node]) {
      if (matches[this.frame[node]]) {
        found.bytes = this.bytes[below];
        found.count = this.count[below];
      }
    }
    const whole = found.bytes > 0 || found.count > 0;
    let covered = below;
    for (let node = below; node < this.end[below]; node += 1) {
      if (!matches[this.frame[node]]) continue;
      found.nodes += 1;
      if (whole || node < covered) continue;
      found.bytes += this.bytes[node];
      found.count += this.count[node];
      covered = this.end[node];
    }
    return found;
  }

  /**
   * The metric by the kind of the frame that allocated, or that a hidden one stands in for.
   * @param {boolean} isInverted whether stacks begin with those frames
   */
  byKind(isInverted) {
    const kinds = new Float64Array(Object.keys(Kind).length);
    const self = this.metric === "bytes" ? this.selfBytes : this.selfCount;
    for (let node = 0; node < this.size; node += 1) {
      const value = !isInverted ? self[node] : this.depth[node] === 1 ? this.weight[node] : 0;
      kinds[this.profile.kinds[this.frame[node]]] += value;
    }
    return kinds;
  }
}

/** @param {Tree} tree */
function sumsOf({ parent, selfBytes, selfCount, baseBytes, baseCount }) {
  const below = (/** @type {number[]} */ own) => {
    const sums = Float64Array.from(own);
    for (let node = parent.length - 1; node > 0; node -= 1) sums[parent[node]] += sums[node];
    return sums;
  };
  return { bytes: below(selfBytes), count: below(selfCount), baseBytes: below(baseBytes), baseCount: below(baseCount) };
}

/**
 * The nodes in pre-order, the widest child first and what was folded last.
 * @param {Tree} tree
 * @param {Float64Array} weight
 * @param {Profile} profile
 * @returns {Uint32Array}
 */
function widestFirst({ parent, frame }, weight, profile) {
  const size = parent.length;
  // The children of a node are a run in one array.
  const start = new Uint32Array(size + 1);
  for (let node = 1; node < size; node += 1) start[parent[node] + 1] += 1;
  for (let node = 0; node < size; node += 1) start[node + 1] += start[node];
  const next = start.slice();
  const children = new Uint32Array(Math.max(0, size - 1));
  for (let node = 1; node < size; node += 1) children[next[parent[node]]++] = node;

  const isLast = (/** @type {number} */ node) => Number(profile.kinds[frame[node]] === Kind.other);
  const order = new Uint32Array(size);
  const pending = [0];
  for (let at = 0; at < size; at += 1) {
    const node = /** @type {number} */ (pending.pop());
    order[at] = node;
    const below = children.subarray(start[node], start[node + 1]);
    // Backwards, because the last one pushed is the next one taken.
    if (below.length > 1) below.sort((a, b) => isLast(b) - isLast(a) || weight[a] - weight[b] || b - a);
    for (const child of below) pending.push(child);
  }
  return order;
}
