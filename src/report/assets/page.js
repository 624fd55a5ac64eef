// @ts-check
// Ties the page together: reads the data, owns what the user chose, tells the graph and the texts about it.

import { counted, exact, humanBytes, nameForms, share } from "./format.js";
import { emptiness, factRows, foldedSentence, meaning, reportName, warnings } from "./facts.js";
import { Graph } from "./graph.js";
import { kindColour, LEGEND, THEMES } from "./palette.js";
import { Profile, View } from "./profile.js";
import { search } from "./search.js";

/** @typedef {import("./profile.js").Shape} Shape */

const THEME_KEY = "memtrace-theme";
const THEME_ICONS = {
  system: '<path d="M2 3.5h12v7.5H2zM6 14h4"/>',
  light: '<circle cx="8" cy="8" r="3"/><path d="M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1"/>',
  dark: '<path d="M13.5 9.5A6 6 0 0 1 6.5 2.5a6 6 0 1 0 7 7z"/>',
};

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element #${id}`);
  return element;
}

/** @param {string} id */
const inputById = (id) => /** @type {HTMLInputElement} */ (byId(id));
/** @param {string} id */
const buttonById = (id) => /** @type {HTMLButtonElement} */ (byId(id));
/** @param {string} id */
const dialogById = (id) => /** @type {HTMLDialogElement} */ (byId(id));

const profile = new Profile(JSON.parse(byId("data").textContent ?? ""));

/** @type {Shape} */
const shape = { imports: "machinery", runners: false, metric: "bytes" };
let view = new View(profile, shape);
/** The node of the profile that is zoomed to; 0 shows everything. */
let zoomed = 0;
let isPattern = false;
/** @type {{matches: Uint8Array, frames: number} | null} */
let found = null;
/** Matching nodes of the view, the largest first, and which one was visited last. */
let visits = { nodes: /** @type {number[]} */ ([]), at: -1 };

const tip = byId("tip");
let tipNode = -1;

const graph = new Graph(
  /** @type {HTMLCanvasElement} */ (byId("graph")),
  byId("scroller"),
  byId("spacer"),
  {
    onZoom: (node) => goTo(node),
    onHover: (node, rect) => (node >= 0 ? showTip(node, rect, graph.pointer?.x ?? 0) : hideTip()),
  },
);

// Zoom and the browser's history

/**
 * Zooms to a node of the view, as one step of the browser's history.
 * @param {number} node
 */
function goTo(node) {
  const origin = view.origin[node];
  if (origin === zoomed) return;
  const address = origin === 0 ? location.pathname + location.search : `#zoom=${origin}`;
  try {
    history.pushState(null, "", address);
  } catch {
    // Inside some frames a page may not write history; the zoom works all the same.
  }
  zoomTo(origin, true);
}

/**
 * @param {number} origin
 * @param {boolean} isSmooth
 */
function zoomTo(origin, isSmooth) {
  zoomed = view.origin[view.nodeOf[origin] ?? 0];
  graph.zoom(view.nodeOf[zoomed], isSmooth);
  buttonById("reset").disabled = zoomed === 0;
  tipNode = -1;
  hideTip();
  showMatched();
}

/** The node that the address names; the root when it names none. */
function zoomOfAddress() {
  const named = /^#zoom=(\d+)$/.exec(location.hash);
  const node = named ? Number(named[1]) : 0;
  return node < profile.nodes ? node : 0;
}

// What is shown

/** Builds the tree anew after frames were hidden or shown, or the metric changed. */
function rebuild() {
  const focused = graph.focused >= 0 ? view.origin[graph.focused] : -1;
  view = new View(profile, { ...shape });
  graph.setView(view);
  zoomTo(zoomed, false);
  if (focused >= 0) graph.focus(view.nodeOf[focused]);
  visits = { nodes: [], at: -1 };
  showTotals();
  showLegend();
}

function showTotals() {
  byId("report").textContent = reportName(profile);
  byId("size").textContent = humanBytes(view.bytes[0]);
  byId("size").title = `${exact(view.bytes[0])} bytes`;
  const leftOut =
    shape.imports === "none" ? `, without ${humanBytes(view.leftOut.bytes)} allocated by imports` : "";
  byId("allocations").textContent = `in ${counted(view.count[0], "allocation")}${leftOut}`;
}

