// The page of a real program: its numbers are those of the other reports, and every control works on it. The folder
// holds real.html and, of the same capture, what `stats --json` says.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { brush, check, close, downloaded, find, nodes, ready, state, tableRows, total, zoomedTo } from "./browser.mjs";

const stats = JSON.parse(readFileSync(join(process.argv[2], "stats.json"), "utf8"));
const real = { file: "real.html" };

/** What the page shows adds up, whatever was chosen. */
async function addsUp(page, message) {
  const wrong = await page.evaluate(() => {
    const { nodes, total } = window.memtrace;
    const below = new Map();
    for (const { side, parent, bytes } of nodes) below.set(`${side} ${parent}`, (below.get(`${side} ${parent}`) ?? 0) + bytes);
    const roots = nodes.filter(({ parent }) => parent < 0).map(({ bytes }) => bytes);
    const uneven = nodes.filter(({ side, node, bytes, selfBytes }) => (below.get(`${side} ${node}`) ?? 0) + selfBytes !== bytes);
    const rest = window.memtrace.state.about >= 0 ? 0 : roots[0] - total.bytes;
    return { rest, uneven: uneven.length };
  });
  assert.deepEqual(wrong, { rest: 0, uneven: 0 }, message);
}

await check(
  "the sums are those of the other reports",
  async (page) => {
    assert.equal((await total(page)).bytes, stats.metadata.peak_memory);
    await addsUp(page, "peak");
    for (const tab of ["leaks", "churn"]) {
      await page.click(`#tab-${tab}`);
      await addsUp(page, tab);
    }
    assert.deepEqual(await total(page), { bytes: stats.total_bytes_allocated, count: stats.total_num_allocations });
  },
  real,
);

await check(
  "every view of it adds up",
  async (page) => {
    const peak = await total(page);
    for (const act of [
      () => page.keyboard.press("2"),
      () => page.keyboard.press("1"),
      () => page.keyboard.press("m"),
      () => page.keyboard.press("b"),
      () => page.keyboard.press("b"),
    ]) {
      await act();
      await addsUp(page, "after a key");
      assert.deepEqual(await total(page), peak);
    }
    await page.click("#frames summary");
    await page.check("#drop-imports");
    assert.ok((await total(page)).bytes < peak.bytes, "pandas is imported");
    await addsUp(page, "without imports");
    await page.uncheck("#drop-imports");
    await page.keyboard.press("Escape");
    await page.keyboard.press("3");
    assert.ok((await tableRows(page)).length > 20);
    await page.click("#rows-of [data-value=functions]");
    await page.locator("#rows").getByRole("button", { name: "main", exact: true }).first().click();
    await addsUp(page, "callers and callees");
    const main = await find(page, "main", 0, "callees");
    assert.ok((await nodes(page)).some((node) => node.side === "callees" && node.parent === main.node));
  },
  real,
);

await check(
  "ranges that follow each other have all that was allocated, once",
  async (page) => {
    await page.click("#tab-churn");
    const whole = await total(page);
    const buckets = await page.evaluate(() => window.memtrace.buckets);
    const half = Math.floor(buckets / 2);
    const parts = [];
    for (const range of [`0-${half}`, `${half + 1}-${buckets - 1}`]) {
      await page.evaluate((range) => (location.hash = `tab=churn&range=${range}`), range);
      await page.waitForFunction((range) => `${window.memtrace.state.from}-${window.memtrace.state.to}` === range, range);
      parts.push(await total(page));
      await addsUp(page, range);
    }
    assert.deepEqual({ bytes: parts[0].bytes + parts[1].bytes, count: parts[0].count + parts[1].count }, whole);
    await page.click("#tab-peak");
    await brush(page, 0.2, 0.6);
    await addsUp(page, "a brushed peak");
    const { from, to } = await state(page);
    assert.ok(from > 0 && to < buckets - 1);
    await page.reload();
    await ready(page);
    assert.deepEqual([(await state(page)).from, (await state(page)).to], [from, to]);
  },
  real,
);

await check(
  "filters part it, and it can be taken away",
  async (page) => {
    await page.click("#filters summary");
    const whole = await total(page);
    const group = page.locator("#filter-allocator .choice-row");
    let [bytes, count] = [0, 0];
    const n = await group.count();
    for (let at = 0; at < n; at += 1) {
      await group.nth(at).getByRole("button").click();
      const part = await total(page);
      bytes += part.bytes;
      count += part.count;
      await addsUp(page, "one allocator");
      await page.locator("#filter-allocator").getByRole("button", { name: "All", exact: true }).click();
    }
    assert.deepEqual({ bytes, count }, whole);
    await page.keyboard.press("Escape");
    await page.keyboard.type("/pandas/");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Enter");
    await page.keyboard.press("d");
    assert.match(await page.locator("#details").innerText(), /By thread/);
    await page.click("#export summary");
    const csv = (await downloaded(page, "#save-csv")).bytes.toString();
    assert.ok(csv.split("\r\n").length > 20);
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Escape");
    await zoomedTo(page, "all");
  },
  real,
);

await close();
