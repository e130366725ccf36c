"""SQLite files that several processes open, also at their first use."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from filelock import FileLock

TIMEOUT_SECONDS = 60


def open_database(path: Path, *tables: str) -> sqlite3.Connection:
    """Open a database with a write-ahead log, and make its tables by the statements `tables`, which do nothing where these exist.

    Raises sqlite3.DatabaseError for a damaged file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=TIMEOUT_SECONDS)
    with FileLock(path.with_suffix(".lock")):  # two processes that make a new file's journal at once don't wait: one fails
        connection.execute("pragma journal_mode = wal")
        for statement in tables:
            connection.execute(statement)
    return connection