function showLegend() {
  const kinds = view.byKind();
  const weights = shape.metric === "bytes" ? kinds.bytes : kinds.count;
  const legend = byId("legend");
  legend.replaceChildren();
  for (const { kind, label, title } of LEGEND) {
    if (!profile.kinds.includes(kind)) continue;
    const item = element("li", "", "");
    item.title = `${title}; the share is what frames of this kind allocated themselves`;
    const swatch = element("i", "", "");
    swatch.style.background = kindColour(theme(), kind);
    item.append(swatch, label, " ", element("b", "", share(weights[kind], view.weight[0])));
    legend.append(item);
  }
  byId("folded").textContent = profile.folded ? foldedSentence(profile) : "";
}

// The tooltip, and its words for those who cannot see it

/**
 * @param {number} node
 * @param {DOMRect | null} rect
 * @param {number} x where the pointer is on the canvas, or how far from its left the tooltip should begin
 */
function showTip(node, rect, x) {
  if (!rect) return hideTip();
  if (node !== tipNode) {
    tipNode = node;
    fillTip(node);
  }
  tip.hidden = false;
  const canvas = graph.canvas.getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, canvas.left + x - 24), window.innerWidth - size.width - 8);
  const below = rect.bottom + 8;
  const above = rect.top - 8 - size.height;
  const fitsBelow = below + size.height <= window.innerHeight - 8;
  const top = (graph.isIcicle ? fitsBelow || above < 8 : above < 8) ? below : above;
  const highest = Math.max(8, window.innerHeight - size.height - 8);
  tip.style.transform = `translate(${Math.round(Math.max(8, left))}px, ${Math.round(Math.min(Math.max(8, top), highest))}px)`;
}

function hideTip() {
  tip.hidden = true;
}

/** @param {number} node */
function fillTip(node) {
  const frame = view.frame[node];
  const rows = element("dl", "", "");
  const row = (/** @type {string} */ label, /** @type {string} */ main, /** @type {string} */ more) => {
    const value = element("dd", "", "");
    value.append(element("b", "", main), " ", element("span", "", more));
    rows.append(element("dt", "", label), value);
  };
  row("Memory", humanBytes(view.bytes[node]), `${exact(view.bytes[node])} bytes`);
  row("Allocations", exact(view.count[node]), "");
  const what = shape.metric === "bytes" ? "bytes" : "allocations";
  row("Share", share(view.weight[node], view.weight[0]), `of all ${what}`);
  const at = graph.zoomed;
  if (at > 0 && view.isAncestor(at, node) && at !== node) {
    row("", share(view.weight[node], view.weight[at]), `of ${clipped(shortName(view.frame[at]), 60)}`);
  }
  if (view.end[node] > node + 1 && view.selfCount[node] > 0) {
    row("Itself", humanBytes(view.selfBytes[node]), `in ${counted(view.selfCount[node], "allocation")}`);
  }
  const parts = [element("div", "name", clipped(profile.functions[frame], 600))];
  const place = profile.location(frame);
  if (place !== "") parts.push(element("div", "place", place));
  if (profile.sources[frame] !== "") parts.push(element("code", "", profile.sources[frame]));
  tip.replaceChildren(...parts, rows);
}

/** @param {number} node */
function speak(node) {
  const frame = view.frame[node];
  const place = profile.location(frame);
  const children = childCount(node);
  byId("spoken").textContent =
    `${profile.functions[frame]}${place === "" ? "" : `, ${place}`}: ${humanBytes(view.bytes[node])}, ` +
    `${counted(view.count[node], "allocation")}, ${share(view.weight[node], view.weight[0])} of all; ` +
    `level ${view.depth[node]}, ${children === 0 ? "no callees" : counted(children, "callee")}`;
}

/** @param {number} node */
function childCount(node) {
  let children = 0;
  for (let child = node + 1; child < view.end[node]; child = view.end[child]) children += 1;
  return children;
}

// Search

function runSearch() {
  const query = inputById("query").value;
  const result = search(profile, query, isPattern);
  const field = /** @type {HTMLElement} */ (byId("search").querySelector(".field"));
  const isWrong = result !== null && "error" in result;
  field.classList.toggle("is-wrong", isWrong);
  field.classList.toggle("has-query", query !== "");
  found = result === null || isWrong ? null : /** @type {{matches: Uint8Array, frames: number}} */ (result);
  visits = { nodes: [], at: -1 };
  graph.setMatches(found ? found.matches : null);
  if (result !== null && "error" in result) byId("matched").textContent = result.error;
  else showMatched();
}

