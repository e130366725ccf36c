"""An import from beginning to end: rows of any format into data/preferences, with their media, whole or not at all.

- Everything is made beside the data first, in .mmalign/import, and moved at the end, the file of rows last.
- A stopped import resumes behind the last committed chunk when the same command runs on unchanged files.
- Memory has a few chunks of rows and the ids of all queries; pairs are sorted on disk.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from components.checkout import Checkout
from components.errors import UserError
from components.files import digest_bytes, digest_file, write_atomic, write_json
from components.preferences.faults import RowError, shorten
from components.preferences.formats.detection import FORMATS, detect, format_named
from components.preferences.importing.convert import (
    Chunk,
    Converter,
    Finding,
    Group,
    Options,
    RankedEntry,
    convert_in_process,
    rows_of_groups,
    start_process,
)
from components.preferences.importing.report import ImportReport, located
from components.preferences.importing.sources import Source, open_source, rows_of
from components.preferences.importing.store import Store
from components.preferences.json_rows import parse_row, read_rows
from components.processes.guard import lock_holder, try_lock

Mode = Literal["new", "append", "replace"]
SAMPLED_ROWS = 100  # by which the format is recognized
CHUNK_ROWS, CHUNK_BYTES = 1000, 4 * 2**20
GROUPS = 256  # prompts whose pairs one process ranks at a time
SMALL_BYTES = 2 * 2**20  # a source below this needs no other process
AUTO, CONTAINER = "auto", "hf"  # values of --format that name no format of rows

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Request:
    """What a person asks for. `split` is the source's, `target` the file of rows in data/preferences."""

    source: str
    format: str = AUTO
    media: Path | None = None
    split: str | None = None
    target: str = "data.jsonl"
    mode: Mode = "new"
    processes: int = 0  # 0: one a core

    def key(self) -> str:
        """The name of this import's folder: the same command resumes it."""
        return digest_bytes(json.dumps(asdict(self) | {"media": str(self.media), "processes": 0}, sort_keys=True))[:16]


def import_preferences(request: Request, checkout: Checkout, log: Callable[[str], None]) -> ImportReport:
    """Import a source. Raises UserError where nothing can be imported; single bad rows are counted in the report."""
    target = checkout.preferences / request.target
    lock = try_lock(checkout.locks / "import.lock")
    if lock is None:
        raise UserError(f"another import runs here: {lock_holder(checkout.locks / 'import.lock')}; wait for it")
    try:
        staging = checkout.imports / request.key()
        source = open_source(request.source, staging / "unpacked", request.split)
        store = _open_store(staging, source, log)
        try:
            _check_target(target, request, store)
            return _Import(request, checkout, source, staging, store).run(log)
        finally:
            store.close()
    finally:
        lock.release()


def _open_store(staging: Path, source: Source, log: Callable[[str], None]) -> Store:
    """The store of this import; a new one where the source's files have changed since it stopped."""
    files = [(str(file.path), file.path.stat().st_size, file.path.stat().st_mtime_ns) for file in source.files]
    fingerprint = json.dumps(files)
    store = Store(staging / "rows.db")
    if store.state("source") not in {None, fingerprint}:
        store.close()
        log("the source has changed since this import stopped: it starts over")
        for name in ("rows.db", "rows.db-wal", "rows.db-shm"):
            (staging / name).unlink(missing_ok=True)
        shutil.rmtree(staging / "files", ignore_errors=True)
        store = Store(staging / "rows.db")
    if store.chunks:
        log(f"resuming the import that stopped after {store.counts['rows']:,} rows")
    store.set_state("source", fingerprint)
    store.commit()
    return store


def _check_target(target: Path, request: Request, store: Store) -> None:
    if not target.exists() or request.mode != "new":
        return
    if store.state("rows") != digest_file(target):  # equal for an import that was killed after its last step
        raise UserError(
            f"data/preferences/{request.target} exists: add these rows to it with --append, put them in its place with --replace, "
            "or begin your own data with `mmalign data new`"
        )


