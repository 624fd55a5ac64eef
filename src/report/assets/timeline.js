// @ts-check
// The time line: heap and resident set, or what the resident set consists of, and the range that is brushed on it.
// uPlot draws the lines; the brush lies above it and works with mouse, touch and keyboard.

import { byId, element } from "./dom.js";
import { exact, humanBytes, secondsText } from "./format.js";
import { AREAS, bucketValues, explainedAt, plotLines } from "./memory.js";
import { bucketSeconds, peakSeconds } from "./range.js";

/** @typedef {import("./profile.js").Profile} Profile */
/** @typedef {import("./palette.js").Theme} Theme */
/** @typedef {import("./range.js").Range} Range */
/** @typedef {import("./state.js").State} State */

/** What of uPlot is used; its own types come with its package, which the page does not depend on. */
/**
 * @typedef {object} Plot
 * @property {HTMLElement} over
 * @property {{left: number | null, idx: number | null}} cursor
 * @property {(size: {width: number, height: number}) => void} setSize
 * @property {(data: (number | null)[][]) => void} setData
 * @property {(value: number, scale: string) => number} valToPos
 * @property {(position: number, scale: string) => number} posToVal
 * @property {() => void} destroy
 */

const HEIGHTS = { lines: 92, explained: 210 };

export class Timeline {
  /**
   * @param {Profile} profile
   * @param {(range: Range, isFinal: boolean) => void} onRange
   */
  constructor(profile, onRange) {
    this.profile = profile;
    this.onRange = onRange;
    this.box = byId("plot");
    /** @type {Plot | null} */
    this.plot = null;
    /** @type {State | null} */
    this.state = null;
    /** @type {Theme | null} */
    this.theme = null;
    this.drawn = "";
    this.before = element("div", "shade");
    this.after = element("div", "shade");
    this.start = this.handle("Start of the range", "from");
    this.stop = this.handle("End of the range", "to");
    /** @type {HTMLElement[]} */
    this.marks = [];
    new ResizeObserver(() => this.resize()).observe(this.box);
  }

  /** Whether there is any time to show. */
  get isThere() {
    return this.profile.nBuckets > 1;
  }

  /**
   * @param {State} state
   * @param {Theme} theme
   */
  show(state, theme) {
    this.state = state;
    const section = byId("timeline");
    section.hidden = !this.isThere || state.chart === "hidden";
    if (section.hidden) return;
    const drawn = [state.chart, theme.background, state.chosen.process].join(" ");
    if (drawn !== this.drawn || !this.plot) {
      this.drawn = drawn;
      this.theme = theme;
      this.draw(state, theme);
    }
    this.placeBrush();
    this.fillReadout(this.plot?.cursor.idx ?? null);
  }

  /** The processes whose lines are summed. */
  processes() {
    return this.state?.chosen.process ?? this.profile.processes.map((_, process) => process);
  }

