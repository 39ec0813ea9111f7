"""tuspy, Google's library and curl, and an application with hooks before uploads are created and finished."""

import io
import json
import subprocess
import unittest

import requests
from google.resumable_media import InvalidResponse
from google.resumable_media.common import RetryStrategy
from google.resumable_media.requests import ResumableUpload
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from harness import Receiver, Server, crc32c, noise

DATA = noise(700_001, 11)
CHUNK = 256 * 1024
REFUSAL = (200, {"reject": {"status": 422, "message": "not a video"}})


class Application(Receiver):
    """Verifies the requests of hooks, as receivers do, and sends the configured answers."""

    def __init__(self):
        super().__init__()
        #: `(status, JSON or None)`, or what gives it for the number of the question, from 1.
        self.answer = (204, None)

    def reply(self, handler):
        answer = self.answer(len(self.events)) if callable(self.answer) else self.answer
        status, said = answer
        body = b"" if said is None else json.dumps(said).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def hooks(self, *names):
        urls = "".join(f'{name} = "{self.url}"\n' for name in names)
        return f'[hooks]\nsecret = "{self.secret}"\nbreaker_failures = 1000\n{urls}[limits]\nsweep_every = "200ms"\n'


class Asked(unittest.TestCase):
    def begin(self, *hooks):
        self.application = Application()
        self.addCleanup(self.application.dispose)
        self.server = Server("hooks", self.application.hooks(*hooks))
        self.addCleanup(self.server.dispose)

    def begin_choosy(self):
        """Starts a server that accepts only films."""
        self.server = Server("choosy", '[media]\nallowed_types = ["video/*"]\n')
        self.addCleanup(self.server.dispose)

    def uploads(self):
        return self.server.get_json("/api/v1/uploads")["uploads"]

    def assert_refused(self):
        uploads = self.uploads()
        self.assertTrue(uploads)
        for told in uploads:
            self.assertEqual((told["stage"], told["error"]["message"]), ("failed", "not a video"))
        self.assertEqual(self.application.refused, [])

    def assert_stored(self):
        (told,) = self.uploads()
        self.assertEqual((told["stage"], told["digests"]["crc32c"]), ("completed", crc32c(DATA)))
        self.assertEqual(self.application.refused, [])


class Tuspy(Asked):
    def upload(self, **how):
        client = TusClient(self.server.endpoint)
        uploader = client.uploader(file_stream=io.BytesIO(DATA), retry_delay=0.1, **how)
        uploader.upload()

    def test_a_no_before_the_creation_is_a_failure(self):
        self.begin("pre_create")
        self.application.answer = REFUSAL
        with self.assertRaises(TusCommunicationError) as caught:
            self.upload(retries=3)
        self.assertEqual(caught.exception.status_code, 422)
        self.assertEqual(self.uploads(), [])

    def test_a_no_before_completion_is_a_failure(self):
        for chunk_size in (len(DATA) + 1, 300_000):
            with self.subTest(chunk_size=chunk_size):
                self.begin("pre_finish")
                self.application.answer = REFUSAL
                with self.assertRaises(TusCommunicationError) as caught:
                    self.upload(retries=2, chunk_size=chunk_size)
                self.assertEqual(caught.exception.status_code, 422)
                self.assert_refused()

    def test_waits_until_the_application_can_be_asked(self):
        self.begin("pre_finish")
        self.application.answer = lambda question: (500, None) if question < 4 else (204, None)
        self.upload(retries=50)
        self.assert_stored()

    def test_a_late_no_is_a_failure(self):
        self.begin("pre_finish")
        self.application.answer = lambda question: (500, None) if question < 4 else REFUSAL
        with self.assertRaises(TusCommunicationError):
            self.upload(retries=20)
        self.assert_refused()


class Google(Asked):
    def upload(self):
        upload = ResumableUpload(f"http://127.0.0.1:{self.server.port}/files?uploadType=resumable", CHUNK)
        upload._retry_strategy = RetryStrategy(initial_delay=0.1, max_sleep=1.0)
        with requests.Session() as transport:
            upload.initiate(transport, io.BytesIO(DATA), {"name": "video.mp4"}, "video/mp4")
            while not upload.finished:
                answer = upload.transmit_next_chunk(transport)
        self.assertEqual(answer.json()["size"], str(len(DATA)))

    def test_a_no_before_the_creation_is_a_failure(self):
        self.begin("pre_create")
        self.application.answer = REFUSAL
        with self.assertRaises(InvalidResponse) as caught:
            self.upload()
        self.assertEqual(caught.exception.response.status_code, 422)
        self.assertEqual(self.uploads(), [])
        self.assertEqual(len(self.application.events), 1, "it does not try again")

    def test_a_no_before_completion_is_a_failure(self):
        self.begin("pre_finish")
        self.application.answer = REFUSAL
        with self.assertRaises(InvalidResponse) as caught:
            self.upload()
        self.assertEqual(caught.exception.response.status_code, 422)
        self.assert_refused()

    def test_waits_until_the_application_can_be_asked(self):
        for hook in ("pre_create", "pre_finish"):
            with self.subTest(hook=hook):
                self.begin(hook)
                self.application.answer = lambda question: (500, None) if question < 4 else (204, None)
                self.upload()
                self.assert_stored()

    def test_a_late_no_is_a_failure(self):
        self.begin("pre_finish")
        self.application.answer = lambda question: (500, None) if question < 4 else REFUSAL
        with self.assertRaises(InvalidResponse):
            self.upload()
        self.assert_refused()


class Curl(Asked):
    """Whole files, sent in every way that curl supports."""

    WAYS = {
        "PUT": lambda file, url: ["-T", file, f"{url}/a.mp4"],
        "PUT of what is piped": lambda file, url: ["-T", "-", f"{url}/a.mp4"],
        "POST": lambda file, url: ["--data-binary", f"@{file}", url],
        "a form": lambda file, url: ["-F", f"file=@{file};type=video/mp4", url],
    }

    def assert_fails(self, way, status, code):
        file = self.server.folder / "a.mp4"
        file.write_bytes(DATA)
        arguments = way(file, f"http://127.0.0.1:{self.server.port}/files")
        command = ["curl", "-sS", "-w", "\n%{http_code}", *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, check=False, input=DATA, timeout=60)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        body, told = ran.stdout.rsplit(b"\n", 1)
        self.assertEqual((int(told), json.loads(body)["type"]), (status, f"urn:longshore:problem:{code}"))
        # The exit code that scripts check.
        ran = subprocess.run([*command, "--fail"], capture_output=True, check=False, input=DATA, timeout=60)
        self.assertEqual(ran.returncode, 22, ran.stderr)

    def test_a_no_before_the_creation_is_a_failure(self):
        for how, way in self.WAYS.items():
            with self.subTest(how=how):
                self.begin("pre_create")
                self.application.answer = REFUSAL
                self.assert_fails(way, 422, "rejected-by-application")
                self.assertEqual(self.uploads(), [])

    def test_a_no_before_completion_is_a_failure(self):
        for how, way in self.WAYS.items():
            with self.subTest(how=how):
                self.begin("pre_finish")
                self.application.answer = REFUSAL
                self.assert_fails(way, 422, "rejected-by-application")
                self.assert_refused()

    def test_a_no_for_what_it_is_is_a_failure(self):
        for how, way in self.WAYS.items():
            with self.subTest(how=how):
                self.begin_choosy()
                self.assert_fails(way, 415, "type-not-allowed")
                for told in self.uploads():
                    self.assertEqual((told["stage"], told["error"]["code"]), ("failed", "type-not-allowed"))


if __name__ == "__main__":
    unittest.main()
