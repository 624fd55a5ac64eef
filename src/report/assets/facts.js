// @ts-check
// What the page says about the capture and the report in words.

import { counted, exact, humanBytes, humanDuration } from "./format.js";

/** @typedef {import("./profile.js").Profile} Profile */

/**
 * @param {Profile} profile
 * @returns {string}
 */
export function reportName(profile) {
  switch (profile.report.kind) {
    case "leaks":
      return "Not freed";
    case "temporary":
      return "Temporary allocations";
    default:
      return "Peak memory";
  }
}

/**
 * What the figures of the report mean.
 * @param {Profile} profile
 * @returns {string}
 */
export function meaning(profile) {
  const { report, facts } = profile;
  switch (report.kind) {
    case "leaks":
      return (
        "What was allocated while recording and had not been freed when the recording ended. " +
        (facts.end === null ? "The program had not ended, so this may still be in use. " : "") +
        "Not all of it is a leak: caches, modules and whatever lives as long as the program is here too."
      );
    case "temporary": {
      const threshold = report.threshold ?? 1;
      const when =
        threshold === 0
          ? "before anything else was allocated"
          : `before more than ${counted(threshold, "other allocation")} followed`;
      return `What was freed ${when}, added up over the whole recording. Memory that is taken and given back at once costs time and not space.`;
    }
    default:
      return "What was allocated and not yet freed at the moment when this was the most. Memory that came and went before or after that moment does not count.";
  }
}

/**
 * Why there is nothing to draw, as a heading and a sentence; null when there is something.
 * @param {Profile} profile
 * @returns {{heading: string, text: string} | null}
 */
export function emptiness(profile) {
  if ((profile.count[0] ?? 0) > 0) return null;
  if (profile.facts.events === 0) {
    return {
      heading: "Nothing was recorded",
      text: "The capture holds no allocation. The program may have ended before it allocated anything, or it could not be recorded; “Facts” has the notices.",
    };
  }
  switch (profile.report.kind) {
    case "leaks":
      return {
        heading: "Nothing is left",
        text: `Everything that was allocated while recording was freed again (${exact(profile.facts.events)} events were looked at).`,
      };
    case "temporary":
      return {
        heading: "No temporary allocations",
        text: "Nothing was freed as soon as the threshold asks for. A higher --temporary-allocation-threshold finds memory that is given back a little later.",
      };
    default:
      return { heading: "Nothing was allocated", text: "The capture holds events, but none that allocates memory." };
  }
}

/**
 * Everything known about the capture, as label, text and how to set it.
 * @param {Profile} profile
 * @returns {{label: string, lines: string[], isCode?: boolean}[]}
 */
export function factRows(profile) {
  const { facts, folded } = profile;
  /** @type {{label: string, lines: string[], isCode?: boolean}[]} */
  const rows = [];
  const add = (/** @type {string} */ label, /** @type {(string | null)[]} */ lines, isCode = false) => {
    const known = lines.filter((line) => line !== null && line !== "");
    if (known.length > 0) rows.push({ label, lines: /** @type {string[]} */ (known), isCode });
  };
  const bytes = (/** @type {number | null} */ n) => (n === null ? null : `${humanBytes(n)} (${exact(n)} bytes)`);

  add("Command", [facts.command], true);
  add("Executed", facts.argv.length > 0 ? [shellWords(facts.argv)] : [], true);
  add("Directory", [facts.cwd], true);
  add("Process", [facts.pid === null ? null : `pid ${facts.pid}`]);
  add(
    "Python",
    facts.pythons.map(
      (python) =>
        python.version +
        (python.allocator === "" ? "" : `, allocator ${python.allocator}`) +
        (python.stacks ? "" : ", without stacks"),
    ),
  );
  add("Python objects", [
    facts.python_allocators ? "recorded one by one" : "not recorded one by one: they appear as the arenas that hold them",
  ]);
  add("Start", [facts.start_unix_millis === null ? null : dateAndTime(facts.start_unix_millis)]);
  add("Duration", [facts.duration_nanos === null ? null : humanDuration(facts.duration_nanos)]);
  add("End", [facts.end ?? "not recorded: the program was still running, or the capture is cut off"]);
  add("Events", [exact(facts.events)]);
  add("Peak of the heap", [bytes(facts.peak_bytes)]);
  add("Peak of the resident set", [bytes(facts.peak_rss_bytes)]);
  add("Lost events", [facts.lost === 0 ? "none" : exact(facts.lost)]);
  add("Notices", facts.notices);
  if (folded) add("Left out", [foldedSentence(profile)]);
  if (facts.changed_files > 0) {
    add("Source lines", [`those of ${counted(facts.changed_files, "file")} are not shown: changed after the recording`]);
  }
  add("memtrace", [
    facts.recorded_by === facts.made_by
      ? facts.made_by
      : `recorded by ${facts.recorded_by}, page made by ${facts.made_by}`,
  ]);
  return rows;
}

/**
 * What must not be overlooked.
 * @param {Profile} profile
 * @returns {string[]}
 */
export function warnings(profile) {
  const { facts } = profile;
  const found = [...facts.notices];
  if (found.length === 0 && !profile.hasPython && profile.count[0] > 0) {
    found.push(
      facts.pythons.length === 0
        ? "no Python ran in this program, and native stacks are not recorded: everything is one frame"
        : "no Python code was running in any of these allocations: everything is one frame",
    );
  }
  return found;
}

/**
 * @param {Profile} profile
 * @returns {string}
 */
export function foldedSentence(profile) {
  const folded = profile.folded;
  if (!folded) return "";
  const limit = folded.share * 100;
  const percent = limit.toPrecision(2);
  return `${counted(folded.nodes, "frame")} of less than ${Number(percent)} % each (${humanBytes(folded.bytes)} together) are drawn as “other”`;
}

/**
 * Words as one would type them into a shell.
 * @param {string[]} words
 * @returns {string}
 */
function shellWords(words) {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replace(/'/g, "'\\''")}'`)).join(" ");
}

/** @param {number} millis */
function dateAndTime(millis) {
  const date = new Date(millis);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
