"""Generates media files of every container and codec that docs/media.md names, with ffmpeg, mkvtoolnix, libheif and
libavif.

Each stream is encoded once; after that, files are combined without encoding, which takes a tenth of a second. A case is
a name, a function that makes its file, and the facts that are known better than ffprobe finds them.
"""

import pathlib
import subprocess
from dataclasses import dataclass, field
from typing import Callable

WIDTH, HEIGHT, RATE, SECONDS = 160, 90, 25, 3

VIDEO = {
    "h264": ["-c:v", "libx264", "-preset", "ultrafast", "-g", str(RATE), "-pix_fmt", "yuv420p"],
    "hevc": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error", "-tag:v", "hvc1"],
    "av1": ["-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", str(RATE)],
    "vp8": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", str(RATE)],
    "vp9": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", str(RATE)],
    "mpeg4": ["-c:v", "mpeg4"],
    "mpeg2video": ["-c:v", "mpeg2video"],
    "h263": ["-c:v", "h263", "-s", "176x144"],
    "mjpeg": ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
    "prores": ["-c:v", "prores_ks"],
    "ffv1": ["-c:v", "ffv1"],
    "theora": ["-c:v", "libtheora"],
}

AUDIO = {
    "aac": ["-c:a", "aac"],
    "mp3": ["-c:a", "libmp3lame", "-ar", "44100"],
    "mp2": ["-c:a", "mp2"],
    "opus": ["-c:a", "libopus"],
    "vorbis": ["-c:a", "libvorbis"],
    "flac": ["-c:a", "flac"],
    "alac": ["-c:a", "alac"],
    "ac3": ["-c:a", "ac3"],
    "eac3": ["-c:a", "eac3"],
    "speex": ["-c:a", "libspeex", "-ar", "16000", "-ac", "1"],
    "pcm_s16le": ["-c:a", "pcm_s16le"],
    "pcm_s24be": ["-c:a", "pcm_s24be"],
    "pcm_f32le": ["-c:a", "pcm_f32le"],
    "pcm_alaw": ["-c:a", "pcm_alaw", "-ar", "8000"],
    "adpcm_ms": ["-c:a", "adpcm_ms"],
}

FILMS = {
    "mp4": ("h264 hevc av1 vp9 mpeg4 mpeg2video mjpeg", "aac mp3 opus flac alac ac3 eac3"),
    "mov": ("h264 hevc mpeg4 mjpeg prores mpeg2video h263", "aac mp3 alac ac3 pcm_s16le pcm_s24be pcm_f32le pcm_alaw"),
    "3gp": ("h264 mpeg4 h263", "aac"),
    "3g2": ("h264 mpeg4", "aac"),
    "mkv": (" ".join(VIDEO), " ".join(name for name in AUDIO if name != "speex")),
    "webm": ("vp8 vp9 av1", "opus vorbis"),
    "ogv": ("theora", "vorbis opus flac speex"),
}

SOUND = {
    "m4a": "aac alac",
    "mp4": "aac mp3 opus flac ac3",
    "mka": "aac mp3 opus vorbis flac pcm_s16le",
    "webm": "opus vorbis",
    "wav": "pcm_s16le pcm_f32le pcm_alaw adpcm_ms mp3",
    "flac": "flac",
    "mp3": "mp3",
    "aac": "aac",
    "ogg": "vorbis opus flac speex",
    "opus": "opus",
}

MP4_FLAGS = {
    "front": ["-movflags", "+faststart"],
    "fragments": ["-movflags", "frag_keyframe"],
    "empty-moov": ["-movflags", "frag_keyframe+empty_moov"],
    "default-base": ["-movflags", "frag_keyframe+empty_moov+default_base_moof"],
    "dash": ["-movflags", "frag_keyframe+empty_moov+dash+global_sidx"],
    "one-by-one": ["-movflags", "frag_every_frame+empty_moov"],
    "skip-trailer": ["-movflags", "frag_keyframe+skip_trailer"],
    "negative-offsets": ["-movflags", "frag_keyframe+negative_cts_offsets"],
    "no-edits": ["-use_editlist", "0"],
    "timescale": ["-movie_timescale", "90000", "-video_track_timescale", "12800"],
}


