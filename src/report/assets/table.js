// @ts-check
// The table of the report: the places that allocate, or functions with all they call. It shows the same sums as the
// graph, and is how those read it who cannot see one.

import { button, byId, element } from "./dom.js";
import { exact, humanBytes, share } from "./format.js";
import { subtreeSums, sumsIn, sumsThrough } from "./totals.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./range.js").Sums} Sums */
/** @typedef {import("./state.js").State} State */
/** @typedef {{frame: number, thread: number, allocator: number, bytes: number, count: number, ownBytes: number, ownCount: number}} Row */
/** @typedef {{id: string, title: string, isNumber: boolean, text: (row: Row) => string, hint?: (row: Row) => string, order: (a: Row, b: Row) => number}} Column ascending order */

const ROWS_PER_PAGE = 100;

/**
 * A row for each place, allocator and, where asked for, thread.
 * @param {Profile} profile
 * @param {Sums} cells
 * @param {Uint8Array} out which cells the filters leave out
 * @param {boolean} isSplit
 * @returns {Row[]}
 */
export function siteRows(profile, cells, out, isSplit) {
  const { node, thread, allocator, size } = profile.cells;
  const nAllocators = Math.max(1, profile.header.allocators.length);
  const nThreads = profile.threads.length + 1;
  /** @type {Map<number, Row>} */
  const rows = new Map();
  for (let cell = 0; cell < size; cell += 1) {
    if (out[cell] !== 0 || (cells.count[cell] === 0 && cells.bytes[cell] === 0)) continue;
    const frame = profile.frame[node[cell]];
    const who = isSplit ? thread[cell] : -1;
    const key = (frame * nAllocators + allocator[cell]) * nThreads + who + 1;
    let row = rows.get(key);
    if (!row) {
      row = { frame, thread: who, allocator: allocator[cell], bytes: 0, count: 0, ownBytes: 0, ownCount: 0 };
      rows.set(key, row);
    }
    row.bytes += cells.bytes[cell];
    row.count += cells.count[cell];
  }
  return Array.from(rows.values());
}

/**
 * A row for each function: all that passes through it, and what it allocated itself.
 * @param {Profile} profile
 * @param {Sums} own by node
 * @returns {Row[]}
 */
export function functionRows(profile, own) {
  const { functionOf } = profile;
  const nKeys = functionOf.length;
  const all = sumsThrough(profile, subtreeSums(profile, own), functionOf, nKeys);
  const self = sumsIn(profile, own, functionOf, nKeys);
  const rows = [];
  // The root is no function.
  for (let frame = 1; frame < nKeys; frame += 1) {
    if (all.count[frame] === 0 && all.bytes[frame] === 0) continue;
    const row = { frame, thread: -1, allocator: -1, bytes: all.bytes[frame], count: all.count[frame] };
    rows.push({ ...row, ownBytes: self.bytes[frame], ownCount: self.count[frame] });
  }
  return rows;
}

/**
 * The columns for what the rows are.
 * @param {Profile} profile
 * @param {State} state
 * @returns {Column[]}
 */
export function columnsOf(profile, { rows, isSplit }) {
  const name = (/** @type {Row} */ { frame }) => profile.functions[frame];
  const place = (/** @type {Row} */ { frame }) => profile.location(frame);
  const words = (/** @type {(row: Row) => string} */ of) => (/** @type {Row} */ a, /** @type {Row} */ b) => (of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : 0);
  /** @type {(id: keyof Row, title: string, isBytes: boolean) => Column} */
  const number = (id, title, isBytes) => ({
    id,
    title,
    isNumber: true,
    text: (row) => (isBytes ? humanBytes(row[id]) : exact(row[id])),
    hint: (row) => (isBytes ? `${exact(row[id])} bytes` : ""),
    order: (a, b) => a[id] - b[id],
  });
  /** @type {(id: string, title: string, of: (row: Row) => string) => Column} */
  const text = (id, title, of) => ({ id, title, isNumber: false, text: of, order: words(of) });
  const file = (/** @type {Row} */ { frame }) => profile.paths[frame];
  if (rows === "functions") {
    return [
      number("bytes", "Total", true),
      number("ownBytes", "Own", true),
      number("count", "Allocations", false),
      number("ownCount", "Own allocations", false),
      text("function", "Function", name),
      text("file", "File", file),
    ];
  }
  const thread = text("thread", "Thread", (row) => profile.threads[row.thread]?.label ?? "");
  return [
    ...(isSplit ? [thread] : []),
    number("bytes", "Size", true),
    number("count", "Allocations", false),
    text("allocator", "Allocator", (row) => profile.header.allocators[row.allocator] ?? ""),
    text("function", "Function", name),
    text("place", "Location", place),
  ];
}

