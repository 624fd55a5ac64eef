// The table: rows, order, search, pages, threads.

import assert from "node:assert/strict";
import { check, ready, shows, state, tableRows, text } from "../browser.mjs";

await check("the table has a row for each place that allocates", async (page) => {
  await page.keyboard.press("3");
  const rows = await tableRows(page);
  assert.deepEqual(rows[0], ["550 kB 55.0 %", "3", "malloc", "load", "/srv/shop/app.py:30"]);
  assert.deepEqual(rows.map((row) => row[3]), ["load", "dumps", "<module>", "</script><script>window.hacked = true</script>", "fib", "no Python stack"]);
  assert.equal(rows.reduce((sum, row) => sum + Number(row[1]), 0), 11);
  await page.getByRole("button", { name: "Allocations", exact: true }).last().click();
  assert.deepEqual((await tableRows(page)).slice(0, 2).map((row) => row[1]), ["3", "3"]);
  assert.equal(await page.locator("#rows th[aria-sort=descending]").innerText(), "Allocations");
  await page.locator("#rows th").nth(3).getByRole("button").click();
  const names = (await tableRows(page)).map((row) => row[3]);
  assert.deepEqual(names, names.slice().sort());
  await page.locator("#rows th").nth(3).getByRole("button").click();
  assert.deepEqual((await tableRows(page)).map((row) => row[3]), names.reverse());
  assert.match(page.url(), /sort=-function/);
  await page.reload();
  await ready(page);
  assert.deepEqual((await tableRows(page)).map((row) => row[3]), names);
});

await check("functions are counted with all they call", async (page) => {
  await page.keyboard.press("3");
  await page.click("#rows-of [data-value=functions]");
  const rows = await tableRows(page);
  assert.deepEqual(rows[0].slice(0, 5), ["999 kB 99.9 %", "0 B", "10", "0", "<module>"]);
  const fib = rows.find((row) => row[4] === "fib");
  assert.deepEqual(fib.slice(0, 4), ["49.0 kB 4.9 %", "49.0 kB", "2", "2"], "a recursion counts once");
  await page.locator("#rows").getByRole("button", { name: "main", exact: true }).click();
  assert.match(await text(page, "chips"), /Callers and callees of main/);
});

await check(
  "the table is searched and paged",
  async (page) => {
    await page.keyboard.press("3");
    await shows(page, "pager", "1–100 of 30\u202f001");
    assert.equal((await tableRows(page)).length, 100);
    await page.locator("#pager").getByRole("button", { name: "Next" }).click();
    await shows(page, "pager", "101–200");
    assert.match(page.url(), /page=1/);
    await page.keyboard.type("/small_77 ");
    await shows(page, "pager", "1–1 of 1");
    assert.deepEqual((await tableRows(page)).map((row) => row[3]), ["small_77"]);
    await shows(page, "matched", "1 row");
    await page.fill("#query", "nothing of this name");
    await shows(page, "matched", "no match");
    await page.keyboard.press("Escape");
    assert.equal((await state(page)).query, "");
  },
  { file: "deep.html" },
);

await check(
  "the table can be split by thread",
  async (page) => {
    assert.equal(await page.locator("#rows thead th").first().innerText(), "Thread");
    const rows = await tableRows(page);
    assert.deepEqual(rows.map((row) => row.slice(0, 4)), [
      ["loader (4712)", "8.00 MB 88.9 %", "1", "aligned_alloc"],
      ["MainThread (4711)", "1.00 MB 11.1 %", "1", "malloc"],
    ]);
    await page.keyboard.press("l");
    assert.deepEqual((await tableRows(page)).map((row) => row[3]), ["calloc", "malloc"]);
  },
  { file: "busy.html", fragment: "#show=table&threads=true" },
);
