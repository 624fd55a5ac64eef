"""The examples of docs/python.md, one after the other."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import captures

DOCUMENT = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "python.md")


class Examples(unittest.TestCase):
    def test_they_run(self) -> None:
        with open(DOCUMENT) as file:
            found = re.findall(r"^```python(?: from ([0-9.]+))?\n(.*?)^```$", file.read(), re.DOTALL | re.MULTILINE)
        self.assertTrue(found)
        here = sys.version_info[:3]
        examples = [code for since, code in found if not since or here >= tuple(map(int, since.split(".")))]
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        shutil.copy(captures.program(), os.path.join(folder, "app.bin"))
        # In a process of their own, one after the other.
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(examples)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.assertEqual(done.returncode, 0, done.stdout.decode())


if __name__ == "__main__":
    unittest.main()
