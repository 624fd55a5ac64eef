// @ts-check
// What the search box means: plain text by default, a regular expression on request.

/** @typedef {import("./profile.js").Profile} Profile */

/**
 * One flag per frame, or why the pattern can't be used; null where nothing is searched for.
 *
 * Plain text ignores case until it has a capital letter itself, and matches `function`, `path:line` and what a label
 * shows, `function path:line`.
 * @param {Profile} profile
 * @param {string} query
 * @param {boolean} isPattern
 * @returns {{matches: Uint8Array, frames: number} | {error: string} | null}
 */
export function search(profile, query, isPattern) {
  if (query === "") return null;
  const hasCapital = /\p{Lu}/u.test(isPattern ? query.replace(/\\[A-Z]/g, "") : query);
  let isMatch;
  if (isPattern) {
    let pattern;
    try {
      pattern = new RegExp(query, hasCapital ? "" : "i");
    } catch (error) {
      return { error: String(error instanceof Error ? error.message : error).replace(/^Invalid regular expression: /, "") };
    }
    isMatch = (/** @type {string} */ text) => pattern.test(text);
  } else {
    const wanted = hasCapital ? query : query.toLowerCase();
    isMatch = (/** @type {string} */ text) => (hasCapital ? text : text.toLowerCase()).includes(wanted);
  }
  const matches = new Uint8Array(profile.frames);
  let frames = 0;
  for (let frame = 0; frame < profile.frames; frame += 1) {
    if (!isMatch(`${profile.functions[frame]} ${profile.location(frame)}`)) continue;
    matches[frame] = 1;
    frames += 1;
  }
  return { matches, frames };
}