  /**
   * @param {State} state
   * @param {Theme} theme
   */
  draw(state, theme) {
    this.plot?.destroy();
    this.box.replaceChildren();
    const isExplained = state.chart === "explained";
    const drawn = plotLines(this.profile, this.processes(), isExplained);
    this.seconds = drawn.data[0];
    const UPlot = /** @type {any} */ (globalThis).uPlot;
    const axis = {
      stroke: theme.axis,
      font: "11px system-ui, sans-serif",
      grid: { stroke: theme.grid, width: 1 },
      ticks: { show: false },
    };
    const series = drawn.series.map(({ label, colour, isArea, isStepped }) => ({
      label,
      stroke: isArea ? undefined : theme.lines[colour],
      width: isArea ? 0 : 1.5,
      fill: isArea ? theme.areas[colour] : colour === "heap" && !isExplained ? theme.heapFill : undefined,
      points: { show: false },
      paths: isStepped ? UPlot.paths.stepped({ align: -1 }) : UPlot.paths.linear(),
    }));
    this.plot = new UPlot(
      {
        width: Math.max(120, this.box.clientWidth),
        height: HEIGHTS[isExplained ? "explained" : "lines"],
        padding: [6, 12, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, y: false, points: { size: 5 } },
        scales: { x: { time: false }, y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ most) => [0, (most || 1) * 1.06] } },
        axes: [
          { ...axis, size: 22, gap: 3, space: 70, grid: { show: false }, values: (/** @type {any} */ _, /** @type {number[]} */ ticks) => ticks.map(secondsText) },
          { ...axis, size: 58, gap: 6, space: isExplained ? 34 : 26, values: (/** @type {any} */ _, /** @type {number[]} */ ticks) => ticks.map((tick) => humanBytes(Math.round(tick))) },
        ],
        series: [{}, ...series],
        hooks: { setCursor: [() => this.fillReadout(this.plot?.cursor.idx ?? null)] },
      },
      drawn.data,
      this.box,
    );
    const over = /** @type {Plot} */ (this.plot).over;
    over.append(this.before, this.after);
    if (!this.profile.header.is_aggregated) over.append(this.start, this.stop);
    over.addEventListener("pointerdown", (event) => this.brush(event));
    over.addEventListener("dblclick", () => this.onRange(this.whole(), true));
  }

  resize() {
    const width = this.box.clientWidth;
    if (!this.plot || !this.state || width < 60) return;
    this.plot.setSize({ width, height: HEIGHTS[this.state.chart === "explained" ? "explained" : "lines"] });
    this.placeBrush();
  }

  /** @returns {Range} */
  whole() {
    return { from: 0, to: this.profile.nBuckets - 1 };
  }

  /**
   * The bucket below a position of the pointer.
   * @param {number} clientX
   */
  bucketAt(clientX) {
    const plot = /** @type {Plot} */ (this.plot);
    const seconds = plot.posToVal(clientX - plot.over.getBoundingClientRect().left, "x");
    const bucket = Math.floor((seconds * 1e9 - this.profile.header.start_nanos) / this.profile.bucketNanos);
    return Math.max(0, Math.min(this.profile.nBuckets - 1, bucket));
  }

  /** @param {PointerEvent} event */
  brush(event) {
    const state = this.state;
    const plot = this.plot;
    if (event.button !== 0 || !state || !plot) return;
    const { over } = plot;
    const isStart = event.target === this.start;
    const isStop = event.target === this.stop;
    // A handle keeps the other end; anywhere else a new range begins.
    const anchor = isStart ? state.to : isStop ? state.from : this.bucketAt(event.clientX);
    const begun = event.clientX;
    let hasMoved = false;
    over.setPointerCapture(event.pointerId);
    const follow = (/** @type {PointerEvent} */ move) => {
      if (Math.abs(move.clientX - begun) < 3 && !hasMoved) return;
      hasMoved = true;
      const bucket = this.bucketAt(move.clientX);
      this.onRange({ from: Math.min(anchor, bucket), to: Math.max(anchor, bucket) }, false);
    };
    const end = () => {
      over.removeEventListener("pointermove", follow);
      over.removeEventListener("pointerup", end);
      over.removeEventListener("pointercancel", end);
      if (hasMoved && this.state) this.onRange({ from: this.state.from, to: this.state.to }, true);
    };
    over.addEventListener("pointermove", follow);
    over.addEventListener("pointerup", end);
    over.addEventListener("pointercancel", end);
  }

  /**
   * @param {string} label
   * @param {"from" | "to"} which
   */
  handle(label, which) {
    const handle = element("div", "handle");
    handle.tabIndex = 0;
    handle.setAttribute("role", "slider");
    handle.setAttribute("aria-label", label);
    handle.addEventListener("keydown", (event) => this.onHandleKey(event, which));
    return handle;
  }

  /**
   * @param {KeyboardEvent} event
   * @param {"from" | "to"} which
   */
  onHandleKey(event, which) {
    const state = this.state;
    if (!state || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.profile.nBuckets - 1;
    const leap = Math.max(1, Math.round(last / 20));
    const steps = /** @type {Record<string, number>} */ ({
      ArrowLeft: event.shiftKey ? -leap : -1,
      ArrowRight: event.shiftKey ? leap : 1,
      ArrowDown: -1,
      ArrowUp: 1,
      PageDown: -leap,
      PageUp: leap,
      Home: -last,
      End: last,
    });
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const range = { from: state.from, to: state.to };
    if (which === "from") range.from = Math.max(0, Math.min(state.to, state.from + step));
    else range.to = Math.max(state.from, Math.min(last, state.to + step));
    this.onRange(range, true);
  }

  placeBrush() {
    const { plot, state, profile } = this;
    if (!plot || !state) return;
    const { from, to } = state;
    const left = plot.valToPos(bucketSeconds(profile, from).begin, "x");
    const right = plot.valToPos(bucketSeconds(profile, to).end, "x");
    const width = plot.over.clientWidth;
    const isWhole = from === 0 && to === profile.nBuckets - 1;
    this.before.style.width = `${Math.max(0, left)}px`;
    this.after.style.left = `${Math.min(width, right)}px`;
    this.after.style.width = `${Math.max(0, width - right)}px`;
    this.start.style.left = `${Math.max(0, left)}px`;
    this.stop.style.left = `${Math.min(width, right)}px`;
    for (const [handle, bucket, edge] of /** @type {[HTMLElement, number, "begin" | "end"][]} */ ([
      [this.start, from, "begin"],
      [this.stop, to, "end"],
    ])) {
      handle.setAttribute("aria-valuemin", "0");
      handle.setAttribute("aria-valuemax", String(profile.nBuckets - 1));
      handle.setAttribute("aria-valuenow", String(bucket));
      handle.setAttribute("aria-valuetext", secondsText(bucketSeconds(profile, bucket)[edge]));
      handle.classList.toggle("is-idle", isWhole);
    }
    this.placeMarks();
  }

  /** Marks the moments whose heap the peak shows. */
  placeMarks() {
    const { plot, state, profile } = this;
    for (const mark of this.marks) mark.remove();
    this.marks = [];
    if (!plot) return;
    for (const process of this.processes()) this.placeFlags(plot, process);
    if (state?.tab !== "peak") return;
    for (const process of this.processes().slice(0, 20)) {
      const seconds = peakSeconds(profile, state, process);
      const mark = element("div", "peak-mark");
      mark.style.left = `${plot.valToPos(seconds, "x")}px`;
      mark.title = `peak at ${secondsText(seconds)}`;
      plot.over.append(mark);
      this.marks.push(mark);
    }
  }

  /**
   * Flags where somebody marked a moment, or paused the recording.
   * @param {Plot} plot
   * @param {number} process
   */
  placeFlags(plot, process) {
    const { processes } = this.profile.header;
    for (const { nanos, name, is_named } of processes[process].marks) {
      const flag = element("div", is_named ? "flag" : "flag is-pause", [element("span", "", name)]);
      const seconds = nanos / 1e9;
      flag.style.left = `${plot.valToPos(seconds, "x")}px`;
      const of = processes.length > 1 ? ` (process ${processes[process].facts.pid})` : "";
      flag.title = `${name} at ${secondsText(seconds)}${of}`;
      plot.over.append(flag);
      this.marks.push(flag);
    }
  }

  /**
   * The figures at the cursor; without one, at the end of the range.
   * @param {number | null} point of the plot
   */
  fillReadout(point) {
    const { state, profile, seconds } = this;
    if (!state || !seconds) return;
    const readout = byId("readout");
    const time = point === null ? null : seconds[point];
    const bucket =
      time === null
        ? state.to
        : Math.max(0, Math.min(profile.nBuckets - 1, Math.ceil((time * 1e9 - profile.header.start_nanos) / profile.bucketNanos - 1e-6) - 1));
    const values = bucketValues(profile, this.processes(), bucket);
    const when = element("b", "when", secondsText(time ?? bucketSeconds(profile, bucket).end));
    if (state.chart !== "explained") {
      const entry = (/** @type {string} */ name, /** @type {string} */ label, /** @type {number | null} */ value) =>
        element("span", "", [element("i", name), `${label} `, element("b", "", value === null ? "–" : humanBytes(value))]);
      readout.replaceChildren(when, entry("heap", "Heap", values.endBytes), entry("rss", "Resident", values.rss || null));
      return;
    }
    const table = element("table");
    for (const { label, name, value, title } of explainedAt(values)) {
      const row = element("tr", "", [
        element("th", "", [element("i", name), label]),
        element("td", "", value === null ? "–" : humanBytes(value)),
      ]);
      row.title = value === null ? title : `${title}: ${exact(value)} bytes`;
      table.append(row);
    }
    readout.replaceChildren(when, table);
  }
}

/** The swatches of the areas take their colours from the theme. */
export function colourSwatches(/** @type {Theme} */ theme) {
  const style = document.documentElement.style;
  for (const { name } of AREAS) style.setProperty(`--area-${name}`, theme.areas[name]);
  style.setProperty("--line-heap", theme.lines.heap);
  style.setProperty("--line-rss", theme.lines.rss);
}
