// The parts of the page's script that need no browser: how numbers and names are shown, what hiding frames does to the
// tree, what a search finds. tests/page.rs runs it beside copies of the modules.

import assert from "node:assert/strict";
import { exact, fitName, fitText, humanBytes, humanCount, humanDuration, nameForms, share, shortPath } from "./format.js";
import { Profile, View } from "./profile.js";
import { search } from "./search.js";

const table = (convert, pairs) => {
  for (const [given, wanted] of pairs) assert.equal(convert(given), wanted, `${given}`);
};

table(humanBytes, [
  [0, "0 B"],
  [999, "999 B"],
  [1000, "1.00 kB"],
  [9994, "9.99 kB"],
  [9995, "10.0 kB"],
  [99_949, "99.9 kB"],
  [999_499, "999 kB"],
  [999_500, "1.00 MB"],
  [257_047_744, "257 MB"],
  [4_600_000_000_000, "4.60 TB"],
  [2 ** 62, "4.61 EB"],
]);
table(exact, [
  [0, "0"],
  [999, "999"],
  [1234567, "1\u202f234\u202f567"],
]);
table(humanCount, [
  [9999, "9\u202f999"],
  [12_345, "12.3\u202fk"],
  [999_600, "1.00\u202fM"],
]);
table(([part, whole]) => share(part, whole), [
  [[0, 0], "0 %"],
  [[0, 5], "0 %"],
  [[5, 5], "100 %"],
  [[1, 1e9], "< 0.01 %"],
  [[999_999, 1e6], "> 99.9 %"],
  [[1, 300], "0.33 %"],
  [[452, 1000], "45.2 %"],
]);
table(humanDuration, [
  [830e3, "830 µs"],
  [12e6, "12 ms"],
  [12.44e9, "12.4 s"],
  [185e9, "3 min 05 s"],
  [7625e9, "2 h 07 min"],
  [1047600e9, "12 d 3 h"],
]);
table(shortPath, [
  ["/home/ada/.venv/lib/python3.12/site-packages/pandas/io/common.py", "pandas/io/common.py"],
  ["/usr/lib/python3.12/json/decoder.py", "json/decoder.py"],
  ["/home/ada/shop/report.py", "/home/ada/shop/report.py"],
]);
const forms = (name, path = "/srv/app.py") => nameForms(name, path).join(" | ");
assert.equal(forms("load"), "load");
assert.equal(forms("Index.__new__.<locals>.pick"), "Index.__new__.<locals>.pick | __new__.<locals>.pick | pick");
assert.equal(forms("<module>"), "app.py");
assert.equal(forms("<module>", "/usr/lib/python3.12/json/__init__.py"), "json/__init__.py | json/__init__.py");
assert.equal(forms("<module>", "<frozen site>"), "<frozen site> | site");
assert.equal(forms("<module>", ""), "<module>");

const widthOf = (text) => Array.from(text).length;
assert.equal(fitName(["Frame.__init__", "__init__"], 14, widthOf), "Frame.__init__");
assert.equal(fitName(["Frame.__init__", "__init__"], 13, widthOf), "__init__");
assert.equal(fitName(["Frame.__init__", "__init__"], 5, widthOf), "__in…");
assert.equal(fitText("𝔸𝔹ℂ𝔻", 3, widthOf), "𝔸𝔹…");
assert.equal(fitText("abcdef", 2, widthOf), "");
assert.equal(fitText("x".repeat(1e6), 10, widthOf), "xxxxxxxxx…");

