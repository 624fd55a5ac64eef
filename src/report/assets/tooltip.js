// @ts-check
// What the page says about one frame: in the tooltip, and in words for those who cannot see it.

import { changeText, pairOf } from "./compare.js";
import { byId, clipped, element } from "./dom.js";
import { counted, exact, humanBytes, nameForms, share } from "./format.js";
import { Kind } from "./palette.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./shown.js").Side} Side */
/** @typedef {import("./graph.js").Graph} Graph */

export class Tooltip {
  constructor() {
    this.box = byId("tip");
    /** @type {unknown} */
    this.view = null;
    this.node = -1;
  }

  /**
   * @param {Side} side
   * @param {Graph} graph
   * @param {number} node
   * @param {DOMRect | null} rect of the frame in the window
   * @param {number} x where the pointer is in the window, or where the tooltip should begin
   */
  show(side, graph, node, rect, x) {
    if (!rect) return this.hide();
    if (node !== this.node || side.view !== this.view) {
      this.node = node;
      this.view = side.view;
      this.box.replaceChildren(...tipParts(side, node, graph.zoomed));
    }
    this.box.hidden = false;
    const size = this.box.getBoundingClientRect();
    const left = Math.min(Math.max(8, x - 24), window.innerWidth - size.width - 8);
    const below = rect.bottom + 8;
    const above = rect.top - 8 - size.height;
    const fitsBelow = below + size.height <= window.innerHeight - 8;
    const top = (graph.isIcicle ? fitsBelow || above < 8 : above < 8) ? below : above;
    const lowest = Math.max(8, window.innerHeight - size.height - 8);
    const y = Math.round(Math.min(Math.max(8, top), lowest));
    this.box.style.transform = `translate(${Math.round(Math.max(8, left))}px, ${y}px)`;
  }

  hide() {
    this.box.hidden = true;
    this.node = -1;
  }
}

/**
 * @param {Side} side
 * @param {number} node
 * @param {number} zoomed
 * @returns {HTMLElement[]}
 */
function tipParts({ view, reading }, node, zoomed) {
  const { profile } = view;
  const frame = view.frame[node];
  const rows = element("dl");
  const row = (/** @type {string} */ label, /** @type {string} */ main, /** @type {string} */ more) => {
    rows.append(element("dt", "", label), element("dd", "", [element("b", "", main), " ", element("span", "", more)]));
  };
  if (profile.isComparison) {
    const [bytes, count] = [pairOf(view, node, "bytes"), pairOf(view, node, "count")];
    row("Change", changeText(bytes, "bytes"), "");
    row("Before", humanBytes(bytes.before), `in ${counted(count.before, "allocation")}`);
    row("After", humanBytes(bytes.after), `in ${counted(count.after, "allocation")}`);
  } else {
    row("Memory", humanBytes(view.bytes[node]), `${exact(view.bytes[node])} bytes`);
    row("Allocations", exact(view.count[node]), "");
    const what = view.metric === "bytes" ? "bytes" : "allocations";
    row("Share", share(view.weight[node], view.weight[0]), `of all ${what}`);
  }
  if (zoomed > 0 && view.isAncestor(zoomed, node) && zoomed !== node) {
    row("", share(view.weight[node], view.weight[zoomed]), `of ${clipped(shortName(profile, view.frame[zoomed]), 60)}`);
  }
  if (reading.side === "callees" && view.end[node] > node + 1 && view.selfCount[node] > 0) {
    row("Itself", humanBytes(view.selfBytes[node]), `in ${counted(view.selfCount[node], "allocation")}`);
  }
  const parts = [element("div", "name", clipped(profile.functions[frame], 600))];
  const place = profile.location(frame);
  if (place !== "") parts.push(element("div", "place", place));
  if (profile.sources[frame] !== "") parts.push(element("code", "", profile.sources[frame]));
  return [...parts, rows];
}

/**
 * @param {Side} side
 * @param {number} node
 * @returns {string}
 */
export function spokenFrame({ view, reading }, node) {
  const { profile } = view;
  const frame = view.frame[node];
  const place = profile.location(frame);
  let children = 0;
  for (let child = node + 1; child < view.end[node]; child = view.end[child]) children += 1;
  const next = reading.side === "callers" ? "caller" : "callee";
  const pair = pairOf(view, node, "bytes");
  const amount = profile.isComparison
    ? `${humanBytes(pair.before)} before, ${humanBytes(pair.after)} after; `
    : `${humanBytes(view.bytes[node])}, ${counted(view.count[node], "allocation")}, ${share(view.weight[node], view.weight[0])} of all; `;
  return (
    `${profile.functions[frame]}${place === "" ? "" : `, ${place}`}: ${amount}` +
    `level ${view.depth[node]}, ${children === 0 ? `no ${next}s` : counted(children, next)}`
  );
}

/**
 * A frame's name for use in a sentence: of a module's own code, the file.
 * @param {Profile} profile
 * @param {number} frame
 */
export function shortName(profile, frame) {
  return nameForms(profile.functions[frame], profile.paths[frame], profile.kinds[frame] === Kind.native)[0];
}
