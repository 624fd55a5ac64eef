// @ts-check
// What the page knows, as columns with handles: frames, the tree of stacks, cells, intervals, time. Read-only.
//
// A *node* is one stack. A *cell* is what one thread allocated at a node through one allocator in one class of sizes.
// An *interval* says how much of a cell was born and died in which segments of time. All sums come from intervals.

import { Kind } from "./palette.js";
import { shortPath } from "./format.js";

/** @typedef {import("./decode.js").Data} Data */
/** @typedef {import("./decode.js").Facts} Facts */
/** @typedef {{key: string, label: string, kind: number}} Module whose code a file is: a package, a module, a folder */
/** @typedef {{process: number, name: string, label: string}} Thread */
/** @typedef {"peakBytes" | "peakNanos" | "endBytes" | "rss" | "slack" | "arenas" | "files" | "reserved"} Series */

/** Roles of frames, as bits; the numbers are those of the data. */
export const Role = { importing: 1, runner: 2 };

/** Frames of the data's own, before those of the program. */
export const OwnFrame = { root: 0, noStack: 1, other: 2 };

/** Letters that tell modules of equal names apart, by kind. */
const KIND_LETTERS = ["p", "l", "s", "u", "o", "r", "n"];

export class Profile {
  /** @param {Data} data */
  constructor({ header, columns }) {
    const column = (/** @type {string} */ name) => columns.get(name) ?? new Float64Array(0);
    this.header = header;
    this.folded = header.folded;
    const { strings } = header;

    const [path, kind, role] = [column("files.path"), column("files.kind"), column("files.role")];
    const [names, file, line, source] = ["function", "file", "line", "source"].map((name) => column(`frames.${name}`));
    const fileModules = modulesOf(Array.from(path, (id) => strings[id]), kind, header.processes[0]?.facts.cwd ?? "");
    /** How many frames come from the data; behind them stand those of threads. */
    this.frames = names.length;
    this.functions = Array.from(names, (id) => strings[id]);
    this.paths = Array.from(file, (id) => strings[path[id]]);
    this.lines = Array.from(line);
    /** The running line's text, empty where it is not known or withheld. */
    this.sources = Array.from(source, (id) => strings[id]);
    this.files = Array.from(file);
    this.kinds = Array.from(file, (id) => kind[id]);
    this.roles = Array.from(file, (id) => role[id]);
    this.modules = fileModules.modules;
    this.moduleOf = Int32Array.from(file, (id) => fileModules.moduleOf[id]);

    this.frame = Uint32Array.from(column("nodes.frame"));
    /** How many nodes the tree has; node 0 is the root. */
    this.nodes = this.frame.length;
    this.depth = Uint32Array.from(column("nodes.depth"));
    this.parent = parentsOf(this.depth);
    /** One past the last node of each subtree. */
    this.end = endsOf(this.parent);

    this.processes = header.processes;
    /** @type {Thread[]} */
    this.threads = header.processes.flatMap(({ facts, threads }, process) =>
      threads.map(({ number, os_tid, name }) => ({
        process,
        name: name || `thread ${number}`,
        label: threadLabel(name, number, os_tid, header.processes.length > 1 ? facts.pid : null),
      })),
    );
    /** The frame that stands for a thread where stacks are split by thread. */
    this.threadFrames = this.threads.map(({ label }) => this.addFrame(label));

    const cellThread = Uint32Array.from(column("cells.thread"));
    this.cells = {
      size: cellThread.length,
      node: Uint32Array.from(column("cells.node")),
      thread: cellThread,
      process: Uint32Array.from(cellThread, (thread) => this.threads[thread]?.process ?? 0),
      allocator: Uint32Array.from(column("cells.allocator")),
      sizeClass: Uint32Array.from(column("cells.size_class")),
    };
    this.intervals = {
      cell: Uint32Array.from(column("intervals.cell")),
      born: Uint32Array.from(column("intervals.born")),
      died: Uint32Array.from(column("intervals.died")),
      bytes: column("intervals.bytes"),
      count: column("intervals.count"),
    };
    this.nBuckets = header.n_buckets;
    this.bucketNanos = header.bucket_nanos;
    const part = (/** @type {string} */ name, /** @type {number} */ process) =>
      column(`buckets.${name}`).subarray(process * this.nBuckets, (process + 1) * this.nBuckets);
    /** @type {Record<Series, Float64Array>[]} one per process, a number per bucket */
    this.buckets = header.processes.map((_, process) => ({
      peakBytes: part("peak_bytes", process),
      peakNanos: part("peak_nanos", process),
      endBytes: part("end_bytes", process),
      rss: heldOver(part("rss", process), part("peak_bytes", process)),
      slack: part("slack", process),
      arenas: part("arenas", process),
      files: part("files", process),
      reserved: part("reserved", process),
    }));
    /** @type {Int32Array | null} */
    this.knownFunctions = null;
    if (header.open.compares && !header.open.compares.by_line) this.forgetLines();
  }