function showMatched() {
  const output = byId("matched");
  if (!found) {
    if (inputById("query").value === "") output.textContent = "";
    return;
  }
  const all = view.matched(found.matches);
  if (all.nodes === 0) {
    output.textContent = "no match";
    return;
  }
  const weight = (/** @type {{bytes: number, count: number}} */ m) => (shape.metric === "bytes" ? m.bytes : m.count);
  const parts = [element("b", "", share(weight(all), view.weight[0])), ` matched, ${humanBytes(all.bytes)}`];
  if (graph.zoomed > 0) {
    const here = view.matched(found.matches, graph.zoomed);
    parts.push(`; ${share(weight(here), view.weight[graph.zoomed])} of the zoom`);
  }
  if (visits.at >= 0) parts.push(`; ${visits.at + 1} / ${visits.nodes.length}`);
  output.replaceChildren(...parts);
  output.title = `${exact(all.bytes)} bytes in ${counted(all.count, "allocation")}; each stack counts once, however many of its frames match`;
}

/**
 * Moves the focus to the next match, the largest first.
 * @param {number} step
 */
function visit(step) {
  if (!found) return;
  if (visits.nodes.length === 0) {
    const matches = found.matches;
    for (let node = 0; node < view.size; node += 1) if (matches[view.frame[node]]) visits.nodes.push(node);
    visits.nodes.sort((a, b) => view.weight[b] - view.weight[a] || a - b);
    if (visits.nodes.length === 0) return;
    if (step < 0) visits.at = 0;
  }
  visits.at = (visits.at + step + visits.nodes.length) % visits.nodes.length;
  const node = visits.nodes[visits.at];
  if (!view.isAncestor(graph.zoomed, node) && !view.isAncestor(node, graph.zoomed)) goTo(0);
  focus(node);
  showMatched();
}

// Keyboard

/** @param {number} node */
function focus(node) {
  graph.focus(node);
  speak(node);
  tipNode = -1;
  // After the scrolling that the focus may have caused, and after a zoom has ended.
  requestAnimationFrame(() => {
    const rect = graph.rectOf(node);
    showTip(node, rect, rect ? rect.left - graph.canvas.getBoundingClientRect().left + 24 : 0);
  });
}

/**
 * The node that an arrow leads to, or the same node at the edge of the graph.
 * @param {number} node
 * @param {"caller" | "callee" | "before" | "after"} way
 */
function neighbour(node, way) {
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

/** @param {KeyboardEvent} event */
function onGraphKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const node = graph.focused >= 0 ? graph.focused : graph.zoomed;
  const isFirst = graph.focused < 0;
  switch (event.key) {
    case "ArrowUp":
    case "ArrowDown": {
      const isToCallee = (event.key === "ArrowDown") === graph.isIcicle;
      focus(isFirst ? node : neighbour(node, isToCallee ? "callee" : "caller"));
      return true;
    }
    case "ArrowLeft":
    case "ArrowRight":
      focus(isFirst ? node : neighbour(node, event.key === "ArrowLeft" ? "before" : "after"));
      return true;
    case "Home":
      focus(0);
      return true;
    case "Enter":
    case " ":
      if (graph.focused < 0) return false;
      goTo(node);
      focus(node);
      return true;
    case "Backspace":
      if (graph.zoomed === 0) return false;
      goTo(view.parent[graph.zoomed]);
      return true;
  }
  return false;
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const isTyping = event.target === byId("query");
  const isInDialog = document.querySelector("dialog[open]") !== null;
  if (isInDialog) return;
  const isFind = (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "f";
  // A second Ctrl-F is the browser's own.
  if (isFind && !isTyping) {
    event.preventDefault();
    startSearch();
    return;
  }
  if (event.key === "Escape") return onEscape(isTyping);
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
  const isOnControl = event.target instanceof HTMLElement && event.target.closest("button, summary, .panel") !== null;
  if (isOnControl && [" ", "Enter"].includes(event.key)) return;
  if (onGraphKey(event)) {
    event.preventDefault();
    return;
  }
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

/** @type {Record<string, () => void>} */
const KEYS = {
  "/": () => startSearch(),
  "?": () => dialogById("help").showModal(),
  i: () => dialogById("facts").showModal(),
  b: () => setMetric(shape.metric === "bytes" ? "count" : "bytes"),
  f: () => setDirection(!graph.isIcicle),
  m: () => inputById("hide-imports").click(),
  s: () => inputById("show-source").click(),
  t: () => nextTheme(),
};

/** @param {boolean} isTyping */
function onEscape(isTyping) {
  const menu = /** @type {HTMLDetailsElement} */ (byId("frames"));
  if (menu.open) {
    menu.open = false;
  } else if (isTyping) {
    if (inputById("query").value === "") graph.canvas.focus();
    else clearSearch();
  } else if (zoomed !== 0) {
    goTo(0);
  } else if (found) {
    clearSearch();
  } else {
    graph.focus(-1);
    hideTip();
  }
}

function startSearch() {
  inputById("query").focus();
  inputById("query").select();
}

function clearSearch() {
  inputById("query").value = "";
  runSearch();
}

// Choices

/** @param {"bytes" | "count"} metric */
function setMetric(metric) {
  shape.metric = metric;
  press("metric", metric);
  rebuild();
}

/** @param {boolean} isIcicle */
function setDirection(isIcicle) {
  press("direction", isIcicle ? "icicle" : "flames");
  hideTip();
  graph.setIcicle(isIcicle);
}

/**
 * @param {string} id of a group of buttons
 * @param {string} value of the one that is on
 */
function press(id, value) {
  for (const button of byId(id).querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.value === value));
  }
}

