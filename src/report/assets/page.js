// @ts-check
// Ties the page together: owns what the user chose, and shows it. Every change goes through `change`, which writes the
// address; going back reads it.

import { actionsOf, startControls, startSearch } from "./controls.js";
import { balanceColour, changeText } from "./compare.js";
import { decode, inflate } from "./decode.js";
import { fillDetails } from "./details.js";
import { button, byId, buttonById, capitalised, clipped, dialogById, element, inputById, menuById, press } from "./dom.js";
import { copyText, csvOf, download, pngOf, svgOf, viewRows } from "./export.js";
import { emptiness, factRows, limitsText, meaning, TAB_NAMES, warnings } from "./facts.js";
import { everything } from "./filters.js";
import { counted, exact, humanBytes, secondsText, share } from "./format.js";
import { startKeyboard } from "./keyboard.js";
import { seriesRows } from "./memory.js";
import { fillChips, fillFilters, filterChips, openMenu } from "./menus.js";
import { hasBoth, withoutNative } from "./native.js";
import { Kind, kindColour, LEGEND } from "./palette.js";
import { keyOf, stackText } from "./paths.js";
import { Profile } from "./profile.js";
import { bucketSeconds } from "./range.js";
import { Shown } from "./shown.js";
import { Stage } from "./stage.js";
import { fromFragment, opening, toFragment } from "./state.js";
import { surfaceOf } from "./surface.js";
import { columnsOf, fillTable, functionRows, siteRows, sortedRows } from "./table.js";
import { startTheme, theme } from "./theme.js";
import { colourSwatches, Timeline } from "./timeline.js";
import { shortName } from "./tooltip.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./decode.js").Tab} Tab */

/** Half of what a change may take while the brush moves. */
const QUICK_MILLIS = 40;

export class Page {
  /** @param {Profile} profile */
  constructor(profile) {
    this.whole = new Shown(profile);
    this.hasNative = hasBoth(profile);
    /** Made when native frames are first hidden. */
    this.pythonOnly = /** @type {Shown | null} */ (null);
    this.state = fromFragment(profile, location.hash);
    this.stage = new Stage({
      onZoom: (side, node) => this.zoomTo(side, node),
      onMenu: (side, node, x, y) => this.openFrameMenu(side, node, x, y),
      onFocus: () => this.showDetails(),
    });
    this.timeline = new Timeline(profile, (range, isFinal) => this.brush(range, isFinal));
    /** Matching nodes of the active view, the largest first, and which one was visited last. */
    this.visits = { nodes: /** @type {number[]} */ ([]), at: -1, of: /** @type {unknown} */ (null) };
    this.lastMillis = 0;
    this.brushTimer = 0;
    this.beforeBrush = "";
  }

  /** What follows from the choices, with native frames or without them. */
  get shown() {
    if (this.state.native || !this.hasNative) return this.whole;
    this.pythonOnly ??= new Shown(withoutNative(this.whole.profile));
    return this.pythonOnly;
  }

  get profile() {
    return this.shown.profile;
  }

  // What the user chose

  /**
   * @param {Partial<State>} patch
   * @param {"push" | "replace" | "none"} [how] what becomes of the address
   */
  change(patch, how = "push") {
    this.state = { ...this.state, ...patch };
    if (how !== "none") this.writeAddress(how);
    this.show(true);
  }

