// @ts-check
// What the controls and the keys of the page do, each in a line. The doing is the page's.

import { byId, dialogById, inputById } from "./dom.js";
import { copyText } from "./export.js";
import { nextTheme } from "./theme.js";

/** @typedef {import("./page.js").Page} Page */

/**
 * Gives every control its meaning.
 * @param {Page} page
 */
export function startControls(page) {
  const group = (/** @type {string} */ id, /** @type {(value: string) => void} */ act) => {
    for (const choice of byId(id).querySelectorAll("button")) {
      choice.addEventListener("click", () => act(choice.dataset.value ?? ""));
    }
  };
  group("show", (value) => page.setView(value));
  group("metric", (value) => page.change({ metric: value === "count" ? "count" : "bytes" }));
  group("direction", (value) => page.change({ isIcicle: value === "icicle" }));
  group("chart", (value) => page.change({ chart: value === "explained" ? "explained" : "lines" }));
  group("rows-of", (value) => page.change({ rows: value === "functions" ? "functions" : "sites", sort: "bytes", page: 0 }));
  const readFrames = () => {
    const isHidden = inputById("hide-imports").checked;
    const imports = inputById("drop-imports").checked ? "none" : isHidden ? "machinery" : "all";
    page.change({
      imports,
      runners: !inputById("hide-runners").checked,
      showsSource: inputById("show-source").checked,
      isSplit: inputById("split").checked,
      page: 0,
    });
  };
  for (const id of ["hide-imports", "hide-runners", "drop-imports", "show-source", "split"]) {
    byId(id).addEventListener("change", readFrames);
  }
  byId("show-native").addEventListener("change", () => page.setNative(inputById("show-native").checked));
  byId("reset").addEventListener("click", () => page.change({ zoom: "" }));
  byId("details-button").addEventListener("click", () => page.change({ hasDetails: !page.state.hasDetails }));
  byId("details-close").addEventListener("click", () => page.change({ hasDetails: false }));
  byId("facts-button").addEventListener("click", () => page.openFacts());
  byId("help-button").addEventListener("click", () => dialogById("help").showModal());
  for (const what of /** @type {const} */ (["svg", "png", "csv", "series"])) {
    byId(`save-${what}`).addEventListener("click", () => void page.save(what).catch((error) => page.say(String(error))));
  }
  byId("copy-link").addEventListener("click", async () => {
    page.say((await copyText(location.href)) ? "The link is copied" : "The browser refuses the clipboard");
  });
  byId("filters").querySelector("summary")?.addEventListener("click", () => page.showFilters());
  byId("tabs").addEventListener("keydown", (event) => page.onTabKey(event));
  for (const dialog of document.querySelectorAll("dialog")) {
    // A click beside a dialog closes it.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu")) {
      const isInside = event.composedPath().includes(menu);
      const isExport = menu.id === "export" && event.target instanceof HTMLButtonElement;
      if (!isInside || isExport) /** @type {HTMLDetailsElement} */ (menu).open = false;
    }
  });
}

/** @param {Page} page */
export function startSearch(page) {
  const query = inputById("query");
  byId("search").addEventListener("submit", (event) => event.preventDefault());
  query.addEventListener("input", () => page.change({ query: query.value, page: 0 }, "replace"));
  query.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    page.visit(event.shiftKey ? -1 : 1);
  });
  byId("pattern").addEventListener("click", () => page.change({ isPattern: !page.state.isPattern, page: 0 }));
}

/**
 * What each key does.
 * @param {Page} page
 * @returns {Record<string, () => void>}
 */
export function actionsOf(page) {
  const { stage } = page;
  const selected = () => stage.side.view.frame[stage.selected];
  return {
    "/": () => {
      inputById("query").focus();
      inputById("query").select();
    },
    "?": () => dialogById("help").showModal(),
    1: () => page.setView("graph"),
    2: () => page.setView("inverted"),
    3: () => page.setView("table"),
    p: () => page.setTab("peak"),
    l: () => page.setTab("leaks"),
    n: () => page.setTab("churn"),
    i: () => page.openFacts(),
    b: () => page.change({ metric: page.state.metric === "bytes" ? "count" : "bytes" }),
    f: () => page.change({ isIcicle: !page.state.isIcicle }),
    m: () => inputById("hide-imports").click(),
    x: () => page.hasNative && inputById("show-native").click(),
    s: () => inputById("show-source").click(),
    r: () => page.change({ chart: page.state.chart === "explained" ? "lines" : "explained" }),
    d: () => page.change({ hasDetails: !page.state.hasDetails }),
    w: () => stage.selected > 0 && page.openFunction(selected()),
    c: () => stage.selected > 0 && void page.copyStack(stage.selected),
    t: () => nextTheme(() => page.showTheme()),
  };
}
