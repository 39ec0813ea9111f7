"""Sends a file with tuspy and prints the URL of the upload: tuspy_upload.py ENDPOINT FILE.

tuspy repeats chunks, but not the request for the offset before it, so the program resumes as often as necessary.
"""

import sys
import time

from requests.exceptions import RequestException
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

endpoint, file = sys.argv[1:]
client = TusClient(endpoint)
url = None
deadline = time.monotonic() + 300
while True:
    try:
        uploader = client.uploader(file, url=url, chunk_size=256 * 1024, retries=3, retry_delay=0.2)
        if url is None:
            url = uploader.create_url()
            uploader.set_url(url)
        uploader.upload()
        break
    except (TusCommunicationError, RequestException) as error:
        if time.monotonic() > deadline:
            raise
        print(f"again after: {error}", file=sys.stderr)
        time.sleep(0.2)
print(url)