# The formats in which streams are stored until they are combined; not every format can hold every codec.
KEPT_IN = {"hevc": "mp4", "alac": "m4a", "eac3": "eac3"}


@dataclass
class Case:
    name: str
    make: Callable[[pathlib.Path], None]
    # Known facts: they are required, whatever ffprobe finds. None means that the fact has to be unknown.
    known: dict = field(default_factory=dict)


def run(*command, **options):
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=300, **options)


def ffmpeg(*arguments):
    run("ffmpeg", "-nostdin", "-v", "error", "-y", *arguments)


class Streams:
    """Encoded streams, each made at its first use."""

    def __init__(self, folder):
        self.folder = folder

    def get(self, name, channels=2, size=(WIDTH, HEIGHT)):
        path = self.folder / f"stream-{name}-{channels}-{size[0]}x{size[1]}.{KEPT_IN.get(name, 'nut')}"
        if path.exists():
            return path
        if name in VIDEO:
            source = f"testsrc2=size={size[0]}x{size[1]}:rate={RATE}:duration={SECONDS}"
            ffmpeg("-f", "lavfi", "-i", source, *VIDEO[name], path)
        else:
            source = f"sine=frequency=440:sample_rate=48000:duration={SECONDS}"
            ffmpeg("-f", "lavfi", "-i", source, "-ac", channels, *AUDIO[name], "-strict", "-2", path)
        return path


def joined(streams, names, flags=()):
    def make(path):
        inputs = [word for name in names for word in ("-i", streams.get(*name if isinstance(name, tuple) else (name,)))]
        maps = [word for index in range(len(names)) for word in ("-map", index)]
        ffmpeg(*inputs, *maps, "-c", "copy", "-strict", "-2", *flags, path)

    return make


def films(streams):
    for container, (videos, sounds) in FILMS.items():
        for video in videos.split():
            for sound in sounds.split():
                yield Case(f"{video}-{sound}.{container}", joined(streams, [video, sound]))
            yield Case(f"{video}-alone.{container}", joined(streams, [video]))
    for container in ("mp4", "mov"):
        for name, flags in MP4_FLAGS.items():
            for names in (["h264", "aac"], ["hevc", "aac"], ["aac"]):
                yield Case(f"{name}-{'-'.join(names)}.{container}", joined(streams, names, flags))
    for container, sounds in SOUND.items():
        for sound in sounds.split():
            yield Case(f"{sound}.{container}", joined(streams, [sound]))
            if sound not in ("speex", "mp3", "pcm_alaw", "adpcm_ms"):
                yield Case(f"{sound}-mono.{container}", joined(streams, [(sound, 1)]))
            if sound in ("aac", "opus", "vorbis", "flac", "pcm_s16le", "ac3"):
                yield Case(f"{sound}-5.1.{container}", joined(streams, [(sound, 6)]))
    yield Case("rf64.wav", joined(streams, ["pcm_s16le"], ["-rf64", "always"]))
    yield Case("tagged.mp3", joined(streams, ["mp3"], ["-id3v2_version", "3", "-metadata", "title=x" * 900]))
    yield Case("without-index.mp3", joined(streams, ["mp3"], ["-write_xing", "0", "-id3v2_version", "0"]), {"duration_ms": 3_030})
    yield Case("live.webm", joined(streams, ["vp9", "opus"], ["-live", "1"]), {"duration_ms": None})
    yield Case("chapters.mkv", joined(streams, ["h264", "aac"], ["-cues_to_front", "1", "-reserve_index_space", "4096"]))


def pixels(streams):
    """Yields cases whose displayed size is not the stored one."""
    for container in ("mp4", "mov", "mkv"):
        for shape in ("4/3", "8/9", "16/11"):
            yield Case(f"shape-{shape.replace('/', '-')}.{container}", shaped(streams, shape))
    for degrees in (90, 180, 270):
        yield Case(f"turned-{degrees}.mp4", turned(streams, degrees))
        yield Case(f"turned-{degrees}.mov", turned(streams, degrees))
    stored = {"width": WIDTH, "height": HEIGHT}
    sideways = {"width": HEIGHT, "height": WIDTH}
    for roll, known in ((90, sideways), (-90, sideways), (180, stored), (45, stored)):
        options = ["--projection-type", "0:0", "--projection-pose-roll", f"0:{roll}"]
        yield Case(f"roll{roll}.webm", merged(streams, ["-w", *options]), known)
        yield Case(f"roll{roll}.mkv", merged(streams, options), known)
    yield Case("display.mkv", merged(streams, ["--display-dimensions", "0:320x180"]), {"width": 320, "height": 180})
    yield Case("ratio.mkv", merged(streams, ["--aspect-ratio", "0:4/3"]), {"width": 160, "height": 120})
    cropped = merged(streams, ["--cropping", "0:10,4,20,6"])
    yield Case("cropped.mkv", unsized(cropped), {"width": WIDTH - 30, "height": HEIGHT - 10})


