// @ts-check
// All that the user chose, and its form in the address: a link shows the same view. Only what differs from the page's
// opening stands there.

import { DIMENSIONS, everything } from "./filters.js";

/** @typedef {import("./decode.js").Tab} Tab */
/** @typedef {import("./profile.js").Profile} Profile */

/**
 * @typedef {object} State
 * @property {Tab} tab
 * @property {number} from first bucket of the range
 * @property {number} to last bucket of the range
 * @property {"graph" | "table"} show
 * @property {boolean} isInverted
 * @property {number} about a frame of the function whose callers and callees are shown, or -1
 * @property {"bytes" | "count"} metric
 * @property {boolean} isIcicle
 * @property {"machinery" | "all" | "none"} imports which import frames are shown: all but importlib's, all, none and nothing below
 * @property {boolean} runners
 * @property {boolean} native whether native frames are shown
 * @property {boolean} isSplit by thread
 * @property {boolean} showsSource
 * @property {import("./filters.js").Chosen} chosen
 * @property {boolean} isThrough
 * @property {string} query
 * @property {boolean} isPattern
 * @property {string} zoom a key of `paths.js`
 * @property {boolean} hasDetails
 * @property {"lines" | "explained" | "hidden"} chart
 * @property {"sites" | "functions"} rows of the table
 * @property {string} sort column of the table, with "-" where it ascends
 * @property {number} page of the table
 */

/**
 * How the page opens.
 * @param {Profile} profile
 * @returns {State}
 */
export function opening({ header, nBuckets }) {
  const { open } = header;
  const last = Math.max(0, nBuckets - 1);
  const [begin, end] = open.range ?? [0, Infinity];
  const bucketOf = (/** @type {number} */ nanos) => Math.floor((nanos - header.start_nanos) / header.bucket_nanos);
  const from = Math.min(last, Math.max(0, open.range ? bucketOf(begin) : 0));
  return {
    tab: open.tab,
    from,
    to: Math.max(from, Math.min(last, open.range ? bucketOf(end) : last)),
    show: open.table ? "table" : "graph",
    isInverted: open.inverted,
    about: -1,
    metric: "bytes",
    isIcicle: true,
    imports: "machinery",
    runners: false,
    native: true,
    isSplit: open.split_threads,
    showsSource: false,
    chosen: everything(),
    isThrough: false,
    query: "",
    isPattern: false,
    zoom: "",
    hasDetails: false,
    chart: open.temporal ? "explained" : "lines",
    rows: "sites",
    sort: "bytes",
    page: 0,
  };
}

/** What stands in the address under which name, except ranges and filters. */
const NAMES = /** @type {[keyof State, string][]} */ ([
  ["tab", "tab"],
  ["show", "show"],
  ["isInverted", "inverted"],
  ["about", "about"],
  ["metric", "metric"],
  ["isIcicle", "icicle"],
  ["imports", "imports"],
  ["runners", "runners"],
  ["native", "native"],
  ["isSplit", "threads"],
  ["showsSource", "source"],
  ["isThrough", "through"],
  ["query", "search"],
  ["isPattern", "pattern"],
  ["zoom", "zoom"],
  ["hasDetails", "details"],
  ["chart", "chart"],
  ["rows", "rows"],
  ["sort", "sort"],
  ["page", "page"],
]);

/** @type {Partial<Record<keyof State, string[]>>} */
const WORDS = {
  show: ["graph", "table"],
  metric: ["bytes", "count"],
  imports: ["machinery", "all", "none"],
  chart: ["lines", "explained", "hidden"],
  rows: ["sites", "functions"],
};

/**
 * The part of the address behind `#`; empty for the page as it opens.
 * @param {Profile} profile
 * @param {State} state
 * @returns {string}
 */
export function toFragment(profile, state) {
  const base = opening(profile);
  const parts = new URLSearchParams();
  for (const [key, name] of NAMES) if (state[key] !== base[key]) parts.set(name, String(state[key]));
  if (state.from !== base.from || state.to !== base.to) parts.set("range", `${state.from}-${state.to}`);
  for (const { id } of DIMENSIONS) {
    const values = state.chosen[id];
    if (values === null) continue;
    // Modules by name, which a person can read and change.
    const words = values.map((value) => (id === "module" ? profile.modules[value].key : String(value)));
    parts.set(`only-${id}`, words.map((word) => word.replace(/[%,]/g, encodeURIComponent)).join(","));
  }
  return parts.toString();
}

/**
 * What an address asks for; whatever it gets wrong is as the page opens.
 * @param {Profile} profile
 * @param {string} fragment
 * @returns {State}
 */
export function fromFragment(profile, fragment) {
  const state = opening(profile);
  const parts = new URLSearchParams(fragment.replace(/^#/, ""));
  for (const [key, name] of NAMES) {
    const text = parts.get(name);
    if (text !== null) readValue(profile, state, key, text);
  }
  // The table has no columns for before and after.
  if (profile.isComparison) state.show = "graph";
  const range = /^(\d+)-(\d+)$/.exec(parts.get("range") ?? "");
  if (range && !profile.header.is_aggregated && Number(range[1]) <= Number(range[2]) && Number(range[2]) < profile.nBuckets) {
    state.from = Number(range[1]);
    state.to = Number(range[2]);
  }
  for (const { id } of DIMENSIONS) {
    const text = parts.get(`only-${id}`);
    if (text === null) continue;
    const words = text === "" ? [] : text.split(",").map(unescaped);
    const values = words.map((word) =>
      id === "module" ? profile.modules.findIndex(({ key }) => key === word) : Number(word),
    );
    state.chosen[id] = values.filter((value) => Number.isInteger(value) && value >= 0);
  }
  return state;
}

/**
 * @param {Profile} profile
 * @param {State} state
 * @param {keyof State} key
 * @param {string} text
 */
function readValue(profile, state, key, text) {
  const fields = /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (state));
  switch (typeof state[key]) {
    case "boolean":
      fields[key] = text === "true";
      break;
    case "number": {
      const most = key === "about" ? profile.frames - 1 : Infinity;
      if (/^\d+$/.test(text) && Number(text) <= most) fields[key] = Number(text);
      break;
    }
    default: {
      const words = key === "tab" ? profile.header.tabs : WORDS[key];
      if (!words || words.some((word) => word === text)) fields[key] = text;
    }
  }
}

/** @param {string} word */
function unescaped(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}
