"""Programs that read parts of complete uploads: DuckDB, fsspec, wget and curl. Each sends a HEAD for the size first."""

import hashlib
import shutil
import subprocess
import unittest

import duckdb
import fsspec
from duckdb_extensions import import_extension

from harness import Server, id_of
from proxy import Proxy

OCTETS = {"Content-Type": "application/offset+octet-stream"}


class Readers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("readers")
        cls.proxy = Proxy(cls.server.port)
        cls.file = cls.server.folder / "source.parquet"
        # Digests, because they do not compress; and in many groups, so that a reader needs only one.
        rows = "SELECT range AS i, md5(range::text) AS digest FROM range(100_000)"
        duckdb.sql(f"COPY ({rows}) TO '{cls.file}' (FORMAT parquet, ROW_GROUP_SIZE 5_000)")
        cls.data = cls.file.read_bytes()
        cls.uploads = dict(cls.stored())

    @classmethod
    def tearDownClass(cls):
        cls.proxy.dispose()
        cls.server.dispose()

    @classmethod
    def stored(cls):
        """The file, uploaded in every dialect."""
        size = str(len(cls.data))
        for name, path, headers in (
            ("tus", "/files", {"Tus-Resumable": "1.0.0", "Upload-Length": size, **OCTETS}),
            ("ietf", "/files", {"Upload-Complete": "?1"}),
            ("plain", "/files", {"Content-Type": "application/vnd.apache.parquet"}),
        ):
            status, told, _ = cls.server.request("POST", path, headers, cls.data)
            assert status == 201, (name, status)
            yield name, cls.url(told["Location"])
        _, told, _ = cls.server.request("POST", "/files?uploadType=resumable", {"Content-Length": "0"})
        session = f"/files/{id_of(told['Location'])}"
        status, _, _ = cls.server.request("PUT", session, {"Content-Range": f"bytes 0-{len(cls.data) - 1}/{size}"}, cls.data)
        assert status == 200, status
        yield "google", cls.url(session)

    @classmethod
    def url(cls, location):
        return f"{cls.proxy.url}/files/{id_of(location)}"

    def test_duckdb_reads_one_value_without_the_rest(self):
        import_extension("httpfs")
        connection = duckdb.connect()
        connection.load_extension("httpfs")
        for name, url in self.uploads.items():
            with self.subTest(name):
                before = self.proxy.received
                query = f"SELECT digest FROM read_parquet('{url}') WHERE i = 77_777"
                digest = hashlib.md5(b"77777", usedforsecurity=False).hexdigest()
                self.assertEqual(connection.sql(query).fetchall(), [(digest,)])
                self.assertLess(self.proxy.received - before, len(self.data) / 2)

    def test_fsspec_reads_a_range(self):
        for name, url in self.uploads.items():
            with self.subTest(name), fsspec.open(url, block_size=1000) as file:
                self.assertEqual(file.size, len(self.data))
                file.seek(-100, 2)
                self.assertEqual(file.read(), self.data[-100:])

    @unittest.skipUnless(shutil.which("wget"), "there is no wget; on Debian: apt-get install wget")
    def test_wget_knows_the_size_of_what_it_finds(self):
        for name, url in self.uploads.items():
            with self.subTest(name):
                ran = subprocess.run(["wget", "--spider", url], capture_output=True, text=True, check=False, timeout=60)
                self.assertEqual(ran.returncode, 0, ran.stderr)
                self.assertIn(f"Length: {len(self.data)}", ran.stderr)

    def test_curl_sees_in_a_head_what_it_would_get(self):
        for name, url in self.uploads.items():
            with self.subTest(name):
                said = subprocess.run(["curl", "-sSI", url], capture_output=True, text=True, check=True, timeout=60).stdout
                self.assertTrue(said.startswith("HTTP/1.1 200"), said)
                self.assertIn(f"content-length: {len(self.data)}", said.lower())


if __name__ == "__main__":
    unittest.main()