function readShape() {
  const isHidden = inputById("hide-imports").checked;
  shape.imports = inputById("drop-imports").checked ? "none" : isHidden ? "machinery" : "all";
  shape.runners = !inputById("hide-runners").checked;
  inputById("hide-imports").disabled = inputById("drop-imports").checked;
  rebuild();
}

/** @returns {"system" | "light" | "dark"} */
function chosenTheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === "light" || chosen === "dark" ? chosen : "system";
}

function theme() {
  const chosen = chosenTheme();
  const isDark = chosen === "system" ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
  return isDark ? THEMES.dark : THEMES.light;
}

/** @param {string | null} choice */
function setTheme(choice) {
  if (choice === "light" || choice === "dark") document.documentElement.dataset.theme = choice;
  else delete document.documentElement.dataset.theme;
  const chosen = chosenTheme();
  const button = buttonById("theme");
  button.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true">${THEME_ICONS[chosen]}</svg>`;
  button.title = `Theme: ${chosen === "system" ? "the system's" : chosen} (t)`;
  button.setAttribute("aria-label", button.title);
  graph.setTheme(theme());
  showLegend();
}

function nextTheme() {
  const isSystemDark = matchMedia("(prefers-color-scheme: dark)").matches;
  // The first press always changes something.
  const order = isSystemDark ? ["system", "light", "dark"] : ["system", "dark", "light"];
  const next = order[(order.indexOf(chosenTheme()) + 1) % order.length];
  try {
    if (next === "system") localStorage.removeItem(THEME_KEY);
    else localStorage.setItem(THEME_KEY, next);
  } catch {
    // A page opened from a file may have no storage; the theme then lasts as long as the page.
  }
  setTheme(next);
}

function rememberedTheme() {
  try {
    return localStorage.getItem(THEME_KEY);
  } catch {
    return null;
  }
}

// Dialogs and notices

function fillFacts() {
  byId("meaning").textContent = `${reportName(profile)}: ${meaning(profile)}`;
  const list = byId("facts-list");
  for (const { label, lines, isCode } of factRows(profile)) {
    const value = element("dd", isCode ? "mono" : "", "");
    if (lines.length === 1) value.textContent = lines[0];
    else {
      const items = element("ul", "", "");
      items.append(...lines.map((line) => element("li", "", line)));
      value.append(items);
    }
    list.append(element("dt", "", label), value);
  }
}

function showWarnings() {
  const found = warnings(profile);
  if (found.length === 0) return;
  const notice = byId("notice");
  notice.hidden = false;
  notice.append(capitalised(found[0]), ". ");
  if (found.length > 1) {
    const more = element("button", "", `${counted(found.length - 1, "more notice")}`);
    more.addEventListener("click", () => dialogById("facts").showModal());
    notice.append(more);
  }
}

