// @ts-check
// What is shown, as files and in the clipboard: pictures of the graph, numbers for other programs.

import { Painter, ROW, rowsShown } from "./paint.js";
import { SvgPen } from "./svg.js";

/** @typedef {import("./view.js").View} View */
/** @typedef {import("./palette.js").Theme} Theme */
/** @typedef {import("./graph.js").Graph} Graph */

/** Taller bitmaps are more than browsers make. */
const TALLEST_BITMAP = 16_000;

/**
 * The picture of these graphs one below the other, from the first row to the last, at the width they have.
 * @param {Graph[]} graphs
 * @param {Theme} theme
 * @param {(width: number, height: number) => import("./paint.js").Pen} penFor
 * @param {number} tallest
 * @returns {{width: number, height: number, isCut: boolean}}
 */
function paintAll(graphs, theme, penFor, tallest) {
  const rows = graphs.map((graph) => (graph.view ? rowsShown(graph.view, graph.zoomed, graph.width) : 0));
  const width = Math.max(...graphs.map((graph) => graph.width));
  const whole = rows.reduce((sum, n) => sum + n * ROW, 0);
  const height = Math.min(tallest, whole);
  const painter = new Painter(penFor(width, height));
  let top = 0;
  graphs.forEach((graph, index) => {
    const { view } = graph;
    if (!view) return;
    const tall = rows[index] * ROW;
    const from = top;
    painter.paint({
      view,
      theme,
      width,
      top,
      height: Math.min(height, top + tall),
      from: view.left[graph.zoomed],
      to: view.left[graph.zoomed] + view.weight[graph.zoomed],
      rowTop: (depth) => from + (graph.isIcicle ? depth * ROW : tall - (depth + 1) * ROW),
      zoomed: graph.zoomed,
      matches: graph.matches,
      showsSource: graph.showsSource,
    });
    top += tall;
  });
  return { width, height, isCut: height < whole };
}

/**
 * @param {Graph[]} graphs
 * @param {Theme} theme
 * @param {string} title
 * @returns {string}
 */
export function svgOf(graphs, theme, title) {
  const pen = new SvgPen();
  const { width, height } = paintAll(graphs, theme, () => pen, Infinity);
  return pen.document(width, height, title);
}

/**
 * @param {Graph[]} graphs
 * @param {Theme} theme
 * @returns {Promise<{image: Blob, isCut: boolean}>}
 */
export async function pngOf(graphs, theme) {
  const canvas = document.createElement("canvas");
  const penFor = (/** @type {number} */ width, /** @type {number} */ height) => {
    const ratio = Math.max(1, Math.min(2, TALLEST_BITMAP / Math.max(1, height)));
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.scale(ratio, ratio);
    return pen;
  };
  const { isCut } = paintAll(graphs, theme, penFor, TALLEST_BITMAP);
  return new Promise((resolve, reject) => {
    canvas.toBlob((image) => (image ? resolve({ image, isCut }) : reject(new Error("the picture is too large"))));
  });
}

/**
 * The part of a view that is zoomed to, a row for each frame.
 * @param {View} view
 * @param {number} zoomed
 * @returns {(string | number)[][]}
 */
export function viewRows(view, zoomed) {
  const { profile } = view;
  /** @type {(string | number)[][]} */
  const rows = [["level", "function", "file", "line", "bytes", "allocations", "own_bytes", "own_allocations"]];
  if (profile.isComparison) rows[0].push("bytes_before", "allocations_before");
  for (let node = zoomed; node < view.end[zoomed]; node += 1) {
    const frame = view.frame[node];
    const place = [profile.functions[frame], profile.paths[frame], profile.lines[frame] || ""];
    const row = [view.depth[node], ...place, view.bytes[node], view.count[node], view.selfBytes[node], view.selfCount[node]];
    if (profile.isComparison) row.push(view.base.bytes[node], view.base.count[node]);
    rows.push(row);
  }
  return rows;
}

/**
 * @param {(string | number)[][]} rows
 * @returns {string}
 */
export function csvOf(rows) {
  const cell = (/** @type {string | number} */ value) => {
    if (typeof value === "number") return String(value);
    // A spreadsheet would take such a name for a formula and run it.
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

/**
 * Gives the user a file.
 * @param {string} name
 * @param {Blob | string} content
 * @param {string} type
 */
export function download(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * Copies text, also where the page was opened from a file and the clipboard is refused.
 * @param {string} text
 * @returns {Promise<boolean>} whether it could
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