  /** @param {"push" | "replace"} how */
  writeAddress(how) {
    const fragment = toFragment(this.profile, this.state);
    const address = fragment === "" ? location.pathname + location.search : `#${fragment}`;
    if (fragment === location.hash.replace(/^#/, "")) return;
    try {
      if (how === "push") history.pushState(null, "", address);
      else history.replaceState(null, "", address);
    } catch {
      // Inside some frames a page may not write history; all else works.
    }
  }

  readAddress() {
    const fragment = location.hash.replace(/^#/, "");
    if (fragment === toFragment(this.profile, this.state)) return;
    this.state = fromFragment(this.profile, fragment);
    inputById("query").value = this.state.query;
    this.show(true);
  }

  /**
   * @param {number} side
   * @param {number} node
   */
  zoomTo(side, node) {
    const { view, reading } = this.stage.sides[side];
    const key = keyOf(view, reading, node);
    const zoom = key === "" ? "" : (this.stage.sides.length === 2 && side === 0 ? "^" : "") + key;
    if (zoom !== this.state.zoom) this.change({ zoom });
    else this.showDetails();
  }

  /**
   * @param {{from: number, to: number}} range
   * @param {boolean} isFinal
   */
  brush(range, isFinal) {
    if (this.profile.header.is_aggregated) return;
    clearTimeout(this.brushTimer);
    this.state = { ...this.state, ...range, page: 0 };
    if (isFinal) {
      this.writeAddress("push");
      this.show(false);
      return;
    }
    this.timeline.show(this.state, theme());
    // As often as the rest can follow.
    this.brushTimer = window.setTimeout(() => this.show(false), this.lastMillis < QUICK_MILLIS ? 0 : 2 * this.lastMillis);
  }

  // What is shown

  /** @param {boolean} isSmooth */
  show(isSmooth) {
    const begun = performance.now();
    const { state, profile } = this;
    const total = this.shown.total(state, state.tab);
    const isEmpty = total.count === 0 && total.bytes === 0;
    const isTable = state.show === "table";
    byId("below").hidden = isEmpty || isTable;
    byId("table").hidden = isEmpty || !isTable;
    byId("empty").hidden = !isEmpty;
    if (isEmpty) this.showEmptiness();
    else if (isTable) this.showTable();
    this.showGraphs(isSmooth, !isEmpty && !isTable);
    this.showTabs();
    this.showControls();
    this.showMatched();
    this.showChips();
    this.showLegend();
    this.showDetails();
    if (menuById("filters").open) this.showFilters();
    this.timeline.show(state, theme());
    byId("command").textContent = profile.processes.map(({ facts }) => facts.command).join("  ·  ");
    this.lastMillis = performance.now() - begun;
  }

  /**
   * @param {boolean} isSmooth
   * @param {boolean} isVisible
   */
  showGraphs(isSmooth, isVisible) {
    const { state } = this;
    const found = this.shown.found(state);
    const matches = found && "matches" in found ? found.matches : null;
    const look = { theme: theme(), isIcicle: state.isIcicle, showsSource: state.showsSource, matches };
    const sides = this.shown.sides(state);
    byId("above").hidden = !isVisible || sides.length < 2;
    this.stage.show(sides, look, this.shown.zoom(state), isSmooth);
    if (!isVisible) this.stage.tip.hide();
  }

  showTable() {
    const { state, profile, shown } = this;
    const rows = this.tableRows();
    const total = shown.total(state, state.tab);
    fillTable(profile, state, rows, total[state.metric], {
      onSort: (sort) => this.change({ sort, page: 0 }),
      onPage: (page) => this.change({ page }),
      onFunction: (frame) => this.openFunction(frame),
    });
  }

  tableRows() {
    const { state, profile, shown } = this;
    const found = shown.found(state);
    const rows =
      state.rows === "functions"
        ? functionRows(profile, shown.own(state))
        : siteRows(profile, shown.cells(state), shown.out(state), state.isSplit);
    const matches = found && "matches" in found ? found.matches : null;
    return sortedRows(rows, columnsOf(profile, state), state.sort, matches);
  }

  showTabs() {
    const { state, profile, shown } = this;
    const tabs = profile.header.tabs.map((tab) => {
      const total = shown.total(state, tab);
      const made = button(
        [
          element("span", "name", TAB_NAMES[tab]),
          element("strong", "", humanBytes(total.bytes - total.base.bytes)),
          element("span", "quiet", profile.isComparison ? changeText({ before: total.base.bytes, after: total.bytes - total.base.bytes }, "bytes") : counted(total.count, "allocation")),
        ],
        () => this.change({ tab, page: 0 }),
      );
      made.id = `tab-${tab}`;
      made.title = `${meaning(profile, tab)}\n${exact(total.bytes)} bytes`;
      made.setAttribute("role", "tab");
      made.setAttribute("aria-selected", String(tab === state.tab));
      made.tabIndex = tab === state.tab ? 0 : -1;
      return made;
    });
    const focused = document.activeElement?.id ?? "";
    byId("tabs").replaceChildren(...tabs);
    if (focused.startsWith("tab-")) document.getElementById(`tab-${state.tab}`)?.focus();
  }

  showControls() {
    const { state } = this;
    press("show", state.show === "table" ? "table" : state.isInverted && state.about < 0 ? "inverted" : state.about < 0 ? "graph" : "");
    press("metric", state.metric);
    press("direction", state.isIcicle ? "icicle" : "flames");
    press("chart", state.chart);
    press("rows-of", state.rows);
    const isGraph = state.show === "graph";
    byId("direction").hidden = !isGraph || state.about >= 0;
    byId("reset").hidden = !isGraph;
    buttonById("reset").disabled = state.zoom === "";
    inputById("hide-imports").checked = state.imports !== "all";
    inputById("hide-imports").disabled = state.imports === "none";
    inputById("drop-imports").checked = state.imports === "none";
    inputById("hide-runners").checked = !state.runners;
    inputById("show-source").checked = state.showsSource;
    inputById("show-native").checked = state.native;
    inputById("split").checked = state.isSplit;
    byId("details-button").hidden = !isGraph;
    byId("details-button").setAttribute("aria-pressed", String(state.hasDetails));
    for (const id of ["save-svg", "save-png"]) byId(id).hidden = !isGraph;
    byId("save-series").hidden = !this.timeline.isThere;
    const query = inputById("query");
    if (document.activeElement !== query) query.value = state.query;
    byId("pattern").setAttribute("aria-pressed", String(state.isPattern));
  }

  showChips() {
    const { state, profile } = this;
    const change = (/** @type {Partial<State>} */ patch) => this.change(patch);
    const chips = [];
    const base = opening(profile);
    if (state.about >= 0 && state.show === "graph") {
      const name = clipped(shortName(profile, state.about), 60);
      const remove = () => change({ about: -1, zoom: "" });
      chips.push({ text: `Callers and callees of ${name}`, title: profile.location(state.about), remove });
    }
    if (state.from !== base.from || state.to !== base.to) {
      const from = secondsText(bucketSeconds(profile, state.from).begin);
      const text = `${from} – ${secondsText(bucketSeconds(profile, state.to).end)}`;
      chips.push({ text, title: "The range of time", remove: () => change({ from: base.from, to: base.to, page: 0 }) });
    }
    chips.push(...filterChips(profile, state, change));
    if (state.imports === "none") {
      chips.push({ text: "Without imports", title: "", remove: () => change({ imports: "machinery", page: 0 }) });
    }
    if (this.hasNative && !state.native) {
      chips.push({ text: "Without native frames", title: "", remove: () => this.setNative(true) });
    }
    const { bytes, count, allBytes, allCount } = this.shown.total(state, state.tab);
    const [part, whole] = state.metric === "bytes" ? [bytes, allBytes] : [count, allCount];
    const figure = (/** @type {number} */ n) => (state.metric === "bytes" ? humanBytes(n) : exact(n));
    const summary = part === whole ? "" : `${figure(part)} of ${figure(whole)}, ${share(part, whole)}`;
    fillChips(chips, summary, () =>
      change({ about: -1, zoom: "", from: base.from, to: base.to, chosen: everything(), imports: base.imports, native: true, page: 0 }),
    );
  }

  showFilters() {
    const { state, profile, shown } = this;
    fillFilters(profile, state, shown.cells(state), shown.out(state), (patch) => this.change(patch));
  }

  showLegend() {
    const { state, profile, shown } = this;
    const { view, reading } = shown.sides(state).slice(-1)[0];
    const own = view.byKind(reading.side === "callers");
    const whole = view.weight[0];
    const legend = byId("legend");
    legend.replaceChildren();
    if (profile.isComparison) return this.showBalance(legend);
    for (const { kind, label, title } of LEGEND) {
      const isThere = profile.kinds.includes(kind) && (kind !== Kind.native || shown === this.whole);
      if (own[kind] === 0 && !isThere) continue;
      const swatch = element("i");
      swatch.style.background = kindColour(theme(), kind);
      const item = element("li", "", [swatch, label, " ", element("b", "", share(own[kind], whole))]);
      item.title = `${title}; the share is what frames of this kind allocated themselves`;
      legend.append(item);
    }
  }

  /** @param {HTMLElement} legend */
  showBalance(legend) {
    const words = /** @type {[number, string][]} */ ([[-1, "gone"], [-0.15, "less"], [0, "no change"], [0.15, "more"], [1, "new"]]);
    for (const [part, label] of words) {
      const swatch = element("i");
      swatch.style.background = balanceColour(theme(), part);
      legend.append(element("li", "", [swatch, label]));
    }
    const item = element("li", "", "width: before and after together");
    legend.append(item);
  }

  showEmptiness() {
    const { state, profile } = this;
    const base = opening(profile);
    const isRange = state.from !== base.from || state.to !== base.to;
    const { heading, text } = emptiness(profile, state.tab, isRange || this.shown.out(state).some((bits) => bits !== 0));
    byId("empty").replaceChildren(element("h2", "", heading), element("p", "", text));
  }

  showDetails() {
    const { state, shown, stage } = this;
    const isShown = state.hasDetails && state.show === "graph" && byId("empty").hidden;
    byId("details").hidden = !isShown;
    if (!isShown || !stage.side) return;
    const node = stage.selected;
    const sums = { cells: shown.cells(state), out: shown.out(state), own: shown.own(state) };
    fillDetails(stage.side, node, sums, {
      onFunction: () => this.openFunction(stage.side.view.frame[node]),
      onCopy: () => this.copyStack(node),
    });
  }

  showTheme() {
    colourSwatches(theme());
    this.show(false);
  }

  // Frames

  /** @param {number} frame */
  openFunction(frame) {
    const about = this.profile.functionOf[frame] ?? -1;
    if (about > 0) this.change({ about, show: "graph", zoom: "" });
  }

  /** @param {number} node */
  async copyStack(node) {
    const { view, reading } = this.stage.side;
    this.say((await copyText(stackText(view, reading, node))) ? "The stack is copied" : "The browser refuses the clipboard");
  }

  /**
   * @param {number} side
   * @param {number} node
   * @param {number} x
   * @param {number} y
   */
  openFrameMenu(side, node, x, y) {
    const { stage, profile, state } = this;
    const { view } = stage.sides[side];
    const frame = view.frame[node];
    stage.active = side;
    stage.focus(node, false);
    const items = [{ text: "Zoom here", key: "Enter", act: () => this.zoomTo(side, node) }];
    if (frame < profile.frames && profile.files[frame] >= 0 && profile.paths[frame] !== "") {
      const module = profile.moduleOf[frame];
      const chosen = { ...state.chosen, module: [module] };
      items.push(
        { text: "Callers and callees", key: "w", act: () => this.openFunction(frame) },
        { text: "Search for this function", key: "", act: () => this.searchFor(profile.functions[frame]) },
        { text: `Only stacks through ${clipped(profile.modules[module].label, 30)}`, key: "", act: () => this.change({ chosen, isThrough: true }) },
      );
    }
    items.push(
      { text: "Copy stack", key: "c", act: () => void this.copyStack(node) },
      { text: "Details", key: "d", act: () => this.change({ hasDetails: true }) },
    );
    openMenu(x, y, items, stage.graph.canvas);
  }

  // Search

  /** @param {string} query */
  searchFor(query) {
    inputById("query").value = query;
    this.change({ query, isPattern: false, page: 0 });
  }

  showMatched() {
    const { state, stage } = this;
    const found = this.shown.found(state);
    const field = /** @type {HTMLElement} */ (byId("search").querySelector(".field"));
    const isWrong = found !== null && "error" in found;
    field.classList.toggle("is-wrong", isWrong);
    field.classList.toggle("has-query", state.query !== "");
    const output = byId("matched");
    output.title = "";
    if (found === null) output.textContent = "";
    else if ("error" in found) output.textContent = found.error;
    else if (state.show === "table") this.showMatchedRows(output);
    else {
      const { view } = stage.side;
      const all = view.matched(found.matches);
      if (all.nodes === 0) {
        output.textContent = "no match";
        return;
      }
      const parts = [element("b", "", share(all[state.metric], view.weight[0])), ` matched, ${humanBytes(all.bytes)}`];
      if (stage.graph.zoomed > 0) {
        const here = view.matched(found.matches, stage.graph.zoomed);
        parts.push(`; ${share(here[state.metric], view.weight[stage.graph.zoomed])} of the zoom`);
      }
      if (this.visits.at >= 0 && this.visits.of === found) parts.push(`; ${this.visits.at + 1} / ${this.visits.nodes.length}`);
      output.replaceChildren(...parts);
      output.title = `${exact(all.bytes)} bytes in ${counted(all.count, "allocation")}; each stack counts once, however many of its frames match`;
    }
  }

  /** @param {HTMLElement} output */
  showMatchedRows(output) {
    const rows = this.tableRows();
    if (rows.length === 0) output.textContent = "no match";
    else output.textContent = counted(rows.length, "row");
  }

  /**
   * Moves the focus to the next match, the largest first.
   * @param {number} step
   */
  visit(step) {
    const { stage, state } = this;
    const found = this.shown.found(state);
    if (!found || "error" in found || state.show === "table") return;
    const { view } = stage.side;
    if (this.visits.of !== found || this.visits.nodes.length === 0) {
      const nodes = [];
      for (let node = 0; node < view.size; node += 1) if (found.matches[view.frame[node]]) nodes.push(node);
      nodes.sort((a, b) => view.weight[b] - view.weight[a] || a - b);
      this.visits = { nodes, at: step < 0 ? 0 : -1, of: found };
      if (nodes.length === 0) return;
    }
    const { nodes } = this.visits;
    this.visits.at = (this.visits.at + step + nodes.length) % nodes.length;
    const node = nodes[this.visits.at];
    const { zoomed } = stage.graph;
    if (!view.isAncestor(zoomed, node) && !view.isAncestor(node, zoomed)) this.zoomTo(stage.active, 0);
    stage.focus(node);
    this.showMatched();
  }

  /** @param {boolean} isTyping */
  escape(isTyping) {
    const open = [...document.querySelectorAll("details.menu")].find((menu) => /** @type {HTMLDetailsElement} */ (menu).open);
    if (open) {
      /** @type {HTMLDetailsElement} */ (open).open = false;
      open.querySelector("summary")?.focus();
    } else if (isTyping) {
      if (this.state.query === "") this.stage.graph.canvas.focus();
      else this.searchFor("");
    } else if (this.state.zoom !== "") {
      this.change({ zoom: "" });
    } else if (this.state.query !== "") {
      this.searchFor("");
    } else if (this.state.about >= 0) {
      this.change({ about: -1 });
    } else {
      this.stage.blur();
    }
  }

  // Files, dialogs, words

  async save(/** @type {"svg" | "png" | "csv" | "series"} */ what) {
    const { profile, state, stage } = this;
    const pid = profile.processes[0]?.facts.pid;
    const name = `memtrace-${state.tab}${pid === null || pid === undefined ? "" : `-${pid}`}`;
    if (what === "series") return download(`${name}-time.csv`, csvOf(seriesRows(profile)), "text/csv");
    if (what === "csv") return download(`${name}.csv`, csvOf(this.numbers()), "text/csv");
    if (what === "svg") return download(`${name}.svg`, svgOf(stage.graphs, theme(), document.title), "image/svg+xml");
    const { image, isCut } = await pngOf(stage.graphs, theme());
    download(`${name}.png`, image, "image/png");
    if (isCut) this.say("The picture ends where a bitmap must; the SVG has all");
  }

  /** What is shown, as rows. */
  numbers() {
    const { state, profile, stage } = this;
    if (state.show !== "table") {
      const [head, ...rows] = stage.graphs.map((graph, side) => viewRows(stage.sides[side].view, graph.zoomed)).flatMap((part, side) => (side === 0 ? part : part.slice(1)));
      return [head, ...rows];
    }
    const columns = columnsOf(profile, state);
    /** @type {(row: import("./table.js").Row, id: string, text: string) => string | number} */
    const cell = (row, id, text) => {
      const value = /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (row))[id];
      return typeof value === "number" && ["bytes", "ownBytes", "count", "ownCount"].includes(id) ? value : text;
    };
    return [columns.map(({ title }) => title), ...this.tableRows().map((row) => columns.map(({ id, text }) => cell(row, id, text(row))))];
  }

  /** @param {string} text */
  say(text) {
    const toast = byId("toast");
    toast.textContent = text;
    toast.classList.add("is-on");
    setTimeout(() => toast.classList.remove("is-on"), 2500);
  }

  openFacts() {
    byId("meaning").textContent = `${TAB_NAMES[this.state.tab]}: ${meaning(this.profile, this.state.tab)}`;
    dialogById("facts").showModal();
  }

  fillFacts() {
    const { profile } = this;
    const parts = profile.processes.map((_, process) => {
      const list = element("dl");
      for (const { label, lines, isCode } of factRows(profile, process)) {
        const value = element("dd", isCode ? "mono" : "");
        if (lines.length === 1) value.textContent = lines[0];
        else value.append(element("ul", "", lines.map((line) => element("li", "", line))));
        list.append(element("dt", "", label), value);
      }
      return list;
    });
    const limits = limitsText(profile);
    if (limits) {
      parts[parts.length - 1]?.append(element("dt", "", "Limits"), element("dd", "", limits.long));
      const note = buttonById("limits");
      note.hidden = limits.short === "";
      note.textContent = limits.short;
      note.title = limits.long;
      note.addEventListener("click", () => this.openFacts());
    }
    byId("facts-list").replaceChildren(...parts);
  }

  showWarnings() {
    const found = warnings(this.profile);
    if (found.length === 0) return;
    const notice = byId("notice");
    notice.hidden = false;
    notice.append(capitalised(found[0]), ". ");
    if (found.length > 1) notice.append(button(counted(found.length - 1, "more notice"), () => this.openFacts()));
  }

  // Controls

  start() {
    const { profile, state } = this;
    byId("command").title = profile.processes.map(({ facts }) => facts.command).join("\n");
    inputById("query").value = state.query;
    byId("loading").hidden = true;
    /** @type {HTMLElement} */ (byId("show").querySelector("[data-value=table]")).hidden = profile.isComparison;
    byId("native-label").hidden = !this.hasNative;
    byId("split-label").hidden = profile.threads.length < 2;
    this.fillFacts();
    this.showWarnings();
    startTheme(() => this.showTheme());
    startControls(this);
    startSearch(this);
    startKeyboard(this.stage, actionsOf(this), {
      escape: (isTyping) => this.escape(isTyping),
      zoom: (node) => this.zoomTo(this.stage.active, node),
      menu: () => this.openMenuAtFocus(),
      hasGraph: () => this.state.show === "graph",
    });
    window.addEventListener("popstate", () => this.readAddress());
    window.addEventListener("hashchange", () => this.readAddress());
  }

  /** @param {string} value */
  setView(value) {
    if (value === "table" && this.profile.isComparison) return;
    if (value === "table") this.change({ show: "table" });
    else this.change({ show: "graph", isInverted: value === "inverted", about: -1, zoom: "" });
  }

  /**
   * Stacks have other numbers then, so a zoom would mean another one.
   * @param {boolean} native
   */
  setNative(native) {
    const { about } = this.state;
    const isGone = about >= 0 && !native && this.profile.kinds[about] === Kind.native;
    this.change({ native, zoom: "", about: isGone ? -1 : about, page: 0 });
  }

  /** @param {Tab} tab */
  setTab(tab) {
    if (this.profile.header.tabs.includes(tab)) this.change({ tab, page: 0 });
  }

  /** @param {KeyboardEvent} event */
  onTabKey(event) {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (step === 0) return;
    event.preventDefault();
    event.stopPropagation();
    const { tabs } = this.profile.header;
    this.setTab(tabs[(tabs.indexOf(this.state.tab) + step + tabs.length) % tabs.length]);
  }

  openMenuAtFocus() {
    const node = this.stage.selected;
    const rect = this.stage.graph.rectOf(node);
    if (node > 0 && rect) this.openFrameMenu(this.stage.active, node, rect.left + 24, rect.bottom + 4);
  }
}

const bytes = await inflate(byId("data").textContent ?? "");
const page = new Page(new Profile(decode(bytes)));
page.start();
Object.defineProperty(window, "memtrace", { value: surfaceOf(page) });
