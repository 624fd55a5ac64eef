// @ts-check
// Draws a view with a pen: that of a canvas, or one that writes SVG. It keeps no state of the page.

import { balance, balanceColour, changeText, pairOf } from "./compare.js";
import { baseName, fitName, fitText, humanBytes, humanCount, nameForms } from "./format.js";
import { frameColours, Kind } from "./palette.js";

/** @typedef {import("./palette.js").Theme} Theme */
/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./view.js").View} View */
/** @typedef {import("./svg.js").SvgPen} SvgPen */
/** @typedef {CanvasRenderingContext2D | SvgPen} Pen */

/** The height of a frame with the gap below it. */
export const ROW = 21;
/** Frames narrower than this are drawn together, as one grey strip. */
export const NARROWEST = 0.7;
/** Frames narrower than this get no text. */
const NARROWEST_LABEL = 26;
const FONT_SIZE = 12;
const FONT = `${FONT_SIZE}px ui-monospace, "SF Mono", SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace`;
const PAD = 6;

/**
 * What is drawn where.
 * @typedef {object} Scene
 * @property {View} view
 * @property {Theme} theme
 * @property {number} width
 * @property {number} height
 * @property {number} [top] where the picture begins, above which something else is drawn
 * @property {number} from the range of the metric that the width shows
 * @property {number} to
 * @property {(depth: number) => number} rowTop
 * @property {number} zoomed
 * @property {Uint8Array | null} matches
 * @property {boolean} showsSource
 */

export class Painter {
  /** @param {Pen} pen */
  constructor(pen) {
    this.pen = pen;
    /** @type {Profile | null} */
    this.profile = null;
    /** @type {Theme | null} */
    this.theme = null;
    /** @type {string[]} */
    this.colours = [];
    /** @type {(string[] | undefined)[]} */
    this.forms = [];
    /** @type {Map<string, number>} */
    this.widths = new Map();
    this.letter = 7;
    this.measure();
  }

  /** Measures the font anew, after the size of a pixel changed. */
  measure() {
    this.pen.font = FONT;
    this.letter = this.pen.measureText("0".repeat(100)).width / 100;
    this.widths.clear();
  }

