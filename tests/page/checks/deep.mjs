// A recursion of 2 000 calls beside 30 000 small functions.

import assert from "node:assert/strict";
import { check, find, focused, middle, shows, zoomed, zoomedTo } from "../browser.mjs";

await check(
  "a stack of thousands can be scrolled, searched and zoomed",
  async (page) => {
    const inWindow = (rect) => rect.y >= 0 && rect.y + rect.height <= 760;
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
