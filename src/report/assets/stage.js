// @ts-check
// The place where graphs stand: one of all stacks, or two of a function, callers above and callees below. It knows which
// of them the keyboard works on, and moves the focus through them.

import { byId } from "./dom.js";
import { Graph } from "./graph.js";
import { ROW } from "./paint.js";
import { spokenFrame, Tooltip } from "./tooltip.js";

/** @typedef {import("./shown.js").Side} Side */
/** @typedef {import("./palette.js").Theme} Theme */

/** The height of a heading above a graph. */
const HEADING = 26;

/**
 * @typedef {object} StageListener
 * @property {(side: number, node: number) => void} onZoom
 * @property {(side: number, node: number, x: number, y: number) => void} onMenu
 * @property {() => void} onFocus another frame has the focus
 */

export class Stage {
  /** @param {StageListener} listener */
  constructor(listener) {
    this.listener = listener;
    this.tip = new Tooltip();
    /** @type {Side[]} */
    this.sides = [];
    /** Which side the keyboard works on. */
    this.active = 0;
    this.upper = this.graphIn("above", 0);
    this.lower = this.graphIn("below", 1);
  }

  /**
   * @param {string} id
   * @param {number} place 0 above, 1 below
   */
  graphIn(id, place) {
    const section = byId(id);
    const canvas = /** @type {HTMLCanvasElement} */ (section.querySelector("canvas"));
    const scroller = /** @type {HTMLElement} */ (section.querySelector(".scroller"));
    const spacer = /** @type {HTMLElement} */ (section.querySelector(".spacer"));
    const sideOf = () => (this.sides.length === 2 ? place : 0);
    /** @type {Graph} */
    const graph = new Graph(canvas, scroller, spacer, {
      onZoom: (node) => {
        this.active = sideOf();
        graph.focused = -1;
        this.listener.onZoom(sideOf(), node);
      },
      onHover: (node, rect) => {
        const side = this.sides[sideOf()];
        if (node < 0 || !side) return this.tip.hide();
        this.tip.show(side, graph, node, rect, canvas.getBoundingClientRect().left + (graph.pointer?.x ?? 0));
      },
      onMenu: (node, x, y) => {
        this.active = sideOf();
        this.listener.onMenu(sideOf(), node, x, y);
      },
    });
    canvas.addEventListener("focus", () => (this.active = sideOf()));
    canvas.addEventListener("blur", () => this.tip.hide());
    return graph;
  }

  /** @returns {Graph[]} one for each side */
  get graphs() {
    return this.sides.length === 2 ? [this.upper, this.lower] : [this.lower];
  }

  get graph() {
    return this.graphs[this.active] ?? this.lower;
  }

  get side() {
    return this.sides[this.active] ?? this.sides[0];
  }

  /** The frame that details and copies are about. */
  get selected() {
    return this.graph.focused >= 0 ? this.graph.focused : this.graph.zoomed;
  }

  /**
   * @param {Side[]} sides
   * @param {{theme: Theme, isIcicle: boolean, showsSource: boolean, matches: Uint8Array | null}} look
   * @param {{side: number, node: number}} zoom
   * @param {boolean} isSmooth
   */
  show(sides, { theme, isIcicle, showsSource, matches }, zoom, isSmooth) {
    const isNew = sides !== this.sides;
    const kept = isNew ? this.focusedPath() : null;
    this.sides = sides;
    const title = /** @type {HTMLElement} */ (byId("below").querySelector("h2"));
    title.hidden = sides.length < 2;
    if (zoom.node > 0) this.active = zoom.side;
    else if (isNew) this.active = kept && kept.side < sides.length ? kept.side : zoom.side;
    this.graphs.forEach((graph, index) => {
      graph.showsSource = showsSource;
      graph.matches = matches;
      if (isNew) graph.setView(sides[index].view);
      // Callers stand on their function, and callees hang from it.
      const hangs = sides.length === 2 ? index === 1 : isIcicle;
      if (graph.isIcicle !== hangs) graph.setIcicle(hangs);
      const node = index === zoom.side ? zoom.node : 0;
      if (isNew || graph.zoomed !== node) graph.zoom(node, isSmooth && !isNew);
      graph.setTheme(theme);
    });
    // The callers take the room that they need, the callees what is left.
    if (sides.length === 2) byId("above").style.flexBasis = `${this.upper.rows * ROW + HEADING}px`;
    for (const graph of this.graphs) graph.fit();
    if (kept && kept.side < sides.length) {
      const { view } = sides[kept.side];
      const node = view.follow(kept.frames);
      if (view.path(node).length === kept.frames.length) this.graphs[kept.side].focused = node;
    }
    this.tip.hide();
  }

  focusedPath() {
    const { focused, view } = this.graph;
    return focused >= 0 && view ? { side: this.active, frames: view.path(focused) } : null;
  }

  /**
   * @param {number} node
   * @param {boolean} [hasTip]
   */
  focus(node, hasTip = true) {
    const { graph, side } = this;
    graph.focus(node);
    byId("spoken").textContent = spokenFrame(side, node);
    this.listener.onFocus();
    if (!hasTip) return this.tip.hide();
    // After the scrolling that the focus may have caused, and after a zoom has ended.
    requestAnimationFrame(() => {
      const rect = graph.rectOf(node);
      if (graph.focused === node && side === this.side) this.tip.show(side, graph, node, rect, rect ? rect.left + 24 : 0);
    });
  }

  blur() {
    this.graph.focus(-1);
    this.tip.hide();
    this.listener.onFocus();
  }

  /** @param {"caller" | "callee" | "before" | "after"} way towards the root, away from it, or sideways */
  move(way) {
    const { graph } = this;
    if (graph.focused < 0) return this.focus(graph.zoomed);
    this.focus(neighbour(this.side.view, graph.focused, way));
  }
}

/**
 * The node that an arrow leads to, or the same node at the edge of the graph.
 * @param {import("./view.js").View} view
 * @param {number} node
 * @param {"caller" | "callee" | "before" | "after"} way
 */
function neighbour(view, node, way) {
  switch (way) {
    case "caller":
      return Math.max(0, view.parent[node]);
    case "callee":
      return node + 1 < view.end[node] ? node + 1 : node;
    case "after": {
      for (let next = view.end[node]; next < view.size; next += 1) if (view.depth[next] === view.depth[node]) return next;
      return node;
    }
    case "before": {
      for (let next = node - 1; next >= 0; next -= 1) if (view.depth[next] === view.depth[node]) return next;
      return node;
    }
  }
}
