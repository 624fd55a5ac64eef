// @ts-check
// What the page says about the capture and the report in words.

import { counted, exact, humanBytes, humanDuration } from "./format.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./decode.js").Tab} Tab */

/** @type {Record<Tab, string>} */
export const TAB_NAMES = { peak: "Peak", leaks: "Not freed", churn: "Churn", temporary: "Temporary" };

/**
 * What the figures of a tab mean.
 * @param {Profile} profile
 * @param {Tab} tab
 * @returns {string}
 */
export function meaning(profile, tab) {
  switch (tab) {
    case "leaks": {
      const isRunning = profile.processes.some(({ facts }) => facts.end === null);
      return (
        "What was allocated in the range of time and had not been freed at its end. " +
        (isRunning ? "The program had not ended, so this may still be in use. " : "") +
        "Not all of it is a leak: caches, modules and whatever lives as long as the program is here too."
      );
    }
    case "churn":
      return "Everything that was allocated in the range of time, whether it was freed or not. Memory that is taken and given back again and again costs time and not space.";
    case "temporary": {
      const threshold = profile.header.temporary_threshold ?? 1;
      const when =
        threshold === 0
          ? "before anything else was allocated"
          : `before more than ${counted(threshold, "other allocation")} followed`;
      return `What was freed ${when}, added up over the range of time. Memory that is taken and given back at once costs time and not space.`;
    }
    case "peak":
      return (
        "What was allocated and not yet freed at the moment when this was the most, in the range of time. Memory that came and went before or after that moment does not count." +
        (profile.processes.length > 1 ? " Each process is at its own peak." : "")
      );
  }
}

/**
 * Why there is nothing to draw, as a heading and a sentence.
 * @param {Profile} profile
 * @param {Tab} tab
 * @param {boolean} isNarrowed whether a range or filters leave something out
 * @returns {{heading: string, text: string}}
 */
export function emptiness(profile, tab, isNarrowed) {
  const events = profile.processes.reduce((sum, { facts }) => sum + facts.events, 0);
  if (events === 0) {
    return {
      heading: "Nothing was recorded",
      text: "The capture holds no allocation. The program may have ended before it allocated anything, or it could not be recorded; “Facts” has the notices.",
    };
  }
  if (isNarrowed) {
    return { heading: "Nothing here", text: "Nothing is left under this range of time and these filters." };
  }
  switch (tab) {
    case "leaks":
      return {
        heading: "Nothing is left",
        text: `Everything that was allocated while recording was freed again (${exact(events)} events were looked at).`,
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
 * Everything known about one process, as label, text and how to set it.
 * @param {Profile} profile
 * @param {number} process
 * @returns {{label: string, lines: string[], isCode?: boolean}[]}
 */
export function factRows(profile, process) {
  const { facts, threads } = profile.processes[process];
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
  add("Threads", [exact(threads.length)]);
  add("Lost events", [facts.lost === 0 ? "none" : exact(facts.lost)]);
  add("Notices", facts.notices);
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
  const found = new Set(profile.processes.flatMap(({ facts }) => facts.notices));
  if (found.size === 0 && !profile.hasPython && profile.cells.size > 0) {
    found.add(
      profile.processes.every(({ facts }) => facts.pythons.length === 0)
        ? "no Python ran in this program, and native stacks were not recorded (run --native): everything is one frame"
        : "no Python code was running in any of these allocations: everything is one frame",
    );
  }
  return Array.from(found);
}

/**
 * What the page leaves out or takes together, under which limits, and what changes them.
 * @param {Profile} profile
 * @returns {{short: string, long: string} | null} in the footer, and beside it
 */
export function limitsText({ folded, header }) {
  const long = [];
  let short = "";
  if (folded) {
    const percent = Number((folded.share * 100).toPrecision(2));
    short = `${counted(folded.nodes, "frame")} of less than ${percent} % each drawn as “other”`;
    long.push(
      `${counted(folded.nodes, "frame")} of less than ${percent} % each (at most ${humanBytes(folded.bytes)} together) are drawn as “other”, so that the page stays small. --min-share PERCENT folds more.`,
    );
  }
  if (header.n_buckets > 1) {
    const width = humanDuration(header.bucket_nanos);
    long.push(`Time is cut into ${exact(header.n_buckets)} steps of ${width}; --max-memory-records changes their number. The moment of each step's highest heap is exact.`);
    if (short === "") short = `time in steps of ${width}`;
  }
  return long.length > 0 ? { short, long: long.join(" ") } : null;
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
