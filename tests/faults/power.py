"""Cuts the power at random points of a recorded run, and proves that nothing acknowledged is lost.

    python3 tests/faults/power.py [--cuts 20] [--seed N] [--seconds 8]

The server keeps its data on an ext4 whose disk records every write and flush. Clients upload in every dialect, follow
the stream of events and receive webhooks; with each acknowledgment of the server they note the length of the recording.
Then the disk is rebuilt in the state that a power loss at a random point would leave: a random half of the writes since
the last flush is missing. A server is started on that disk, and must know everything that was acknowledged before the
cut: offsets and ranges with the right bytes, whole files, ends, and every event that a stream or a webhook delivered.

A second recording is of a server with `storage.durability = "relaxed"`. It may lose the last commits, but must start,
and the rest must be consistent. The check of the first recording must find losses in it: a test that cannot fail proves
nothing.

Needs root, loop devices, nbdkit with its Python plugin, nbdfuse and fusermount3; if one is missing, the script says so
and passes. LONGSHORE_BIN is the executable.

    --without-syncs   preloads a library in which syncing files does nothing: the run must fail
"""

import argparse
import base64
import bisect
import contextlib
import glob
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
RECORDER = os.path.join(ROOT, "tests", "faults", "power_recorder.py")
RECORD = struct.Struct("<cQQ")
DISK_BYTES = 1 << 30
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {**TUS, "Content-Type": "application/offset+octet-stream"}
ALIGNMENT = 4096

CONFIG = """
[limits]
unfinished_expiry = "24h"
[storage]
durability = "{durability}"
checkpoint_every = "50ms"
checkpoint_size = "256KiB"
[webhooks]
progress_every = "1s"
[[webhooks.endpoints]]
name = "app"
url = "http://127.0.0.1:{receiver}/"
secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
events = ["*"]
"""