function showEmptiness() {
  const empty = emptiness(profile);
  if (!empty) return;
  const section = byId("empty");
  section.hidden = false;
  byId("scroller").hidden = true;
  section.append(element("h2", "", empty.heading), element("p", "", empty.text));
}

// Small helpers

/**
 * @param {string} tag
 * @param {string} name of the class
 * @param {string} text
 * @returns {HTMLElement}
 */
function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name !== "") made.className = name;
  if (text !== "") made.textContent = text;
  return made;
}

/**
 * A frame's name for use in a sentence: of a module's own code, the file.
 * @param {number} frame
 */
function shortName(frame) {
  return nameForms(profile.functions[frame], profile.paths[frame])[0];
}

/**
 * @param {string} text
 * @param {number} most
 */
function clipped(text, most) {
  return text.length <= most ? text : `${text.slice(0, most / 2)}…${text.slice(-most / 2)}`;
}

/** @param {string} text */
function capitalised(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// Start

byId("command").textContent = profile.facts.command;
byId("command").title = profile.facts.command;
byId("report").title = meaning(profile);
fillFacts();
showWarnings();
showEmptiness();
showTotals();
setTheme(rememberedTheme());
graph.setView(view);
zoomTo(zoomOfAddress(), false);

window.addEventListener("popstate", () => zoomTo(zoomOfAddress(), true));
window.addEventListener("hashchange", () => {
  if (zoomOfAddress() !== zoomed) zoomTo(zoomOfAddress(), true);
});
document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
  const menu = /** @type {HTMLDetailsElement} */ (byId("frames"));
  if (menu.open && event.target instanceof Node && !menu.contains(event.target)) menu.open = false;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(chosenTheme()));
byId("search").addEventListener("submit", (event) => event.preventDefault());
inputById("query").addEventListener("input", runSearch);
inputById("query").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  visit(event.shiftKey ? -1 : 1);
});
byId("pattern").addEventListener("click", () => {
  isPattern = !isPattern;
  byId("pattern").setAttribute("aria-pressed", String(isPattern));
  runSearch();
});
for (const button of byId("metric").querySelectorAll("button")) {
  button.addEventListener("click", () => setMetric(button.dataset.value === "count" ? "count" : "bytes"));
}
for (const button of byId("direction").querySelectorAll("button")) {
  button.addEventListener("click", () => setDirection(button.dataset.value === "icicle"));
}
for (const id of ["hide-imports", "hide-runners", "drop-imports"]) byId(id).addEventListener("change", readShape);
byId("show-source").addEventListener("change", () => {
  graph.showsSource = inputById("show-source").checked;
  graph.draw();
});
byId("reset").addEventListener("click", () => goTo(0));
byId("theme").addEventListener("click", nextTheme);
byId("facts-button").addEventListener("click", () => dialogById("facts").showModal());
byId("help-button").addEventListener("click", () => dialogById("help").showModal());
for (const dialog of document.querySelectorAll("dialog")) {
  // A click beside a dialog closes it.
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
graph.canvas.addEventListener("blur", hideTip);

/**
 * For tests and automation: read-only, everything by copies. Nodes are those of the present view.
 */
const surface = Object.freeze({
  get total() {
    return { bytes: view.bytes[0], count: view.count[0] };
  },
  get zoomed() {
    return describe(graph.zoomed);
  },
  get focused() {
    return graph.focused < 0 ? null : describe(graph.focused);
  },
  get isMoving() {
    return graph.motion !== null;
  },
  get nodes() {
    const canvas = graph.canvas.getBoundingClientRect();
    return Array.from({ length: view.size }, (_, node) => describe(node, canvas));
  },
});
Object.defineProperty(window, "memtrace", { value: surface });

/**
 * @param {number} node
 * @param {DOMRect} [canvas]
 */
function describe(node, canvas) {
  const frame = view.frame[node];
  const rect = graph.rectOf(node, canvas);
  return {
    node,
    id: view.origin[node],
    parent: view.parent[node],
    depth: view.depth[node],
    function: profile.functions[frame],
    location: profile.location(frame),
    kind: profile.kinds[frame],
    source: profile.sources[frame],
    bytes: view.bytes[node],
    count: view.count[node],
    selfBytes: view.selfBytes[node],
    rect: rect ? { x: rect.x, y: rect.y, width: rect.width, height: rect.height } : null,
  };
}
