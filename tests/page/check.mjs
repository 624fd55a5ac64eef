// Opens the pages of the captures that tests/page.rs writes, in a browser without a screen, and uses them as a person
// would: with mouse and keyboard. Numbers are read back from the page. `shop.html` is of a capture that holds
//
//   no stack                                                       1 000 bytes   1 allocation
//   app.py:10 ─ main:20 ─ load:30                                550 000         3
//             └ main:21 ─ dumps (json/__init__.py:238)           200 000         1
//   app.py:3 ─ importlib ─ pkg/__init__.py:5                     150 000         3
//   app.py:11 ─ fib:40 ─ fib:40 ─ fib:40                          49 000         2
//   app.py:3 ─ a function with a hostile name                     50 000         1
//
// `empty.html` is the same, opened at its leaks, of which there are none; `deep.html` a recursion of 2 000 calls beside
// 30 000 small frames; `busy.html` the ten seconds that checks/time.mjs describes.
//
// `native.html` is of a capture with native stacks, see `mixed` in tests/page.rs, and `python.html` of the same without
// them. `diff.html` compares the first with another one, see checks/diff.mjs.
//
// Usage: node check.mjs FOLDER CHROMIUM, with the modules' folder in MEMTRACE_PAGE_MODULES.

import { close } from "./browser.mjs";

for (const name of ["graph", "sides", "time", "filters", "table", "export", "words", "deep", "native", "diff"]) {
  await import(`./checks/${name}.mjs`);
}
await close();
