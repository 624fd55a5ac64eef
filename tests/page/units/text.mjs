// How numbers, names and paths are shown, and written for other programs.

import assert from "node:assert/strict";
import { changeText } from "./compare.js";
import { csvOf } from "./export.js";
import { exact, fitName, fitText, humanBytes, humanCount, humanDuration, nameForms, secondsText, share, shortPath } from "./format.js";
import { moduleName } from "./profile.js";
import { escaped } from "./svg.js";

const table = (convert, pairs) => {
  for (const [given, wanted] of pairs) assert.equal(convert(given), wanted, `${given}`);
};

table(humanBytes, [
  [0, "0 B"],
  [999, "999 B"],
  [1000, "1.00 kB"],
  [9994, "9.99 kB"],
  [9995, "10.0 kB"],
  [99_949, "99.9 kB"],
  [999_499, "999 kB"],
  [999_500, "1.00 MB"],
  [257_047_744, "257 MB"],
  [4_600_000_000_000, "4.60 TB"],
  [2 ** 62, "4.61 EB"],
]);
table(exact, [
  [0, "0"],
  [999, "999"],
  [1234567, "1\u202f234\u202f567"],
]);
table(humanCount, [
  [9999, "9\u202f999"],
  [12_345, "12.3\u202fk"],
  [999_600, "1.00\u202fM"],
]);
table(([part, whole]) => share(part, whole), [
  [[0, 0], "0 %"],
  [[0, 5], "0 %"],
  [[5, 5], "100 %"],
  [[1, 1e9], "< 0.01 %"],
  [[999_999, 1e6], "> 99.9 %"],
  [[1, 300], "0.33 %"],
  [[452, 1000], "45.2 %"],
]);
table(humanDuration, [
  [830e3, "830 µs"],
  [12e6, "12 ms"],
  [12.44e9, "12.4 s"],
  [185e9, "3 min 05 s"],
  [7625e9, "2 h 07 min"],
  [1047600e9, "12 d 3 h"],
]);
table(shortPath, [
  ["/home/ada/.venv/lib/python3.12/site-packages/pandas/io/common.py", "pandas/io/common.py"],
  ["/usr/lib/python3.12/json/decoder.py", "json/decoder.py"],
  ["/home/ada/shop/report.py", "/home/ada/shop/report.py"],
]);
const forms = (name, path = "/srv/app.py") => nameForms(name, path).join(" | ");
assert.equal(forms("load"), "load");
assert.equal(forms("Index.__new__.<locals>.pick"), "Index.__new__.<locals>.pick | __new__.<locals>.pick | pick");
assert.equal(forms("<module>"), "app.py");
assert.equal(forms("<module>", "/usr/lib/python3.12/json/__init__.py"), "json/__init__.py | json/__init__.py");
assert.equal(forms("<module>", "<frozen site>"), "<frozen site> | site");
assert.equal(forms("<module>", ""), "<module>");
assert.deepEqual(nameForms("_hot.cpython-311-x86_64-linux-gnu.so+0x10", "", true), ["_hot.cpython-311-x86_64-linux-gnu.so+0x10", "_hot+0x10"]);
assert.deepEqual(nameForms("shop::Cart::add", "", true), ["shop::Cart::add", "add"]);
assert.deepEqual(nameForms("std::vector<a::b>::push_back", "", true), ["std::vector<a::b>::push_back"]);
assert.deepEqual(nameForms("list_extend.constprop.0", "", true), ["list_extend.constprop.0"]);

const widthOf = (text) => Array.from(text).length;
assert.equal(fitName(["Frame.__init__", "__init__"], 14, widthOf), "Frame.__init__");
assert.equal(fitName(["Frame.__init__", "__init__"], 13, widthOf), "__init__");
assert.equal(fitName(["Frame.__init__", "__init__"], 5, widthOf), "__in…");
assert.equal(fitText("𝔸𝔹ℂ𝔻", 3, widthOf), "𝔸𝔹…");
assert.equal(fitText("abcdef", 2, widthOf), "");
assert.equal(fitText("x".repeat(1e6), 10, widthOf), "xxxxxxxxx…");

table(secondsText, [
  [0, "0 s"],
  [0.0000123, "12.3 µs"],
  [0.25, "250 ms"],
  [1.5, "1.5 s"],
  [12.44, "12.4 s"],
  [185, "3:05"],
  [7650, "2:07:30"],
]);

// Names are shown to other programs as they are, but never as a formula or as markup.
assert.equal(csvOf([["a", 1, 'say "hi", you'], ["=1+1", -2, "two\nlines"]]), `a,1,"say ""hi"", you"\r\n'=1+1,-2,"two\nlines"\r\n`);
assert.equal(escaped('<b>&"\u0000\ud800x</b>'), "&lt;b&gt;&amp;&quot;\ufffd\ufffdx&lt;/b&gt;");

table(([path, kind]) => moduleName(path, kind, "/srv/shop"), [
  [["/srv/env/lib/python3.11/site-packages/pandas/io/common.py", 1], "pandas"],
  [["/srv/env/lib/python3.11/site-packages/six.py", 1], "six"],
  [["/usr/lib/python3.11/json/decoder.py", 2], "json"],
  [["<frozen importlib._bootstrap>", 2], "importlib"],
  [["/srv/shop/app.py", 0], "app.py"],
  [["/srv/shop/orders/models.py", 0], "orders"],
  [["/opt/tools/run.py", 0], "tools"],
  [["<string>", 0], "<string>"],
  [["", 3], "no Python stack"],
  [["/srv/env/lib/python3.11/site-packages/numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so", 6], "numpy"],
  [["/build/Python-3.11.7/Objects/listobject.c", 6], "CPython"],
  [["/build/python3.14/build-static/../Objects/call.c", 6], "CPython"],
  [["/usr/bin/python3.13t", 6], "CPython"],
  [["/usr/lib/x86_64-linux-gnu/libcrypto.so.3", 6], "libcrypto"],
  [["./malloc/malloc.c", 6], "libc"],
  [["/rustc/59807616e1/library/alloc/src/alloc.rs", 6], "Rust"],
  [["/srv/shop/native/hot.c", 6], "native"],
]);

table(([before, after]) => changeText({ before, after }, "bytes"), [
  [[100, 100], "no change"],
  [[1_000_000, 1_130_000], "+130 kB (+13 %)"],
  [[1_000_000, 960_000], "−40.0 kB (−4.0 %)"],
  [[1_000_000, 999_491], "−509 B (<0.1 %)"],
  [[0, 70], "+70 B (new)"],
  [[70, 0], "−70 B (gone)"],
]);
console.log("ok");
