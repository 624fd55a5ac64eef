// Native frames among those of Python, and the same page without them.

import assert from "node:assert/strict";
import { check, find, middle, nodes, ready, settled, state, tableRows, text, total } from "../browser.mjs";

const native = { file: "native.html" };
/** What is drawn, without the numbers of nodes. */
const drawn = async (page) => (await nodes(page)).map(({ function: name, depth, bytes, count, kind }) => [name, depth, bytes, count, kind]);
const PYTHON = [
  ["all", 0, 1_000_000, 5, 5],
  ["<module>", 1, 950_000, 4, 0],
  ["main", 2, 800_000, 3, 0],
  ["no Python stack", 1, 50_000, 1, 3],
];

await check("native frames have a colour of their own", async (page) => {
  const hot = await find(page, "_hot.so+0x10");
  assert.deepEqual([hot.depth, hot.bytes, hot.count, hot.kind], [3, 700_000, 2, 6]);
  assert.equal((await find(page, "_hot.so+0x40")).depth, 1, "no Python ran around it");
  assert.match(await text(page, "legend"), /Your code\s+10\.0 %.*Native\s+90\.0 %/s);
}, native);

let merged = "";
await check("a switch leaves native frames out, in every view", async (page) => {
  const before = await drawn(page);
  await page.keyboard.press("x");
  assert.deepEqual(await drawn(page), PYTHON);
  assert.equal((await total(page)).bytes, 1_000_000);
  assert.match(await text(page, "chips"), /Without native frames/);
  assert.doesNotMatch(await text(page, "legend"), /Native/);
  assert.match(page.url(), /native=false/);
  await page.keyboard.press("3");
  merged = JSON.stringify(await tableRows(page));
  assert.deepEqual(JSON.parse(merged).map((row) => [row[0], row[3]]), [["800 kB 80.0 %", "main"], ["150 kB 15.0 %", "<module>"], ["50.0 kB 5.0 %", "no Python stack"]]);
  await page.reload();
  await ready(page);
  assert.equal(JSON.stringify(await tableRows(page)), merged, "the address says so");
  await page.keyboard.press("1");
  await page.mouse.click(...middle(await find(page, "main")));
  await settled(page);
  assert.match(page.url(), /zoom=2/);
  await page.click("#frames summary");
  await page.check("#show-native");
  assert.deepEqual(await drawn(page), before);
  assert.equal((await state(page)).zoom, "");
}, native);

await check("what was read without native stacks is the same", async (page) => {
  assert.deepEqual(await drawn(page), PYTHON);
  await page.keyboard.press("3");
  assert.equal(JSON.stringify(await tableRows(page)), merged);
  await page.click("#frames summary");
  assert.equal(await page.locator("#native-label").isVisible(), false);
  assert.doesNotMatch(await text(page, "legend"), /Native/);
}, { file: "python.html" });