  /** @param {Scene} scene */
  paint(scene) {
    const { pen } = this;
    const { view, theme, width, height } = scene;
    this.prepare(view.profile, theme);
    pen.globalAlpha = 1;
    pen.fillStyle = theme.background;
    pen.fillRect(0, scene.top ?? 0, width, height - (scene.top ?? 0));
    pen.font = FONT;
    pen.textBaseline = "middle";
    pen.textAlign = "left";

    const scale = scene.to > scene.from ? width / (scene.to - scene.from) : 0;
    const isDownwards = scene.rowTop(1) > scene.rowTop(0);
    // A strip of narrow siblings that is not drawn yet.
    const strip = { depth: -1, left: 0, right: 0 };
    const flush = () => {
      if (strip.depth < 0) return;
      pen.fillStyle = theme.tiny;
      pen.fillRect(strip.left, scene.rowTop(strip.depth), Math.max(0.5, strip.right - strip.left), ROW - 1);
      strip.depth = -1;
    };
    let node = 0;
    while (node < view.size) {
      const top = scene.rowTop(view.depth[node]);
      const x = (view.left[node] - scene.from) * scale;
      const wide = view.weight[node] * scale;
      const isBeyond = isDownwards ? top >= height : top + ROW <= 0;
      if (isBeyond || x >= width || x + wide <= 0) {
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
      if (top + ROW > 0 && top < height) this.paintFrame(scene, node, x, top, wide);
      node += 1;
    }
    flush();
    pen.globalAlpha = 1;
  }

  /**
   * @param {Profile} profile
   * @param {Theme} theme
   */
  prepare(profile, theme) {
    if (profile === this.profile && theme === this.theme) return;
    if (profile !== this.profile) this.forms = [];
    this.profile = profile;
    this.theme = theme;
    this.colours = frameColours(theme, profile.kinds, (frame) => profile.functions[frame] + profile.paths[frame]);
  }

  /**
   * @param {Scene} scene
   * @param {number} node
   * @param {number} x
   * @param {number} top
   * @param {number} wide
   */
  paintFrame(scene, node, x, top, wide) {
    const { pen } = this;
    const { view, theme, matches, zoomed } = scene;
    const frame = view.frame[node];
    const isMatch = matches !== null && matches[frame] === 1;
    const isAbove = node < zoomed && view.isAncestor(node, zoomed);
    const strength = isMatch ? 1 : matches !== null ? theme.fade : isAbove ? theme.above : 1;
    const left = Math.max(0, x);
    const right = Math.min(scene.width, x + wide);
    // A gap parts neighbours, but must not eat frames that are hardly wider than it.
    const gap = wide > 3 ? 1 : wide > 1.5 ? 0.5 : 0;

    pen.globalAlpha = strength;
    pen.fillStyle = isMatch ? theme.match : this.colourOf(scene, node);
    pen.fillRect(left, top, Math.max(0.5, right - left - gap), ROW - 1);
    if (view.profile.kinds[frame] === Kind.other && right - left > 4) this.hatch(theme, left, top, right - left - gap);

    const room = right - left - gap - 2 * PAD;
    if (room < NARROWEST_LABEL - 2 * PAD) return;
    pen.globalAlpha = Math.max(0.6, strength);
    this.paintLabel(scene, node, left + PAD, top + ROW / 2, room, isMatch ? theme.matchText : theme.text, isMatch ? theme.matchText : theme.muted);
  }

  /**
   * @param {Scene} scene
   * @param {number} node
   */
  colourOf({ view, theme }, node) {
    return view.profile.isComparison ? balanceColour(theme, balance(view, node)) : this.colours[view.frame[node]];
  }

  /**
   * @param {Theme} theme
   * @param {number} left
   * @param {number} top
   * @param {number} wide
   */
  hatch(theme, left, top, wide) {
    const { pen } = this;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, wide, ROW - 1);
    pen.clip();
    pen.strokeStyle = theme.tiny;
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
   * @param {Scene} scene
   * @param {number} node
   * @param {number} x
   * @param {number} middle
   * @param {number} room
   * @param {string} colour
   * @param {string} muted
   */
  paintLabel({ view, showsSource }, node, x, middle, room, colour, muted) {
    const { pen } = this;
    const { profile } = view;
    const frame = view.frame[node];
    const widthOf = (/** @type {string} */ text) => this.textWidth(text);
    const source = profile.sources[frame];
    const ratio = window.devicePixelRatio || 1;
    let at = Math.round(x * ratio) / ratio;
    const y = Math.round((middle + 0.5) * ratio) / ratio;
    let left = room;

    pen.fillStyle = colour;
    if (showsSource && source !== "") {
      pen.fillText(fitText(source, left, widthOf), at, y);
      return;
    }
    const forms = (this.forms[frame] ??= nameForms(profile.functions[frame], profile.paths[frame], profile.kinds[frame] === Kind.native));
    const name = fitName(forms, left, widthOf);
    pen.fillText(name, at, y);
    const step = widthOf(name) + 2 * this.letter;
    at += step;
    left -= step;
    pen.fillStyle = muted;
    const isModule = profile.functions[frame] === "<module>";
    const details = [isModule && profile.lines[frame] > 0 ? `line ${profile.lines[frame]}` : profile.location(frame, baseName)];
    if (profile.isComparison) {
      details.unshift(changeText(pairOf(view, node), view.metric));
    } else if (node === 0 || (profile.kinds[frame] >= Kind.unknown && profile.kinds[frame] !== Kind.native)) {
      details[0] = `${humanBytes(view.bytes[node])}, ${humanCount(view.count[node])} allocation${view.count[node] === 1 ? "" : "s"}`;
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

/**
 * How many rows a zoomed view shows: one more than the depth of its deepest frame that is wide enough to be drawn.
 * @param {View} view
 * @param {number} zoomed
 * @param {number} width
 */
export function rowsShown(view, zoomed, width) {
  const whole = view.weight[zoomed];
  const least = whole > 0 && width > 0 ? (NARROWEST / width) * whole : Infinity;
  let deepest = view.depth[zoomed];
  let node = zoomed;
  while (node < view.end[zoomed]) {
    if (view.weight[node] < least && node !== zoomed) {
      node = view.end[node];
    } else {
      deepest = Math.max(deepest, view.depth[node]);
      node += 1;
    }
  }
  return deepest + 1;
}
