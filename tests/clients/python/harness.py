"""The server under test, a webhook receiver, and raw requests, for the Python tests."""

import base64
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

ROOT = pathlib.Path(__file__).resolve().parents[3]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
BINARY = ROOT / os.environ.get("LONGSHORE_BIN", TARGET / "release" / "longshore")
SCRATCH = ROOT / "target" / "test-data"
TUS = {"Tus-Resumable": "1.0.0"}


def until(what, probe, timeout=15):
    """Calls `probe` repeatedly until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.04)
    return answer


def noise(size, seed):
    """Bytes that look random and are the same for the same seed."""
    import random

    return random.Random(seed).randbytes(size)


def crc32c(data):
    """CRC-32C in lower-case hexadecimal."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CASTAGNOLI[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return f"{crc ^ 0xFFFFFFFF:08x}"


def _castagnoli(byte):
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CASTAGNOLI = [_castagnoli(byte) for byte in range(256)]


class Server:
    """The real executable, on its own port and with its own data folder."""

    def __init__(self, name, config=""):
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SCRATCH))
        self.config = self.folder / "longshore.toml"
        self.config.write_text(config)
        self.port = 0
        self.process = None
        self.start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}/files/"

    def start(self):
        # LONGSHORE_BIN and similar variables belong to the tests; the server would read every LONGSHORE_* as a setting.
        env = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
        command = [BINARY, "serve", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--data-dir", self.folder / "data", "--config", self.config]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        found = re.fullmatch(r"listening on http://.*:(\d+)\n", line)
        assert found, f"the server said {line!r}; see {self.folder / 'server.log'}"
        self.port = int(found[1])

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def dispose(self):
        self.kill()
        shutil.rmtree(self.folder)

    def request(self, method, path, headers=None, body=None):
        """Sends one request with exactly these headers, tus version included; returns `(status, headers, body)`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=TUS if headers is None else headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get_json(self, path):
        status, _, body = self.request("GET", path, headers={})
        assert status == 200, (path, status, body)
        return json.loads(body)

    def status(self, upload_url):
        return self.get_json("/api/v1/uploads/" + id_of(upload_url))


class Receiver:
    """Receives webhooks, and verifies each with the Standard Webhooks library of PyPI."""

    def __init__(self):
        self.secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
        self.events = []
        self.refused = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    event = Webhook(receiver.secret).verify(body, dict(self.headers))
                except Exception as error:
                    receiver.refused.append((repr(error), dict(self.headers), body))
                    self.send_response(400)
                    self.end_headers()
                    return
                receiver.events.append((self.headers["webhook-id"], event))
                receiver.reply(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/hook"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def reply(self, handler):
        handler.send_response(204)
        handler.end_headers()

    def config(self):
        return f'[[webhooks.endpoints]]\nname = "python"\nurl = "{self.url}"\nsecret = "{self.secret}"\n'

    def types(self, upload_id):
        return [event["type"] for _, event in self.events if event["data"]["upload_id"] == upload_id]

    def dispose(self):
        self.http.shutdown()
        self.http.server_close()


def id_of(upload_url):
    return upload_url.rstrip("/").rsplit("/", 1)[1]