# The effect of a disk controller that lies, for every file of one process.
NO_SYNCS = """
int fsync(int fd) { return 0; }
int fdatasync(int fd) { return 0; }
int syncfs(int fd) { return 0; }
int sync_file_range(int fd, long long from, long long count, unsigned flags) { return 0; }
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 2**31)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--without-syncs", action="store_true")
    options = parser.parse_args()
    missing = what_is_missing()
    if missing:
        print(f"skipped: {missing}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"power: {options.cuts} cuts, --seed {options.seed} --seconds {options.seconds:g}", flush=True)
    losses = run("strict", options, options.cuts)
    for loss in losses:
        print(f"LOST: {loss}")
    if losses:
        sys.exit(f"power: {len(losses)} losses under strict")
    if options.without_syncs:
        sys.exit("power: nothing was lost although nothing was synced; is the executable statically linked?")
    if not run("relaxed", options, max(3, options.cuts // 4)):
        sys.exit("power: a relaxed server has lost nothing in a power loss; the test detects nothing")


def what_is_missing():
    if os.geteuid() != 0:
        return "it needs root"
    for tool in ["nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "mount"]:
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            return f"{tool} is not installed"
    for device in ["/dev/fuse", "/dev/loop-control"]:
        if not os.path.exists(device):
            return f"there is no {device}"
    if subprocess.run(["nbdkit", "python", "--dump-plugin"], capture_output=True).returncode != 0:
        return "nbdkit has no Python plugin"
    return None


def run(durability, options, cuts):
    """Records a run and cuts its power; returns what was lost, as sentences."""
    scratch = os.path.join(ROOT, "target", "test-data")
    os.makedirs(scratch, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f"power-{durability}-", dir=scratch)
    told = Told(os.path.join(folder, "journal"))
    receiver = Receiver(told)
    config = os.path.join(folder, "longshore.toml")
    with open(config, "w") as file:
        file.write(CONFIG.format(durability=durability, receiver=receiver.port))
    environment = without_syncs(folder) if options.without_syncs else {}
    began = time.monotonic()
    with RecordedDisk(folder) as disk:
        server = Server(disk.mounted, config, os.path.join(folder, "server.log"), environment)
        with server:
            start = told.position()
            work(server, told, random.Random(options.seed), options.seconds)
            end = told.position()
            # Not stopped gracefully: whatever the last commits leave open is open when the power fails.
            server.kill()
    receiver.is_listening = False
    journal = Journal(folder)
    first, last = journal.index(start), journal.index(end)
    print(
        f"{durability}: {len(told.uploads)} uploads, {told.count} things told, {len(told.events)} of them events; "
        f"{last - first} writes and flushes in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    dice = random.Random(options.seed + 1)
    losses = []
    for cut in sorted(journal.choose(first, last, dice) for _ in range(cuts)):
        dropped = journal.build(cut, dice)
        log = os.path.join(folder, "after.log")
        with MountedImage(folder) as mounted, Server(mounted, config, log) as server:
            found = judge(server, mounted, told, journal.end(cut))
        print(f"cut at {cut}: {dropped} writes dropped, {len(found)} losses", flush=True)
        losses += [f"cut {cut} (--seed {options.seed}): {loss}" for loss in found]
    receiver.close()
    if losses and durability == "strict":
        print(f"the recording is kept in {folder}")
    else:
        shutil.rmtree(folder)
    return losses


class Told:
    """Everything that the server has acknowledged or reported, each with the end of the recording at that time."""

    def __init__(self, journal):
        self.journal, self.lock = journal, threading.Lock()
        self.uploads, self.events, self.count = {}, [], 0

    def position(self):
        return os.stat(self.journal).st_size

    def upload(self, id, source, is_partial=False):
        with self.lock:
            upload = self.uploads.setdefault(id, Upload(id, source, is_partial))
        self.note(upload, "known", True)
        return upload

    def note(self, upload, what, value):
        position = self.position()
        with self.lock:
            self.count += 1
            upload.told.append((position, what, value))

    def event(self, id, sequence, kind, body=None):
        position = self.position()
        with self.lock:
            self.count += 1
            self.events.append((position, id, sequence, kind, body))


class Upload:
    def __init__(self, id, source, is_partial):
        self.id, self.source, self.is_partial, self.told = id, source, is_partial, []

    def before(self, cut):
        """Returns what was acknowledged before the recording had the length `cut`."""
        return [(what, value) for position, what, value in self.told if position <= cut]


# The workload.


def work(server, told, dice, seconds):
    """Runs uploads in every dialect concurrently until the time is over."""
    until = time.monotonic() + seconds
    stop = threading.Event()
    watching = threading.Thread(target=watch, args=(server, told, stop), daemon=True)
    watching.start()
    failures = []

    def keep_uploading(dialect, seed):
        client = Client(server.port, told, random.Random(seed))
        try:
            while time.monotonic() < until:
                dialect(client)
        except Exception as error:
            failures.append(f"{dialect.__name__}: {error!r}")

    dialects = [tus, tus_with_data, ietf, google, parallel, plain, form, concatenation]
    threads = [threading.Thread(target=keep_uploading, args=(each, dice.random())) for each in dialects]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    if failures:
        raise AssertionError("; ".join(failures))


def watch(server, told, stop):
    """Follows the stream of all events."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/api/v1/events", headers={"Accept": "text/event-stream"})
    stream, data = connection.getresponse(), []
    assert stream.status == 200, stream.status
    try:
        while not stop.is_set():
            line = stream.readline().decode().rstrip("\n")
            if line.startswith("data:"):
                data.append(line[5:].strip())
            elif not line and data:
                note_event(told, "\n".join(data))
                data = []
    except (OSError, ValueError, http.client.HTTPException):
        pass  # the server was killed


def note_event(told, text):
    event = json.loads(text)
    about = event.get("data", {})
    if "sequence" in about:
        told.event(about["upload_id"], about["sequence"], event["type"], text)


