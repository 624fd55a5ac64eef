// The page of the worst capture: it opens, and what it holds is what the capture has. The folder holds worst.html and
// what the test knows of the capture. How long it takes until something is seen is printed and not judged.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { check, close, nodes, text, total } from "./browser.mjs";

const expected = JSON.parse(readFileSync(join(process.argv[2], "worst.json"), "utf8"));

await check(
  "every sum is that of the capture, and what is folded is said",
  async (page) => {
    const [paint] = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint").map((it) => it.startTime));
    const ready = await page.evaluate(() => performance.now());
    console.log(`    first paint after ${Math.round(paint)} ms, all there after at most ${Math.round(ready)} ms`);
    assert.equal((await total(page)).bytes, expected.peak_bytes);
    const shown = await nodes(page);
    assert.ok(shown.some((node) => node.function === "other"));
    assert.ok(shown.some((node) => node.function.length === 300), "the largest are there by name");
    for (const tab of ["leaks", "churn"]) {
      await page.click(`#tab-${tab}`);
      assert.deepEqual(await total(page), expected[tab]);
      const roots = (await nodes(page)).filter((node) => node.parent < 0);
      assert.equal(roots[0].bytes, expected[tab].bytes);
    }
    assert.match(await text(page, "limits"), /drawn as “other”/);
  },
  { file: "worst.html" },
);

await close();