  /**
   * @param {number} process
   * @returns {string}
   */
  processLabel(process) {
    const { compares } = this.header.open;
    const { pid, command } = this.processes[process].facts;
    const name = `${pid ?? ""} ${command}`.trim();
    return compares ? `${process < compares.n_base ? "before" : "after"}: ${name}` : name;
  }

  /** Whether two recordings are compared. */
  get isComparison() {
    return this.header.open.compares !== null;
  }

  /** A function is one frame, whatever the line: between two recordings code moves. */
  forgetLines() {
    this.frame = this.frame.map((frame) => this.functionOf[frame]);
    this.lines.fill(0);
    this.sources.fill("");
  }

  /**
   * `file:line` of a frame, empty for a frame that is in no file.
   * @param {number} frame
   * @param {(path: string) => string} [shorten]
   * @returns {string}
   */
  location(frame, shorten) {
    const path = this.paths[frame];
    if (path === "") return "";
    const shown = shorten ? shorten(path) : path;
    return this.lines[frame] > 0 ? `${shown}:${this.lines[frame]}` : shown;
  }

  /** For each frame the first frame of the same function, whatever the line. */
  get functionOf() {
    if (this.knownFunctions) return this.knownFunctions;
    const known = new Map();
    this.knownFunctions = Int32Array.from(this.functions, (name, frame) => {
      const key = `${name}\n${this.files[frame]}`;
      if (!known.has(key)) known.set(key, frame);
      return known.get(key);
    });
    return this.knownFunctions;
  }

  /** Whether any stack has a Python frame. */
  get hasPython() {
    return this.kinds.some((kind) => kind < Kind.unknown);
  }

  /**
   * The name of a class of sizes: `≤ 16 B`, `> 1 MiB`.
   * @param {number} index
   */
  sizeClassLabel(index) {
    const bounds = this.header.size_classes;
    return index < bounds.length ? `≤ ${binarySize(bounds[index])}` : `> ${binarySize(bounds[bounds.length - 1] ?? 0)}`;
  }

  /**
   * @param {string} label
   * @returns {number}
   */
  addFrame(label) {
    this.functions.push(label);
    this.paths.push("");
    this.lines.push(0);
    this.sources.push("");
    this.files.push(-1);
    this.kinds.push(Kind.root);
    this.roles.push(0);
    return this.functions.length - 1;
  }
}

/**
 * @param {ArrayLike<number>} depths in pre-order
 * @returns {Int32Array}
 */
function parentsOf(depths) {
  const parents = new Int32Array(depths.length);
  /** @type {number[]} */
  const path = [];
  for (let node = 0; node < depths.length; node += 1) {
    parents[node] = depths[node] === 0 ? -1 : path[depths[node] - 1];
    path[depths[node]] = node;
  }
  return parents;
}

/**
 * Samples, with the one before where a bucket has none, as long as the process has memory.
 * @param {Float64Array} samples
 * @param {Float64Array} heap
 */
