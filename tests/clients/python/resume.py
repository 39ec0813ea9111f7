"""Sends a file with tuspy, up to an offset, in a separate process: resume.py ENDPOINT FILE STORAGE [STOP_AT]."""

import sys

from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

endpoint, file, storage, *rest = sys.argv[1:]
store = FileStorage(storage)
uploader = TusClient(endpoint).uploader(file, chunk_size=100_000, store_url=True, url_storage=store)
print(uploader.offset)
uploader.upload(stop_at=int(rest[0]) if rest else None)
print(uploader.url)
store.close()
