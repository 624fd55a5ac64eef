// @ts-check
// The tree of the report as columns, and the views of it that the page draws.
//
// The data comes in pre-order, one column per property. A view is the same tree after frames were hidden and equal
// siblings merged, again in pre-order, the widest child first, so that a drawing skips a subtree by one assignment.

import { Kind } from "./palette.js";

/** Roles of frames, as bits; the numbers are those of the data. */
export const Role = { importing: 1, runner: 2 };

/**
 * @typedef {object} Facts
 * @property {string} command
 * @property {string[]} argv
 * @property {string} cwd
 * @property {number | null} pid
 * @property {{version: string, allocator: string, stacks: boolean}[]} pythons
 * @property {number | null} start_unix_millis
 * @property {number | null} duration_nanos
 * @property {string | null} end
 * @property {number} events
 * @property {number | null} peak_bytes
 * @property {number | null} peak_rss_bytes
 * @property {boolean} python_allocators
 * @property {string} recorded_by
 * @property {string} made_by
 * @property {number} lost
 * @property {string[]} notices
 * @property {number} changed_files
 */

/**
 * @typedef {object} Data
 * @property {{kind: "peak" | "leaks" | "temporary", threshold?: number}} report
 * @property {Facts} facts
 * @property {string[]} strings
 * @property {{path: number[], kind: number[], role: number[]}} files
 * @property {{function: number[], file: number[], line: number[], source: number[]}} frames
 * @property {{depth: number[], frame: number[], bytes: number[], count: number[]}} nodes
 * @property {{nodes: number, bytes: number, share: number} | null} folded
 */

/** @typedef {{imports: "all" | "machinery" | "none", runners: boolean, metric: "bytes" | "count"}} Shape */

export class Profile {
  /** @param {Data} data */
  constructor(data) {
    this.report = data.report;
    this.facts = data.facts;
    this.folded = data.folded;
    const { strings, files, frames, nodes } = data;

    /** How many frames the table has. */
    this.frames = frames.function.length;
    /** @type {string[]} */
    this.functions = frames.function.map((id) => strings[id]);
    /** @type {string[]} */
    this.paths = frames.file.map((file) => strings[files.path[file]]);
    this.lines = frames.line;
    /** @type {string[]} the running line's text, empty where it is not known or withheld */
    this.sources = frames.source.map((id) => strings[id]);
    this.kinds = Uint8Array.from(frames.file, (file) => files.kind[file]);
    this.roles = Uint8Array.from(frames.file, (file) => files.role[file]);

    /** How many nodes the tree has; node 0 is the root. */
    this.nodes = nodes.depth.length;
    this.frame = Uint32Array.from(nodes.frame);
    this.parent = parentsOf(nodes.depth);
    this.bytes = Float64Array.from(nodes.bytes);
    this.count = Float64Array.from(nodes.count);
    this.selfBytes = withoutChildren(this.bytes, this.parent);
    this.selfCount = withoutChildren(this.count, this.parent);
  }

  /**
   * `file:line` of a frame, empty for a frame that is in no file.
   * @param {number} frame
   * @param {(path: string) => string} [shorten]
   * @returns {string}
   */
  location(frame, shorten) {
    const path = this.paths[frame];
    if (path === "") return "";
    const shown = shorten ? shorten(path) : path;
    return this.lines[frame] > 0 ? `${shown}:${this.lines[frame]}` : shown;
  }

  /** Whether any stack has a Python frame. */
  get hasPython() {
    return this.kinds.some((kind) => kind < Kind.unknown);
  }
}

