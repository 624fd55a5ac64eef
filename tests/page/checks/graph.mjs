// The flame graph under mouse and keyboard: numbers, zoom, history, search, hidden frames, directions.

import assert from "node:assert/strict";
import { check, find, focused, has, middle, nodes, ready, shows, text, total, zoomed, zoomedTo } from "../browser.mjs";

await check("the numbers are those of the capture", async (page) => {
  assert.deepEqual(await total(page), { bytes: 1_000_000, count: 11 });
  assert.match(await text(page, "tab-peak"), /1\.00 MB\s+11 allocations/);
  assert.match(await text(page, "tab-churn"), /1\.00 MB\s+11 allocations/);
  assert.match(await text(page, "tab-leaks"), /0 B\s+0 allocations/);
  const load = await find(page, "load");
  assert.deepEqual([load.bytes, load.count, load.depth], [550_000, 3, 3]);
  assert.equal((await find(page, "no Python stack")).bytes, 1000);
  const root = await find(page, "all");
  assert.equal(root.bytes, 1_000_000);
  const shares = (await nodes(page)).map((node) => node.rect.width / root.rect.width - node.bytes / 1_000_000);
  assert.ok(shares.every((difference) => Math.abs(difference) < 0.001), "widths are the shares of the bytes");
});

await check("children never hold more than their parent", async (page) => {
  const all = await nodes(page);
  for (const node of all) {
    const below = all.filter((child) => child.parent === node.node).reduce((sum, child) => sum + child.bytes, 0);
    assert.equal(below + node.selfBytes, node.bytes, node.function);
  }
});

await check("a tooltip tells the frame", async (page) => {
  await page.mouse.move(...middle(await find(page, "dumps")));
  await shows(page, "tip", "dumps");
  const tip = await text(page, "tip");
  for (const part of ["/usr/lib/python3.11/json/__init__.py:238", "200 kB", "200\u202f000 bytes", "20.0 %"]) {
    assert.ok(tip.includes(part), `${part} is not in\n${tip}`);
  }
});

