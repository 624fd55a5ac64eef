// @ts-check
// The flame graph on its canvas: what is where, drawing, zooming, hovering, the keyboard's focus.
//
// The canvas is only as large as the window and slides along inside the scroller, because a stack of some thousand
// frames would need a taller bitmap than browsers give. It knows nothing of the rest of the page.

import { fitName, fitText, nameForms, baseName, humanBytes, humanCount } from "./format.js";
import { frameColours, Kind } from "./palette.js";

/** @typedef {import("./palette.js").Theme} Theme */
/** @typedef {import("./profile.js").View} View */

const ROW = 21;
/** Frames narrower than this are drawn together, as one grey strip. */
const NARROWEST = 0.7;
/** Frames narrower than this get no text. */
const NARROWEST_LABEL = 26;
const ZOOM_MILLIS = 220;
const FONT_SIZE = 12;
const FONT = `${FONT_SIZE}px ui-monospace, "SF Mono", SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace`;
const PAD = 6;

/**
 * @typedef {object} Listener
 * @property {(node: number) => void} onZoom the user asks to zoom to a node
 * @property {(node: number, rect: DOMRect | null) => void} onHover the pointer is on a node (-1: on none)
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
    /** @type {string[]} */
    this.colours = [];
    /** @type {(string[] | undefined)[]} */
    this.forms = [];
    /** @type {Map<string, number>} */
    this.widths = new Map();
    this.letter = 7;
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
    // The observer reports only after the first frame.
    this.resize();
  }

  /**
   * Shows another tree; nodes named before mean nothing afterwards.
   * @param {View} view
   */
  setView(view) {
    if (this.view?.profile !== view.profile) this.forms = [];
    this.view = view;
    this.zoomed = 0;
    this.hovered = -1;
    this.focused = -1;
    this.motion = null;
    this.range = { from: 0, to: view.weight[0] };
    this.setTheme(this.theme);
    this.measureRows();
  }

  /** @param {Theme | null} theme */
  setTheme(theme) {
    this.theme = theme;
    if (theme && this.view) {
      const profile = this.view.profile;
      this.colours = frameColours(theme, profile.kinds, (frame) => profile.functions[frame] + profile.paths[frame]);
    }
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
    const whole = view.weight[this.zoomed];
    const least = whole > 0 && this.width > 0 ? (NARROWEST / this.width) * whole : Infinity;
    let deepest = view.depth[this.zoomed];
    let node = this.zoomed;
    while (node < view.end[this.zoomed]) {
      if (view.weight[node] < least && node !== this.zoomed) {
        node = view.end[node];
      } else {
        deepest = Math.max(deepest, view.depth[node]);
        node += 1;
      }
    }
    const before = this.rows;
    this.rows = deepest + 1;
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
    this.pen.font = FONT;
    this.letter = this.pen.measureText("0".repeat(100)).width / 100;
    this.widths.clear();
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
    const { pen, view, theme } = this;
    if (!view || !theme) return;
    pen.globalAlpha = 1;
    pen.fillStyle = theme.background;
    pen.fillRect(0, 0, this.width, this.height);
    pen.font = FONT;
    pen.textBaseline = "middle";
    pen.textAlign = "left";

    const scale = this.range.to > this.range.from ? this.width / (this.range.to - this.range.from) : 0;
    // A strip of narrow siblings that is not drawn yet.
    const strip = { depth: -1, left: 0, right: 0 };
    const flush = () => {
      if (strip.depth < 0) return;
      pen.fillStyle = theme.tiny;
      pen.fillRect(strip.left, this.rowTop(strip.depth), Math.max(0.5, strip.right - strip.left), ROW - 1);
      strip.depth = -1;
    };
    let node = 0;
    while (node < view.size) {
      const top = this.rowTop(view.depth[node]);
      const x = (view.left[node] - this.range.from) * scale;
      const wide = view.weight[node] * scale;
      const isBeyond = this.isIcicle ? top >= this.height : top + ROW <= 0;
      if (isBeyond || x >= this.width || x + wide <= 0) {
        node = view.end[node];
        continue;
      }
      if (wide < NARROWEST) {
        if (strip.depth !== view.depth[node] || x - strip.right > NARROWEST) {
          flush();
          strip.depth = view.depth[node];
          strip.left = x;
        }
        strip.right = x + wide;
        node = view.end[node];
        continue;
      }
      if (top + ROW > 0 && top < this.height) this.drawFrame(node, x, top, wide);
      node += 1;
    }
    flush();
    this.drawOutline(this.hovered, theme.hover, 1);
    this.drawOutline(this.focused, theme.ring, 2);
  }

  /**
   * @param {number} node
   * @param {number} x
   * @param {number} top
   * @param {number} wide
   */
  drawFrame(node, x, top, wide) {
    const { pen } = this;
    const view = /** @type {View} */ (this.view);
    const theme = /** @type {Theme} */ (this.theme);
    const frame = view.frame[node];
    const isMatch = this.matches !== null && this.matches[frame] === 1;
    const isAbove = node < this.zoomed && view.isAncestor(node, this.zoomed);
    const strength = isMatch ? 1 : this.matches !== null ? theme.fade : isAbove ? theme.above : 1;
    const left = Math.max(0, x);
    const right = Math.min(this.width, x + wide);
    // A gap parts neighbours, but must not eat frames that are hardly wider than it.
    const gap = wide > 3 ? 1 : wide > 1.5 ? 0.5 : 0;

    pen.globalAlpha = strength;
    pen.fillStyle = isMatch ? theme.match : this.colours[frame];
    pen.fillRect(left, top, Math.max(0.5, right - left - gap), ROW - 1);
    if (view.profile.kinds[frame] === Kind.other && right - left > 4) this.hatch(left, top, right - left - gap);

    const room = right - left - gap - 2 * PAD;
    if (room < NARROWEST_LABEL - 2 * PAD) return;
    pen.globalAlpha = Math.max(0.6, strength);
    this.drawLabel(node, frame, left + PAD, top + ROW / 2, room, isMatch ? theme.matchText : theme.text, isMatch ? theme.matchText : theme.muted);
  }

  /**
   * @param {number} left
   * @param {number} top
   * @param {number} wide
   */
  hatch(left, top, wide) {
    const { pen } = this;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, wide, ROW - 1);
    pen.clip();
    pen.strokeStyle = /** @type {Theme} */ (this.theme).tiny;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let x = left - ROW; x < left + wide; x += 6) {
      pen.moveTo(x, top + ROW);
      pen.lineTo(x + ROW, top);
    }
    pen.stroke();
    pen.restore();
  }

  /**
   * Function, then place, then the running line or the size, as far as there is room.
   * @param {number} node
   * @param {number} frame
   * @param {number} x
   * @param {number} middle
   * @param {number} room
   * @param {string} colour
   * @param {string} muted
   */
  drawLabel(node, frame, x, middle, room, colour, muted) {
    const { pen } = this;
    const view = /** @type {View} */ (this.view);
    const profile = view.profile;
    const widthOf = (/** @type {string} */ text) => this.textWidth(text);
    const source = profile.sources[frame];
    const ratio = window.devicePixelRatio || 1;
    let at = Math.round(x * ratio) / ratio;
    const y = Math.round((middle + 0.5) * ratio) / ratio;
    let left = room;

    pen.fillStyle = colour;
    if (this.showsSource && source !== "") {
      const shown = fitText(source, left, widthOf);
      pen.fillText(shown, at, y);
      return;
    }
    const forms = (this.forms[frame] ??= nameForms(profile.functions[frame], profile.paths[frame]));
    const name = fitName(forms, left, widthOf);
    pen.fillText(name, at, y);
    const step = widthOf(name) + 2 * this.letter;
    at += step;
    left -= step;
    pen.fillStyle = muted;
    const isModule = profile.functions[frame] === "<module>";
    const details = [isModule ? `line ${profile.lines[frame]}` : profile.location(frame, baseName)];
    if (node === 0 || profile.kinds[frame] >= Kind.unknown) {
      details[0] = `${humanBytes(view.bytes[node])}, ${humanCount(view.count[node])} allocations`;
    } else if (source !== "") {
      details.push(source);
    }
    for (const [index, detail] of details.entries()) {
      if (detail === "" || left < 4 * this.letter) return;
      // A place is shown whole or not at all: half a file name tells nothing. Code may be cut.
      const isWhole = widthOf(detail) <= left;
      if (!isWhole && (index === 0 || left < 12 * this.letter)) return;
      pen.fillText(isWhole ? detail : fitText(detail, left, widthOf), at, y);
      const wide = widthOf(detail) + 2 * this.letter;
      at += wide;
      left -= wide;
    }
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

  /**
   * Plain ASCII of a fixed-width font needs no measuring, which is what makes thousands of labels cheap.
   * @param {string} text
   */
  textWidth(text) {
    if (/^[\x20-\x7e]*$/.test(text)) return text.length * this.letter;
    let width = this.widths.get(text);
    if (width === undefined) {
      width = this.pen.measureText(text).width;
      this.widths.set(text, width);
    }
    return width;
  }
}
