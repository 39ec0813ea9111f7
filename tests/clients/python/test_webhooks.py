"""Webhooks verified by the libraries of PyPI, and by `cryptography` where those do not support ed25519."""

import base64
import io
import json
import threading
import time
import unittest
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import standardwebhooks
import svix.webhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tusclient.client import TusClient

from harness import Server, id_of, noise, until

DATA = noise(50_000, 8)
UPLOADED = ["created", "receiving", "received", "verified", "stored", "completed"]

# Receivers of these tests are on loopback, which the API permits only with this setting.
CONFIG = '[webhooks]\nallow_networks = ["127.0.0.0/8"]\n'

LIBRARIES = {
    "standardwebhooks": (standardwebhooks.Webhook, standardwebhooks.WebhookVerificationError),
    "svix": (svix.webhooks.Webhook, svix.webhooks.WebhookVerificationError),
}


def hmac(library, secret):
    """Returns a verifier of `v1` by a library: a function of headers and body that reports whether it accepts."""
    make, refusal = LIBRARIES[library]
    webhook = make(secret)

    def accepts(headers, body):
        try:
            webhook.verify(body, headers)
            return True
        except refusal:
            return False

    return accepts


def ed25519(public_key):
    """Returns a verifier of `v1a`: the same, for a public key."""
    prefix, encoded = public_key.split("_", 1)
    assert prefix == "whpk", public_key
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded, validate=True))

    def accepts(headers, body):
        if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
            return False
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        for token in headers["webhook-signature"].split(" "):
            version, encoded = token.split(",", 1)
            if version != "v1a":
                continue
            try:
                key.verify(base64.b64decode(encoded, validate=True), signed)
                return True
            except InvalidSignature:
                pass
        return False

    return accepts


class Ear:
    """Records every request unchanged, `(headers, body)`, and accepts it."""

    def __init__(self):
        self.requests = []
        ear = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                ear.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/hook"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def of(self, upload_id):
        return [one for one in self.requests if json.loads(one[1])["data"]["upload_id"] == upload_id]

    def dispose(self):
        self.http.shutdown()
        self.http.server_close()


class Webhooks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("python-webhooks", CONFIG)

    @classmethod
    def tearDownClass(cls):
        cls.server.dispose()

    def administer(self, path, **body):
        url = f"http://127.0.0.1:{self.server.port}/api/v1/webhooks{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def listening(self, name, **terms):
        """Creates an endpoint of this name, with a receiver."""
        ear = Ear()
        self.addCleanup(ear.dispose)
        return ear, self.administer("/endpoints", id=name, url=ear.url, **terms)

    def heard_of_an_upload(self, ear):
        client = TusClient(self.server.endpoint)
        uploader = client.uploader(file_stream=io.BytesIO(DATA), metadata={"filename": "Übung.bin"})
        uploader.upload()
        upload = id_of(uploader.url)
        heard = until("all events", lambda: len(ear.of(upload)) >= len(UPLOADED) and ear.of(upload))
        self.assertEqual([json.loads(body)["type"] for _, body in heard], [f"upload.{stage}" for stage in UPLOADED])
        return heard

    def assert_tamper_proof(self, accepts, headers, body, what):
        self.assertTrue(accepts(headers, body), what)
        for place in (0, len(body) // 2, len(body) - 1):
            changed = bytearray(body)
            changed[place] ^= 1
            self.assertFalse(accepts(headers, bytes(changed)), f"{what}: byte {place} is another")
        signed_at = int(headers["webhook-timestamp"])
        changes = {
            "webhook-id": [headers["webhook-id"][:-1] + "x"],
            "webhook-timestamp": [str(signed_at + 1), str(signed_at - 301), str(signed_at + 301)],
        }
        for name, values in changes.items():
            for value in values:
                self.assertFalse(accepts({**headers, name: value}, body), f"{what}: {name} is {value}")

    def test_each_library_verifies_and_lets_nothing_be_changed(self):
        ear, endpoint = self.listening("plain")
        for headers, body in self.heard_of_an_upload(ear):
            for library in LIBRARIES:
                self.assert_tamper_proof(hmac(library, endpoint["secret"]), headers, body, library)

    def test_both_signatures_stand_side_by_side_in_any_order(self):
        ear, endpoint = self.listening("both", signing="both")
        verifiers = {library: hmac(library, endpoint["secret"]) for library in LIBRARIES}
        verifiers["cryptography"] = ed25519(endpoint["public_key"])
        for headers, body in self.heard_of_an_upload(ear):
            tokens = headers["webhook-signature"].split(" ")
            self.assertEqual(sorted(token.split(",")[0] for token in tokens), ["v1", "v1a"])
            for order in (tokens, tokens[::-1]):
                turned = {**headers, "webhook-signature": " ".join(order)}
                for name, accepts in verifiers.items():
                    self.assert_tamper_proof(accepts, turned, body, f"{name}, {order}")

    def test_old_and_new_secrets_verify_while_a_rotation_overlaps(self):
        ear, endpoint = self.listening("rotated", signing="both")
        renewed = self.administer("/endpoints/rotated/rotate", kind="hmac", overlap_ms=60_000)
        rekeyed = self.administer("/endpoints/rotated/rotate", kind="ed25519", overlap_ms=60_000)
        verifiers = [hmac(library, of["secret"]) for library in LIBRARIES for of in (endpoint, renewed)]
        verifiers += [ed25519(of["public_key"]) for of in (endpoint, rekeyed)]
        self.assertNotEqual(endpoint["secret"], renewed["secret"])
        self.assertNotEqual(endpoint["public_key"], rekeyed["public_key"])
        for headers, body in self.heard_of_an_upload(ear):
            self.assertEqual(len(headers["webhook-signature"].split(" ")), 4)
            for number, accepts in enumerate(verifiers):
                self.assert_tamper_proof(accepts, headers, body, f"verifier {number}")
