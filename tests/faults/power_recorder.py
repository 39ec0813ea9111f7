"""An nbdkit plugin: a disk image, and a journal of every write and flush in the order of their arrival.

    nbdkit python power_recorder.py image=FILE journal=FILE

A record is `<cQQ`: `W` or `F`, the position, the length; the bytes of a write follow. Requests are served one at a
time, so a flush covers exactly the writes before it.
"""

import os
import struct

import nbdkit

API_VERSION = 2
RECORD = struct.Struct("<cQQ")

settings = {}


def config(key, value):
    settings[key] = value


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):
    image = os.open(settings["image"], os.O_RDWR)
    return {"image": image, "journal": os.open(settings["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)}


def get_size(disk):
    return os.fstat(disk["image"]).st_size


def pread(disk, buf, offset, flags):
    buf[:] = os.pread(disk["image"], len(buf), offset)


def pwrite(disk, buf, offset, flags):
    record(disk, b"W", offset, bytes(buf))
    os.pwrite(disk["image"], buf, offset)


def can_flush(disk):
    return True


def can_fua(disk):
    return nbdkit.FUA_EMULATE


def flush(disk, flags):
    record(disk, b"F", 0, b"")


def record(disk, kind, offset, data):
    rest = RECORD.pack(kind, offset, len(data)) + data
    while rest:
        rest = rest[os.write(disk["journal"], rest) :]
