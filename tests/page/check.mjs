// Opens the flame graph page of the capture that tests/page.rs writes, in a browser without a screen, and uses it as a
// person would: with mouse and keyboard. Numbers are read back from the page; the capture holds
//
//   no stack                                                       1 000 bytes   1 allocation
//   app.py:10 ─ main:20 ─ load:30                                550 000         3
//             └ main:21 ─ dumps (json/__init__.py:238)           200 000         1
//   app.py:3 ─ importlib ─ pkg/__init__.py:5                     150 000         3
//   app.py:11 ─ fib:40 ─ fib:40 ─ fib:40                          49 000         2
//   app.py:3 ─ a function with a hostile name                     50 000         1
//
// `empty.html` is its leaks, of which there are none; `deep.html` a recursion of 2 000 calls beside 30 000 small frames.
//
// Usage: node check.mjs FOLDER CHROMIUM, with the modules' folder in MEMTRACE_PAGE_MODULES.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.MEMTRACE_PAGE_MODULES}/`);
const { chromium } = require("playwright-core");
const [folder, executablePath] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});

/** Runs one check on a page of its own, on which nothing may be fetched and nothing may go wrong. */
async function check(name, act, { file = "shop.html", ...options } = {}) {
  const address = pathToFileURL(join(folder, file)).href;
  const start = Date.now();
  const context = await browser.newContext({ viewport: { width: 1200, height: 700 }, ...options });
  const page = await context.newPage();
  const troubles = [];
  page.on("console", (message) => troubles.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => troubles.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(address) && !request.url().startsWith("data:")) troubles.push(`request: ${request.url()}`);
  });
  page.on("dialog", (dialog) => troubles.push(`dialog: ${dialog.message()}`));
  page.setDefaultTimeout(60000);
  await page.goto(address);
  try {
    await act(page);
    assert.deepEqual(troubles, []);
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
  await context.close();
  console.log(`ok  ${name} (${Date.now() - start} ms)`);
}

const nodes = (page) => page.evaluate(() => window.memtrace.nodes);
const zoomed = (page) => page.evaluate(() => window.memtrace.zoomed);
const focused = (page) => page.evaluate(() => window.memtrace.focused);
const text = (page, id) => page.locator(`#${id}`).innerText();
const settled = (page) => page.waitForFunction(() => !window.memtrace.isMoving);
const shows = (page, id, wanted) =>
  page.waitForFunction(([id, wanted]) => document.getElementById(id).textContent.includes(wanted), [id, wanted]);
const zoomedTo = async (page, name) => {
  await page.waitForFunction((name) => window.memtrace.zoomed.function === name, name);
  await settled(page);
};

/** The node of a function, at a line when given. */
async function find(page, name, line) {
  // In the page, because to bring tens of thousands of nodes out of it takes a while.
  const found = await page.evaluate(
    ([name, line]) => window.memtrace.nodes.find((node) => node.function === name && (!line || node.location.endsWith(`:${line}`))),
    [name, line],
  );
  assert.ok(found, `the page has no frame ${name}${line ? `:${line}` : ""}`);
  return found;
}

const middle = ({ rect }) => [rect.x + rect.width / 2, rect.y + rect.height / 2];

