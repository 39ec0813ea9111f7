"""Changes the boxes of MP4 files and the elements of Matroska files by hand, as no writer would, or with false values.

The known facts of the file stay true: whatever its headers claim, it has the same samples.
"""

import struct

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"udta"}


class Box:
    """A box: its kind, and either its content or the boxes in it."""

    def __init__(self, kind, body=b"", children=None):
        self.kind, self.body, self.children = kind, body, children

    def all(self, kind):
        """Yields the boxes of a kind at any depth."""
        for child in self.children or []:
            if child.kind == kind:
                yield child
            yield from child.all(kind)

    def written(self):
        body = self.body if self.children is None else b"".join(child.written() for child in self.children)
        return struct.pack(">I4s", len(body) + 8, self.kind) + body


def boxes(data):
    found, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        if size < head or at + size > len(data):
            raise ValueError(f"{kind} of {size} bytes at {at}")
        body = data[at + head : at + size]
        found.append(Box(kind, children=boxes(body)) if kind in CONTAINERS else Box(kind, body))
        at += size
    return found


def put(box, at, form, *values):
    body = bytearray(box.body)
    struct.pack_into(">" + form, body, at, *values)
    box.body = bytes(body)


def said(kind, at, value):
    """Returns a change that sets a number, in its short form, in every box of a kind."""

    def change(top, _):
        for box in top.all(kind):
            if box.body[0] == 0:
                put(box, at, "I", value)

    return change


TURNED = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)


def turn_movie(top, _):
    for mvhd in top.all(b"mvhd"):
        put(mvhd, 36 if mvhd.body[0] == 0 else 48, "9i", *TURNED)


def turn_track(top, _):
    for tkhd in top.all(b"tkhd"):
        put(tkhd, 40 if tkhd.body[0] == 0 else 52, "9i", *TURNED)


def without(kind):
    def change(top, _):
        def prune(box):
            if box.children is not None:
                box.children = [child for child in box.children if child.kind != kind]
                for child in box.children:
                    prune(child)

        prune(top)

    return change


def padded(top, dice):
    """Inserts meaningless boxes at every level."""

    def pad(box):
        if box.children is None or box.kind == b"file":
            return
        place = dice.randrange(len(box.children) + 1)
        for child in box.children:
            pad(child)
        box.children.insert(place, Box(dice.choice([b"free", b"skip", b"wide"]), bytes(dice.randrange(40))))

    for moov in top.all(b"moov"):
        pad(moov)


def behind_media(kind):
    """Returns a change that appends a box of this kind at the end of the file, where it shifts nothing."""

    def change(top, _):
        top.children.append(Box(kind, bytes(64)))

    return change


def second_movie(top, _):
    moov = next(top.all(b"moov"))
    other = Box(b"moov", children=boxes(moov.written())[0].children)
    for kind, at in ((b"mvhd", 16), (b"mdhd", 16)):
        for box in other.all(kind):
            if box.body[0] == 0:
                put(box, at, "I", 1)
    top.children.append(other)


def branded(brand):
    def change(top, _):
        for ftyp in top.all(b"ftyp"):
            ftyp.body = brand + b"\0\0\0\0" + brand * ((len(ftyp.body) - 8) // 4)

    return change


def shuffled(top, dice):
    """Shuffles boxes whose order has no meaning."""
    for kind in (b"trak", b"mdia", b"stbl"):
        for box in top.all(kind):
            dice.shuffle(box.children)


MP4 = {
    "movie-says-nothing": said(b"mvhd", 16, 0),
    "movie-says-ones": said(b"mvhd", 16, 0xFFFFFFFF),
    "movie-says-little": said(b"mvhd", 16, 1),
    "track-says-little": said(b"tkhd", 20, 1),
    "media-says-little": said(b"mdhd", 16, 1),
    "media-says-ones": said(b"mdhd", 16, 0xFFFFFFFF),
    "movie-turned": turn_movie,
    "track-turned": turn_track,
    "no-edits": without(b"edts"),
    "no-user-data": without(b"udta"),
    "padded": padded,
    "junk-behind": behind_media(b"free"),
    "unknown-behind": behind_media(b"abcd"),
    "second-movie": second_movie,
    "shuffled": shuffled,
    "unknown-brand": branded(b"abcd"),
    "image-brand": branded(b"heic"),
}

TURNING = {"movie-turned", "track-turned"}
RENAMING = {"unknown-brand", "image-brand"}


def changed_mp4(data, name, dice):
    top = Box(b"file", children=boxes(data))
    MP4[name](top, dice)
    return b"".join(box.written() for box in top.children)


def shorter_matroska(data):
    """Sets the Duration of a file with an index to one millisecond."""
    at = data.index(b"\x44\x89\x88")
    return data[: at + 3] + struct.pack(">d", 1.0) + data[at + 11 :]
