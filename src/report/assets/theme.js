// @ts-check
// The theme: the system's until another is chosen, and the choice is remembered.

import { buttonById } from "./dom.js";
import { THEMES } from "./palette.js";

const THEME_KEY = "memtrace-theme";
const THEME_ICONS = {
  system: '<path d="M2 3.5h12v7.5H2zM6 14h4"/>',
  light: '<circle cx="8" cy="8" r="3"/><path d="M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1"/>',
  dark: '<path d="M13.5 9.5A6 6 0 0 1 6.5 2.5a6 6 0 1 0 7 7z"/>',
};

/** @returns {"system" | "light" | "dark"} */
function chosenTheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen === "light" || chosen === "dark" ? chosen : "system";
}

const systemIsDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

/** The colours of the theme that is on. */
export function theme() {
  const chosen = chosenTheme();
  return (chosen === "system" ? systemIsDark() : chosen === "dark") ? THEMES.dark : THEMES.light;
}

/**
 * @param {string | null} choice
 * @param {() => void} onChange
 */
function setTheme(choice, onChange) {
  if (choice === "light" || choice === "dark") document.documentElement.dataset.theme = choice;
  else delete document.documentElement.dataset.theme;
  const chosen = chosenTheme();
  const toggle = buttonById("theme");
  toggle.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true">${THEME_ICONS[chosen]}</svg>`;
  toggle.title = `Theme: ${chosen === "system" ? "the system's" : chosen} (t)`;
  toggle.setAttribute("aria-label", toggle.title);
  onChange();
}

/** @param {() => void} onChange */
export function nextTheme(onChange) {
  // The first press always changes something.
  const order = systemIsDark() ? ["system", "light", "dark"] : ["system", "dark", "light"];
  const next = order[(order.indexOf(chosenTheme()) + 1) % order.length];
  try {
    if (next === "system") localStorage.removeItem(THEME_KEY);
    else localStorage.setItem(THEME_KEY, next);
  } catch {
    // A page opened from a file may have no storage; the theme then lasts as long as the page.
  }
  setTheme(next, onChange);
}

/**
 * Takes the theme of the last visit, and follows the system from now on.
 * @param {() => void} onChange
 */
export function startTheme(onChange) {
  let remembered = null;
  try {
    remembered = localStorage.getItem(THEME_KEY);
  } catch {
    // As above.
  }
  setTheme(remembered, onChange);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(chosenTheme(), onChange));
  buttonById("theme").addEventListener("click", () => nextTheme(onChange));
}