await check("the numbers are those of the capture", async (page) => {
  assert.deepEqual(await page.evaluate(() => window.memtrace.total), { bytes: 1_000_000, count: 11 });
  assert.equal(await text(page, "size"), "1.00 MB");
  assert.match(await text(page, "allocations"), /^in 11 allocations$/);
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
  await zoomedTo(page, "main");
  await page.getByRole("button", { name: "Reset zoom" }).click();
  await zoomedTo(page, "all");
  assert.ok(!page.url().includes("#zoom"));
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
  const has = async (name) => (await nodes(page)).some((node) => node.function === name);
  assert.equal(await has("_find_and_load"), false);
  assert.equal((await find(page, "<module>", 5)).depth, 2, "the imported module hangs on its importer");
  await page.keyboard.press("m");
  await page.waitForFunction(() => window.memtrace.nodes.some((node) => node.function === "_find_and_load"));
  assert.equal((await find(page, "<module>", 5)).depth, 3);
  assert.equal((await page.evaluate(() => window.memtrace.total)).bytes, 1_000_000);
  await page.click("#frames summary");
  await page.check("#drop-imports");
  await page.waitForFunction(() => window.memtrace.total.bytes === 850_000);
  assert.match(await text(page, "allocations"), /without 150 kB/);
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

await check("the dialogs open and close from the keyboard", async (page) => {
  await page.keyboard.press("i");
  await page.waitForSelector("#facts[open]");
  const facts = await text(page, "facts");
  for (const part of ["app.py --port 80", "pid 4711", "3.11.7, allocator pymalloc", "exited with code 0", "10.0 s", "50.0 MB", "Lost events", "not yet freed at the moment"]) {
    assert.ok(facts.includes(part), `${part} is not in\n${facts}`);
  }
  await page.keyboard.press("Escape");
  await page.waitForSelector("#facts:not([open])", { state: "attached" });
  await page.keyboard.press("?");
  await page.waitForSelector("#help[open]");
});

await check("the theme follows the system until it is chosen, and the choice is remembered", async (page) => {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.emulateMedia({ colorScheme: "dark" });
  const dark = await ground();
  assert.notEqual(light, dark);
  await page.keyboard.press("t");
  assert.equal(await ground(), light, "the first press changes what one sees");
  await page.reload();
  assert.equal(await ground(), light);
  await page.keyboard.press("t");
  await page.keyboard.press("t");
  assert.equal(await ground(), dark);
  await page.reload();
  assert.equal(await ground(), dark);
});

await check("the graph is as wide as the window, and keeps its zoom", async (page) => {
  await page.mouse.click(...middle(await find(page, "load")));
  await zoomedTo(page, "load");
  const before = (await find(page, "load")).rect.width;
  await page.setViewportSize({ width: 420, height: 700 });
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

await check("hostile names are shown and do nothing", async (page) => {
  const hostile = await find(page, "</script><script>window.hacked = true</script>");
  await page.mouse.move(...middle(hostile));
  await shows(page, "tip", "</script><script>window.hacked = true</script>");
  assert.equal(await page.evaluate(() => "hacked" in window), false);
  assert.equal(await page.evaluate(() => document.scripts.length), 2);
});

await check(
  "an empty report says why",
  async (page) => {
    assert.match(await text(page, "empty"), /Nothing is left/);
    assert.equal(await page.locator("#graph").isVisible(), false);
    assert.deepEqual(await page.evaluate(() => window.memtrace.total), { bytes: 0, count: 0 });
    for (const key of ["b", "f", "m", "i", "Escape", "ArrowDown", "Enter", "Escape"]) await page.keyboard.press(key);
    await page.keyboard.press("/");
    await page.keyboard.type("main");
    await shows(page, "matched", "no match");
  },
  { file: "empty.html" },
);

await check(
  "a stack of thousands can be scrolled, searched and zoomed",
  async (page) => {
    const inWindow = (rect) => rect.y >= 0 && rect.y + rect.height <= 700;
    const leaf = await find(page, "bottom");
    assert.equal(leaf.depth, 2001);
    assert.ok(!inWindow(leaf.rect));
    await page.keyboard.press("/");
    await page.keyboard.type("bottom");
    await page.keyboard.press("Enter");
    assert.equal((await focused(page)).function, "bottom");
    assert.ok(inWindow((await focused(page)).rect), "the focus is scrolled into sight");
    await page.mouse.click(...middle(await focused(page)));
    await zoomedTo(page, "bottom");
    assert.ok(inWindow((await zoomed(page)).rect));
    await page.goBack();
    await zoomedTo(page, "all");
    await page.getByRole("button", { name: "Flames" }).click();
    assert.ok(inWindow((await find(page, "all")).rect), "flames begin at their root");
    await page.locator("#graph").hover();
    await page.mouse.wheel(0, -1e6);
    await page.waitForFunction(() => document.getElementById("scroller").scrollTop === 0);
    assert.ok(inWindow((await find(page, "bottom")).rect), "the other end can be scrolled to");
  },
  { file: "deep.html" },
);

await check(
  "tens of thousands of small frames are counted and not drawn one by one",
  async (page) => {
    const sizes = await page.evaluate(() => window.memtrace.nodes.filter((node) => node.function.startsWith("small_")).map((node) => node.bytes));
    assert.equal(sizes.length, 30_000);
    assert.ok(sizes.every((bytes) => bytes === 10));
    await page.keyboard.press("/");
    await page.keyboard.type("small_");
    await shows(page, "matched", "23.1 %");
  },
  { file: "deep.html" },
);

await browser.close();
