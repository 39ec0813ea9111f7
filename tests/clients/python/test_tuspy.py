"""tuspy against the real server, and its webhooks verified by the library of PyPI."""

import asyncio
import hashlib
import io
import subprocess
import sys
import unittest
from pathlib import Path

from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from harness import Receiver, Server, crc32c, id_of, noise, until

DATA = noise(1_000_003, 5)


class Tuspy(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.receiver = Receiver()
        cls.server = Server("tuspy", cls.receiver.config())
        cls.file = cls.server.folder / "source.bin"
        cls.file.write_bytes(DATA)
        cls.client = TusClient(cls.server.endpoint)

    @classmethod
    def tearDownClass(cls):
        cls.server.dispose()
        cls.receiver.dispose()

    def assert_stored(self, url, data=DATA):
        told = self.server.status(url)
        self.assertEqual(told["stage"], "completed")
        self.assertEqual((told["offset"], told["length"]), (len(data), len(data)))
        self.assertEqual(told["digests"]["crc32c"], crc32c(data))
        status, _, body = self.server.request("GET", f"/files/{id_of(url)}", headers={})
        self.assertEqual(status, 200)
        self.assertEqual(hashlib.sha256(body).digest(), hashlib.sha256(data).digest())
        return told

    def test_sends_a_file_in_one_piece(self):
        uploader = self.client.uploader(str(self.file))
        uploader.upload()
        self.assert_stored(uploader.url)

    def test_sends_a_file_in_chunks_with_metadata(self):
        metadata = {"filename": "Übung.bin", "filetype": "application/x-test", "empty": ""}
        uploader = self.client.uploader(str(self.file), chunk_size=99_999, metadata=metadata)
        uploader.upload()
        told = self.assert_stored(uploader.url)
        self.assertEqual(told["metadata"], metadata)
        self.assertEqual(told["filename"], "Übung.bin")

    def test_sends_an_empty_file(self):
        uploader = self.client.uploader(file_stream=io.BytesIO())
        uploader.upload()
        self.assert_stored(uploader.url, b"")

    def test_sends_chunks_with_checksums(self):
        uploader = self.client.uploader(str(self.file), chunk_size=200_000, upload_checksum=True)
        uploader.upload()
        self.assert_stored(uploader.url)

    def test_a_chunk_with_a_wrong_checksum_leaves_no_trace(self):
        uploader = self.client.uploader(str(self.file), chunk_size=200_000, upload_checksum=True)
        uploader.upload_chunk()
        damaged = bytearray(DATA)
        damaged[250_000] ^= 1
        digest = hashlib.sha1(DATA[200_000:400_000])
        status, offset = self.patch(uploader.url, 200_000, bytes(damaged[200_000:400_000]), digest)
        self.assertEqual((status, offset), (460, None))
        self.assertEqual(uploader.get_offset(), 200_000)
        uploader.upload()
        self.assert_stored(uploader.url)

    def patch(self, url, offset, body, digest):
        import base64

        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
            "Upload-Checksum": f"sha1 {base64.b64encode(digest.digest()).decode()}",
        }
        status, told, _ = self.server.request("PATCH", f"/files/{id_of(url)}", headers=headers, body=body)
        return status, told["Upload-Offset"]

    def test_sends_asynchronously(self):
        uploader = self.client.async_uploader(str(self.file), chunk_size=300_000, upload_checksum=True)
        asyncio.run(uploader.upload())
        self.assert_stored(uploader.url)

    def test_resumes_in_a_new_process(self):
        storage = self.server.folder / "urls.json"
        script = Path(__file__).with_name("resume.py")

        def run(*stop_at):
            command = [sys.executable, script, self.server.endpoint, self.file, storage, *stop_at]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

        begun, url = run("500000")
        self.assertEqual(begun, "0")
        resumed, same_url = run()
        self.assertEqual((resumed, same_url), ("500000", url))
        self.assert_stored(url)

    def test_resumes_after_the_server_was_killed(self):
        uploader = self.client.uploader(str(self.file), chunk_size=250_000, retries=20, retry_delay=0.1)
        uploader.upload(stop_at=500_000)
        self.server.kill()
        self.server.start()
        self.assertEqual(uploader.get_offset(), 500_000)
        uploader.upload()
        self.assert_stored(uploader.url)

    def test_an_upload_that_is_gone_is_told_as_gone(self):
        uploader = self.client.uploader(str(self.file), chunk_size=250_000)
        uploader.upload_chunk()
        status, _, _ = self.server.request("DELETE", f"/files/{id_of(uploader.url)}")
        self.assertEqual(status, 204)
        with self.assertRaises(TusCommunicationError) as raised:
            uploader.get_offset()
        self.assertIn(raised.exception.status_code, (404, 410))

    def test_webhooks_are_verified_and_tell_the_whole_story(self):
        uploader = self.client.uploader(str(self.file), chunk_size=300_000)
        uploader.upload()
        upload = id_of(uploader.url)
        steps = ["created", "receiving", "received", "verified", "stored", "completed"]
        wanted = [f"upload.{step}" for step in steps]
        until("the last webhook", lambda: self.receiver.types(upload)[-1:] == wanted[-1:])
        self.assertEqual(self.receiver.types(upload), wanted)
        self.assertEqual(self.receiver.refused, [])
        story = [event for _, event in self.receiver.events if event["data"]["upload_id"] == upload]
        self.assertEqual([event["data"]["sequence"] for event in story], [1, 2, 3, 4, 5, 6])
        self.assertEqual(story[-1]["data"]["digests"]["crc32c"], crc32c(DATA))
        ids = [event_id for event_id, _ in self.receiver.events]
        self.assertTrue(all(event_id.startswith("evt_") for event_id in ids))


if __name__ == "__main__":
    unittest.main()