/** A tree ready to be drawn. Positions and widths are in the units of the metric: bytes or allocations. */
export class View {
  /**
   * @param {Profile} profile
   * @param {Shape} shape
   */
  constructor(profile, shape) {
    this.profile = profile;
    this.shape = shape;
    const merged = mergeNodes(profile, shape);
    const weight = shape.metric === "bytes" ? merged.bytes : merged.count;
    const order = widestFirst(merged.parent, weight, (node) => profile.kinds[merged.frame[node]] === Kind.other);

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
    /** The node of the profile by which each node is known outside of this view. */
    this.origin = new Uint32Array(size);

    const place = new Int32Array(size);
    for (let at = 0; at < size; at += 1) place[order[at]] = at;
    const filled = new Float64Array(size);
    for (let at = 0; at < size; at += 1) {
      const from = order[at];
      const parent = at === 0 ? -1 : place[merged.parent[from]];
      this.parent[at] = parent;
      this.depth[at] = at === 0 ? 0 : this.depth[parent] + 1;
      this.frame[at] = merged.frame[from];
      this.bytes[at] = merged.bytes[from];
      this.count[at] = merged.count[from];
      this.selfBytes[at] = merged.selfBytes[from];
      this.selfCount[at] = merged.selfCount[from];
      this.origin[at] = merged.origin[from];
      if (at > 0) {
        this.left[at] = this.left[parent] + filled[parent];
        filled[parent] += weight[from];
      }
    }
    for (let at = size - 1; at >= 0; at -= 1) {
      this.end[at] = Math.max(this.end[at], at + 1);
      if (at > 0) this.end[this.parent[at]] = Math.max(this.end[this.parent[at]], this.end[at]);
    }
    /** Width of each node in the metric. */
    this.weight = shape.metric === "bytes" ? this.bytes : this.count;
    /** @type {Int32Array} the view's node for each node of the profile; a hidden one is its nearest shown ancestor */
    this.nodeOf = merged.target.map((node) => (node < 0 ? 0 : place[node]));
    /** What a shape without imports leaves out. */
    this.leftOut = {
      bytes: (profile.bytes[0] ?? 0) - this.bytes[0],
      count: (profile.count[0] ?? 0) - this.count[0],
    };
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

  /** Bytes and allocations by the kind of the frame that made them. */
  byKind() {
    const kinds = { bytes: new Float64Array(6), count: new Float64Array(6) };
    for (let node = 0; node < this.size; node += 1) {
      const kind = this.profile.kinds[this.frame[node]];
      kinds.bytes[kind] += this.selfBytes[node];
      kinds.count[kind] += this.selfCount[node];
    }
    return kinds;
  }
}

/**
 * @param {number[]} depths in pre-order
 * @returns {Int32Array}
 */
function parentsOf(depths) {
  const parents = new Int32Array(depths.length);
  /** @type {number[]} */
  const path = [];
  for (let node = 0; node < depths.length; node += 1) {
    parents[node] = depths[node] === 0 ? -1 : path[depths[node] - 1];
    path[depths[node]] = node;
  }
  return parents;
}

/**
 * @param {Float64Array} total
 * @param {Int32Array} parent
 * @returns {Float64Array}
 */
function withoutChildren(total, parent) {
  const self = total.slice();
  for (let node = 1; node < total.length; node += 1) self[parent[node]] -= total[node];
  return self;
}

/**
 * Hides frames and merges the siblings that become equal. Nodes come out with parents before children.
 * @param {Profile} profile
 * @param {Shape} shape
 */
function mergeNodes(profile, shape) {
  const hidden =
    (shape.imports === "all" ? 0 : Role.importing) | (shape.runners ? 0 : Role.runner);
  const target = new Int32Array(profile.nodes);
  /** @type {Map<number, number>} */
  const known = new Map();
  /** @type {number[]} */
  const parent = [-1];
  const origin = [0];
  for (let node = 1; node < profile.nodes; node += 1) {
    const above = target[profile.parent[node]];
    const frame = profile.frame[node];
    const role = profile.roles[frame];
    if (above < 0) {
      target[node] = -1;
    } else if (role & hidden) {
      target[node] = shape.imports === "none" && role & Role.importing ? -1 : above;
    } else {
      const key = above * profile.frames + frame;
      let found = known.get(key);
      if (found === undefined) {
        found = parent.length;
        parent.push(above);
        origin.push(node);
        known.set(key, found);
      }
      target[node] = found;
    }
  }
  const size = parent.length;
  const selfBytes = new Float64Array(size);
  const selfCount = new Float64Array(size);
  for (let node = 0; node < profile.nodes; node += 1) {
    if (target[node] < 0) continue;
    selfBytes[target[node]] += profile.selfBytes[node];
    selfCount[target[node]] += profile.selfCount[node];
  }
  const bytes = selfBytes.slice();
  const count = selfCount.slice();
  for (let node = size - 1; node > 0; node -= 1) {
    bytes[parent[node]] += bytes[node];
    count[parent[node]] += count[node];
  }
  return { target, parent, origin, frame: origin.map((node) => profile.frame[node]), selfBytes, selfCount, bytes, count };
}

/**
 * The nodes in pre-order, the widest child first and what was folded last.
 * @param {number[]} parent parents before children
 * @param {Float64Array} weight
 * @param {(node: number) => boolean} isLast
 * @returns {Uint32Array}
 */
function widestFirst(parent, weight, isLast) {
  const size = parent.length;
  /** @type {number[][]} */
  const children = Array.from({ length: size }, () => []);
  for (let node = 1; node < size; node += 1) children[parent[node]].push(node);
  const order = new Uint32Array(size);
  const pending = [0];
  for (let at = 0; at < size; at += 1) {
    const node = /** @type {number} */ (pending.pop());
    order[at] = node;
    const below = children[node];
    // Backwards, because the last one pushed is the next one taken.
    below.sort((a, b) => Number(isLast(b)) - Number(isLast(a)) || weight[a] - weight[b] || b - a);
    for (const child of below) pending.push(child);
  }
  return order;
}
