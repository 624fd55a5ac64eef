// Inverted, callers and callees of one function, split by thread, the panel of details, the menu of a frame.

import assert from "node:assert/strict";
import { check, find, focused, has, middle, nodes, shows, state, text, total, zoomedTo } from "../browser.mjs";

await check("inverted, the frames that allocate come first and their callers below", async (page) => {
  await page.click("#show [data-value=inverted]");
  const [load, fib] = [await find(page, "load"), await find(page, "fib")];
  assert.deepEqual([load.depth, load.bytes, load.count], [1, 550_000, 3]);
  assert.deepEqual([fib.depth, fib.bytes], [1, 49_000]);
  const below = (await nodes(page)).filter((node) => node.parent === load.node);
  assert.deepEqual(below.map(({ function: name, bytes }) => [name, bytes]), [["main", 550_000]]);
  assert.equal((await total(page)).bytes, 1_000_000);
  await page.mouse.click(...middle(load));
  await zoomedTo(page, "load");
  const address = page.url();
  assert.match(address, /inverted=true&zoom=\d+%7E1|zoom=\d+%7E1&inverted=true/);
  await page.goto("about:blank");
  await page.goto(address);
  await page.waitForFunction(() => "memtrace" in window);
  await zoomedTo(page, "load");
  await page.keyboard.press("1");
  assert.equal((await find(page, "load")).depth, 3);
});

await check("a function has its callers above and its callees below", async (page) => {
  await page.mouse.move(...middle(await find(page, "main", 20)));
  await page.locator("#graph").focus();
  for (const key of ["ArrowDown", "ArrowDown", "ArrowDown"]) await page.keyboard.press(key);
  assert.equal((await focused(page)).function, "main");
  await page.keyboard.press("w");
  const sides = async (side) => (await nodes(page)).filter((node) => node.side === side).map(({ function: name, bytes, depth }) => [name, bytes, depth]);
  assert.deepEqual(await sides("callers"), [["main", 750_000, 0], ["<module>", 750_000, 1]]);
  assert.deepEqual(await sides("callees"), [["main", 750_000, 0], ["load", 550_000, 1], ["dumps", 200_000, 1]]);
  assert.match(await text(page, "chips"), /Callers and callees of main/);
  const [above, below] = [await find(page, "<module>", 0, "callers"), await find(page, "load", 0, "callees")];
  assert.ok(above.rect.y < below.rect.y);
  await page.mouse.click(...middle(below));
  await zoomedTo(page, "load");
  await page.mouse.click(...middle(above));
  await zoomedTo(page, "<module>");
  assert.match(page.url(), /zoom=%5E/);
  await page.goBack();
  await zoomedTo(page, "load");
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  assert.equal((await state(page)).about, -1);
  await page.keyboard.type("/fib");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
});

await check("a recursion counts once", async (page) => {
  const fib = await find(page, "fib");
  await page.mouse.click(...middle(fib), { button: "right" });
  await page.getByRole("menuitem", { name: "Callers and callees" }).click();
  const root = await find(page, "fib", 0, "callees");
  assert.deepEqual([root.bytes, root.count, root.depth], [49_000, 2, 0]);
});

await check("the menu of a frame zooms, searches, filters and copies", async (page) => {
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  const open = async (name) => {
    await page.mouse.click(...middle(await find(page, name)), { button: "right" });
    await page.waitForSelector("#menu:not([hidden])");
  };
  await open("dumps");
  await page.getByRole("menuitem", { name: "Copy stack" }).click();
  await shows(page, "toast", "copied");
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.deepEqual(copied.split("\n"), ["dumps  /usr/lib/python3.11/json/__init__.py:238", "main  /srv/shop/app.py:21", "<module>  /srv/shop/app.py:10"]);
  await open("load");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
  await zoomedTo(page, "load");
  await page.keyboard.press("Escape");
  await open("load");
  await page.getByRole("menuitem", { name: "Search" }).click();
  await shows(page, "matched", "55.0 %");
  await page.click("#show [data-value=graph]");
  await open("dumps");
  await page.getByRole("menuitem", { name: "Only stacks through json" }).click();
  assert.equal((await total(page)).bytes, 200_000);
  await open("dumps");
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#menu").isVisible(), false);
});

await check("the panel tells a frame's numbers and the lines of its file", async (page) => {
  await page.keyboard.press("d");
  await page.mouse.click(...middle(await find(page, "main", 20)));
  await shows(page, "details", "main");
  const panel = await text(page, "details");
  for (const part of ["/srv/shop/app.py:20", "550 kB in 3 allocations", "0 B in 0 allocations", "malloc", "100 %", "line by line"]) {
    assert.ok(panel.includes(part), `${part} is not in\n${panel}`);
  }
  const lines = await page.locator("#details .lines tr").evaluateAll((rows) => rows.slice(1).map((row) => [...row.cells].slice(0, 3).map((cell) => cell.innerText)));
  assert.deepEqual(lines, [
    ["3", "200 kB", ""],
    ["10", "750 kB", ""],
    ["11", "49.0 kB", ""],
    ["20", "550 kB", ""],
    ["21", "200 kB", ""],
    ["30", "550 kB", "550 kB"],
    ["40", "49.0 kB", "49.0 kB"],
  ]);
  await page.locator("#details").getByRole("button", { name: "Callers and callees" }).click();
  assert.match(await text(page, "chips"), /of main/);
  await page.click("#details-close");
  assert.equal(await page.locator("#details").isVisible(), false);
});

await check(
  "stacks can be split by thread",
  async (page) => {
    await page.click("#frames summary");
    await page.check("#split");
    const threads = (await nodes(page)).filter(({ depth }) => depth === 1).map(({ function: name, bytes }) => [name, bytes]);
    assert.deepEqual(threads, [["loader (4712)", 8_000_000], ["MainThread (4711)", 1_000_000]]);
    assert.equal(await has(page, "read"), true);
    await page.keyboard.press("Escape");
    await page.mouse.click(...middle(await find(page, "read")));
    await zoomedTo(page, "read");
    assert.match(page.url(), /zoom=\d+%401/);
    await page.click("#frames summary");
    await page.uncheck("#split");
    await zoomedTo(page, "read");
  },
  { file: "busy.html" },
);
