"""Lets the server examine generated media files, and compares its facts with ffprobe.

    python3 tests/media/compare.py [--seconds 100] [--seed N] [--only NAME]

Files of every container and codec that docs/media.md names are generated (make.py), and MP4 and Matroska files are
changed by hand (change.py). Each is uploaded, and the facts in its status must be those that ffprobe finds, or those
that are known of the file: type, displayed size, duration, frame rate, channels, sample rate and codecs. The seed
determines the order, and the run ends when its time is up; --seconds 0 generates all files. A file whose facts are
wrong is kept in target/test-data/media, and named.

LONGSHORE_BIN is the executable.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "clients" / "python"))

import change
import make
from harness import SCRATCH, Server, id_of

TYPES = {
    "mp4": "video/mp4", "mov": "video/quicktime", "3gp": "video/3gpp", "3g2": "video/3gpp2", "m4a": "audio/mp4",
    "mkv": "video/x-matroska", "mka": "audio/x-matroska", "webm": "video/webm", "ogv": "video/ogg", "ogg": "audio/ogg",
    "opus": "audio/ogg", "wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "aac": "audio/aac",
    "jpg": "image/jpeg", "png": "image/png", "apng": "image/png", "gif": "image/gif", "webp": "image/webp",
    "avif": "image/avif", "heic": "image/heic",
}  # fmt: skip

# Prefixes of the codec names that ffprobe calls differently.
CODECS = {
    "h264": ["avc1", "avc3"], "hevc": ["hvc1", "hev1"], "av1": ["av01"], "vp8": ["vp8", "vp08"], "vp9": ["vp9", "vp09"],
    "mpeg4": ["mp4v", "mpeg4", "ms/vfw"], "mpeg2video": ["mp4v", "mpeg2", "m2v1", "xdv"], "mpeg1video": ["mp4v", "mpeg1"],
    "h263": ["s263", "h263", "ms/vfw"], "mjpeg": ["mjpeg", "jpeg", "mp4v"], "prores": ["ap", "prores"], "ffv1": ["ffv1"],
    "theora": ["theora"], "aac": ["mp4a.40", "mp4a"], "mp3": ["mp3", "mp4a.6b", "mp4a.69", "ms"], "mp2": ["mp2", "mpeg/l2"],
    "opus": ["opus"], "vorbis": ["vorbis"], "flac": ["flac"], "alac": ["alac"], "ac3": ["ac-3"], "eac3": ["ec-3"],
    "speex": ["speex"], "adpcm_ms": ["adpcm", "ms"], "pcm_alaw": ["alaw", "ms/acm"],
}  # fmt: skip

# Fewer files than this prove nothing.
FEWEST = 25


def probed(path):
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", path]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=60)
    return json.loads(ran.stdout) if ran.returncode == 0 else None


def fraction(text):
    over, _, under = text.replace(":", "/").partition("/")
    return float(over) / float(under or 1) if float(under or 1) else 0.0


def expected(path):
    """Returns the facts according to ffprobe, with the server's names."""
    found = probed(path)
    if found is None:
        return {}
    streams = [stream for stream in found["streams"] if not stream["disposition"]["attached_pic"]]
    tracks = [track(stream) for stream in streams if stream["codec_type"] in ("video", "audio")]
    facts = {"tracks": tracks}
    if "duration" in found["format"]:
        facts["duration_ms"] = float(found["format"]["duration"]) * 1000
    video = next((track for track in tracks if track["kind"] == "video"), None)
    if video:
        facts.update(width=video["width"], height=video["height"])
    return facts


def track(stream):
    if stream["codec_type"] == "audio":
        codec, channels, rate = stream["codec_name"], stream["channels"], int(stream["sample_rate"])
        return {"kind": "audio", "codec": codec, "channels": channels, "sample_rate_hz": rate}
    shape = fraction(stream.get("sample_aspect_ratio", "1:1")) or 1.0
    size = int(stream["width"] * shape + 0.5), stream["height"]
    turns = [data["rotation"] for data in stream.get("side_data_list", []) if "rotation" in data]
    width, height = reversed(size) if turns and abs(turns[0]) == 90 else size
    rate = fraction(stream["avg_frame_rate"])
    return {"kind": "video", "codec": stream["codec_name"], "width": width, "height": height, "frame_rate": rate}


def differences(name, facts, wanted, content_type):
    """Returns the wrong facts, as sentences. A fact that is wanted as None must be absent."""
    if facts is None or facts.get("content_type") != content_type:
        yield f"content_type: {facts and facts.get('content_type')}, not {content_type}"
        return
    for field, value in wanted.items():
        if field == "tracks":
            yield from track_differences(facts.get("tracks", []), value)
        elif value is None:
            if field in facts:
                yield f"{field}: {facts[field]}, and nobody can know"
        elif field not in facts:
            yield f"{field}: unknown, not {value}"
        elif field == "duration_ms":
            # If the sound begins before zero, programs differ on the end of its last packet.
            if abs(facts[field] - value) > max(130, value / 50):
                yield f"{field}: {facts[field]}, not {value}"
        elif field in ("width", "height"):
            if abs(facts[field] - value) > 1:
                yield f"{field}: {facts[field]}, not {value}"
        elif facts[field] != value:
            yield f"{field}: {facts[field]}, not {value}"


