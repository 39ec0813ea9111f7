"""Clients on the JVM: that of the JDK, and tus-java-client."""

import pathlib
import shutil
import subprocess
import unittest

from harness import ROOT, Server

SOURCES = pathlib.Path(__file__).resolve().parents[1] / "java"
JARS = ROOT / "target" / "test-java"


@unittest.skipUnless(shutil.which("java"), "there is no java; on Debian: apt-get install default-jdk-headless")
class Java(unittest.TestCase):
    def setUp(self):
        self.server = Server("java")

    def tearDown(self):
        self.server.dispose()

    def java(self, *arguments):
        ran = subprocess.run(["java", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        return ran.stdout

    def test_the_jdks_client_loses_no_request_to_a_wish_for_http2(self):
        said = self.java(SOURCES / "HttpClientUploads.java", self.server.endpoint, 60)
        self.assertEqual(said.count("60 uploads"), 2, said)

    @unittest.skipUnless(JARS.is_dir(), "tus-java-client is not in target/test-java; tests/run gets it with mvn")
    def test_tus_java_client_ends_files_of_every_size(self):
        said = self.java("-cp", f"{JARS}/*", SOURCES / "TusJavaClient.java", self.server.endpoint)
        self.assertEqual(len(said.splitlines()), 7, said)


if __name__ == "__main__":
    unittest.main()