await check("a click zooms, and back and forward follow", async (page) => {
  await page.mouse.click(...middle(await find(page, "main", 20)));
  await zoomedTo(page, "main");
  const [main, root, load] = [await find(page, "main", 20), await find(page, "all"), await find(page, "load")];
  assert.equal(main.rect.width, root.rect.width, "the zoomed frame is as wide as the graph, and its callers are too");
  assert.equal(load.rect.width, root.rect.width);
  assert.equal((await find(page, "dumps")).rect, null);
  assert.match(page.url(), /#zoom=\d+$/);
  await page.mouse.click(...middle(load));
  await zoomedTo(page, "load");
  await page.goBack();
  await zoomedTo(page, "main");
  await page.goBack();
  await zoomedTo(page, "all");
  await page.goForward();
  await zoomedTo(page, "main");
  await page.reload();
  await ready(page);
  await zoomedTo(page, "main");
  await page.getByRole("button", { name: "Reset zoom" }).click();
  await zoomedTo(page, "all");
  assert.ok(!page.url().includes("zoom"));
});

await check("a caller above the zoom can be clicked", async (page) => {
  await page.mouse.click(...middle(await find(page, "load")));
  await zoomedTo(page, "load");
  await page.mouse.click(...middle(await find(page, "main", 20)));
  await zoomedTo(page, "main");
  await page.keyboard.press("Escape");
  await zoomedTo(page, "all");
});

await check("a search counts every stack once", async (page) => {
  await page.keyboard.press("/");
  await page.keyboard.type("fib");
  await shows(page, "matched", "4.9 %");
  assert.ok((await text(page, "matched")).includes("49.0 kB"));
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  assert.equal((await focused(page)).function, "fib");
  await page.keyboard.press("Escape");
  assert.equal(await text(page, "matched"), "");
  await page.keyboard.type("no such frame");
  await shows(page, "matched", "no match");
});

await check("a search is plain text until it is told to be a pattern", async (page) => {
  await page.keyboard.press("Control+f");
  await page.keyboard.type("^(load|dumps) ");
  await shows(page, "matched", "no match");
  await page.click("#pattern");
  await shows(page, "matched", "75.0 %");
  await page.fill("#query", "(");
  await page.waitForSelector(".field.is-wrong");
  await page.fill("#query", "JSON");
  await shows(page, "matched", "no match");
  await page.fill("#query", "json/");
  await shows(page, "matched", "20.0 %");
});

await check("a search knows the zoom", async (page) => {
  await page.fill("#query", "load");
  await shows(page, "matched", "55.0 %");
  await page.mouse.click(...middle(await find(page, "load")));
  await shows(page, "matched", "100 % of the zoom");
});

await check("import frames are hidden, shown, and left out with what they hold", async (page) => {
  assert.equal(await has(page, "_find_and_load"), false);
  assert.equal((await find(page, "<module>", 5)).depth, 2, "the imported module hangs on its importer");
  await page.keyboard.press("m");
  await page.waitForFunction(() => window.memtrace.nodes.some((node) => node.function === "_find_and_load"));
  assert.equal((await find(page, "<module>", 5)).depth, 3);
  assert.equal((await total(page)).bytes, 1_000_000);
  await page.click("#frames summary");
  await page.check("#drop-imports");
  await page.waitForFunction(() => window.memtrace.total.bytes === 850_000);
  assert.match(await text(page, "chips"), /850 kB of 1\.00 MB, 85\.0 %\s*Without imports/);
  await page.click("#chips .chip");
  assert.equal((await total(page)).bytes, 1_000_000);
  await page.click("#frames summary");
  await page.check("#drop-imports");
  assert.ok(!(await nodes(page)).some((node) => node.location.includes("site-packages")));
});

await check("frames can be as wide as their number of allocations", async (page) => {
  await page.keyboard.press("b");
  const [pkg, root] = [await find(page, "<module>", 5), await find(page, "all")];
  assert.ok(Math.abs(pkg.rect.width / root.rect.width - 3 / 11) < 0.001);
  await page.getByRole("button", { name: "Bytes" }).click();
  assert.ok(Math.abs((await find(page, "<module>", 5)).rect.width / root.rect.width - 0.15) < 0.001);
});

await check("flames stand on their root", async (page) => {
  const before = [await find(page, "all"), await find(page, "load")];
  assert.ok(before[0].rect.y < before[1].rect.y);
  await page.getByRole("button", { name: "Flames" }).click();
  const after = [await find(page, "all"), await find(page, "load")];
  assert.ok(after[0].rect.y > after[1].rect.y);
  await page.mouse.click(...middle(after[1]));
  await zoomedTo(page, "load");
});

await check("the keyboard alone reaches everything", async (page) => {
  await page.locator("#graph").focus();
  await page.keyboard.press("ArrowDown");
  assert.equal((await focused(page)).function, "all");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  assert.equal((await focused(page)).location, "/srv/shop/app.py:20");
  await shows(page, "spoken", "main, /srv/shop/app.py:20: 550 kB, 3 allocations, 55.0 % of all");
  await shows(page, "tip", "550 kB");
  await page.keyboard.press("ArrowRight");
  assert.equal((await focused(page)).location, "/srv/shop/app.py:21");
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("ArrowDown");
  assert.equal((await focused(page)).function, "load");
  await page.keyboard.press("ArrowDown");
  assert.equal((await focused(page)).function, "load", "there is nothing below");
  await page.keyboard.press("Enter");
  await zoomedTo(page, "load");
  await page.keyboard.press("Backspace");
  await zoomedTo(page, "main");
  await page.keyboard.press("Escape");
  await zoomedTo(page, "all");
  await page.keyboard.press("Home");
  assert.equal((await focused(page)).function, "all");
  await page.keyboard.press("f");
  await page.keyboard.press("ArrowUp");
  assert.equal((await focused(page)).depth, 1, "in flames the callees are above");
});

await check("the graph is as wide as the window, and keeps its zoom", async (page) => {
  await page.mouse.click(...middle(await find(page, "load")));
  await zoomedTo(page, "load");
  const before = (await find(page, "load")).rect.width;
  await page.setViewportSize({ width: 420, height: 760 });
  await page.waitForFunction((before) => window.memtrace.zoomed.rect.width < before, before);
  assert.equal((await zoomed(page)).function, "load");
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth), false);
});

await check(
  "the canvas has the pixels of the screen",
  async (page) => {
    const [pixels, width] = await page.evaluate(() => {
      const canvas = document.getElementById("graph");
      return [canvas.width, canvas.clientWidth];
    });
    assert.equal(pixels, width * 2);
  },
  { deviceScaleFactor: 2 },
);