// main imports pkg through two importlib frames at two places; the runner is above main.
const names = ["all", "run", "main", "boot", "load", "pkg", "other"];
const frames = { run: 1, main: 2, boot: 3, load: 4, pkg: 5, other: 6 };
/** A profile of stacks written as "run;main 100 1". */
function profileOf(stacks) {
  const root = { frame: 0, bytes: 0, count: 0, below: new Map() };
  for (const stack of stacks) {
    const [path, bytes, count] = stack.split(" ");
    let node = root;
    for (const frame of [0, ...path.split(";").map((name) => frames[name])]) {
      if (frame !== 0) {
        if (!node.below.has(frame)) node.below.set(frame, { frame, bytes: 0, count: 0, below: new Map() });
        node = node.below.get(frame);
      }
      node.bytes += Number(bytes);
      node.count += Number(count);
    }
  }
  const nodes = { depth: [], frame: [], bytes: [], count: [] };
  const add = (node, depth) => {
    nodes.depth.push(depth);
    nodes.frame.push(node.frame);
    nodes.bytes.push(node.bytes);
    nodes.count.push(node.count);
    for (const child of node.below.values()) add(child, depth + 1);
  };
  add(root, 0);
  const files = { path: [0, 0, 0, 0, 0, 0, 0], kind: [5, 2, 0, 2, 2, 1, 4], role: [0, 2, 0, 1, 1, 0, 0] };
  const columns = { function: [1, 2, 3, 4, 5, 6, 7], file: [0, 1, 2, 3, 4, 5, 6], line: [0, 1, 1, 1, 1, 1, 0], source: [0, 0, 0, 0, 0, 0, 0] };
  return new Profile({ report: { kind: "peak" }, facts: {}, strings: ["", ...names], files, frames: columns, nodes, folded: null });
}
/** A view as text: "all 10 > main 7 …", a level by two spaces. */
function shown(view) {
  const line = (_, node) =>
    `${"  ".repeat(view.depth[node])}${view.profile.functions[view.frame[node]]} ${view.bytes[node]} ${view.count[node]} @${view.left[node]}`;
  return Array.from({ length: view.size }, line).join("\n");
}
const shape = (change) => ({ imports: "all", runners: true, metric: "bytes", ...change });

const profile = profileOf(["run;main 10 1", "run;main;boot;pkg 20 2", "run;main;boot 3 1", "run;main;load;pkg 40 1", "run;main;pkg 7 9", "run 5 1"]);
assert.equal(
  shown(new View(profile, shape({}))),
  "all 85 15 @0\n  run 85 15 @0\n    main 80 14 @0\n      load 40 1 @0\n        pkg 40 1 @0\n      boot 23 3 @40\n        pkg 20 2 @40\n      pkg 7 9 @63",
);
const hidden = new View(profile, shape({ imports: "machinery", runners: false }));
assert.equal(shown(hidden), "all 85 15 @0\n  main 80 14 @0\n    pkg 67 12 @0", "the three are one when nothing is between");
assert.equal(hidden.selfBytes[0], 5, "what the runner allocated is the root's");
assert.equal(hidden.selfBytes[1], 13, "what importlib allocated is the importer's");
assert.deepEqual(Array.from(hidden.nodeOf), [0, 0, 1, 1, 2, 1, 2, 2], "every node of the profile has its place in the view");
const without = new View(profile, shape({ imports: "none", runners: false }));
assert.equal(shown(without), "all 22 11 @0\n  main 17 10 @0\n    pkg 7 9 @0");
assert.deepEqual(without.leftOut, { bytes: 63, count: 4 });
assert.equal(
  shown(new View(profile, shape({ imports: "machinery", runners: false, metric: "count" }))),
  "all 85 15 @0\n  main 80 14 @0\n    pkg 67 12 @0",
);
const folded = new View(profileOf(["main;other 50 1", "main;pkg 10 1"]), shape({}));
assert.equal(shown(folded), "all 60 2 @0\n  main 60 2 @0\n    pkg 10 1 @0\n    other 50 1 @10", "what was folded stands last");

// A stack counts once however many of its frames match.
const whole = new View(profile, shape({}));
const matches = (query, isPattern = false) => search(profile, query, isPattern).matches;
assert.deepEqual(whole.matched(matches("^(boot|pkg) ", true)), { bytes: 70, count: 13, nodes: 4 });
assert.deepEqual(whole.matched(matches("main")), { bytes: 80, count: 14, nodes: 1 });
const load = whole.nodeOf[5];
assert.deepEqual(whole.matched(matches("pkg"), load), { bytes: 40, count: 1, nodes: 1 }, "below a node only");
assert.deepEqual(whole.matched(matches("main"), load), { bytes: 40, count: 1, nodes: 0 }, "a caller matches");
assert.equal(search(profile, "", false), null);
assert.ok("error" in search(profile, "(", true));
assert.deepEqual(matches("MAIN"), matches("nothing"), "a capital letter means it");
assert.equal(search(profile, "\\D+", true).frames, 7, "the capital of a class is none");
console.log("ok");