function heldOver(samples, heap) {
  let last = 0;
  return samples.map((sample, bucket) => {
    last = sample || (heap[bucket] > 0 ? last : 0);
    return last;
  });
}

/**
 * @param {Int32Array} parents in pre-order
 * @returns {Uint32Array}
 */
export function endsOf(parents) {
  const ends = new Uint32Array(parents.length);
  for (let node = parents.length - 1; node >= 0; node -= 1) {
    if (ends[node] === 0) ends[node] = node + 1;
    if (node > 0 && ends[parents[node]] < ends[node]) ends[parents[node]] = ends[node];
  }
  return ends;
}

/**
 * @param {string[]} paths
 * @param {ArrayLike<number>} kinds
 * @param {string} cwd
 * @returns {{modules: Module[], moduleOf: number[]}}
 */
function modulesOf(paths, kinds, cwd) {
  /** @type {Module[]} */
  const modules = [];
  const known = new Map();
  const moduleOf = paths.map((path, file) => {
    const kind = kinds[file];
    const label = moduleName(path, kind, cwd);
    const key = `${KIND_LETTERS[kind]}:${label}`;
    if (!known.has(key)) {
      known.set(key, modules.length);
      modules.push({ key, label, kind });
    }
    return known.get(key);
  });
  return { modules, moduleOf };
}

/**
 * The package of installed code, the module of Python's own, the folder or file of the program's.
 * @param {string} path
 * @param {number} kind
 * @param {string} cwd
 * @returns {string}
 */
export function moduleName(path, kind, cwd) {
  if (kind === Kind.root) return "all";
  if (kind === Kind.other) return "folded";
  if (kind === Kind.unknown) return "no Python stack";
  if (kind === Kind.native) return nativeModuleName(path);
  const frozen = /^<frozen ([^.>]*)/.exec(path);
  if (frozen) return frozen[1];
  if (path.startsWith("<")) return path;
  if (kind !== Kind.project) return shortPath(path).replace(/^\/+/, "").split("/")[0].replace(/\.\w+$/, "");
  const isBelow = cwd !== "" && path.startsWith(`${cwd.replace(/\/$/, "")}/`);
  const parts = (isBelow ? path.slice(cwd.replace(/\/$/, "").length + 1) : path).split("/");
  if (isBelow) return parts[0];
  return parts.length > 2 ? parts.slice(-2, -1)[0] : parts[parts.length - 1];
}

/**
 * The package, the library, or the folder of the sources.
 * @param {string} path of a source file, or of a library where no source is known
 * @returns {string}
 */
function nativeModuleName(path) {
  const package_ = /.*\/(?:site|dist)-packages\/([^/]+)/.exec(path);
  if (package_) return package_[1].replace(/\..*$/, "");
  if (/\/Python-3\.|\/libpython3|\/python3?[.\d]*[dt]*$|\/\.\.\/(Include|Modules|Objects|Parser|Programs|Python)\//.test(path)) return "CPython";
  if (path.startsWith("/rustc/")) return "Rust";
  // Distributions build libc where its sources are, and name them from there.
  if (/^\.\.?\/|\/\.\.\/sysdeps\//.test(path)) return "libc";
  const parts = path.split("/");
  const name = parts[parts.length - 1];
  if (/\.so(\.|$)/.test(name)) return name.replace(/\..*$/, "");
  return parts.length > 2 ? parts[parts.length - 2] : name;
}

/**
 * @param {string} name
 * @param {number} number
 * @param {number} osTid
 * @param {number | null} pid where there are several processes
 */
function threadLabel(name, number, osTid, pid) {
  const own = name ? `${name} (${osTid || number})` : `thread ${osTid || number}`;
  return pid === null ? own : `${own}, pid ${pid}`;
}

/** @param {number} bytes */
function binarySize(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  let value = bytes;
  for (; value >= 1024 && value % 1024 === 0 && unit < 3; unit += 1) value /= 1024;
  return `${value} ${units[unit]}`;
}