def track_differences(tracks, wanted):
    tracks = [track for track in tracks if track["kind"] != "other"]
    if [track["kind"] for track in tracks] != [track["kind"] for track in wanted]:
        yield f"tracks: {tracks}, not {wanted}"
        return
    for own, other in zip(tracks, wanted):
        known = CODECS.get(other["codec"], [])
        is_pcm = other["codec"].startswith("pcm_") and own["codec"] not in ("avc1", "mp4a")
        if not is_pcm and not any(own["codec"].startswith(name) for name in known):
            yield f"codec: {own['codec']}, not {other['codec']}"
        for field in ("channels", "sample_rate_hz"):
            if field in other and own.get(field) != other[field]:
                yield f"{field}: {own.get(field)}, not {other[field]}"
        rate = other.get("frame_rate")
        if rate and "frame_rate" in own and abs(own["frame_rate"] - rate) > rate / 50:
            yield f"frame_rate: {own['frame_rate']}, not {rate}"


class Run:
    def __init__(self, folder, seed, seconds, only):
        self.folder, self.dice, self.only = folder, random.Random(seed), only
        self.ends = time.monotonic() + seconds if seconds else float("inf")
        self.server = Server("media")
        self.streams = make.Streams(folder)
        self.compared, self.unmade, self.wrong = 0, [], []

    def facts(self, path):
        answer = self.server.request("PUT", f"/files/{path.name}", headers={}, body=path.read_bytes())
        status, headers, body = answer
        assert status == 201, (path, status, body)
        return self.server.get_json("/api/v1/uploads/" + id_of(headers["location"]))["facts"]

    def judge(self, path, wanted, content_type):
        self.compared += 1
        found = list(differences(path.name, self.facts(path), wanted, content_type))
        if found:
            kept = SCRATCH / "media"
            kept.mkdir(exist_ok=True)
            shutil.copy(path, kept)
            self.wrong.append(path.name)
            print(f"WRONG {path.name}: {'; '.join(found)}; kept in {kept}")

    def case(self, case):
        path = self.folder / case.name
        try:
            case.make(path)
        except subprocess.CalledProcessError as error:
            # The installed tools cannot combine every pair.
            self.unmade.append(f"{case.name}: {error.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
            return
        kind = path.suffix[1:]
        content_type = TYPES[kind]
        wanted = {**expected(path), **case.known}
        if content_type.startswith("image/"):
            wanted.pop("tracks", None)
            if "duration_ms" not in case.known:
                wanted["duration_ms"] = None
        elif kind == "aac":
            wanted["duration_ms"] = make.SECONDS * 1000
        if content_type.startswith("video/") and kind != "mov" and all(own["kind"] == "audio" for own in wanted["tracks"]):
            content_type = content_type.replace("video/", "audio/")
        self.judge(path, wanted, content_type)
        if kind in ("mp4", "mov") and "tracks" in wanted:
            self.changes(path, wanted, content_type)
        # These have a key frame every second, and each is in the index.
        if kind in ("mkv", "webm") and case.name.startswith(("h264-", "vp8-", "vp9-")):
            self.shortened(path, wanted)
        path.unlink()

    def changes(self, path, wanted, content_type):
        """Tests some changes to a file that do not change its facts."""
        names = list(change.MP4)
        for name in names if self.ends == float("inf") else self.dice.sample(names, 3):
            if time.monotonic() > self.ends:
                return
            try:
                data = change.changed_mp4(path.read_bytes(), name, self.dice)
            except ValueError:
                continue
            changed = path.with_name(f"{name}-of-{path.name}")
            changed.write_bytes(data)
            now, now_type = wanted, content_type
            if name in change.RENAMING:
                has_video = any(own["kind"] == "video" for own in wanted["tracks"])
                now_type = "video/mp4" if has_video else "audio/mp4"
            elif name in change.TURNING:
                # ffprobe knows the combined effect of the change and the rotation that the file already had.
                now = {**wanted, **{field: value for field, value in expected(changed).items() if field in ("width", "height")}}
            elif name == "no-edits":
                now = {**wanted, **{field: value for field, value in expected(changed).items() if field == "duration_ms"}}
            self.judge(changed, now, now_type)
            changed.unlink()

    def shortened(self, path, wanted):
        """Tests that an index reveals a duration that is too short: it names the last second."""
        data = change.shorter_matroska(path.read_bytes())
        changed = path.with_name(f"shortened-{path.name}")
        changed.write_bytes(data)
        self.compared += 1
        duration_ms = self.facts(changed).get("duration_ms")
        if not duration_ms or duration_ms < wanted["duration_ms"] / 2:
            self.wrong.append(changed.name)
            print(f"WRONG {changed.name}: its duration is {duration_ms}, and its index ends at {wanted['duration_ms']}")
        changed.unlink()

    def all(self):
        cases = make.all_cases(self.streams)
        if self.only:
            cases = [case for case in cases if self.only in case.name]
        self.dice.shuffle(cases)
        for done, case in enumerate(cases):
            if time.monotonic() > self.ends:
                print(f"time is up after {done} of {len(cases)} files; --seconds 0 generates all of them")
                break
            self.case(case)
        print(f"{self.compared} files compared, {len(self.wrong)} wrong, {len(self.unmade)} not possible here")
        for unmade in self.unmade:
            print("  not generated:", unmade)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261129)
    parser.add_argument("--only", help="only files whose name has this in it")
    options = parser.parse_args()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    folder = SCRATCH / f"media-{os.getpid()}"
    folder.mkdir()
    run = Run(folder, options.seed, options.seconds, options.only)
    try:
        run.all()
    finally:
        run.server.dispose()
        shutil.rmtree(folder)
    assert options.only or run.compared >= FEWEST, f"only {run.compared} files: that proves nothing"
    sys.exit(1 if run.wrong else 0)


if __name__ == "__main__":
    main()