class Client:
    def __init__(self, port, told, dice):
        self.port, self.told, self.dice, self.connection = port, told, dice, None

    def ask(self, method, path, headers=None, body=b"", expected=(200, 201, 202, 204, 308)):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        content = response.read()
        assert response.status in expected, f"{method} {path}: {response.status} {content[:300]}"
        return response.status, response.headers, content

    def source(self):
        # Small uploads and uploads with several checkpoints; paced, so that the disk does not fill.
        time.sleep(self.dice.uniform(0, 0.1))
        return self.dice.randbytes(self.dice.choice([7, 5_000, 70_000, 300_000, 1_000_000]))

    def cut_up(self, source):
        """Returns the bounds of chunks, as (start, end)."""
        inner = [self.dice.randrange(len(source)) for _ in range(self.dice.randrange(4))]
        places = sorted({0, *inner, len(source)})
        return list(zip(places, places[1:]))

    def downloads(self, upload):
        """Returns whether the download is the source. The download of a file that has lost bytes is gone, or breaks
        off."""
        try:
            status, _, content = self.ask("GET", f"/files/{upload.id}", expected=(200, 410, 500))
        except (http.client.HTTPException, ConnectionError):
            self.connection = None
            return False
        return status == 200 and content == upload.source

    def begun(self, headers, source, is_partial=False):
        return self.told.upload(id_of(headers["Location"]), source, is_partial)

    def whole(self, upload):
        """Handles an upload whose bytes were all acknowledged. Some files are downloaded, some deleted."""
        self.told.note(upload, "offset", len(upload.source))
        if upload.is_partial:
            return
        self.told.note(upload, "complete", True)
        if self.dice.random() < 0.2:
            content = self.ask("GET", f"/files/{upload.id}")[2]
            assert content == upload.source, f"{upload.id} downloads wrong"
        elif self.dice.random() < 0.2:
            self.ask("DELETE", f"/files/{upload.id}", TUS)
            self.told.note(upload, "terminated", True)

    def may_look(self, upload):
        """Sometimes requests the offset of an upload, as other readers do."""
        if self.dice.random() < 0.3:
            status = json.loads(self.ask("GET", f"/api/v1/uploads/{upload.id}")[2])
            self.told.note(upload, "offset", status["offset"])


def id_of(location):
    return re.search(r"[0-9a-f-]{36}", location).group()


def tus(client, concat=None):
    source = client.source()
    headers = {**TUS, "Upload-Length": str(len(source))}
    if concat:
        headers["Upload-Concat"] = concat
    _, headers, _ = client.ask("POST", "/files", headers)
    upload = client.begun(headers, source, is_partial=concat is not None)
    for start, end in client.cut_up(source):
        _, headers, _ = client.ask("PATCH", f"/files/{upload.id}", {**CHUNK, "Upload-Offset": str(start)}, source[start:end])
        client.told.note(upload, "offset", int(headers["Upload-Offset"]))
        client.may_look(upload)
        if client.dice.random() < 0.1:
            return upload  # left unfinished
    client.whole(upload)
    return upload


def tus_with_data(client):
    source = client.source()
    end = client.dice.randrange(len(source))
    described = {**CHUNK, "Upload-Length": str(len(source)), "Upload-Metadata": "name " + base64.b64encode(b"a").decode()}
    _, headers, _ = client.ask("POST", "/files", described, source[:end])
    upload = client.begun(headers, source)
    client.told.note(upload, "offset", int(headers["Upload-Offset"]))
    _, headers, _ = client.ask("HEAD", f"/files/{upload.id}", TUS)
    assert headers["Upload-Offset"] == str(end)
    client.ask("PATCH", f"/files/{upload.id}", {**CHUNK, "Upload-Offset": str(end)}, source[end:])
    client.whole(upload)