def shaped(streams, shape):
    def make(path):
        ffmpeg("-i", streams.get("mpeg4"), "-vf", f"setsar={shape}", "-c:v", "mpeg4", path)

    return make


def turned(streams, degrees):
    return joined(streams, ["h264"], ["-metadata:s:v", f"rotate={degrees}"])


def merged(streams, options):
    def make(path):
        source = path.with_suffix(".source.mkv")
        ffmpeg("-i", streams.get("vp9"), "-c", "copy", source)
        run("mkvmerge", "-q", "-o", path, *options, source)
        source.unlink()

    return make


def unsized(make_sized):
    """Removes the display size, which mkvmerge always writes; then the size after cropping is displayed."""

    def make(path):
        make_sized(path)
        deletions = [word for name in ("display-width", "display-height") for word in ("--delete", name)]
        run("mkvpropedit", path, "--edit", "track:v1", *deletions)

    return make


def images(streams):
    def picture(*options):
        def make(path):
            ffmpeg("-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate=10:duration=2", *options, path)

        return make

    def converted(*command):
        def make(path):
            source = path.with_suffix(".source.png")
            picture("-frames:v", "1")(source)
            run(*(str(word).format(source=source, path=path) for word in command))
            source.unlink()

        return make

    one, many = {"frames": 1}, {"frames": 20, "duration_ms": 2_000}
    yield Case("still.jpg", picture("-frames:v", "1"), one)
    yield Case("still.png", picture("-frames:v", "1"), one)
    yield Case("still.gif", picture("-frames:v", "1"), one)
    yield Case("animated.gif", picture(), many)
    yield Case("animated.apng", picture("-plays", "0", "-f", "apng"), many)
    size = {"width": WIDTH, "height": HEIGHT}
    yield Case("lossy.webp", picture("-frames:v", "1", "-c:v", "libwebp"), {**one, **size})
    yield Case("lossless.webp", picture("-frames:v", "1", "-c:v", "libwebp", "-lossless", "1"), {**one, **size})
    yield Case("animated.webp", picture("-c:v", "libwebp_anim", "-loop", "0"), {**many, **size})
    yield Case("still.avif", converted("avifenc", "-s", "10", "{source}", "{path}"), {**one, **size})
    sideways = {"width": HEIGHT, "height": WIDTH}
    yield Case("turned.avif", converted("avifenc", "-s", "10", "--irot", "1", "{source}", "{path}"), {**one, **sideways})
    yield Case("mirrored.avif", converted("avifenc", "-s", "10", "--imir", "1", "{source}", "{path}"), {**one, **size})
    cut = {"width": 100, "height": 50}
    crop = converted("avifenc", "-s", "10", "--crop", "10,20,100,50", "{source}", "{path}")
    yield Case("cut.avif", crop, {**one, **cut})
    yield Case("still.heic", converted("heif-enc", "-q", "40", "-o", "{path}", "{source}"), {**one, **size})
    for orientation in range(1, 9):
        known = {**one, **(sideways if orientation > 4 else size)}
        for kind in ("jpg", "png", "webp"):
            yield Case(f"orientation-{orientation}.{kind}", oriented(picture, orientation), known)


def oriented(picture, orientation):
    def make(path):
        options = ["-c:v", "libwebp"] if path.suffix == ".webp" else []
        picture("-frames:v", "1", *options)(path)
        run("exiftool", "-q", "-overwrite_original", "-n", f"-Orientation={orientation}", path)

    return make


def all_cases(streams):
    return [*films(streams), *pixels(streams), *images(streams)]
