// @ts-check
// The flame graph on its canvas: what is where, zooming, hovering, the keyboard's focus.
//
// The canvas is only as large as the window and slides along inside the scroller, because a stack of some thousand
// frames would need a taller bitmap than browsers give. It knows nothing of the rest of the page.

import { NARROWEST, Painter, ROW, rowsShown } from "./paint.js";

/** @typedef {import("./palette.js").Theme} Theme */
/** @typedef {import("./view.js").View} View */

const ZOOM_MILLIS = 220;

/**
 * @typedef {object} Listener
 * @property {(node: number) => void} onZoom the user asks to zoom to a node
 * @property {(node: number, rect: DOMRect | null) => void} onHover the pointer is on a node (-1: on none)
 * @property {(node: number, x: number, y: number) => void} onMenu the user asks what can be done with a node
 */

export class Graph {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} scroller
   * @param {HTMLElement} spacer gives the scroller its height
   * @param {Listener} listener
   */
  constructor(canvas, scroller, spacer, listener) {
    this.canvas = canvas;
    this.scroller = scroller;
    this.spacer = spacer;
    this.listener = listener;
    this.pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    /** @type {View | null} */
    this.view = null;
    /** @type {Theme | null} */
    this.theme = null;
    this.isIcicle = true;
    this.showsSource = false;
    this.zoomed = 0;
    this.hovered = -1;
    this.focused = -1;
    /** @type {Uint8Array | null} */
    this.matches = null;
    this.width = 0;
    this.height = 0;
    this.rows = 1;
    /** The range of the metric that the width of the canvas shows. */
    this.range = { from: 0, to: 1 };
    /** @type {{from: number, to: number, fromThen: number, toThen: number, since: number} | null} */
    this.motion = null;
    this.isDrawQueued = false;
    this.painter = new Painter(this.pen);
    /** @type {{x: number, y: number} | null} */
    this.pointer = null;

    new ResizeObserver(() => this.resize()).observe(scroller);
    this.watchPixelRatio();
    scroller.addEventListener("scroll", () => {
      this.hoverAtPointer();
      this.draw();
    });
    canvas.addEventListener("pointermove", (event) => {
      this.pointer = { x: event.offsetX, y: event.offsetY };
      this.hoverAtPointer();
    });
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.hover(-1);
    });
    canvas.addEventListener("click", (event) => {
      const node = this.nodeAt(event.offsetX, event.offsetY);
      if (node >= 0) this.listener.onZoom(node);
    });
    canvas.addEventListener("contextmenu", (event) => {
      const node = this.nodeAt(event.offsetX, event.offsetY);
      if (node <= 0) return;
      event.preventDefault();
      this.listener.onMenu(node, event.clientX, event.clientY);
    });
    // The observer reports only after the first frame.
    this.resize();
  }

  /**
   * Shows another tree; nodes named before mean nothing afterwards.
   * @param {View} view
   */
  setView(view) {
    this.view = view;
    this.zoomed = 0;
    this.hovered = -1;
    this.focused = -1;
    this.motion = null;
    this.range = { from: 0, to: view.weight[0] };
    this.measureRows();
    this.draw();
  }

  /** @param {Theme | null} theme */
  setTheme(theme) {
    this.theme = theme;
    this.draw();
  }

  /** @param {boolean} isIcicle the root on top and not at the bottom */
  setIcicle(isIcicle) {
    this.isIcicle = isIcicle;
    this.showRow(this.view ? this.view.depth[this.zoomed] : 0, true);
    this.draw();
  }

  /** @param {Uint8Array | null} matches one flag per frame */
  setMatches(matches) {
    this.matches = matches;
    this.draw();
  }

  /**
   * @param {number} node
   * @param {boolean} isSmooth
   */
  zoom(node, isSmooth) {
    const view = this.view;
    if (!view) return;
    this.zoomed = node;
    const from = view.left[node];
    const to = from + view.weight[node];
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (isSmooth && !still && to > from) {
      this.motion = { from, to, fromThen: this.range.from, toThen: this.range.to, since: performance.now() };
    } else {
      this.motion = null;
      this.range = { from, to };
    }
    this.measureRows();
    this.showRow(view.depth[node], false);
    this.draw();
  }

  /** @param {number} node */
  focus(node) {
    this.focused = node;
    if (this.view && node >= 0) this.showRow(this.view.depth[node], false);
    this.draw();
  }

  /**
   * Where a node is in the window; null when it is out of the zoomed range.
   * @param {number} node
   * @param {DOMRect} [canvas] where the canvas is, when that is known
   * @returns {DOMRect | null}
   */
  rectOf(node, canvas = this.canvas.getBoundingClientRect()) {
    const box = this.boxOf(node);
    if (!box) return null;
    return new DOMRect(canvas.left + box.x, canvas.top + box.y, box.width, ROW);
  }

  /**
   * @param {number} x
   * @param {number} y on the canvas
   * @returns {number} -1 where there is none
   */
  nodeAt(x, y) {
    const view = this.view;
    if (!view || this.width === 0) return -1;
    const row = Math.floor((this.isIcicle ? y + this.offset() : this.bottom() - y) / ROW);
    if (row < 0) return -1;
    const position = this.range.from + (x / this.width) * (this.range.to - this.range.from);
    const node = view.at(row, position);
    if (node < 0 || this.pixels(view.weight[node]) < NARROWEST) return -1;
    return node;
  }

  // How far the canvas looks down into the graph, in pixels from the graph's top.
  offset() {
    return this.scroller.scrollTop;
  }

  // Where the bottom edge of the root is on the canvas, when the root is at the bottom.
  bottom() {
    return Math.max(this.rows * ROW, this.height) - this.offset();
  }

  /** @param {number} depth */
  rowTop(depth) {
    return this.isIcicle ? depth * ROW - this.offset() : this.bottom() - (depth + 1) * ROW;
  }

  /** @param {number} weight */
  pixels(weight) {
    const whole = this.range.to - this.range.from;
    return whole > 0 ? (weight / whole) * this.width : 0;
  }

  /** @param {number} node */
  boxOf(node) {
    const view = this.view;
    if (!view || node < 0) return null;
    const x = this.pixels(view.left[node] - this.range.from);
    const wide = this.pixels(view.weight[node]);
    // What touches the edge from outside may seem to be inside by a rounding.
    if (x > this.width - 0.05 || x + wide < 0.05) return null;
    const left = Math.max(0, x);
    const right = Math.min(this.width, x + wide);
    return { x: left, y: this.rowTop(view.depth[node]), width: right - left };
  }

  // The depth of what the zoomed range will show decides how far one can scroll.
  measureRows() {
    const view = this.view;
    if (!view) return;
    const rows = rowsShown(view, this.zoomed, this.width);
    const before = this.rows;
    this.rows = rows;
    this.spacer.style.height = `${this.rows * ROW}px`;
    if (!this.isIcicle && this.rows !== before) this.showRow(view.depth[this.zoomed], true);
  }

  /**
   * Scrolls so that a row can be seen; with `isStart` as near to the root's edge as possible.
   * @param {number} depth
   * @param {boolean} isStart
   */
  showRow(depth, isStart) {
    const graph = Math.max(this.rows * ROW, this.height);
    const top = this.isIcicle ? depth * ROW : graph - (depth + 1) * ROW;
    const room = this.height - ROW;
    let scroll = this.scroller.scrollTop;
    if (isStart) scroll = this.isIcicle ? 0 : graph - this.height;
    // Two rows of the surroundings stay in sight.
    if (top < scroll + 2 * ROW) scroll = top - 2 * ROW;
    if (top > scroll + room - 2 * ROW) scroll = top - room + 2 * ROW;
    this.scroller.scrollTop = Math.max(0, Math.min(scroll, graph - this.height));
  }

  /** Takes the size of its place at once, after that has changed. */
  fit() {
    const { clientWidth, clientHeight } = this.scroller;
    if (clientWidth !== this.width || clientHeight !== this.height) this.resize();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = this.scroller.clientWidth;
    const height = this.scroller.clientHeight;
    const fromEnd = this.rows * ROW - this.scroller.scrollTop - this.height;
    this.width = width;
    this.height = height;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.pen.setTransform(this.canvas.width / Math.max(1, width), 0, 0, this.canvas.height / Math.max(1, height), 0, 0);
    this.painter.measure();
    this.measureRows();
    if (!this.isIcicle) this.scroller.scrollTop = this.rows * ROW - height - fromEnd;
    // At once and not with the next frame: a resized canvas is black until it is drawn.
    this.drawNow();
  }

  watchPixelRatio() {
    const query = matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`);
    query.addEventListener(
      "change",
      () => {
        this.resize();
        this.watchPixelRatio();
      },
      { once: true },
    );
  }

  hoverAtPointer() {
    this.hover(this.pointer ? this.nodeAt(this.pointer.x, this.pointer.y) : -1);
  }

  /** @param {number} node */
  hover(node) {
    if (node !== this.hovered) {
      this.hovered = node;
      this.canvas.style.cursor = node >= 0 ? "pointer" : "";
      this.draw();
    }
    this.listener.onHover(node, node >= 0 ? this.rectOf(node) : null);
  }

  draw() {
    if (this.isDrawQueued) return;
    this.isDrawQueued = true;
    requestAnimationFrame((now) => {
      this.isDrawQueued = false;
      this.move(now);
      this.drawNow();
    });
  }

  /** @param {number} now */
  move(now) {
    const motion = this.motion;
    if (!motion) return;
    const part = Math.min(1, Math.max(0, (now - motion.since) / ZOOM_MILLIS));
    const eased = 1 - (1 - part) ** 3;
    this.range = {
      from: motion.fromThen + (motion.from - motion.fromThen) * eased,
      to: motion.toThen + (motion.to - motion.toThen) * eased,
    };
    if (part === 1) {
      this.range = { from: motion.from, to: motion.to };
      this.motion = null;
    } else {
      this.draw();
    }
  }

  drawNow() {
    const { view, theme } = this;
    if (!view || !theme || this.width === 0) return;
    this.painter.paint({
      view,
      theme,
      width: this.width,
      height: this.height,
      from: this.range.from,
      to: this.range.to,
      rowTop: (depth) => this.rowTop(depth),
      zoomed: this.zoomed,
      matches: this.matches,
      showsSource: this.showsSource,
    });
    this.drawOutline(this.hovered, theme.hover, 1);
    this.drawOutline(this.focused, theme.ring, 2);
  }

  /**
   * @param {number} node
   * @param {string} colour
   * @param {number} line
   */
  drawOutline(node, colour, line) {
    const box = this.boxOf(node);
    if (!box || box.y + ROW <= 0 || box.y >= this.height) return;
    const { pen } = this;
    pen.globalAlpha = 1;
    pen.strokeStyle = colour;
    pen.lineWidth = line;
    const wide = Math.max(box.width - 1, 3);
    pen.strokeRect(box.x + line / 2, box.y + line / 2, wide - line, ROW - 1 - line);
  }
}
