"""go-tus, a tus client for Go."""

import os
import pathlib
import shutil
import subprocess
import unittest

from harness import Server

SOURCES = pathlib.Path(__file__).resolve().parents[1] / "go"


@unittest.skipUnless(shutil.which("go"), "there is no go; on Debian: apt-get install golang-go")
class Go(unittest.TestCase):
    def setUp(self):
        self.server = Server("go")

    def tearDown(self):
        self.server.dispose()

    def test_go_tus_resumes_files_of_every_size(self):
        # The installed toolchain has to be enough, even if Go would download a newer one.
        environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
        ran = subprocess.run(
            ["go", "run", ".", self.server.endpoint],
            cwd=SOURCES, env=environment, capture_output=True, text=True, check=False, timeout=300,
        )
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(len(ran.stdout.splitlines()), 8, ran.stdout)


if __name__ == "__main__":
    unittest.main()
