// What `memtrace diff --format html` draws: `load` has 200 000 bytes more, `dumps` none of its 200 000 any more, and
// `main`, which calls both from two lines, as much as before.

import assert from "node:assert/strict";
import { check, downloaded, find, middle, nodes, shows, text, total } from "../browser.mjs";

const options = { file: "diff.html" };

await check("frames hold what was there before and after", async (page) => {
  const held = async (name) => {
    const { bytes, baseBytes } = await find(page, name);
    return [baseBytes, bytes - baseBytes];
  };
  assert.deepEqual(await held("all"), [1_000_000, 1_000_000]);
  assert.deepEqual(await held("main"), [750_000, 750_000]);
  assert.equal((await nodes(page)).filter((node) => node.function === "main").length, 1, "lines are not told apart");
  assert.deepEqual(await held("load"), [550_000, 750_000]);
  assert.deepEqual(await held("dumps"), [200_000, 0]);
  assert.match(await text(page, "tab-peak"), /1\.00 MB\s+no change/);
  for (const word of ["gone", "less", "no change", "more", "new"]) await shows(page, "legend", word);
  assert.ok(await page.locator("#timeline").isHidden(), "the two have no time in common");
  assert.ok(await page.locator("#show [data-value=table]").isHidden());
}, options);

await check("a tooltip tells the change", async (page) => {
  await page.mouse.move(...middle(await find(page, "load")));
  await shows(page, "tip", "+200 kB (+36 %)");
  for (const part of ["Before", "550 kB", "After", "750 kB"]) await shows(page, "tip", part);
  await page.mouse.move(...middle(await find(page, "dumps")));
  await shows(page, "tip", "−200 kB (gone)");
}, options);

await check("what grew is red and what shrank is blue, and the exports say so too", async (page) => {
  await page.click("#export summary");
  const picture = (await downloaded(page, "#save-svg")).bytes.toString();
  assert.match(picture, /hsl\(8 /);
  assert.match(picture, /hsl\(214 72% 68\.0%\)/, "dumps is gone");
  await page.click("#export summary");
  const table = (await downloaded(page, "#save-csv")).bytes.toString();
  assert.match(table.split("\r\n")[0], /bytes_before,allocations_before$/);
  assert.match(table, /load,.*,550000,3\r\n/);
}, options);

await check("who calls what changed, and either recording alone", async (page) => {
  await page.click("#show [data-value=inverted]");
  const load = await find(page, "load");
  assert.deepEqual([load.depth, load.baseBytes, load.bytes], [1, 550_000, 1_300_000]);
  await page.goto(page.url().replace(/#.*/, "#only-process=0"));
  await page.waitForFunction(() => window.memtrace.total.bytes === 1_000_000);
  assert.equal((await total(page)).count, 11);
  assert.match(await text(page, "tab-peak"), /−1\.00 MB \(gone\)/);
}, options);
