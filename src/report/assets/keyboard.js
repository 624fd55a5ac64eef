// @ts-check
// What the keys do. The actions are the page's; here is only which key means which.

import { byId } from "./dom.js";

/** @typedef {import("./stage.js").Stage} Stage */

/**
 * @param {Stage} stage
 * @param {Record<string, () => void>} actions by key
 * @param {{escape: (isTyping: boolean) => void, zoom: (node: number) => void, menu: () => void, hasGraph: () => boolean}} page
 */
export function startKeyboard(stage, actions, page) {
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target === byId("query");
    if (document.querySelector("dialog[open]") !== null) return;
    const isFind = (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "f";
    // A second Ctrl-F is the browser's own.
    if (isFind && !isTyping) {
      event.preventDefault();
      actions["/"]();
      return;
    }
    if (event.key === "Escape") return page.escape(isTyping);
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
    const target = event.target instanceof HTMLElement ? event.target : null;
    const isOnControl = target?.closest("button, summary, .panel, input, #menu") != null;
    if (isOnControl && [" ", "Enter"].includes(event.key)) return;
    const scrolls = target?.closest(".panel, .scrolled, aside, #menu") != null;
    if ((!scrolls && page.hasGraph() && onGraphKey(event, stage, page)) || runAction(event.key, actions)) {
      event.preventDefault();
    }
  });
}

/**
 * @param {string} key
 * @param {Record<string, () => void>} actions
 */
function runAction(key, actions) {
  if (!Object.hasOwn(actions, key)) return false;
  actions[key]();
  return true;
}

/**
 * @param {KeyboardEvent} event
 * @param {Stage} stage
 * @param {{zoom: (node: number) => void, menu: () => void}} page
 */
function onGraphKey(event, stage, page) {
  const { graph } = stage;
  switch (event.key) {
    case "ArrowUp":
    case "ArrowDown":
      stage.move((event.key === "ArrowDown") === graph.isIcicle ? "callee" : "caller");
      return true;
    case "ArrowLeft":
    case "ArrowRight":
      stage.move(event.key === "ArrowLeft" ? "before" : "after");
      return true;
    case "Home":
      stage.focus(0);
      return true;
    case "Enter":
    case " ": {
      const node = graph.focused;
      if (node < 0) return false;
      page.zoom(node);
      stage.focus(node);
      return true;
    }
    case "Backspace":
      if (graph.zoomed === 0) return false;
      page.zoom(/** @type {import("./view.js").View} */ (graph.view).parent[graph.zoomed]);
      return true;
    case "ContextMenu":
      page.menu();
      return true;
    case "F10":
      if (!event.shiftKey) return false;
      page.menu();
      return true;
  }
  return false;
}