class _Import:
    """One import, step by step."""

    def __init__(self, request: Request, checkout: Checkout, source: Source, staging: Path, store: Store) -> None:
        self._request, self._checkout, self._source, self._staging, self._store = request, checkout, source, staging, store
        self._names = [file.name for file in source.files]

    def run(self, log: Callable[[str], None]) -> ImportReport:
        """All steps."""
        format_ = self._format()
        log(f"reading {format_.name}: {format_.title}")
        root = self._request.media or self._source.media
        options = Options(
            format_.name, root, self._request.media or self._source.beside, self._staging / "files", self._checkout.preferences
        )
        processes = self._request.processes or os.cpu_count() or 1
        if sum(file.path.stat().st_size for file in self._source.files) < SMALL_BYTES:
            processes = 1
        with _pool(processes, options) as pool:
            self._read(options, pool)
            rows, counts, queries = self._write(format_.name, pool)
        report = self._report(format_.name, counts, queries)
        if not queries:
            raise UserError("\n".join(["nothing was imported: no row of the source is usable", *report.lines()[2:]]))
        self._finish(rows)
        write_json(self._checkout.import_report, report.as_json())
        places = (json.dumps(located(finding, self._names), ensure_ascii=False) + "\n" for finding in self._store.findings())
        write_atomic(self._checkout.import_places, "".join(places))
        shutil.rmtree(self._staging, ignore_errors=True)
        return report

    def _format(self) -> Any:
        if self._request.format not in {AUTO, CONTAINER}:
            return format_named(self._request.format)
        rows: list[dict[str, Any]] = []
        for _, raw in itertools.islice((row for file in self._source.files for row in rows_of(file)), SAMPLED_ROWS):
            try:
                rows.append(raw if isinstance(raw, dict) else parse_row(raw) if not isinstance(raw, RowError) else {})
            except RowError:
                continue
        return detect(rows, self._request.source)

    def _read(self, options: Options, pool: ProcessPoolExecutor | None) -> None:
        """Rows to pairs and rankings in the store, behind the chunks that it has already."""
        converter = Converter(options)
        chunks = itertools.islice(self._chunks(), self._store.chunks, None)
        for converted in _spread(convert_in_process if pool is not None else converter.convert, chunks, pool):
            self._store.add(converted)
        self._store.commit()
        self._store.index()

    def _chunks(self) -> Iterator[Chunk]:
        position = 0
        for index, file in enumerate(self._source.files):
            rows: list[tuple[int, Any]] = []
            size = 0
            for number, raw in rows_of(file):
                rows.append((number, raw))
                size += _size(raw)
                if len(rows) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                    yield Chunk(index, file.name, position, rows)
                    position, rows, size = position + len(rows), [], 0
            if rows:
                yield Chunk(index, file.name, position, rows)
                position += len(rows)

    def _write(self, format_name: str, pool: ProcessPoolExecutor | None) -> tuple[Path, Counter[str], int]:
        """The file of rows, complete, beside the data."""
        path, counts = self._staging / "rows.jsonl", Counter(self._store.counts)
        self._store.drop_findings("write")
        with path.open("wb") as stream:
            rows = _Rows(stream, self._store, self._present(stream))
            for written, findings, more in _spread(partial(rows_of_groups, format_name), _batches(self._store.groups()), pool):
                counts.update(more)
                self._store.add_findings(findings, "write")
                for one in written:
                    rows.add_made(one.id, one.body, one.first)
            for entry in self._store.ranked():
                rows.add_own(entry)
            counts["pairs_out"] += rows.own_pairs
            stream.flush()
            os.fsync(stream.fileno())
        self._store.commit()
        return path, counts, rows.count

    def _present(self, stream: BinaryIO) -> dict[str, bytes]:
        """Copy the rows that stay; their ids with the digests of their rows."""
        target = self._checkout.preferences / self._request.target
        ids: dict[str, bytes] = {}
        if self._request.mode != "append" or not target.is_file():
            return ids
        with target.open("rb") as source:
            shutil.copyfileobj(source, stream)
        with target.open("rb") as source:
            source.seek(max(0, target.stat().st_size - 1))
            if source.read(1) not in {b"\n", b""}:
                stream.write(b"\n")
        for row in read_rows(target):
            if row.row is not None and row.row.get("id") is not None:
                ids[str(row.row["id"])] = _digest(json.dumps(row.row, ensure_ascii=False).encode())
        return ids

    def _report(self, format_name: str, counts: Counter[str], queries: int) -> ImportReport:
        report = ImportReport(
            format=format_name,
            title=FORMATS[format_name].title,
            source=self._request.source,
            wrote=f"data/preferences/{self._request.target}",
            rows=counts["rows"],
            pairs=counts["pairs"],
            queries=queries,
            pairs_written=counts["pairs_out"],
            media=_count_media(self._staging / "files"),
            unread=dict(self._store.unread),
            notes=list(self._source.notes),
        )
        report.add(self._store.findings(), self._names)
        return report

    def _finish(self, rows: Path) -> None:
        """Move media, then the rows. A kill in between leaves media without rows, and the import resumes."""
        files, folder = self._staging / "files", self._checkout.preferences
        self._store.set_state("rows", digest_file(rows))
        self._store.commit()
        for path in sorted(files.rglob("*")) if files.is_dir() else ():
            target = folder / path.relative_to(files)
            if path.is_file() and not path.name.endswith(".tmp") and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
        folder.mkdir(parents=True, exist_ok=True)
        partial_target = folder / f".{self._request.target}.importing"
        shutil.move(rows, partial_target)
        partial_target.replace(folder / self._request.target)


