"""Webhooks in a Longshore database: writes a queue that cannot be sent, or counts progress. The
server must not be running.

    webhook_rows.py queue DATABASE ENDPOINT COUNT    writes COUNT overdue deliveries to the endpoint, each of a different upload
    webhook_rows.py progress DATABASE                prints the progress events per second in the busiest five seconds

The script copies an existing delivery, so there must be one. Columns are read from the database, so a migration that adds one
needs no change here.
"""

import os
import sqlite3
import sys
import time

WINDOW_MS = 5_000
OVERDUE_MS = 3_600_000


def main(what, database, *arguments):
    connection = sqlite3.connect(database)
    if what == "queue":
        queue(connection, arguments[0], int(arguments[1]))
    else:
        print(busiest([row[0] for row in connection.execute(PROGRESS)]))


def queue(connection, endpoint, count):
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -524288")
    connection.create_function("uuid7", 1, uuid7)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(deliveries)")]
    values = ", ".join(VALUES.get(column, f"old.{column}") for column in columns)
    connection.execute(
        f"WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :count) "
        f"INSERT INTO deliveries ({', '.join(columns)}) "
        f"SELECT {values} FROM numbers CROSS JOIN (SELECT * FROM deliveries LIMIT 1) AS old",
        {"count": count, "endpoint": endpoint, "due": int(time.time() * 1000) - OVERDUE_MS - count},
    )
    written = connection.execute("SELECT count(*) FROM deliveries WHERE endpoint = ?", (endpoint,)).fetchone()[0]
    if written < count:
        sys.exit("there is no delivery to copy")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# Differences from the copied row: a delivery without attempts that was due an hour ago.
VALUES = {
    "id": "uuid7(:due + n)",
    "upload_id": "uuid7(:due + n)",
    "endpoint": ":endpoint",
    "state": "'ready'",
    "attempts": "0",
    "attempts_before": "0",
    "begun_at_ms": ":due + n",
    "next_at_ms": ":due + n",
    "created_at_ms": ":due + n",
    "lease": "NULL",
    "lease_until_ms": "NULL",
    "finished_at_ms": "NULL",
}

PROGRESS = "SELECT occurred_at_ms FROM events WHERE kind = 'upload.progress' ORDER BY occurred_at_ms"


def busiest(instants):
    """Returns the events per second in the five seconds that have the most of them."""
    most = first = 0
    for last, instant in enumerate(instants):
        while instants[first] <= instant - WINDOW_MS:
            first += 1
        most = max(most, last - first + 1)
    return most * 1000 / WINDOW_MS


def uuid7(milliseconds):
    raw = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


if __name__ == "__main__":
    main(*sys.argv[1:])
