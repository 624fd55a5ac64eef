"""Reports as functions: each gives a path or a text."""

import json
import os
import shutil
import tempfile
import unittest

import captures

from memtrace import reports


class Reports(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.capture = os.path.join(self.folder, "app.bin")
        shutil.copy(captures.program(), self.capture)

    def test_pages_lie_beside_the_capture_or_where_they_are_wanted(self) -> None:
        for make, name in ((reports.flamegraph, "flamegraph"), (reports.table, "table")):
            beside = os.path.join(self.folder, f"memtrace-{name}-app.html")
            self.assertEqual(make(self.capture), beside)
            self.assertTrue(os.path.isfile(beside))
            wanted = os.path.join(self.folder, f"{name}.html")
            self.assertEqual(make(self.capture, wanted, leaks=True, split_threads=True), wanted)
            self.assertTrue(os.path.isfile(wanted))

    def test_a_page_that_is_there_is_kept_unless_told_otherwise(self) -> None:
        page = os.path.join(self.folder, "mine.html")
        with open(page, "w") as file:
            file.write("mine")
        with self.assertRaisesRegex(FileExistsError, "overwrite=True replaces it.*mine.html"):
            reports.flamegraph(self.capture, page)
        with open(page) as file:
            self.assertEqual(file.read(), "mine")
        reports.flamegraph(self.capture, page, overwrite=True)
        self.assertGreater(os.path.getsize(page), 1000)

    def test_texts_are_returned(self) -> None:
        self.assertIn("inner at ", reports.summary(self.capture))
        self.assertIn("keep:", reports.tree(self.capture))
        self.assertIn("Total allocations", reports.stats(self.capture))
        self.assertGreater(json.loads(reports.stats(self.capture, json=True))["total_num_allocations"], 0)

    def test_a_capture_that_is_missing_is_an_error_without_the_name_of_a_program(self) -> None:
        for make in (reports.flamegraph, reports.summary):
            with self.assertRaisesRegex(OSError, "^cannot read .*missing.bin: there is no such file"):
                make(os.path.join(self.folder, "missing.bin"))


if __name__ == "__main__":
    unittest.main()
