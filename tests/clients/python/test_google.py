"""Google's own Python libraries against the real server: resumable uploads, whole, in chunks, cut and resumed."""

import base64
import hashlib
import io
import unittest

import google_crc32c
import requests
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.resumable_media import InvalidResponse
from google.resumable_media.common import RetryStrategy
from google.resumable_media.requests import ResumableUpload
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaFileUpload, MediaIoBaseUpload, build_http

from harness import Server, noise
from proxy import Proxy

MIB = 1 << 20
CHUNK = 256 * 1024
# More than google-cloud-storage sends in one request (8 MiB), and not a whole number of chunks.
LARGE = noise(9 * MIB + 12_345, 7)
# A few chunks; an exact multiple is the special case for streams of unknown length.
EXACT = LARGE[: 4 * CHUNK]
ODD = LARGE[: 3 * CHUNK + 77]
CHECKSUMS = (None, "md5", "crc32c", "auto")


class Endless(io.RawIOBase):
    """A stream that neither knows its size nor can seek."""

    def __init__(self, data):
        self._inner = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._inner.readinto(buffer)

    def tell(self):
        return self._inner.tell()


class WithServer(unittest.TestCase):
    config = ""

    @classmethod
    def setUpClass(cls):
        cls.server = Server(cls.__name__.lower(), cls.config)

    @classmethod
    def tearDownClass(cls):
        cls.server.dispose()

    def setUp(self):
        self.proxy = Proxy(self.server.port)
        self.addCleanup(self.proxy.dispose)

    def newest(self):
        return self.server.get_json("/api/v1/uploads?limit=1")["uploads"][0]

    def assert_stored(self, told, data, name="video.mp4"):
        """Asserts that the newest upload is `data`, and that the returned object describes it."""
        self.assertEqual(told["size"], str(len(data)))
        self.assertEqual(told["md5Hash"], base64.b64encode(hashlib.md5(data).digest()).decode())
        self.assertEqual(told["crc32c"], base64.b64encode(google_crc32c.Checksum(data).digest()).decode())
        self.assertEqual(told["name"], name)
        status = self.newest()
        self.assertEqual((status["stage"], status["offset"]), ("completed", len(data)))
        self.assertEqual(status["filename"], name)
        self.assertEqual(status["digests"]["crc32c"], google_crc32c.Checksum(data).hexdigest().decode())
        code, _, body = self.server.request("GET", f"/files/{status['id']}", headers={})
        self.assertEqual(code, 200)
        self.assertEqual(hashlib.sha256(body).digest(), hashlib.sha256(data).digest())
        return status

    def assert_not_stored(self):
        self.assertNotEqual(self.newest()["stage"], "completed")


