"""curl against the real server: whole files, forms, and resuming after an interruption."""

import json
import os
import re
import subprocess
import unittest
import urllib.parse

from harness import Server, id_of, noise, until
from proxy import Proxy

DATA = noise(3_000_017, 9)


class Curl(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("curl")
        cls.file = cls.server.folder / "Übung 1.mp4"
        cls.file.write_bytes(DATA)
        cls.base = f"http://127.0.0.1:{cls.server.port}"

    @classmethod
    def tearDownClass(cls):
        cls.server.dispose()

    def curl(self, *arguments, check=True, stdin=None):
        """Runs curl; returns the status, the headers and the body of the response."""
        command = ["curl", "-sS", "-i", *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, check=False, input=stdin, timeout=120)
        if check:
            self.assertEqual(ran.returncode, 0, ran.stderr)
        elif ran.returncode != 0:
            return None
        text = ran.stdout
        while re.match(rb"HTTP/1.1 1\d\d", text):
            text = text.split(b"\r\n\r\n", 1)[1]
        head, body = text.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), fields, body

    def assert_stored(self, url, data=DATA):
        told = self.server.status(url)
        self.assertEqual((told["stage"], told["offset"]), ("completed", len(data)))
        status, _, body = self.server.request("GET", f"/files/{id_of(url)}", headers={})
        self.assertEqual((status, body == data), (200, True))
        return told

    def test_sends_a_file_to_a_folder(self):
        status, fields, body = self.curl("-T", self.file, f"{self.base}/files/")
        self.assertEqual(status, 201)
        told = self.assert_stored(fields["location"])
        self.assertEqual(told["filename"], self.file.name)
        self.assertEqual(json.loads(body)["size"], len(DATA))

    def test_sends_what_it_is_piped(self):
        status, fields, _ = self.curl("-T", "-", f"{self.base}/files/piped.bin", stdin=DATA)
        self.assertEqual(status, 201)
        self.assertEqual(self.assert_stored(fields["location"])["filename"], "piped.bin")

    def test_sends_a_body(self):
        status, fields, _ = self.curl("--data-binary", f"@{self.file}", f"{self.base}/files")
        self.assertEqual(status, 201)
        self.assertIsNone(self.assert_stored(fields["location"])["content_type"])
        status, fields, _ = self.curl("--data-binary", f"@{self.file}", "-H", "Content-Type: video/mp4", f"{self.base}/files")
        self.assertEqual(self.assert_stored(fields["location"])["content_type"], "video/mp4")

    def test_sends_a_form(self):
        form = ["-F", "user=7", "-F", f"file=@{self.file};type=video/mp4"]
        status, fields, _ = self.curl(*form, f"{self.base}/files")
        self.assertEqual(status, 201)
        told = self.assert_stored(fields["location"])
        self.assertEqual((told["filename"], told["content_type"]), (self.file.name, "video/mp4"))
        self.assertEqual(told["metadata"]["user"], "7")

    def test_a_form_with_two_files_is_refused(self):
        form = ["-F", f"a=@{self.file}", "-F", f"b=@{self.file}"]
        status, fields, body = self.curl(*form, f"{self.base}/files")
        self.assertEqual((status, json.loads(body)["type"]), (400, "urn:longshore:problem:several-files"))

    def test_goes_on_after_a_break(self):
        for how in ("fin", "rst"):
            with self.subTest(how=how):
                proxy = Proxy(self.server.port)
                self.addCleanup(proxy.dispose)
                proxy.cut_after(1_500_000, how)
                self.assertIsNone(self.curl("-T", self.file, f"{proxy.url}/files/", check=False))

                def broken_off():
                    newest = self.server.get_json("/api/v1/uploads?limit=1")["uploads"][0]
                    at_rest = newest["offset"] > 0 and newest["bytes_per_second"] is None
                    return newest if at_rest and newest["stage"] != "completed" else None

                upload = until("what arrived is kept", broken_off)
                self.assertEqual(upload["missing"], [[upload["offset"], len(DATA) - 1]])
                url = f"{self.base}{upload['links']['upload']}"
                status, _, body = self.curl("-C", upload["offset"], "-T", self.file, url)
                self.assertEqual((status, json.loads(body)["complete"]), (200, True))
                self.assert_stored(url)

    def test_sends_everything_again_where_it_does_not_know_the_offset(self):
        status, fields, _ = self.curl("-H", "Content-Type: application/json", "-d", "{}", f"{self.base}/files")
        self.assertEqual(status, 201)
        url = urllib.parse.urljoin(self.base, fields["location"])
        status, _, _ = self.curl("-X", "PUT", "-H", f"Content-Range: bytes 0-999999/{len(DATA)}", "--data-binary", "@-", url, stdin=DATA[:1_000_000])
        # Not aligned, and therefore rejected; the next request is aligned.
        self.assertEqual(status, 400)
        status, _, _ = self.curl("-X", "PUT", "-H", f"Content-Range: bytes 4096-8191/{len(DATA)}", "--data-binary", "@-", url, stdin=DATA[4096:8192])
        self.assertEqual(status, 202)
        status, _, _ = self.curl("-C", "-", "-T", self.file, url)
        self.assertEqual(status, 200)
        self.assert_stored(url)

    def test_sends_parts_at_once(self):
        size, part = len(DATA), 1 << 20
        status, fields, _ = self.curl("-H", "Content-Type: application/json", "-d", f'{{"size": {size}}}', f"{self.base}/files")
        self.assertEqual(status, 201)
        url = urllib.parse.urljoin(self.base, fields["location"])
        running = []
        for first in reversed(range(0, size, part)):
            last = min(first + part, size) - 1
            piece = self.server.folder / f"part-{first}"
            piece.write_bytes(DATA[first : last + 1])
            command = ["curl", "-sS", "-f", "-T", piece, "-H", f"Content-Range: bytes {first}-{last}/{size}", url]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ))
        for process in running:
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0)
        self.assert_stored(url)


if __name__ == "__main__":
    unittest.main()
