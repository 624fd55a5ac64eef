// Debian's Chromium without a screen, driven through npm's playwright-core.

import { createRequire } from "node:module";

const { chromium } = createRequire(`${process.env.MEMTRACE_PAGE_MODULES}/`)("playwright-core");

export const launch = (executablePath, ...args) =>
  chromium.launch({
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
      ...args,
    ],
  });