class ResumableMedia(WithServer):
    """google-resumable-media."""

    def begin(self, data, transport, chunk=CHUNK, stream=None, **how):
        upload = ResumableUpload(f"{self.proxy.url}/files?uploadType=resumable", chunk, checksum=how.pop("checksum", None))
        stream = stream or io.BytesIO(data)
        upload._retry_strategy = RetryStrategy(initial_delay=0.05)
        upload.initiate(transport, stream, {"name": "video.mp4"}, "video/mp4", **how)
        return upload

    def finish(self, upload, transport):
        answer = None
        while not upload.finished:
            answer = upload.transmit_next_chunk(transport)
        return answer.json()

    def test_sends_chunks_of_a_known_size(self):
        for checksum in (None, "md5", "crc32c"):
            for data in (ODD, EXACT, b"", b"x"):
                with self.subTest(checksum=checksum, size=len(data)), requests.Session() as transport:
                    upload = self.begin(data, transport, checksum=checksum)
                    self.assert_stored(self.finish(upload, transport), data)

    def test_sends_chunks_of_an_unknown_size(self):
        for checksum in (None, "md5", "crc32c"):
            for data in (ODD, EXACT, b"", b"x"):
                with self.subTest(checksum=checksum, size=len(data)), requests.Session() as transport:
                    upload = self.begin(data, transport, checksum=checksum, stream_final=False)
                    self.assertIsNone(upload.total_bytes)
                    self.assert_stored(self.finish(upload, transport), data)

    def test_recovers_after_cuts_at_every_kind_of_place(self):
        for how in ("fin", "rst"):
            for at in (500, CHUNK // 3, CHUNK - 1, CHUNK + 1, 2 * CHUNK + 999):
                with self.subTest(how=how, at=at), requests.Session() as transport:
                    upload = self.begin(ODD, transport, checksum="crc32c")
                    # Its own retries would send the chunk again; here the client requests the offset first.
                    upload._retry_strategy = RetryStrategy(max_retries=0)
                    self.proxy.cut_after(at, how)
                    cuts = answer = 0
                    while not upload.finished:
                        try:
                            answer = upload.transmit_next_chunk(transport)
                        except requests.exceptions.ConnectionError:
                            cuts += 1
                            upload._make_invalid()
                            before = upload.bytes_uploaded
                            upload.recover(transport)
                            self.assertGreaterEqual(upload.bytes_uploaded, before)
                    self.assertEqual((cuts, self.proxy.cuts), (1, []))
                    self.assert_stored(answer.json(), ODD)

    def test_sends_a_cut_chunk_again_without_asking(self):
        for how in ("fin", "rst"):
            with self.subTest(how=how), requests.Session() as transport:
                upload = self.begin(ODD, transport, checksum="md5")
                before = self.proxy.cut_count
                for at in (CHUNK // 2, CHUNK * 2, CHUNK * 3):
                    self.proxy.cut_after(at, how)
                self.assert_stored(self.finish(upload, transport), ODD)
                self.assertEqual(self.proxy.cut_count - before, 3)

    def test_recovers_after_the_server_was_killed(self):
        with requests.Session() as transport:
            upload = self.begin(ODD, transport, checksum="crc32c")
            upload.transmit_next_chunk(transport)
            self.server.kill()
            self.server.start()
            upload._make_invalid()
            upload.recover(transport)
            self.assertEqual(upload.bytes_uploaded, CHUNK)
            self.assert_stored(self.finish(upload, transport), ODD)

    def test_notices_damage_on_the_way(self):
        for checksum in ("md5", "crc32c"):
            with self.subTest(checksum=checksum), requests.Session() as transport:
                upload = self.begin(ODD, transport, checksum=checksum)
                upload.transmit_next_chunk(transport)
                # This simulates a byte that changed after the client had read it.
                upload._checksum_object.update(b"!")
                with self.assertRaises(Exception):
                    self.finish(upload, transport)

    def test_a_chunk_behind_a_gap_is_refused_until_it_fits(self):
        with requests.Session() as transport:
            upload = self.begin(ODD, transport)
            headers = {"Content-Range": f"bytes {CHUNK}-{2 * CHUNK - 1}/{len(ODD)}"}
            answer = transport.put(upload.resumable_url, data=ODD[CHUNK : 2 * CHUNK], headers=headers)
            self.assertEqual(answer.status_code, 503)
            self.assertIn(f"upload offset is {CHUNK} byte(s)", answer.text)
            self.assert_stored(self.finish(upload, transport), ODD)

    def test_a_cancelled_session_is_over(self):
        with requests.Session() as transport:
            upload = self.begin(ODD, transport)
            upload.transmit_next_chunk(transport)
            self.assertEqual(transport.delete(upload.resumable_url).status_code, 499)
            with self.assertRaises(InvalidResponse) as raised:
                upload.transmit_next_chunk(transport)
            self.assertEqual(raised.exception.response.status_code, 410)
            self.assert_not_stored()


class CloudStorage(WithServer):
    """google-cloud-storage: the client that applications use."""

    def bucket(self):
        options = {"api_endpoint": self.proxy.url}
        client = storage.Client(project="none", credentials=AnonymousCredentials(), client_options=options)
        self.addCleanup(client.close)
        return client.bucket("films")

    def assert_blob_stored(self, blob, data):
        told = dict(blob._properties)
        status = self.assert_stored(told, data, blob.name)
        self.assertEqual(status["metadata"]["bucket"], "films")
        self.assertEqual(blob.size, len(data))
        return status

    def test_sends_a_file_in_every_checksum_mode(self):
        path = self.server.folder / "video.mp4"
        path.write_bytes(LARGE)
        for checksum in CHECKSUMS:
            with self.subTest(checksum=checksum):
                blob = self.bucket().blob("video.mp4", chunk_size=MIB)
                blob.metadata = {"user": "7"}
                blob.upload_from_filename(str(path), content_type="video/mp4", checksum=checksum)
                status = self.assert_blob_stored(blob, LARGE)
                self.assertEqual((status["content_type"], status["metadata"]["user"]), ("video/mp4", "7"))
                self.assertEqual(blob.metadata, {"user": "7"})

    def test_sends_a_file_in_one_chunk(self):
        blob = self.bucket().blob("video.mp4")
        blob.upload_from_file(io.BytesIO(LARGE), size=len(LARGE))
        self.assert_blob_stored(blob, LARGE)

    def test_sends_a_stream_of_unknown_size(self):
        for data in (LARGE, EXACT, ODD, b""):
            for checksum in (None, "auto", "md5"):
                with self.subTest(size=len(data), checksum=checksum):
                    blob = self.bucket().blob("video.mp4", chunk_size=CHUNK)
                    blob.upload_from_file(Endless(data), checksum=checksum)
                    self.assert_blob_stored(blob, data)

    def test_writes_as_to_a_file(self):
        blob = self.bucket().blob("a folder/Übung.mp4", chunk_size=CHUNK)
        with blob.open("wb", content_type="video/mp4") as file:
            for at in range(0, len(ODD), 10_000):
                file.write(ODD[at : at + 10_000])
        status = self.newest()
        self.assertEqual((status["stage"], status["offset"]), ("completed", len(ODD)))
        self.assertEqual(status["metadata"]["name"], "a folder/Übung.mp4")

    def test_retries_by_itself_when_it_is_cut(self):
        for how in ("fin", "rst"):
            for checksum in ("auto", "md5"):
                with self.subTest(how=how, checksum=checksum):
                    blob = self.bucket().blob("video.mp4", chunk_size=MIB)
                    before = self.proxy.cut_count
                    for at in (MIB // 2, 3 * MIB + 5, 6 * MIB - 1, 9 * MIB):
                        self.proxy.cut_after(at, how)
                    blob.upload_from_file(io.BytesIO(LARGE), size=len(LARGE), checksum=checksum, retry=Retry(timeout=60, initial=0.1))
                    self.assertEqual(self.proxy.cut_count - before, 4)
                    self.assert_blob_stored(blob, LARGE)

    def test_a_small_file_is_refused_with_a_word_on_what_to_do(self):
        blob = self.bucket().blob("small.txt")
        with self.assertRaises(Exception) as raised:
            blob.upload_from_string("hello")
        self.assertIn("uploadType=resumable", str(raised.exception))


class ApiClient(WithServer):
    """google-api-python-client, with an API of the test that accepts uploads as Google's APIs do."""

    config = '[limits]\nidle_timeout = "1s"\n'

    def service(self):
        document = {
            "kind": "discovery#restDescription",
            "name": "films",
            "version": "v1",
            "rootUrl": f"{self.proxy.url}/",
            "servicePath": "storage/v1/",
            "baseUrl": f"{self.proxy.url}/storage/v1/",
            "batchPath": "batch",
            "schemas": {"Object": {"id": "Object", "type": "object", "properties": {}}},
            "resources": {
                "objects": {
                    "methods": {
                        "insert": {
                            "id": "films.objects.insert",
                            "path": "b/{bucket}/o",
                            "httpMethod": "POST",
                            "parameters": {
                                "bucket": {"type": "string", "required": True, "location": "path"},
                                "name": {"type": "string", "location": "query"},
                            },
                            "parameterOrder": ["bucket"],
                            "request": {"$ref": "Object"},
                            "response": {"$ref": "Object"},
                            "supportsMediaUpload": True,
                            "mediaUpload": {
                                "accept": ["*/*"],
                                "protocols": {"resumable": {"multipart": True, "path": "/ignored"}},
                            },
                        }
                    }
                }
            },
        }
        return build_from_document(document, http=build_http())

    def send(self, media, cuts=()):
        request = self.service().objects().insert(bucket="films", body={"name": "video.mp4"}, media_body=media)
        for at, how in cuts:
            self.proxy.cut_after(at, how)
        answer = None
        while answer is None:
            try:
                _, answer = request.next_chunk()
            except (OSError, HttpError) as error:
                # The client requests the offset before it sends more. When a connection was closed, its HTTP library
                # repeats the chunk without being asked, although it has read it to its end: the server then sees only
                # silence.
                self.assertTrue(cuts and getattr(error, "status_code", 503) == 503, error)
        return answer

    def test_sends_a_file(self):
        path = self.server.folder / "video.mp4"
        for data in (ODD, EXACT, LARGE, b"x", b""):
            path.write_bytes(data)
            for chunk in (CHUNK, -1):
                with self.subTest(size=len(data), chunk=chunk):
                    media = MediaFileUpload(str(path), mimetype="video/mp4", chunksize=chunk, resumable=True)
                    status = self.assert_stored(self.send(media), data)
                    self.assertEqual(status["content_type"], "video/mp4")

    def test_goes_on_after_cuts(self):
        for how in ("fin", "rst"):
            with self.subTest(how=how):
                media = MediaIoBaseUpload(io.BytesIO(LARGE), "video/mp4", chunksize=MIB, resumable=True)
                cuts = [(MIB // 2, how), (4 * MIB, how), (8 * MIB + 3, how)]
                before = self.proxy.cut_count
                self.assert_stored(self.send(media, cuts), LARGE)
                self.assertEqual(self.proxy.cut_count - before, 3)


if __name__ == "__main__":
    unittest.main()