def ietf(client):
    source = client.source()
    draft = {"Upload-Draft-Interop-Version": "8"}
    described = {**draft, "Upload-Complete": "?0", "Upload-Length": str(len(source))}
    _, headers, _ = client.ask("POST", "/files", described)
    upload = client.begun(headers, source)
    for start, end in client.cut_up(source):
        is_last = end == len(source)
        described = {**draft, "Content-Type": "application/partial-upload", "Upload-Offset": str(start)}
        described["Upload-Complete"] = "?1" if is_last else "?0"
        client.ask("PATCH", f"/files/{upload.id}", described, source[start:end])
        client.told.note(upload, "offset", end)
        client.may_look(upload)
    client.whole(upload)


def google(client):
    source = client.source()
    _, headers, _ = client.ask("POST", "/files?uploadType=resumable&name=a", {"X-Upload-Content-Length": str(len(source))})
    upload = client.begun(headers, source)
    for start, end in client.cut_up(source):
        place = {"Content-Range": f"bytes {start}-{end - 1}/{len(source)}"}
        status, headers, _ = client.ask("PUT", f"/files/{upload.id}", place, source[start:end])
        if status == 308:
            client.told.note(upload, "offset", int(headers["Range"].split("-")[1]) + 1)
        client.may_look(upload)
    client.whole(upload)


def parallel(client):
    source = client.source()
    described = json.dumps({"name": "a", "size": len(source)}).encode()
    _, headers, _ = client.ask("POST", "/files", {"Content-Type": "application/json"}, described)
    upload = client.begun(headers, source)
    places = range(0, len(source), client.dice.choice([16, 32]) * ALIGNMENT)
    ranges = [(start, min(start + places.step, len(source))) for start in places]
    client.dice.shuffle(ranges)
    if client.dice.random() < 0.1:
        ranges.pop()

    def send(mine, client):
        for start, end in mine:
            place = {"Content-Range": f"bytes {start}-{end - 1}/{len(source)}"}
            client.ask("PUT", f"/files/{upload.id}", place, source[start:end])
            client.told.note(upload, "range", (start, end))
            client.may_look(upload)

    other = Client(client.port, client.told, random.Random(client.dice.random()))
    failures = []

    def send_half():
        try:
            send(ranges[1::2], other)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=send_half)
    thread.start()
    send(ranges[::2], client)
    thread.join()
    if failures:
        raise failures[0]
    if len(ranges) == len(places):
        client.whole(upload)


def plain(client):
    source = client.source()
    _, headers, _ = client.ask("PUT", "/files/a.bin", {}, source)
    client.whole(client.begun(headers, source))


