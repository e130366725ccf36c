"""The rows of an import that has not ended, in one SQLite file: sorted on disk, and committed with the number of chunks read so far."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from components.preferences.importing.convert import Converted, Finding, Group, RankedEntry

_TABLES = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS prompts (key BLOB PRIMARY KEY, body BLOB NOT NULL, first INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pairs (key BLOB NOT NULL, position INTEGER NOT NULL, file INTEGER NOT NULL, line INTEGER NOT NULL,
    chosen TEXT NOT NULL, rejected TEXT NOT NULL, chosen_reason TEXT NOT NULL, rejected_reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ranked (position INTEGER PRIMARY KEY, file INTEGER, line INTEGER, id TEXT, pairs INTEGER, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS findings (position INTEGER, file INTEGER, line INTEGER, kind TEXT, field TEXT, reason TEXT, times INTEGER, step TEXT);
"""
COMMIT_CHUNKS = 16
_CACHE_KIB = 128 * 1024
_LOG_PAGES = 16 * 1024  # of 4 KiB, before the log is written into the file


class Store:
    """The pairs, rankings and findings read so far. `chunks` of the source are in it, whole."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path)
        self._database.executescript(
            f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint={_LOG_PAGES}; PRAGMA cache_size=-{_CACHE_KIB};{_TABLES}"
        )
        self.chunks = int(self.state("chunks") or 0)
        self.counts: Counter[str] = Counter(json.loads(self.state("counts") or "{}"))
        self.unread: Counter[str] = Counter(json.loads(self.state("unread") or "{}"))

    def state(self, name: str) -> str | None:
        """A value of the import's state."""
        row = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_state(self, name: str, value: str) -> None:
        """Record a value of the import's state."""
        self._database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))

    def add(self, converted: Converted) -> None:
        """Add the next chunk; every few chunks are committed together."""
        first: dict[bytes, int] = {}
        for entry in converted.pairs:
            first.setdefault(entry[0], entry[1])
        self._database.executemany(
            "INSERT OR IGNORE INTO prompts VALUES (?, ?, ?)", [(key, body, first[key]) for key, body in converted.prompts.items()]
        )
        self._database.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", converted.pairs)
        self._database.executemany("INSERT INTO ranked VALUES (?, ?, ?, ?, ?, ?)", converted.ranked)
        self.add_findings(converted.findings, "read")
        self.chunks += 1
        self.counts.update(converted.counts)
        self.counts["rows"] += converted.rows
        self.unread.update(converted.unread)
        if self.chunks % COMMIT_CHUNKS == 0:
            self.commit()

    def add_findings(self, findings: list[Finding], step: str) -> None:
        """Add findings of a step, `read` or `write`."""
        self._database.executemany("INSERT INTO findings VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(*finding, step) for finding in findings])

    def drop_findings(self, step: str) -> None:
        """Forget the findings of a step that starts over."""
        self._database.execute("DELETE FROM findings WHERE step = ?", (step,))

    def commit(self) -> None:
        """Make all that was added permanent."""
        for name, value in (("chunks", self.chunks), ("counts", self.counts), ("unread", self.unread)):
            self.set_state(name, json.dumps(value))
        self._database.commit()

    def index(self) -> None:
        """Sort the pairs by prompt, once all are read."""
        self._database.execute("CREATE INDEX IF NOT EXISTS pairs_of_prompt ON pairs (key, position)")
        self._database.commit()

    def groups(self) -> Iterator[Group]:
        """The pairs of each prompt, prompts in the order of their first rows."""
        rows = self._database.execute(
            "SELECT prompts.body, prompts.first, pairs.* FROM prompts JOIN pairs USING (key) ORDER BY prompts.first, prompts.key, pairs.position"
        )
        for (prompt, _, key), group in itertools.groupby(rows, key=lambda row: (row[0], row[1], row[2])):
            yield Group(key, prompt, [row[2:] for row in group])

    def ranked(self) -> Iterator[RankedEntry]:
        """The rankings, in the order of their rows."""
        return (RankedEntry(*row) for row in self._database.execute("SELECT * FROM ranked ORDER BY position"))

    def findings(self) -> Iterator[Finding]:
        """All findings, in the order of their rows."""
        rows = self._database.execute("SELECT position, file, line, kind, field, reason, times FROM findings ORDER BY position, rowid")
        return (Finding(*row) for row in rows)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
