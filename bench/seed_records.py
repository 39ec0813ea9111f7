"""Fills a Longshore database with upload records: many copies of the few it holds.

    seed_records.py DATABASE COUNT IDS

The server must not be running. Each copy gets its own identifier and owner (metadata `user`), its last event, and all
other values of its original. Of ten copies, eight are of the first upload in the database, one is of the second, and one
of the third. Columns are read from the database, so a migration that adds one needs no change here. COUNT includes the
originals. The script writes a thousand identifiers, evenly distributed, to the file IDS, one per line.
"""

import os
import sqlite3
import sys
import time
import uuid

# A hundredth of the uploads, but at least a hundred, belong to one user, so that each response to a search is one page.
PAGE = 100
ORIGINAL_USER = "bench-user"


def main(database, count, ids_file):
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -262144")
    originals = [row[0] for row in connection.execute("SELECT id FROM uploads ORDER BY id")]
    connection.create_function("user_of", 1, lambda number: f"user-{number % max(count // PAGE, 1)}")
    connection.create_function("event_id", 0, lambda: uuid7(int(time.time() * 1000)))
    connection.execute("CREATE TEMP TABLE copies (number INTEGER PRIMARY KEY, id BLOB, original BLOB)")
    began = int(time.time() * 1000) - count
    copies = ((number, uuid7(began + number), original(originals, number)) for number in range(count - len(originals)))
    connection.executemany("INSERT INTO copies VALUES (?, ?, ?)", copies)
    for table, key in [("uploads", "id"), ("upload_origins", "id"), ("upload_metadata", "upload_id"), ("events", "upload_id")]:
        copy(connection, table, key)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    every = max(count // 1000, 1)
    with open(ids_file, "w") as out:
        for (identifier,) in connection.execute("SELECT id FROM copies WHERE number % ? = 0", (every,)):
            out.write(f"{uuid.UUID(bytes=identifier)}\n")


def copy(connection, table, key):
    """Inserts the rows of each original again for each of its copies."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    # The database assigns the position of an event.
    columns = [column for column in columns if (table, column) != ("events", "position")]
    values = ", ".join(value(table, column, key) for column in columns)
    newest = "AND sequence = (SELECT max(sequence) FROM events WHERE upload_id = original)" if table == "events" else ""
    connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM copies JOIN {table} AS old "
        f"ON old.{key} = original {newest} ORDER BY number"
    )


def value(table, column, key):
    if column == key:
        return "copies.id"
    if (table, column) == ("events", "id"):
        return "event_id()"
    if column in ("metadata", "body"):
        return f"replace(old.{column}, '{ORIGINAL_USER}', user_of(number))"
    if (table, column) == ("upload_metadata", "value"):
        return "CASE WHEN old.key = 'user' THEN CAST(user_of(number) AS BLOB) ELSE old.value END"
    return f"old.{column}"


def original(originals, number):
    first, second, third = originals
    return {8: second, 9: third}.get(number % 10, first)


def uuid7(milliseconds):
    raw = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
