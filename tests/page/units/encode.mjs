// The page's data made by hand, as `report/page` writes it: for tests of what reads it.

const KINDS = { project: 0, library: 1, standard: 2, unknown: 3, other: 4, root: 5, native: 6 };

/** The bytes of a page's data before they are deflated. */
export function encode(header, columns) {
  const parts = [];
  const described = [];
  for (const [name, values, encoding = "plain"] of columns) {
    const bytes = [];
    let before = 0;
    for (const value of values) {
      const difference = encoding === "delta" ? value - before : value;
      pushVarint(bytes, encoding === "plain" ? value : difference < 0 ? -2 * difference - 1 : 2 * difference);
      before = value;
    }
    parts.push(bytes);
    described.push([name, values.length, bytes.length, encoding]);
  }
  const json = new TextEncoder().encode(JSON.stringify({ ...header, columns: described }));
  const out = new Uint8Array(4 + json.length + parts.reduce((sum, part) => sum + part.length, 0));
  new DataView(out.buffer).setUint32(0, json.length, true);
  out.set(json, 4);
  let at = 4 + json.length;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function pushVarint(bytes, value) {
  while (value >= 128) {
    bytes.push((value % 128) + 128);
    value = Math.floor(value / 128);
  }
  bytes.push(value);
}

/**
 * Data of stacks that are given as text: `frames` tells of each name its kind, role, file and line; a row is
 * `{ stack: "main;load", bytes, count, born, died, thread, allocator, size }`, of which only the stack must be there.
 */
export function dataOf(frames, rows, change = {}) {
  const strings = [""];
  const known = new Map([["", 0]]);
  const string = (text) => {
    if (!known.has(text)) known.set(text, strings.push(text) - 1);
    return known.get(text);
  };
  const names = ["all", "no Python stack", "other", ...Object.keys(frames)];
  const frameOf = new Map(names.map((name, frame) => [name, frame]));
  const facts = (name) => frames[name] ?? { kind: name === "all" ? "root" : name === "other" ? "other" : "unknown", file: "", line: 0 };
  const files = names.map((name) => facts(name));
  const paths = [...new Set(files.map(({ file = "" }) => file))];
  const keys = [...new Set(files.map(({ file = "", kind = "project", role = 0 }) => `${paths.indexOf(file)} ${KINDS[kind]} ${role}`))];
  const fileOf = ({ file = "", kind = "project", role = 0 }) => keys.indexOf(`${paths.indexOf(file)} ${KINDS[kind]} ${role}`);

  const root = { frame: 0, below: new Map(), cells: new Map() };
  for (const row of rows) {
    let node = root;
    for (const name of row.stack.split(";").filter((part) => part !== "")) {
      const frame = frameOf.get(name);
      if (frame === undefined) throw new Error(`no frame ${name}`);
      if (!node.below.has(frame)) node.below.set(frame, { frame, below: new Map(), cells: new Map() });
      node = node.below.get(frame);
    }
    const { thread = 0, allocator = 0, size = 0, born = 0, died = 0, bytes = 1, count = 1 } = row;
    const key = `${thread} ${allocator} ${size}`;
    if (!node.cells.has(key)) node.cells.set(key, { thread, allocator, size, intervals: [] });
    node.cells.get(key).intervals.push({ born, died, bytes, count });
  }
  const columns = { depth: [], frame: [], node: [], thread: [], allocator: [], size: [], cell: [], born: [], died: [], bytes: [], count: [] };
  // Not by recursion: a stack may be deeper than that of the one who reads it.
  const pending = [[root, 0]];
  while (pending.length > 0) {
    const [node, depth] = pending.pop();
    for (const cell of node.cells.values()) {
      for (const interval of cell.intervals) {
        columns.cell.push(columns.node.length);
        for (const name of ["born", "died", "bytes", "count"]) columns[name].push(interval[name]);
      }
      columns.node.push(columns.depth.length);
      for (const name of ["thread", "allocator", "size"]) columns[name].push(cell[name]);
    }
    columns.depth.push(depth);
    columns.frame.push(node.frame);
    for (const child of [...node.below.values()].reverse()) pending.push([child, depth + 1]);
  }

  const nBuckets = change.n_buckets ?? 1;
  const processes = change.processes ?? [{ facts: { pid: 1, cwd: "/srv", command: "app.py", notices: [], pythons: [], events: rows.length, end: "exited with code 0" }, threads: [{ number: 1, os_tid: 1, name: "MainThread" }] }];
  const perBucket = (name) => change.buckets?.[name] ?? new Array(nBuckets * processes.length).fill(0);
  const written = [
    ["files.path", keys.map((key) => string(paths[Number(key.split(" ")[0])]))],
    ["files.kind", keys.map((key) => Number(key.split(" ")[1]))],
    ["files.role", keys.map((key) => Number(key.split(" ")[2]))],
    ["frames.function", names.map((name) => string(name.split("#")[0]))],
    ["frames.file", files.map(fileOf)],
    ["frames.line", files.map(({ line = 1 }) => line), "delta"],
    ["frames.source", files.map(({ source = "" }) => string(source))],
    ["nodes.depth", columns.depth],
    ["nodes.frame", columns.frame],
    ["cells.node", columns.node, "delta"],
    ["cells.thread", columns.thread],
    ["cells.allocator", columns.allocator],
    ["cells.size_class", columns.size],
    ["intervals.cell", columns.cell, "delta"],
    ["intervals.born", columns.born],
    ["intervals.died", columns.died],
    ["intervals.bytes", columns.bytes],
    ["intervals.count", columns.count],
    ...["peak_bytes", "peak_nanos", "end_bytes", "rss", "slack", "arenas", "files", "reserved"].map((name) => [`buckets.${name}`, perBucket(name)]),
  ];
  const { buckets, ...header } = change;
  return encode(
    {
      open: { tab: "peak", inverted: false, split_threads: false, temporal: false, table: false, compares: null },
      tabs: ["peak", "leaks", "churn"],
      temporary_threshold: null,
      processes,
      strings,
      allocators: ["malloc", "mmap"],
      size_classes: [16, 1024],
      n_buckets: nBuckets,
      start_nanos: 0,
      bucket_nanos: 1e9,
      folded: null,
      limits: {},
      ...header,
    },
    written,
  );
}
