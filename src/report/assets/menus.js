// @ts-check
// The menu of filters, the chips that say which are on, and the menu of one frame.

import { button, byId, element } from "./dom.js";
import { counted, exact, humanBytes, share } from "./format.js";
import { choices, DIMENSIONS, labelsOf } from "./filters.js";
import { LEGEND } from "./palette.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./filters.js").Dimension} Dimension */
/** @typedef {import("./state.js").State} State */
/** @typedef {import("./range.js").Sums} Sums */

const MOST_CHOICES = 200;

/**
 * @param {Profile} profile
 * @param {State} state
 * @param {Sums} cells
 * @param {Uint8Array} out
 * @param {(change: Partial<State>) => void} onChange
 */
export function fillFilters(profile, state, cells, out, onChange) {
  const panel = byId("filter-groups");
  const sections = [];
  for (const { id, title } of DIMENSIONS) {
    if (labelsOf(profile, id).length < 2) continue;
    const rows = choices(profile, id, cells, out, state.isThrough);
    const isEmpty = (/** @type {import("./filters.js").Choice} */ row) => row.count === 0 && row.bytes === 0;
    const isOn = (/** @type {number} */ value) => state.chosen[id]?.includes(value) ?? true;
    const shown = rows.filter((row) => !isEmpty(row) || !isOn(row.value));
    const whole = rows.reduce((sum, row) => sum + row[state.metric], 0);
    const set = (/** @type {number[] | null} */ values) => onChange({ chosen: { ...state.chosen, [id]: values }, page: 0 });
    const heading = element("legend", "", title);
    const group = element("fieldset", "", [heading]);
    group.id = `filter-${id}`;
    const tools = element("div", "tools", [button("All", () => set(null), "link"), button("None", () => set([]), "link")]);
    if (id === "module") tools.append(throughBox(state.isThrough, onChange));
    group.append(tools);
    for (const row of shown.slice(0, MOST_CHOICES)) {
      const box = /** @type {HTMLInputElement} */ (element("input"));
      box.type = "checkbox";
      box.checked = isOn(row.value);
      box.addEventListener("change", () => {
        const all = rows.map(({ value }) => value);
        const before = state.chosen[id] ?? all;
        const after = box.checked ? [...before, row.value] : before.filter((value) => value !== row.value);
        set(after.length === all.length ? null : after.sort((a, b) => a - b));
      });
      const only = button("only", () => set([row.value]), "link only");
      only.setAttribute("aria-label", `only ${row.label}`);
      const size = element("span", "number", state.metric === "bytes" ? humanBytes(row.bytes) : exact(row.count));
      size.title = `${share(row[state.metric], whole)}, ${exact(row.bytes)} bytes in ${counted(row.count, "allocation")}`;
      const label = element("label", "", [box, element("span", "what", row.label || "(no name)"), kindNote(row.kind), size]);
      group.append(element("div", "choice-row", [label, only]));
    }
    if (shown.length > MOST_CHOICES) group.append(element("p", "quiet", `${shown.length - MOST_CHOICES} smaller ones are not listed`));
    sections.push(group);
  }
  const scrolled = panel.scrollTop;
  panel.replaceChildren(...(sections.length > 0 ? sections : [element("p", "quiet", "There is nothing to choose from.")]));
  panel.scrollTop = scrolled;
}

/**
 * @param {boolean} isThrough
 * @param {(change: Partial<State>) => void} onChange
 */
function throughBox(isThrough, onChange) {
  const box = /** @type {HTMLInputElement} */ (element("input"));
  box.type = "checkbox";
  box.id = "through";
  box.checked = isThrough;
  box.addEventListener("change", () => onChange({ isThrough: box.checked, page: 0 }));
  const label = element("label", "through", [box, "anywhere in the stack"]);
  label.title = "Count what the module's callees allocated too, and not only its own frames";
  return label;
}

/** @param {number | undefined} kind */
function kindNote(kind) {
  const known = LEGEND.find((entry) => entry.kind === kind);
  return element("span", "quiet", known && kind !== 3 ? known.label : "");
}

/**
 * A chip for each thing that narrows what is shown.
 * @param {{text: string, title: string, remove: () => void}[]} chips
 * @param {string} summary
 * @param {() => void} onClear
 */
export function fillChips(chips, summary, onClear) {
  const row = byId("chips");
  row.hidden = chips.length === 0;
  const made = chips.map(({ text, title, remove }) => {
    const chip = button([element("span", "", text), element("span", "cross", "✕")], remove, "chip");
    chip.title = title;
    chip.setAttribute("aria-label", `${text}: remove`);
    return chip;
  });
  if (chips.length > 1) made.push(button("Clear all", onClear, "link"));
  row.replaceChildren(element("span", "summary", summary), ...made);
}

/**
 * The chips of the filters.
 * @param {Profile} profile
 * @param {State} state
 * @param {(change: Partial<State>) => void} onChange
 */
export function filterChips(profile, state, onChange) {
  return DIMENSIONS.filter(({ id }) => state.chosen[id] !== null).map(({ id, title }) => {
    const labels = labelsOf(profile, id);
    const values = state.chosen[id] ?? [];
    const left = labels.map((_, value) => value).filter((value) => !values.includes(value));
    const names = (/** @type {number[]} */ of) => of.slice(0, 2).map((value) => labels[value]).join(", ");
    const isShort = values.length <= 2 || values.length <= left.length;
    const count = (/** @type {number[]} */ of) => (of.length > 2 ? `${names(of)} and ${of.length - 2} more` : names(of));
    const text = values.length === 0 ? "none" : isShort ? count(values) : `without ${count(left)}`;
    const short = id === "size" ? "Size" : title;
    return {
      text: `${short}: ${text}`,
      title: values.map((value) => labels[value]).join("\n"),
      remove: () => onChange({ chosen: { ...state.chosen, [id]: null }, page: 0 }),
    };
  });
}

/**
 * Opens the menu of a frame at a place of the window.
 * @param {number} x
 * @param {number} y
 * @param {{text: string, key: string, act: () => void}[]} items
 * @param {HTMLElement} home where the focus goes afterwards
 */
export function openMenu(x, y, items, home) {
  const menu = byId("menu");
  const close = () => {
    menu.hidden = true;
    document.removeEventListener("pointerdown", onOutside, true);
    home.focus();
  };
  const onOutside = (/** @type {Event} */ event) => {
    if (!(event.target instanceof Node && menu.contains(event.target))) close();
  };
  const made = items.map(({ text, key, act }) => {
    const item = button([text, key === "" ? "" : element("kbd", "", key)], () => {
      close();
      act();
    });
    item.setAttribute("role", "menuitem");
    return item;
  });
  menu.replaceChildren(...made);
  menu.hidden = false;
  menu.onkeydown = (event) => {
    const at = made.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step !== 0) made[(at + step + made.length) % made.length].focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const size = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(x, window.innerWidth - size.width - 8))}px`;
  menu.style.top = `${Math.max(8, Math.min(y, window.innerHeight - size.height - 8))}px`;
  document.addEventListener("pointerdown", onOutside, true);
  made[0]?.focus();
}

