// @ts-check
// What the page tells tests and automation about itself, at `window.memtrace`.

import { keyOf } from "./paths.js";

/**
 * For tests and automation: read-only, everything by copies. Nodes are those of the present view.
 * @param {import("./page.js").Page} page
 */
export function surfaceOf(page) {
  const { stage, profile } = page;
  const describe = (/** @type {number} */ side, /** @type {number} */ node, /** @type {DOMRect} */ canvas) => {
    const { view, reading } = stage.sides[side];
    const frame = view.frame[node];
    const rect = stage.graphs[side].rectOf(node, canvas);
    return {
      node,
      side: reading.side,
      key: keyOf(view, reading, node),
      parent: view.parent[node],
      depth: view.depth[node],
      function: profile.functions[frame],
      location: profile.location(frame),
      kind: profile.kinds[frame],
      source: profile.sources[frame],
      bytes: view.bytes[node],
      baseBytes: view.base.bytes[node],
      count: view.count[node],
      selfBytes: view.selfBytes[node],
      rect: rect ? { x: rect.x, y: rect.y, width: rect.width, height: rect.height } : null,
    };
  };
  const boxes = () => stage.graphs.map((graph) => graph.canvas.getBoundingClientRect());
  return Object.freeze({
    get total() {
      const { bytes, count } = page.shown.total(page.state, page.state.tab);
      return { bytes, count };
    },
    get zoomed() {
      return describe(stage.active, stage.graph.zoomed, boxes()[stage.active]);
    },
    get focused() {
      return stage.graph.focused < 0 ? null : describe(stage.active, stage.graph.focused, boxes()[stage.active]);
    },
    get isMoving() {
      return stage.graphs.some((graph) => graph.motion !== null);
    },
    get state() {
      return structuredClone(page.state);
    },
    get buckets() {
      return profile.nBuckets;
    },
    get nodes() {
      const canvases = boxes();
      return stage.sides.flatMap(({ view }, side) => Array.from({ length: view.size }, (_, node) => describe(side, node, canvases[side])));
    },
  });
}
