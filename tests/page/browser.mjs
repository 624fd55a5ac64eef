// A browser without a screen and what checks have in common: pages on which nothing may be fetched and nothing may go
// wrong, and the page's own account of what it shows.
//
// Usage of the checks: node check.mjs FOLDER CHROMIUM, with the modules' folder in MEMTRACE_PAGE_MODULES.

import assert from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { launch } from "../support/chromium.mjs";

const [folder, executablePath, only] = process.argv.slice(2);

const browser = await launch(executablePath);

export const close = () => browser.close();

/** Runs one check on a page of its own, on which nothing may be fetched and nothing may go wrong. */
export async function check(name, act, { file = "shop.html", fragment = "", ...options } = {}) {
  if (only !== undefined && !name.includes(only)) return;
  const address = pathToFileURL(join(folder, file)).href;
  const start = Date.now();
  const context = await browser.newContext({ viewport: { width: 1280, height: 760 }, ...options });
  const page = await context.newPage();
  const troubles = [];
  page.on("console", (message) => troubles.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => troubles.push(`error: ${error.message}`));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(address) && !url.startsWith("data:") && !url.startsWith("blob:")) troubles.push(`request: ${url}`);
  });
  page.on("dialog", (dialog) => troubles.push(`dialog: ${dialog.message()}`));
  page.setDefaultTimeout(Number(process.env.MEMTRACE_PAGE_TIMEOUT ?? 60_000));
  await page.goto(address + fragment);
  await ready(page);
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

export const ready = (page) => page.waitForFunction(() => "memtrace" in window);
export const nodes = (page) => page.evaluate(() => window.memtrace.nodes);
export const total = (page) => page.evaluate(() => window.memtrace.total);
export const state = (page) => page.evaluate(() => window.memtrace.state);
export const zoomed = (page) => page.evaluate(() => window.memtrace.zoomed);
export const focused = (page) => page.evaluate(() => window.memtrace.focused);
export const text = (page, id) => page.locator(`#${id}`).innerText();
export const settled = (page) => page.waitForFunction(() => !window.memtrace.isMoving);
export const shows = (page, id, wanted) =>
  page.waitForFunction(([id, wanted]) => document.getElementById(id).innerText.includes(wanted), [id, wanted]);
export const zoomedTo = async (page, name) => {
  await page.waitForFunction((name) => window.memtrace.zoomed.function === name, name);
  await settled(page);
};
export const middle = ({ rect }) => [rect.x + rect.width / 2, rect.y + rect.height / 2];

/** The node of a function, at a line when given. */
export async function find(page, name, line, side) {
  // In the page, because to bring tens of thousands of nodes out of it takes a while.
  const found = await page.evaluate(
    ([name, line, side]) =>
      window.memtrace.nodes.find(
        (node) => node.function === name && (!line || node.location.endsWith(`:${line}`)) && (!side || node.side === side),
      ),
    [name, line, side],
  );
  assert.ok(found, `the page has no frame ${name}${line ? `:${line}` : ""}`);
  return found;
}

export const has = (page, name) => page.evaluate((name) => window.memtrace.nodes.some((node) => node.function === name), name);

/** The table as rows of text. */
export const tableRows = (page) =>
  page.locator("#rows tbody tr").evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim())));

/** What a click on a control downloads, as text. */
export async function downloaded(page, selector) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
  const chunks = [];
  for await (const chunk of await download.createReadStream()) chunks.push(chunk);
  return { name: download.suggestedFilename(), bytes: Buffer.concat(chunks) };
}

/** Drags on the time line, from one part of its width to another. */
export async function brush(page, from, to) {
  const box = await page.locator("#plot .u-over").boundingBox();
  const y = box.y + box.height / 3;
  await page.mouse.move(box.x + box.width * from, y);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * ((from + to) / 2), y);
  await page.mouse.move(box.x + box.width * to, y);
  await page.mouse.up();
}
