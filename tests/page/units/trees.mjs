// Trees of callees and callers beside naive twins, their layout, the keys of their nodes, what a search finds, and the
// address that names all of it.

import assert from "node:assert/strict";
import { decode } from "./decode.js";
import { dataOf } from "./encode.mjs";
import { everything, leftOut, nodeSums } from "./filters.js";
import { hasBoth, withoutNative } from "./native.js";
import { behind, keyOf, nodeOf } from "./paths.js";
import { Profile } from "./profile.js";
import { countedRows, FRAMES, randomCase, summed } from "./random.mjs";
import { cellSums } from "./range.js";
import { search } from "./search.js";
import { fromFragment, opening, toFragment } from "./state.js";
import { calleesByThread, calleesOf, calleesOfAll, callersOf, callersOfAll } from "./tree.js";
import { View } from "./view.js";

const name = (profile, frame) => `${profile.functions[frame]}${profile.lines[frame] === 11 ? "#2" : ""}`;
const pathOf = (view, node) => view.path(node).map((frame) => name(view.profile, frame)).join(";");
/** `{path: [bytes, count]}` of the nodes below the root. */
function paths(view) {
  const found = {};
  for (let node = 0; node < view.size; node += 1) {
    const path = pathOf(view, node);
    assert.ok(!(path in found), `${path} is there once`);
    found[path] = [view.bytes[node], view.count[node]];
  }
  return found;
}
const prefixes = (names) => names.map((_, at) => names.slice(0, at + 1).join(";")).concat("");
const shownNames = (row, hidden) => row.stack.split(";").filter((frame) => frame !== "" && ((FRAMES[frame].role ?? 0) & hidden) === 0);
const bare = (frame) => frame.replace(/#\d+/, "");

for (let seed = 1; seed <= 150; seed += 1) {
  const { roll, rows, profile, nBuckets } = randomCase(seed);
  const hidden = roll(4);
  const metric = ["bytes", "count"][roll(2)];
  const counted = countedRows(rows, "churn", 0, nBuckets - 1);
  const cells = cellSums(profile, "churn", { from: 0, to: nBuckets - 1 });
  const out = leftOut(profile, { chosen: everything(), isThrough: false, dropsImports: false });
  const own = nodeSums(profile, cells, out);
  const check = (tree, reading, wanted, message) => {
    const view = new View(profile, tree, metric);
    assert.deepEqual(paths(view), wanted, `${message} of ${seed}`);
    checkLayout(view);
    checkKeys(view, { root: -1, hidden, isSplit: false, ...reading });
  };
  check(calleesOfAll(profile, own, hidden), { side: "callees" }, summed(counted, (row) => prefixes(shownNames(row, hidden))), "callees");
  check(callersOfAll(profile, own, hidden, metric), { side: "callers" }, summed(counted, (row) => prefixes(shownNames(row, hidden).reverse())), "callers");

  const ofThread = (thread) => nodeSums(profile, cells, out.map((_, cell) => Number(profile.cells.thread[cell] !== thread)));
  const threadPrefixes = (row) => ["", ...prefixes(shownNames(row, hidden)).map((path) => [profile.threads[row.thread].label, path].filter((part) => part !== "").join(";"))];
  check(calleesByThread(profile, ofThread, hidden), { side: "callees", isSplit: true }, summed(counted, threadPrefixes), "threads");

  // Without native frames, stacks are as if they had never had any.
  const python = withoutNative(profile);
  const pythonNames = (row) => {
    const names = row.stack.split(";").filter((frame) => frame !== "" && FRAMES[frame].kind !== "native");
    return names.length > 0 || row.stack === "" ? names : ["no Python stack"];
  };
  const pythonView = new View(python, calleesOfAll(python, nodeSums(python, cells, out), 0), metric);
  assert.deepEqual(paths(pythonView), summed(counted, (row) => prefixes(pythonNames(row))), `Python of ${seed}`);
  checkLayout(pythonView);
  checkKeys(pythonView, { root: -1, hidden: 0, isSplit: false, side: "callees" });
  assert.equal(hasBoth(profile), profile.hasPython && profile.kinds.includes(6));

  // The two sides of `main`, whichever line of it runs; a recursion counts from its outermost call.
  const root = profile.functionOf[profile.functions.indexOf("main")];
  if (!rows.some((row) => row.stack.split(";").some((frame) => bare(frame) === "main"))) continue;
  const halves = (row) => {
    const names = row.stack.split(";");
    const at = names.findIndex((frame) => bare(frame) === "main");
    const visible = (part) => shownNames({ stack: part.join(";") }, hidden);
    return { above: visible(names.slice(0, at)).reverse(), below: visible(names.slice(at + 1)) };
  };
  const through = counted.filter((row) => row.stack.split(";").some((frame) => bare(frame) === "main"));
  check(calleesOf(profile, own, hidden, root), { side: "callees", root }, summed(through, (row) => prefixes(halves(row).below)), "callees of main");
  check(callersOf(profile, own, hidden, metric, root), { side: "callers", root }, summed(through, (row) => prefixes(halves(row).above)), "callers of main");
}

/** Children lie inside of their parent, side by side, the widest first. */
function checkLayout(view) {
  for (let node = 0; node < view.size; node += 1) {
    let [filled, before, bytes] = [view.left[node], Infinity, view.selfBytes[node]];
    for (let child = node + 1; child < view.end[node]; child = view.end[child]) {
      assert.equal(view.parent[child], node);
      assert.equal(view.left[child], filled);
      assert.ok(view.weight[child] <= before);
      filled += view.weight[child];
      before = view.weight[child];
      bytes += view.bytes[child];
      if (view.weight[child] > 0) assert.equal(view.at(view.depth[child], view.left[child]), child);
    }
    assert.equal(bytes, view.bytes[node]);
  }
}

/** Every node has a key that leads back to it, and stands for stacks that hold as much as it does. */
function checkKeys(view, reading) {
  const { profile } = view;
  const { cell, bytes } = profile.intervals;
  for (let node = 0; node < view.size; node += 1) {
    const key = keyOf(view, reading, node);
    assert.equal(nodeOf(view, reading, key), node, `key ${key} of ${pathOf(view, node)} (${reading.side})`);
    const { stacks, thread } = behind(view, reading, node);
    let sum = 0;
    bytes.forEach((value, row) => {
      const at = cell[row];
      if (stacks[profile.cells.node[at]] === 1 && (thread < 0 || profile.cells.thread[at] === thread)) sum += value;
    });
    assert.equal(sum, view.bytes[node], `stacks behind ${pathOf(view, node)} (${reading.side})`);
  }
}

// A view by hand: what was folded stands last, and hidden frames give what they hold to their callers.
const stacks = (texts) => texts.map((text) => ({ stack: text.split(" ")[0], bytes: Number(text.split(" ")[1]), count: Number(text.split(" ")[2]) }));
function viewOf(texts, hidden = 0, tree = calleesOfAll) {
  const profile = new Profile(decode(dataOf(FRAMES, stacks(texts))));
  const cells = cellSums(profile, "churn", { from: 0, to: 0 });
  const own = nodeSums(profile, cells, new Uint8Array(profile.cells.size));
  return new View(profile, tree(profile, own, hidden, "bytes"), "bytes");
}
const drawn = (view) =>
  Array.from({ length: view.size }, (_, node) => `${"  ".repeat(view.depth[node])}${name(view.profile, view.frame[node])} ${view.bytes[node]} ${view.count[node]} @${view.left[node]}`).join("\n");
const imports = ["run;main 10 1", "run;main;boot;pkg 20 2", "run;main;boot 3 1", "run;main;load;pkg 40 1", "run;main;pkg 7 9", "run 5 1"];
assert.equal(drawn(viewOf(imports, 3)), "all 85 15 @0\n  main 80 14 @0\n    pkg 67 12 @0");
assert.equal(drawn(viewOf(["main;other 50 1", "main;pkg 10 1"])), "all 60 2 @0\n  main 60 2 @0\n    pkg 10 1 @0\n    other 50 1 @10");
assert.equal(drawn(viewOf([])), "all 0 0 @0");

// No stack is cut, however deep: each of these has one frame more than the one before.
const deep = viewOf(Array.from({ length: 3000 }, (_, at) => `${"work;".repeat(at)}main 1 1`), 0, callersOfAll);
assert.equal(deep.bytes[0], 3000);
assert.equal(Math.max(...deep.depth), 3000);
assert.equal(deep.selfBytes.reduce((sum, bytes) => sum + bytes), 3000);

// A stack counts once however many of its frames match.
const whole = viewOf(imports);
const matches = (query, isPattern = false) => search(whole.profile, query, isPattern).matches;
assert.deepEqual(whole.matched(matches("^(boot|pkg) ", true)), { bytes: 70, count: 13, nodes: 4 });
assert.deepEqual(whole.matched(matches("main")), { bytes: 80, count: 14, nodes: 1 });
const load = whole.follow(["run", "main", "load"].map((frame) => whole.profile.functions.indexOf(frame)));
assert.deepEqual(whole.matched(matches("pkg "), load), { bytes: 40, count: 1, nodes: 1 }, "below a node only");
assert.deepEqual(whole.matched(matches("main"), load), { bytes: 40, count: 1, nodes: 0 }, "a caller matches");
assert.equal(search(whole.profile, "", false), null);
assert.ok("error" in search(whole.profile, "(", true));
assert.deepEqual(matches("MAIN"), matches("nothing"), "a capital letter means it");

// The address holds whatever differs from how the page opens, and nothing that makes no sense.
const { profile } = randomCase(5);
const base = opening(profile);
assert.equal(toFragment(profile, base), "");
const changed = {
  ...base,
  tab: "leaks",
  from: Math.min(1, base.to),
  show: "table",
  isInverted: true,
  about: 3,
  metric: "count",
  isIcicle: false,
  imports: "none",
  runners: true,
  isSplit: true,
  showsSource: true,
  chosen: { process: [1], thread: [], allocator: [0], size: null, module: [0, 2] },
  isThrough: true,
  query: "a&b=c,#ß",
  isPattern: true,
  zoom: "^12~3",
  hasDetails: true,
  chart: "explained",
  rows: "functions",
  sort: "-count",
  page: 2,
};
assert.deepEqual(fromFragment(profile, `#${toFragment(profile, changed)}`), changed);
for (const [key, value] of Object.entries(changed)) {
  if (key === "to") continue;
  const one = { ...base, [key]: value };
  assert.deepEqual(fromFragment(profile, toFragment(profile, one)), one, key);
}
const wrong = "tab=nothing&show=x&about=999999&range=9-2&range=a&metric=1&only-thread=x,-1,1.5&only-module=q:none&zoom=%&chart=&page=-1";
assert.deepEqual(fromFragment(profile, wrong), { ...base, zoom: "%", chosen: { ...everything(), thread: [], module: [] } });
console.log("ok");
