"""Invalid requests: each is answered with a clear error, and the server stays healthy."""

import base64
import json
import socket
import unittest

from harness import TUS, Server, id_of

BODY_TYPE = {"Content-Type": "application/offset+octet-stream"}


def encoded(text):
    return base64.b64encode(text.encode()).decode()


class OddRequests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("odd-requests", '[limits]\nmax_upload_size = "32MiB"\n')

    @classmethod
    def tearDownClass(cls):
        cls.server.dispose()

    def create(self, length=5, **more):
        headers = {**TUS, "Upload-Length": str(length), **more}
        status, told, body = self.server.request("POST", "/files", headers)
        self.assertEqual(status, 201, body)
        return "/files/" + id_of(told["Location"])

    def offset(self, path):
        status, told, _ = self.server.request("HEAD", path)
        self.assertEqual(status, 200)
        return int(told["Upload-Offset"])

    def assert_problem(self, answer, status):
        """Checks RFC 9457, and the headers that every tus response must have."""
        got, headers, body = answer
        self.assertEqual(got, status, body)
        self.assertEqual(headers["Tus-Resumable"], "1.0.0")
        self.assertEqual(headers["Content-Type"], "application/problem+json")
        problem = json.loads(body)
        self.assertEqual(problem["status"], status)
        for field in ("type", "title", "detail", "request_id"):
            self.assertTrue(problem[field], field)
        return problem

    def test_lengths_that_are_none(self):
        wrong = ["", "+5", "-1", " ", "5 5", "0x5", "5.0", "1e3", "٥", "5,5", str(2**63), str(2**64), "9" * 400]
        for length in wrong:
            with self.subTest(length=length):
                headers = {**TUS, "Upload-Length": length.encode()}
                answer = self.server.request("POST", "/files", headers)
                # 2^63 is a valid number, but too large.
                self.assertIn(answer[0], (400, 413))
                self.assert_problem(answer, answer[0])

    def test_a_length_over_the_limit_is_refused_before_a_byte_is_stored(self):
        before = len(self.server.get_json("/api/v1/uploads")["uploads"])
        self.assert_problem(self.server.request("POST", "/files", {**TUS, "Upload-Length": str(33 << 20)}), 413)
        self.assertEqual(len(self.server.get_json("/api/v1/uploads")["uploads"]), before)

    def test_versions_and_methods_that_are_unknown(self):
        status, headers, _ = answer = self.server.request("POST", "/files", {"Tus-Resumable": "0.2.2"})
        self.assert_problem(answer, 412)
        self.assertEqual(headers["Tus-Version"], "1.0.0")
        path = self.create()
        for method in ("PUT", "BREW", "TRACE"):
            with self.subTest(method=method):
                status, _, _ = self.server.request(method, path)
                self.assertIn(status, (400, 404, 405, 501))

    def test_metadata_that_is_broken(self):
        for metadata in ("name %%%", "name YQ== YQ==", "name YQ==,name YQ==", "name YQ===", "na\u00efme YQ=="):
            with self.subTest(metadata=metadata):
                headers = {**TUS, "Upload-Length": "5", "Upload-Metadata": metadata.encode()}
                self.assert_problem(self.server.request("POST", "/files", headers), 400)

    def test_names_cannot_smuggle_headers_or_paths(self):
        for name in ('a\r\nSet-Cookie: x=1.txt', '../../etc/passwd', 'a"; filename="b', "a\0b", "\u202egpj.exe", "..", ""):
            with self.subTest(name=name):
                path = self.create(5, **{"Upload-Metadata": f"filename {encoded(name)}"})
                headers = {**TUS, **BODY_TYPE, "Upload-Offset": "0"}
                self.assertEqual(self.server.request("PATCH", path, headers, b"hello")[0], 204)
                status, told, body = self.server.request("GET", path, {})
                self.assertEqual((status, body), (200, b"hello"))
                self.assertNotIn("Set-Cookie", told)
                disposition = told["Content-Disposition"] or ""
                for forbidden in ("\r", "\n", "\0", "/", "\\"):
                    self.assertNotIn(forbidden, disposition)
                self.assertLessEqual(disposition.count('"'), 2)

    def test_ids_that_are_none(self):
        for path in ("/files/..", "/files/%2e%2e", "/files/%2e%2e%2flongshore.db", "/files/a%00b", "/files/" + "a" * 5000, "/files//"):
            for method in ("HEAD", "GET", "PATCH", "DELETE"):
                with self.subTest(path=path, method=method):
                    headers = {**TUS, **BODY_TYPE, "Upload-Offset": "0"}
                    self.assertIn(self.server.request(method, path, headers)[0], (400, 404, 405))

    def test_data_beyond_the_length_is_refused_whole(self):
        path = self.create(5)
        headers = {**TUS, **BODY_TYPE, "Upload-Offset": "0"}
        self.assert_problem(self.server.request("PATCH", path, headers, b"hello!"), 413)
        self.assertEqual(self.offset(path), 0)
        self.assert_problem(self.server.request("PATCH", path, headers, iter([b"hel", b"lo!"])), 413)
        self.assertEqual(self.offset(path), 0)

    def test_a_client_that_reads_only_after_it_has_sent_everything_gets_its_answer(self):
        path = self.create(20 << 20)
        body = bytes(20 << 20)
        for _ in range(5):
            wrong_offset = {**TUS, **BODY_TYPE, "Upload-Offset": "7"}
            self.assert_problem(self.server.request("PATCH", path, wrong_offset, body), 409)
            wrong_type = {**TUS, "Content-Type": "text/plain", "Upload-Offset": "0"}
            self.assert_problem(self.server.request("PATCH", path, wrong_type, body), 415)
            missing = "/files/01930000-0000-7000-8000-000000000000"
            self.assert_problem(self.server.request("PATCH", missing, {**TUS, **BODY_TYPE, "Upload-Offset": "0"}, body), 404)
        self.assertEqual(self.offset(path), 0)

    def test_what_is_not_http_does_not_hurt(self):
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET\r\n\r\n", b"\0" * 4096, b"A" * 200_000):
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=15) as raw:
                try:
                    raw.sendall(garbage)
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(4096):
                        pass
                except OSError:  # refused, and the connection reset: at any moment, also before the shutdown
                    pass
        self.assertEqual(self.server.request("GET", "/healthz", {})[0], 200)

    def test_headers_given_twice_are_refused(self):
        path = self.create(5)
        lines = [f"PATCH {path} HTTP/1.1", "Host: localhost", "Tus-Resumable: 1.0.0", "Content-Type: application/offset+octet-stream"]
        lines += ["Upload-Offset: 0", "Upload-Offset: 3", "Content-Length: 2", "Connection: close", "", "ab"]
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=15) as raw:
            raw.sendall("\r\n".join(lines).encode())
            answer = b""
            while chunk := raw.recv(4096):
                answer += chunk
        self.assertRegex(answer, rb"^HTTP/1.1 400 ")
        self.assertEqual(self.offset(path), 0)


if __name__ == "__main__":
    unittest.main()
