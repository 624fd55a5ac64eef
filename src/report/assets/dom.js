// @ts-check
// The few things done with the document again and again. Text becomes text nodes: names in a capture are not to be
// trusted.

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element #${id}`);
  return element;
}

/** @param {string} id */
export const inputById = (id) => /** @type {HTMLInputElement} */ (byId(id));
/** @param {string} id */
export const buttonById = (id) => /** @type {HTMLButtonElement} */ (byId(id));
/** @param {string} id */
export const dialogById = (id) => /** @type {HTMLDialogElement} */ (byId(id));
/** @param {string} id */
export const menuById = (id) => /** @type {HTMLDetailsElement} */ (byId(id));

/**
 * @param {string} tag
 * @param {string} [name] of the class
 * @param {string | (Node | string)[]} [content]
 * @returns {HTMLElement}
 */
export function element(tag, name = "", content = "") {
  const made = document.createElement(tag);
  if (name !== "") made.className = name;
  made.append(...(typeof content === "string" ? [content] : content));
  return made;
}

/**
 * @param {string | (Node | string)[]} content
 * @param {() => void} onClick
 * @param {string} [name] of the class
 * @returns {HTMLButtonElement}
 */
export function button(content, onClick, name = "") {
  const made = /** @type {HTMLButtonElement} */ (element("button", name, content));
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

/**
 * Marks the one button of a group that is on.
 * @param {string} id of the group
 * @param {string} value
 */
export function press(id, value) {
  for (const choice of byId(id).querySelectorAll("button")) {
    choice.setAttribute("aria-pressed", String(choice.dataset.value === value));
  }
}

/**
 * @param {string} text
 * @param {number} most
 */
export function clipped(text, most) {
  return text.length <= most ? text : `${text.slice(0, most / 2)}…${text.slice(-most / 2)}`;
}

/** @param {string} text */
export function capitalised(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