/**
 * The rows that the search leaves, in the order asked for: numbers fall and words rise, with "-" the opposite.
 * @param {Row[]} rows
 * @param {Column[]} columns
 * @param {string} sort
 * @param {Uint8Array | null} matches one flag per frame
 * @returns {Row[]}
 */
export function sortedRows(rows, columns, sort, matches) {
  const wanted = sort.replace("-", "");
  const column = columns.find(({ id }) => id === wanted) ?? columns.find(({ id }) => id === "bytes") ?? columns[0];
  const direction = (column.isNumber ? -1 : 1) * (sort.startsWith("-") ? -1 : 1);
  const kept = matches ? rows.filter(({ frame }) => matches[frame] === 1) : rows.slice();
  return kept.sort((a, b) => direction * column.order(a, b) || b.bytes - a.bytes || a.frame - b.frame || a.allocator - b.allocator || a.thread - b.thread);
}

/**
 * Fills the table of the page.
 * @param {Profile} profile
 * @param {State} state
 * @param {Row[]} rows in their order
 * @param {number} whole the sum that shares are of
 * @param {{onSort: (sort: string) => void, onPage: (page: number) => void, onFunction: (frame: number) => void}} listener
 */
export function fillTable(profile, state, rows, whole, listener) {
  const columns = columnsOf(profile, state);
  const nPages = Math.max(1, Math.ceil(rows.length / ROWS_PER_PAGE));
  const page = Math.min(state.page, nPages - 1);
  const head = element("tr");
  for (const column of columns) head.append(headerCell(column, state.sort, listener.onSort));
  const body = element("tbody");
  for (const row of rows.slice(page * ROWS_PER_PAGE, (page + 1) * ROWS_PER_PAGE)) {
    const line = element("tr");
    for (const column of columns) {
      const cell = element("td", column.isNumber ? "number" : "");
      const text = column.text(row);
      if (column.id === "function") {
        const link = button(text, () => listener.onFunction(row.frame), "link");
        link.title = "Callers and callees";
        cell.append(link);
      } else if (column.id === state.metric && whole > 0) {
        const part = element("span", "part", share(row[state.metric], whole));
        cell.append(text, " ", part);
      } else {
        cell.append(text);
      }
      cell.title = column.hint?.(row) ?? text;
      line.append(cell);
    }
    body.append(line);
  }
  byId("rows").replaceChildren(element("thead", "", [head]), body);
  fillPager(rows.length, page, nPages, listener.onPage);
}

/**
 * @param {Column} column
 * @param {string} sort
 * @param {(sort: string) => void} onSort
 */
function headerCell({ id, title, isNumber }, sort, onSort) {
  const cell = element("th", isNumber ? "number" : "");
  const isSorted = sort.replace("-", "") === id;
  const isReverse = sort.startsWith("-");
  const isAscending = isNumber === isReverse;
  cell.setAttribute("scope", "col");
  cell.setAttribute("aria-sort", isSorted ? (isAscending ? "ascending" : "descending") : "none");
  cell.append(button(title, () => onSort(isSorted && !isReverse ? `-${id}` : id)));
  return cell;
}

/**
 * @param {number} nRows
 * @param {number} page
 * @param {number} nPages
 * @param {(page: number) => void} onPage
 */
function fillPager(nRows, page, nPages, onPage) {
  const first = page * ROWS_PER_PAGE;
  const shown = nRows === 0 ? "no rows" : `${exact(first + 1)}–${exact(Math.min(nRows, first + ROWS_PER_PAGE))} of ${exact(nRows)}`;
  const [back, forth] = [button("Previous", () => onPage(page - 1)), button("Next", () => onPage(page + 1))];
  back.disabled = page === 0;
  forth.disabled = page >= nPages - 1;
  byId("pager").replaceChildren(element("span", "", shown), back, forth);
}
