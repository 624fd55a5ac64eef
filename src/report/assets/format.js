// @ts-check
// Numbers, names and paths as people read them. Pure functions; everything that makes text goes through here.

const BYTE_UNITS = ["kB", "MB", "GB", "TB", "PB", "EB"];

/**
 * Bytes with three significant digits: `1.24 GB`. Decimal units, as the text reports have them.
 * @param {number} bytes
 * @returns {string}
 */
export function humanBytes(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  let value = bytes;
  let unit = -1;
  // 999 950 would read "1000 kB": the unit changes where the rounded number would need a fourth digit.
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${value.toFixed(decimals)} ${BYTE_UNITS[unit]}`;
}

/**
 * A whole number with its thousands set apart: `1 234 567` (narrow no-break spaces, the same in every language).
 * @param {number} number
 * @returns {string}
 */
export function exact(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/**
 * A count as short as a label wants it: `1 234`, `56.7 k`, `1.24 M`.
 * @param {number} count
 * @returns {string}
 */
export function humanCount(count) {
  if (count < 10000) return exact(count);
  let value = count;
  let unit = -1;
  const units = ["k", "M", "G", "T"];
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${value.toFixed(decimals)}\u202f${units[unit]}`;
}

/**
 * A count with its noun: `1 allocation`, `12 allocations`.
 * @param {number} count
 * @param {string} noun
 * @returns {string}
 */
export function counted(count, noun) {
  return `${exact(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/**
 * A share of a whole: `45.2 %`; what is there but tiny is never shown as nothing, nor almost all as everything.
 * @param {number} part
 * @param {number} whole
 * @returns {string}
 */
export function share(part, whole) {
  if (whole <= 0) return "0 %";
  const percent = (part / whole) * 100;
  if (percent === 0) return "0 %";
  if (part === whole) return "100 %";
  if (percent < 0.01) return "< 0.01 %";
  if (percent < 1) return `${percent.toFixed(2)} %`;
  if (percent > 99.9) return "> 99.9 %";
  return `${percent.toFixed(1)} %`;
}

/**
 * A span of time: `830 µs`, `12.4 s`, `3 min 05 s`, `2 h 07 min`, `12 d 3 h`.
 * @param {number} nanos
 * @returns {string}
 */
export function humanDuration(nanos) {
  const seconds = nanos / 1e9;
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/**
 * The path as it is known to Python's import system: what stands behind `site-packages/` or `lib/python3.12/`.
 * @param {string} path
 * @returns {string}
 */
export function shortPath(path) {
  const packages = Math.max(path.lastIndexOf("/site-packages/"), path.lastIndexOf("/dist-packages/"));
  if (packages >= 0) return path.slice(packages + "/site-packages/".length);
  const library = /\/lib(?:64)?\/python3\.\d+t?\//.exec(path);
  if (library) return path.slice(library.index + library[0].length);
  return path;
}

/**
 * The last part of a path, with its folder where that gives it its meaning: `encoder.py`, `json/__init__.py`.
 * @param {string} path
 * @returns {string}
 */
export function baseName(path) {
  const parts = path.split("/");
  return parts.slice(parts[parts.length - 1].startsWith("__") ? -2 : -1).join("/");
}

/**
 * The names of a frame from the most to the least telling: `Outer.<locals>.inner`, `inner`. Code of a module itself
 * goes by its file, because `<module>` would tell nothing: `pandas/core/api.py`, `api.py`.
 * @param {string} name
 * @param {string} path
 * @param {boolean} [isNative]
 * @returns {string[]} each shorter than the one before
 */
export function nameForms(name, path, isNative = false) {
  if (isNative) return nativeForms(name);
  if (name === "<module>" && path !== "") return fileForms(shortPath(path));
  const forms = [name];
  const parts = name.split(".");
  // `f.<locals>.<lambda>` must not become a bare `<lambda>` while its owner fits too.
  for (let from = 1; from < parts.length; from += 1) {
    if (parts[from] === "<locals>") continue;
    forms.push(parts.slice(from).join("."));
  }
  return forms;
}

/**
 * `shop::Cart::add`, `add`; of an offset in a file `_hot.cpython-311.so+0x10`, `_hot+0x10`. What has templates or
 * arguments is left as it is.
 * @param {string} name
 * @returns {string[]}
 */
function nativeForms(name) {
  const offset = /^([^.]+)\..*(\+0x[0-9a-f]+)$/.exec(name);
  if (offset) return [name, offset[1] + offset[2]];
  const last = name.split("::").slice(-1)[0];
  return last === name || /[<(]/.test(name) ? [name] : [name, last];
}

/**
 * @param {string} path
 * @returns {string[]}
 */
function fileForms(path) {
  const frozen = /^<frozen (.*)>$/.exec(path);
  if (frozen) return [path, frozen[1]];
  return path.startsWith("/") ? [baseName(path)] : [path, baseName(path)];
}

/**
 * The longest form of a name that fits, else the shortest one cut at its end; empty where not even that helps.
 * @param {string[]} forms as `nameForms` gives them
 * @param {number} room in pixels
 * @param {(text: string) => number} widthOf
 * @returns {string}
 */
export function fitName(forms, room, widthOf) {
  for (const form of forms) {
    if (widthOf(form) <= room) return form;
  }
  return fitText(forms[forms.length - 1], room, widthOf);
}

/**
 * Text cut at its end to fit, with an ellipsis; empty when fewer than two characters would be left.
 * @param {string} text
 * @param {number} room in pixels
 * @param {(text: string) => number} widthOf
 * @returns {string}
 */
export function fitText(text, room, widthOf) {
  if (widthOf(text) <= room) return text;
  // Code points, so that a character outside the basic plane is never cut in half. A name can be thousands of
  // characters long, and no screen shows more than some hundreds of them.
  const characters = Array.from(text.slice(0, 2000));
  let low = 0;
  let high = characters.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (widthOf(characters.slice(0, middle).join("") + "…") <= room) low = middle;
    else high = middle - 1;
  }
  return low < 2 ? "" : characters.slice(0, low).join("") + "…";
}

/**
 * A moment on a time line: `0 s`, `0.25 s`, `12.5 s`, `3:05`, `2:07:30`.
 * @param {number} seconds
 * @returns {string}
 */
export function secondsText(seconds) {
  if (seconds < 0.001) return seconds <= 0 ? "0 s" : `${Number((seconds * 1e6).toPrecision(3))} µs`;
  if (seconds < 1) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  if (seconds < 120) return `${Number(seconds.toFixed(seconds < 10 ? 2 : 1))} s`;
  const whole = Math.round(seconds);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)}`;
  return `${Math.floor(whole / 3600)}:${two(Math.floor((whole % 3600) / 60))}:${two(whole % 60)}`;
}
