// Filters by thread, module, allocator and size, the chips that name them, and the address that keeps them.

import assert from "node:assert/strict";
import { check, find, has, ready, state, text, total } from "../browser.mjs";

const busy = { file: "busy.html" };
const group = (page, id) => page.locator(`#filter-${id}`);

await check(
  "each filter says what its choices hold and leaves the rest out",
  async (page) => {
    await page.click("#filters summary");
    const rows = await group(page, "thread").locator(".choice-row").allInnerTexts();
    assert.deepEqual(rows.map((row) => row.replace(/\s+/g, " ").trim()), ["loader (4712) 8.00 MB only", "MainThread (4711) 1.00 MB only"]);
    await group(page, "thread").getByLabel("loader (4712)", { exact: false }).first().uncheck();
    assert.deepEqual(await total(page), { bytes: 1_000_000, count: 1 });
    assert.match(await text(page, "chips"), /1\.00 MB of 9\.00 MB, 11\.1 %/);
    assert.match(await text(page, "chips"), /Thread: MainThread/);
    assert.equal(await has(page, "read"), false);
    await group(page, "thread").getByRole("button", { name: "All" }).click();
    assert.equal((await total(page)).bytes, 9_000_000);
    assert.equal(await page.locator("#chips").isVisible(), false);
  },
  busy,
);

await check(
  "filters of several kinds hold together, in the address too",
  async (page) => {
    await page.keyboard.press("n");
    await page.click("#filters summary");
    await group(page, "allocator").getByRole("button", { name: "only malloc" }).click();
    assert.deepEqual(await total(page), { bytes: 2_000_000, count: 1001 });
    const sizes = (await group(page, "size").locator(".choice-row .what").allInnerTexts()).length;
    assert.equal(sizes, 2, "other sizes hold nothing under that allocator");
    await group(page, "size").locator(".choice-row").last().getByRole("button").click();
    assert.deepEqual(await total(page), { bytes: 1_000_000, count: 1 });
    const address = page.url();
    assert.match(address, /only-allocator=\d+&only-size=\d+/);
    await page.goto("about:blank");
    await page.goto(address);
    await ready(page);
    assert.deepEqual(await total(page), { bytes: 1_000_000, count: 1 });
    await page.locator("#chips").getByRole("button", { name: "Clear all" }).click();
    assert.equal((await total(page)).count, 1003);
    await page.goBack();
    assert.equal((await total(page)).count, 1);
  },
  busy,
);

await check(
  "a module is where memory was allocated, or anywhere above",
  async (page) => {
    await page.click("#filters summary");
    const modules = await group(page, "module").locator(".choice-row .what").allInnerTexts();
    assert.deepEqual(modules, ["pandas", "app.py"]);
    await group(page, "module").getByRole("button", { name: "only app.py" }).click();
    assert.equal((await total(page)).bytes, 1_000_000);
    await page.check("#through");
    assert.equal((await total(page)).bytes, 9_000_000);
    assert.match(page.url(), /only-module=p%3Aapp\.py/);
    await page.uncheck("#through");
    await page.keyboard.press("Escape");
    assert.equal((await find(page, "cache")).bytes, 1_000_000);
    assert.equal((await state(page)).isThrough, false);
  },
  busy,
);

await check(
  "when nothing is left the page says so",
  async (page) => {
    await page.click("#filters summary");
    await group(page, "thread").getByRole("button", { name: "None" }).click();
    assert.match(await text(page, "empty"), /Nothing here/);
    await page.locator("#chips .chip").first().click();
    assert.equal((await total(page)).bytes, 9_000_000);
    assert.equal(await page.locator("#graph").isVisible(), true);
  },
  busy,
);
