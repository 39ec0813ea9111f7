"""Other tus clients in Python: aiotus, which does not resolve a relative Location, tus.py and resumable-upload."""

import asyncio
import unittest

import aiotus
import resumable_upload
import tus

from harness import Server, id_of, noise

DATA = noise(1_000_003, 11)


class TusClients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("tus-clients")
        cls.file = cls.server.folder / "source.bin"
        cls.file.write_bytes(DATA)
        cls.endpoint = cls.server.endpoint.rstrip("/")

    @classmethod
    def tearDownClass(cls):
        cls.server.dispose()

    def assert_stored(self, url):
        told = self.server.status(url)
        self.assertEqual((told["stage"], told["offset"]), ("completed", len(DATA)))
        status, _, body = self.server.request("GET", f"/files/{id_of(url)}", headers={})
        self.assertEqual((status, body == DATA), (200, True))
        return told

    def test_aiotus_is_told_the_whole_address(self):
        async def upload():
            with self.file.open("rb") as file:
                once = aiotus.RetryConfiguration(retry_attempts=1)
                return await aiotus.upload(self.endpoint, file, {"filename": b"a.bin"}, config=once, chunksize=300_000)

        url = str(asyncio.run(upload()))
        self.assertTrue(url.startswith(f"{self.endpoint}/"), url)
        self.assertEqual(self.assert_stored(url)["filename"], "a.bin")

    def test_aiotus_joins_parts(self):
        async def upload():
            halves = [self.server.folder / name for name in ("first.bin", "second.bin")]
            halves[0].write_bytes(DATA[:500_000])
            halves[1].write_bytes(DATA[500_000:])
            files = [half.open("rb") for half in halves]
            try:
                once = aiotus.RetryConfiguration(retry_attempts=1)
                return await aiotus.upload_multiple(self.endpoint, files, {"filename": b"b.bin"}, config=once)
            finally:
                for file in files:
                    file.close()

        self.assertEqual(self.assert_stored(str(asyncio.run(upload())))["filename"], "b.bin")

    def test_tus_py_sends_a_file_in_chunks(self):
        with self.file.open("rb") as file:
            url = tus.create(self.endpoint, "c.bin", len(DATA))
            tus.resume(file, url, chunk_size=300_000, offset=0)
        self.assertEqual(self.assert_stored(url)["filename"], "c.bin")

    def test_resumable_upload_sends_a_file_in_chunks_with_checksums(self):
        client = resumable_upload.TusClient(self.endpoint, chunk_size=300_000, max_retries=0)
        url = client.upload_file(str(self.file), metadata={"filename": "d.bin"})
        self.assertEqual(self.assert_stored(url)["filename"], "d.bin")


if __name__ == "__main__":
    unittest.main()