class _Rows:
    """The file of rows as it is written: an id stands once."""

    def __init__(self, stream: BinaryIO, store: Store, present: dict[str, bytes]) -> None:
        self._stream, self._store, self._present = stream, store, present
        self._ids: dict[str, bytes] = {}
        self.count = 0
        self.own_pairs = 0

    def add_made(self, identity: str, body: bytes, place_of_row: tuple[int, int, int]) -> None:
        """Add a row that the import made; one whose id is taken by another row gets a number."""
        row, wanted, number = None, identity, 1
        while (taken := self._ids.get(identity) or self._present.get(identity)) is not None:
            row = row or json.loads(body)
            body = json.dumps(row | {"id": identity}, ensure_ascii=False).encode()
            if taken == _digest(body):
                self._store.add_findings([Finding(*place_of_row, "present_row", "id", shorten(identity))], "write")
                return
            number += 1
            identity = f"{wanted}-{number}"
        if row is not None:
            body = json.dumps(row | {"id": identity}, ensure_ascii=False).encode()
            self._store.add_findings([Finding(*place_of_row, "id_changed", "id", f"{shorten(wanted)} is {identity}")], "write")
        self._add(identity, body)

    def add_own(self, entry: RankedEntry) -> None:
        """Add a row that came in data.jsonl's own form: it stays as it is, also where its id is taken, which validation refuses."""
        taken = self._ids.get(entry.id) or self._present.get(entry.id)
        if taken is not None:
            kind = "repeated_id" if taken != _digest(entry.body) else "present_row" if entry.id in self._present else "repeated_row"
            self._store.add_findings([Finding(entry.position, entry.file, entry.line, kind, "id", shorten(entry.id))], "write")
            if kind != "repeated_id":
                return
        self.own_pairs += entry.pairs
        self._add(entry.id, entry.body)

    def _add(self, identity: str, body: bytes) -> None:
        self._ids.setdefault(identity, _digest(body))
        self._stream.write(body + b"\n")
        self.count += 1


def _digest(body: bytes) -> bytes:
    return bytes.fromhex(digest_bytes(body)[:32])


def _size(raw: Any) -> int:
    """About how many bytes a row takes."""
    if isinstance(raw, bytes):
        return len(raw)
    if isinstance(raw, dict):
        return sum(_size(value) for value in raw.values())
    if isinstance(raw, list):
        return sum(_size(value) for value in raw)
    return len(raw) if isinstance(raw, str) else 8


def _batches(groups: Iterator[Group]) -> Iterator[list[Group]]:
    while batch := list(itertools.islice(groups, GROUPS)):
        yield batch


def _count_media(files: Path) -> int:
    if not files.is_dir():
        return 0
    return sum(1 for path in files.rglob("*") if path.is_file() and not path.name.endswith(".tmp"))


class _pool:  # noqa: N801 -- a context manager
    """Processes for an import of some size; None for a small one, which this process does itself."""

    def __init__(self, processes: int, options: Options) -> None:
        self._pool = ProcessPoolExecutor(processes, initializer=start_process, initargs=(options, os.getpid())) if processes > 1 else None

    def __enter__(self) -> ProcessPoolExecutor | None:
        return self._pool

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _spread(function: Callable[[A], B], items: Iterable[A], pool: ProcessPoolExecutor | None) -> Iterator[B]:
    """The results in the order of the items; a few items are under way at a time, so that memory stays bounded."""
    if pool is None:
        yield from map(function, items)
        return
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 2 * (os.cpu_count() or 1) + 2:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