def form(client):
    source = client.source()
    boundary = "x" * 40
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'.encode()
    body = head + source + f"\r\n--{boundary}--\r\n".encode()
    _, headers, _ = client.ask("POST", "/files", {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body)
    client.whole(client.begun(headers, source))


def concatenation(client):
    parts = [tus(client, "partial") for _ in range(2)]
    if any(("offset", len(part.source)) not in part.before(2**63) for part in parts):
        return
    final = "final;" + " ".join(f"/files/{part.id}" for part in parts)
    _, headers, _ = client.ask("POST", "/files", {**TUS, "Upload-Concat": final})
    client.whole(client.begun(headers, b"".join(part.source for part in parts)))


class Receiver:
    """Receives webhooks and records their events."""

    def __init__(self, told):
        receiver = self
        self.is_listening = True

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if receiver.is_listening:
                    note_event(told, body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # Ignores broken connections of a killed server.
        self.server.handle_error = lambda *_: None
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


# The evaluation.


def judge(server, mounted, told, cut):
    """Returns everything acknowledged before the cut that the server has lost, as sentences."""
    losses = []
    client = Client(server.port, told, random.Random(0))
    for upload in list(told.uploads.values()):
        before = upload.before(cut)
        if before:
            losses += judge_upload(client, mounted, upload, before)
    with contextlib.closing(sqlite3.connect(f"file:{mounted}/data/longshore.db?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the database is damaged"
        log = {}
        for upload, sequence, body in database.execute("SELECT hex(upload_id), sequence, body FROM events WHERE upload_id IS NOT NULL"):
            log.setdefault(upload.lower(), {})[sequence] = body
    for upload, events in log.items():
        assert sorted(events) == list(range(1, len(events) + 1)), f"the events of {upload} have a gap: {sorted(events)}"
    for position, id, sequence, kind, body in told.events:
        if position <= cut:
            found = log.get(id.replace("-", ""), {}).get(sequence)
            if found is None or json.loads(found) != json.loads(body):
                losses.append(f"event {sequence} of {id}, {kind}, was told and is {'lost' if found is None else 'another'}")
    with open(server.log) as file:
        text = file.read()
    assert "panicked" not in text, "the server has panicked after the power loss"
    return losses


def judge_upload(client, mounted, upload, before):
    status, _, content = client.ask("GET", f"/api/v1/uploads/{upload.id}", expected=(200, 404, 410))
    if status != 200:
        return [f"{upload.id} was created and is unknown ({status})"]
    found = json.loads(content)
    offset = max([value for what, value in before if what == "offset"], default=0)
    ranges = [value for what, value in before if what == "range"] + [(0, offset)]
    if ("terminated", True) in before:
        return [] if found["stage"] == "terminated" else [f"{upload.id} was terminated and is {found['stage']}"]
    if found["stage"] in ("terminated",):
        return []  # its client had asked for it and not been answered
    if found["stage"] in ("expired", "failed"):
        return [f"{upload.id} is {found['stage']}: {found.get('error')}"]
    losses = []
    if found["offset"] < offset:
        losses.append(f"{upload.id} has offset {found['offset']}, {offset} was told")
    if ("complete", True) in before and found["stage"] != "completed":
        losses.append(f"{upload.id} was complete and is {found['stage']}")
    if found["stage"] == "completed":
        return losses + ([] if client.downloads(upload) else [f"{upload.id} is complete and does not download whole"])
    for first, last in found.get("missing") or []:
        lost = [place for place in ranges if first < place[1] and place[0] <= last]
        losses += [f"{upload.id} misses {first}-{last}, of which {place} was acknowledged" for place in lost]
    bytes_there = stored_bytes(mounted, upload.id)
    for start, end in ranges:
        if bytes_there[start:end] != upload.source[start:end]:
            losses.append(f"{upload.id} has other bytes between {start} and {end}, which were acknowledged")
    return losses


def stored_bytes(mounted, id):
    for path in glob.glob(f"{mounted}/data/*/**/{id}*", recursive=True):
        with open(path, "rb") as file:
            return file.read()
    return b""


# Disks.


class Server:
    def __init__(self, mounted, config, log, environment=None):
        self.log = log
        binary = os.environ.get("LONGSHORE_BIN", os.path.join(ROOT, "target", "release", "longshore"))
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{mounted}/data", "--config", config]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=file, text=True, env={**inherited, **(environment or {})}
            )
        line = self.process.stdout.readline()
        found = re.match(r"listening on http://.*:(\d+)$", line)
        if not found:
            self.kill()
            with open(log) as file:
                raise AssertionError(f"the server does not start: {file.read()[-2000:]}")
        self.port = int(found.group(1))

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


class RecordedDisk:
    """An ext4 on a disk that records every request."""

    def __init__(self, folder):
        self.folder, self.mounted = folder, os.path.join(folder, "mounted")
        self.device = self.recorder = None

    def __enter__(self):
        image, base = f"{self.folder}/disk.img", f"{self.folder}/base.img"
        with open(image, "wb") as file:
            file.truncate(DISK_BYTES)
        call("mkfs.ext4", "-qF", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", image)
        call("cp", "--sparse=always", image, base)
        for name in ["nbd", "mounted"]:
            os.mkdir(f"{self.folder}/{name}")
        nbdkit = ["nbdkit", "-s", "--exit-with-parent", "python", RECORDER]
        nbdkit += [f"image={image}", f"journal={self.folder}/journal"]
        self.recorder = subprocess.Popen(["nbdfuse", f"{self.folder}/nbd", "--command", *nbdkit])
        try:
            wait_for(lambda: os.path.exists(f"{self.folder}/nbd/nbd"))
            self.device = call("losetup", "-f", "--show", "--direct-io=on", f"{self.folder}/nbd/nbd").strip()
            call("mount", self.device, self.mounted)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if os.path.ismount(self.mounted):
            call("umount", self.mounted)
        if self.device:
            call("losetup", "-d", self.device)
        # The loop device releases its file a moment later.
        wait_for(lambda: subprocess.run(["fusermount3", "-u", f"{self.folder}/nbd"], capture_output=True).returncode == 0)
        self.recorder.wait(timeout=30)


class MountedImage:
    """The disk in the state after the power loss."""

    def __init__(self, folder):
        self.image, self.mounted = f"{folder}/crash.img", f"{folder}/mounted"

    def __enter__(self):
        call("mount", "-o", "loop", self.image, self.mounted)
        return self.mounted

    def __exit__(self, *_):
        call("umount", self.mounted)


class Journal:
    """The recording, and the disk rebuilt from it up to the last flush before a cut. Cuts can only move forward."""

    def __init__(self, folder):
        self.folder, self.entries, self.ends = folder, [], []
        self.applied = 0
        self.file = open(f"{folder}/journal", "rb")
        size = os.path.getsize(f"{folder}/journal")
        while self.file.tell() + RECORD.size <= size:
            kind, offset, count = RECORD.unpack(self.file.read(RECORD.size))
            self.entries.append((kind, offset, self.file.tell(), count))
            self.ends.append(self.file.seek(count, os.SEEK_CUR))
        os.rename(f"{folder}/base.img", f"{folder}/flushed.img")

    def index(self, position):
        """Returns the number of entries that were complete when the recording had this length."""
        return bisect.bisect_right(self.ends, position)

    def end(self, cut):
        """Returns the length of the recording before the entry `cut`."""
        return self.ends[cut - 1] if cut else 0

    def choose(self, first, last, dice):
        """Chooses a cut at any entry, or immediately before a flush, when most data is at risk."""
        cut = dice.randrange(first, last)
        if dice.random() < 0.5:
            return cut
        return next((at for at in range(cut, last) if self.entries[at][0] == b"F"), cut)

    def build(self, cut, dice):
        """Writes crash.img: everything up to the last flush before `cut`, and a random half of the later writes."""
        flushes = (at for at in range(cut - 1, self.applied - 1, -1) if self.entries[at][0] == b"F")
        flushed = next(flushes, self.applied)
        with open(f"{self.folder}/flushed.img", "r+b") as disk:
            for at in range(self.applied, flushed):
                self.apply(at, disk)
        self.applied = flushed
        call("cp", "--sparse=always", f"{self.folder}/flushed.img", f"{self.folder}/crash.img")
        dropped = 0
        with open(f"{self.folder}/crash.img", "r+b") as disk:
            for at in range(flushed, cut):
                if self.entries[at][0] == b"W" and dice.random() < 0.5:
                    dropped += 1
                else:
                    self.apply(at, disk)
        return dropped

    def apply(self, at, disk):
        kind, offset, place, count = self.entries[at]
        if kind == b"W":
            self.file.seek(place)
            disk.seek(offset)
            disk.write(self.file.read(count))


def without_syncs(folder):
    source, library = f"{folder}/no_syncs.c", f"{folder}/no_syncs.so"
    with open(source, "w") as file:
        file.write(NO_SYNCS)
    call("cc", "-shared", "-fPIC", "-o", library, source)
    return {"LD_PRELOAD": library}


def call(*command):
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("waited in vain for a disk")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
