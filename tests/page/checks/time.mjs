// The time line and its range, over ten seconds of two threads:
//
//   1 s   app.py:10 ─ cache:20 keeps                 1 000 000 bytes, malloc, MainThread
//   3 s   app.py:11 ─ read (pandas) takes            8 000 000        aligned_alloc, loader; given back at 5 s
//   6 s   app.py:12 ─ loop:30 takes and gives        1 000 000        in 1 000 allocations
//   7 s   app.py:13 ─ late:40 keeps                  3 000 000        calloc, MainThread

import assert from "node:assert/strict";
import { brush, check, downloaded, find, has, ready, shows, state, text, total } from "../browser.mjs";

const busy = { file: "busy.html" };
/** The range of buckets that covers these seconds. */
const covering = (page, from, to) =>
  page.evaluate(([from, to]) => [Math.floor((from / 10) * window.memtrace.buckets), Math.ceil((to / 10) * window.memtrace.buckets) - 1], [from, to]);

await check(
  "peak, what was not freed and churn are tabs of one page",
  async (page) => {
    assert.deepEqual(await total(page), { bytes: 9_000_000, count: 2 });
    assert.match(await text(page, "tab-leaks"), /4\.00 MB/);
    assert.match(await text(page, "tab-churn"), /13\.0 MB/);
    await page.click("#tab-leaks");
    assert.deepEqual(await total(page), { bytes: 4_000_000, count: 2 });
    assert.equal(await has(page, "read"), false);
    await page.keyboard.press("ArrowRight");
    assert.deepEqual(await total(page), { bytes: 13_000_000, count: 1003 });
    assert.equal((await find(page, "loop")).count, 1000);
    await page.keyboard.press("p");
    assert.equal((await state(page)).tab, "peak");
    await page.goBack();
    assert.equal((await state(page)).tab, "churn");
    await page.reload();
    await ready(page);
    assert.equal((await total(page)).count, 1003);
  },
  busy,
);

await check(
  "a range that is brushed is all that counts",
  async (page) => {
    await brush(page, 0.58, 0.95);
    await page.waitForFunction(() => window.memtrace.total.bytes === 4_000_000);
    assert.equal(await has(page, "read"), false);
    assert.match(await text(page, "chips"), /5\.\d+ s – 9\.\d+ s/);
    await page.click("#tab-leaks");
    assert.deepEqual(await total(page), { bytes: 3_000_000, count: 1 }, "what came before the range is no leak of it");
    await page.click("#tab-churn");
    assert.deepEqual(await total(page), { bytes: 4_000_000, count: 1001 });
    const address = page.url();
    assert.match(address, /range=\d+-\d+/);
    await page.goto("about:blank");
    await page.goto(address);
    await ready(page);
    assert.deepEqual(await total(page), { bytes: 4_000_000, count: 1001 });
    await page.locator("#plot .u-over").dblclick({ position: { x: 20, y: 10 } });
    assert.equal((await total(page)).count, 1003);
    await page.goBack();
    assert.equal((await total(page)).count, 1001);
    await page.locator("#chips .chip").first().click();
    assert.equal((await total(page)).count, 1003);
  },
  busy,
);

await check(
  "the ends of the range are sliders",
  async (page) => {
    const [last] = [await page.evaluate(() => window.memtrace.buckets - 1)];
    const [start, end] = [page.getByRole("slider", { name: "Start" }), page.getByRole("slider", { name: "End" })];
    await start.focus();
    await page.keyboard.press("ArrowRight");
    assert.deepEqual([(await state(page)).from, await start.getAttribute("aria-valuenow")], [1, "1"]);
    await page.keyboard.press("Home");
    await page.keyboard.press("PageUp");
    assert.ok((await state(page)).from >= 1);
    await page.keyboard.press("End");
    assert.deepEqual([(await state(page)).from, (await state(page)).to], [last, last]);
    await page.keyboard.press("Home");
    await end.focus();
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("Shift+ArrowLeft");
    assert.ok((await state(page)).to < last - 1);
    await page.keyboard.press("Home");
    assert.deepEqual([(await state(page)).from, (await state(page)).to], [0, 0]);
    await page.keyboard.press("End");
    assert.equal(page.url().includes("range"), false);
    // And with the mouse.
    const box = await start.boundingBox();
    const plot = await page.locator("#plot .u-over").boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + 10);
    await page.mouse.down();
    await page.mouse.move(plot.x + plot.width * 0.4, box.y + 10, { steps: 4 });
    await page.mouse.up();
    const [from] = await covering(page, 4, 10);
    assert.ok(Math.abs((await state(page)).from - from) <= 1);
    assert.equal((await state(page)).to, last);
  },
  busy,
);

await check(
  "the cursor reads the lines, and the resident set is explained",
  async (page) => {
    const box = await page.locator("#plot .u-over").boundingBox();
    await page.mouse.move(box.x + box.width * 0.4, box.y + 20);
    await shows(page, "readout", "9.00 MB");
    await page.mouse.move(box.x + box.width * 0.8, box.y + 20);
    await shows(page, "readout", "4.00 MB");
    await shows(page, "readout", "20.0 MB");
    await page.keyboard.press("r");
    await page.mouse.move(box.x + box.width * 0.8, box.y + 30);
    await shows(page, "readout", "Unaccounted");
    const rows = Object.fromEntries(await page.locator("#readout tr").evaluateAll((rows) => rows.map((row) => [row.cells[0].innerText, row.cells[1].innerText])));
    assert.equal(rows["Requested"], "4.00 MB");
    assert.equal(rows["Resident set"], "20.0 MB");
    assert.match(page.url(), /chart=explained/);
    await page.click("#chart [data-value=lines]");
    assert.equal((await state(page)).chart, "lines");
  },
  busy,
);

await check(
  "the time line can be had as a table",
  async (page) => {
    await page.click("#export summary");
    const { name, bytes } = await downloaded(page, "#save-series");
    assert.match(name, /^memtrace-peak-4711-time\.csv$/);
    const [head, ...rows] = bytes.toString().trim().split("\r\n").map((row) => row.split(","));
    assert.equal(rows.length, await page.evaluate(() => window.memtrace.buckets));
    const heap = head.indexOf("heap_peak_bytes");
    assert.equal(Math.max(...rows.map((row) => Number(row[heap]))), 9_000_000);
    assert.equal(Number(rows.at(-1)[head.indexOf("heap_bytes")]), 4_000_000);
  },
  busy,
);

await check(
  "marks and pauses are flags on the time line",
  async (page) => {
    const flags = await page.evaluate(() =>
      [...document.querySelectorAll("#plot .flag")].map((flag) => [flag.textContent, flag.title, parseFloat(flag.style.left) / flag.parentElement.clientWidth]),
    );
    assert.deepEqual(flags.map(([name]) => name), ["loaded <b>", "served", "paused", "resumed"]);
    assert.match(flags[0][1], /^loaded <b> at 2/);
    // Of ten seconds.
    flags.forEach(([, , share], index) => assert.ok(Math.abs(share - [0.2, 0.6, 0.8, 0.9][index]) < 0.02, `${share}`));
  },
  busy,
);

await check(
  "a page opens with the range between two marks",
  async (page) => {
    const [from, to] = await covering(page, 2, 6);
    const range = await state(page);
    assert.ok(Math.abs(range.from - from) <= 1 && Math.abs(range.to - to) <= 1, `${range.from} to ${range.to}`);
    assert.deepEqual(await total(page), { bytes: 8_000_000 + 1_000_000, count: 2 });
    await page.click("#tab-churn");
    assert.equal(await has(page, "late"), false);
  },
  { file: "marked.html" },
);
