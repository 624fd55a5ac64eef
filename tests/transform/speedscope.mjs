// Opens a profile in speedscope, as npm has it, in a browser without a screen, and prints as JSON what it shows: the
// profile that it opened, and for each of the three the largest own weights of its sandwich view.
//
// Usage: node speedscope.mjs PROFILE CHROMIUM, with the modules' folder in MEMTRACE_PAGE_MODULES.

import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { launch } from "../support/chromium.mjs";

const modules = process.env.MEMTRACE_PAGE_MODULES;
const [profile, executablePath] = process.argv.slice(2);

// Its scripts are files beside the page.
const browser = await launch(executablePath, "--allow-file-access-from-files");
const page = await browser.newPage({ viewport: { width: 1200, height: 700 } });
page.setDefaultTimeout(60000);
const errors = [];
page.on("pageerror", (error) => errors.push(error.message));
await page.goto(pathToFileURL(join(modules, "node_modules/speedscope/dist/release/index.html")).href);
await page.setInputFiles("#file", profile);

/** The profile that is shown, as `peak (1/3)`. */
const name = () => page.evaluate(() => document.body.innerText.match(/^\w+ \(\d\/\d\)$/m)?.[0]);
const opens = (end) =>
  page.waitForFunction((end) => document.body.innerText.match(/^\w+ \(\d\/\d\)$/m)?.[0].endsWith(end), end);

await opens("/3)");
const shown = { opened: await name() };
await page.keyboard.press("3");
// Every row has two weights with their shares, and a name.
const rows = page.locator("tr:has(td:nth-child(3))", { hasText: "%" });
await rows.first().waitFor();
for (const number of [1, 2, 3]) {
  // "p" goes to the profile before, "n" to the next.
  while (Number((await name()).match(/\((\d)/)[1]) !== number) {
    const before = await name();
    await page.keyboard.press(Number(before.match(/\((\d)/)[1]) < number ? "n" : "p");
    // In between no profile is shown.
    await page.waitForFunction((before) => {
      const now = document.body.innerText.match(/^\w+ \(\d\/\d\)$/m)?.[0];
      return now !== undefined && now !== before;
    }, before);
    await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
    await rows.first().waitFor();
  }
  shown[await name()] = await rows.evaluateAll((rows) =>
    rows.map((row) => row.querySelectorAll("td")[1].innerText.trim()).filter((own) => !own.startsWith("0 B")).slice(0, 8),
  );
}
if (errors.length > 0) throw new Error(errors.join("\n"));
console.log(JSON.stringify(shown));
await browser.close();
