// Dialogs, themes, hostile names, empty reports.

import assert from "node:assert/strict";
import { check, find, middle, ready, shows, text, total } from "../browser.mjs";

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
  await ready(page);
  assert.equal(await ground(), light);
  await page.keyboard.press("t");
  await page.keyboard.press("t");
  assert.equal(await ground(), dark);
  await page.reload();
  await ready(page);
  assert.equal(await ground(), dark);
});

await check("hostile names are shown and do nothing", async (page) => {
  const hostile = await find(page, "</script><script>window.hacked = true</script>");
  await page.mouse.move(...middle(hostile));
  await shows(page, "tip", "</script><script>window.hacked = true</script>");
  assert.equal(await page.evaluate(() => "hacked" in window), false);
  assert.equal(await page.evaluate(() => document.scripts.length), 3);
});

await check(
  "an empty report says why",
  async (page) => {
    assert.match(await text(page, "empty"), /Nothing is left/);
    assert.equal(await page.locator("#graph").isVisible(), false);
    assert.deepEqual(await total(page), { bytes: 0, count: 0 });
    await page.click("#tab-peak");
    assert.equal((await total(page)).bytes, 1_000_000, "the other tabs have theirs");
    await page.click("#tab-leaks");
    for (const key of ["b", "f", "m", "i", "Escape", "ArrowDown", "Enter", "Escape"]) await page.keyboard.press(key);
    await page.keyboard.press("/");
    await page.keyboard.type("main");
    await shows(page, "matched", "no match");
  },
  { file: "empty.html" },
);
