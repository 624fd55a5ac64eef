// What is shown, as files and links.

import assert from "node:assert/strict";
import { check, downloaded, find, middle, ready, shows, zoomedTo } from "../browser.mjs";

const open = (page) => page.click("#export summary");

await check("the picture as SVG holds every frame that is drawn, and names stay text", async (page) => {
  await open(page);
  const { name, bytes } = await downloaded(page, "#save-svg");
  assert.equal(name, "memtrace-peak-4711.svg");
  const svg = bytes.toString();
  const texts = await page.evaluate((svg) => {
    const parsed = new DOMParser().parseFromString(svg, "image/svg+xml");
    if (parsed.querySelector("parsererror")) return null;
    return { width: parsed.documentElement.getAttribute("width"), scripts: parsed.querySelectorAll("script").length, texts: [...parsed.querySelectorAll("text")].map((text) => text.textContent) };
  }, svg);
  assert.ok(texts, "it is well-formed");
  assert.equal(texts.scripts, 0);
  assert.equal(Number(texts.width), Math.round((await find(page, "all")).rect.width));
  for (const part of ["all", "main", "load", "dumps"]) assert.ok(texts.texts.includes(part), part);
});

await check("the picture as PNG has the size of the whole graph", async (page) => {
  await page.mouse.click(...middle(await find(page, "main", 20)));
  await zoomedTo(page, "main");
  await open(page);
  const { name, bytes } = await downloaded(page, "#save-png");
  assert.match(name, /\.png$/);
  assert.equal(bytes.subarray(1, 4).toString(), "PNG");
  const [width, height] = [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
  assert.equal(width, Math.round((await find(page, "all")).rect.width) * 2);
  assert.equal(height, 4 * 21 * 2, "four rows");
});

await check("numbers come as rows of what is shown", async (page) => {
  await open(page);
  const rows = (await downloaded(page, "#save-csv")).bytes.toString().trim().split("\r\n");
  assert.equal(rows[0], "level,function,file,line,bytes,allocations,own_bytes,own_allocations");
  assert.equal(rows[1], "0,all,,,1000000,11,0,0");
  assert.ok(rows.includes("3,load,/srv/shop/app.py,30,550000,3,550000,3"));
  await page.keyboard.press("3");
  await open(page);
  const table = (await downloaded(page, "#save-csv")).bytes.toString().trim().split("\r\n");
  assert.deepEqual(table.slice(0, 2), ["Size,Allocations,Allocator,Function,Location", "550000,3,malloc,load,/srv/shop/app.py:30"]);
});

await check("a link shows the same view", async (page) => {
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.keyboard.press("b");
  await page.keyboard.type("/fib");
  await page.keyboard.press("Escape");
  await page.fill("#query", "load");
  await page.click("#direction [data-value=flames]");
  await open(page);
  await page.click("#copy-link");
  await shows(page, "toast", "copied");
  const link = await page.evaluate(() => navigator.clipboard.readText());
  await page.goto("about:blank");
  await page.goto(link);
  await ready(page);
  assert.deepEqual(await page.evaluate(() => [window.memtrace.state.metric, window.memtrace.state.query, window.memtrace.state.isIcicle]), ["count", "load", false]);
  await shows(page, "matched", "27.3 %");
  const [all, load] = [await find(page, "all"), await find(page, "load")];
  assert.ok(all.rect.y > load.rect.y);
  assert.equal(await page.locator("#query").inputValue(), "load");
});
