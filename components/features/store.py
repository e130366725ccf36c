"""Vision tower outputs on disk: raw shards, mapped into memory, and one index.

- A writer syncs a shard under a temporary name, renames it, and only then adds it to the index: a kill leaves whole shards or none.
- A shard whose length differs from the index is torn; an entry with a wrong checksum is damaged. The store forgets both, so that a later run
  recomputes them.
- Eviction takes the least recently used shard first. A process can read a shard that it has mapped even after the eviction.
- A process must lock `lock` to fill, sweep or evict. To add a shard needs the lock too, but its owner may let several ranks add.
"""

from __future__ import annotations

import json
import mmap
import os
import sqlite3
import time
import uuid
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch
from filelock import FileLock
from torch import Tensor

from components.checkout import Checkout
from components.storage.content_cache import LOOKUP_CHUNK
from components.storage.sqlite import open_database

SHARD_BYTES = 256_000_000  # approximate; a killed fill loses at most one shard
ALIGNMENT = 64  # bytes; tensors start at multiples of it, as torch's own do
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Layout = tuple[tuple[str, tuple[int, ...]], ...]  # (dtype, shape) of each tensor


@dataclass(frozen=True)
class Entry:
    """The location of a medium's vision output. `source` describes the tensors from which it was computed."""

    key: str
    shard: str
    offset: int
    nbytes: int
    crc: int
    layout: Layout
    source: str


class FeatureStore:
    """The store of `checkout`."""

    def __init__(self, checkout: Checkout) -> None:
        self.folder = checkout.cache("features")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / "lock")
        self._connection = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def find(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The existing entries of `keys`, by key."""
        wanted = list(dict.fromkeys(keys))
        entries: dict[str, Entry] = {}
        for start in range(0, len(wanted), LOOKUP_CHUNK):
            chunk = wanted[start : start + LOOKUP_CHUNK]
            marks = ",".join("?" * len(chunk))
            query = f"select key, shard, start, bytes, crc, layout, source from entries where key in ({marks})"  # noqa: S608 -- only marks are put in
            for key, shard, offset, nbytes, crc, layout, source in self._connection.execute(query, chunk):
                tensors = tuple((dtype, tuple(shape)) for dtype, shape in json.loads(layout))
                entries[key] = Entry(key, shard, offset, nbytes, crc, tensors, source)
        return entries

    def add(self, shard: str, nbytes: int, entries: Sequence[Entry]) -> None:
        """Add a written shard with all of its entries to the index, or nothing."""
        rows = [(e.key, e.shard, e.offset, e.nbytes, e.crc, json.dumps(e.layout), e.source) for e in entries]
        with self._connection:
            self._connection.execute("insert into shards values (?, ?, ?)", (shard, nbytes, time.time()))
            self._connection.executemany("insert or replace into entries values (?, ?, ?, ?, ?, ?, ?)", rows)

    def forget(self, keys: Collection[str]) -> None:
        """Remove entries from the index."""
        with self._connection:
            self._connection.executemany("delete from entries where key = ?", [(key,) for key in keys])

    def touch(self, shards: Collection[str]) -> None:
        """Mark shards as used now."""
        with self._connection:
            self._connection.executemany("update shards set used = ? where name = ?", [(time.time(), shard) for shard in shards])

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return int(self._connection.execute("select coalesce(sum(bytes), 0) from shards").fetchone()[0])

    def bytes_of(self, shards: Collection[str]) -> int:
        """Bytes of some shards."""
        sizes = dict(self._connection.execute("select name, bytes from shards"))
        return sum(sizes[shard] for shard in shards)

    def sweep(self) -> dict[str, int]:
        """Drop torn and missing shards from the index, and delete unindexed files. Returns the lost entries by shard. The caller has `lock`."""
        sizes: dict[str, int] = dict(self._connection.execute("select name, bytes from shards"))
        sizes_on_disk = {path.name: path.stat().st_size for path in self.folder.iterdir() if path.suffix in {".shard", ".tmp"}}
        torn = [name for name, nbytes in sizes.items() if sizes_on_disk.get(name) != nbytes]
        lost = {name: int(self._connection.execute("select count(*) from entries where shard = ?", (name,)).fetchone()[0]) for name in torn}
        self._drop(torn)
        for name in sizes_on_disk.keys() - sizes.keys():
            (self.folder / name).unlink(missing_ok=True)
        return lost

    def evict(self, room: int, limit: int, keep: Collection[str]) -> list[str]:
        """Drop the least recently used shards, none of `keep`, until `room` more bytes fit into `limit`. The caller has `lock`."""
        excess = self.nbytes + room - limit
        dropped: list[str] = []
        for name, nbytes in self._connection.execute("select name, bytes from shards order by used, name").fetchall():
            if excess <= 0:
                break
            if name not in keep:
                dropped.append(name)
                excess -= nbytes
        self._drop(dropped)
        return dropped

    def map(self, shard: str) -> mmap.mmap:
        """A shard's bytes in private pages: a write to them does not reach the file."""
        with (self.folder / shard).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _drop(self, shards: Sequence[str]) -> None:
        with self._connection:
            for shard in shards:
                self._connection.execute("delete from entries where shard = ?", (shard,))
                self._connection.execute("delete from shards where name = ?", (shard,))
        for shard in shards:
            (self.folder / shard).unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        path = self.folder / "index.sqlite"
        try:
            return _open_index(path)
        except sqlite3.OperationalError:  # locked, or a full disk: not a damaged file
            raise
        except sqlite3.DatabaseError:
            print(f"features: {path} is damaged: the run rebuilds it and recomputes all entries", flush=True)
            for damaged in self.folder.glob("index.sqlite*"):
                damaged.unlink(missing_ok=True)
            return _open_index(path)


def _open_index(path: Path) -> sqlite3.Connection:
    return open_database(
        path,
        "create table if not exists shards (name text primary key, bytes integer not null, used real not null)",
        "create table if not exists entries (key text primary key, shard text not null, start integer not null, bytes integer not null,"
        " crc integer not null, layout text not null, source text not null) without rowid",
        "create index if not exists entries_of_shard on entries (shard)",
    )


@dataclass
class ShardWriter:
    """Writes entries in sequence; they become visible once their shard is full, or at `close`."""

    store: FeatureStore
    shard_bytes: int = SHARD_BYTES
    written: int = 0  # bytes of entries, over all shards
    _file: BinaryIO | None = None
    _name: str = ""
    _entries: list[Entry] = field(default_factory=list)

    def write(self, key: str, tensors: Sequence[Tensor], source: str) -> None:
        """Add an entry. Tensors are fp32 or bf16."""
        if self._file is None:
            self._name = f"{uuid.uuid4().hex}.shard"
            self._file = (self.store.folder / f"{self._name}.tmp").open("wb")
        offset = self._file.tell()
        content = packed(tensors)
        self._file.write(content)
        self.written += len(content)
        layout = tuple((str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for tensor in tensors)
        self._entries.append(Entry(key, self._name, offset, len(content), zlib.crc32(content), layout, source))
        if offset + len(content) >= self.shard_bytes:
            self.close()

    def close(self) -> None:
        """Rename the shard to its final name and add it to the index."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        nbytes = self._file.tell()
        self._file.close()
        (self.store.folder / f"{self._name}.tmp").rename(self.store.folder / self._name)
        self.store.add(self._name, nbytes, self._entries)
        self._file, self._entries = None, []


def packed(tensors: Sequence[Tensor]) -> bytes:
    """The bytes of tensors, each padded to the alignment."""
    content = bytearray()
    for tensor in tensors:
        content += tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        content += bytes(-len(content) % ALIGNMENT)
    return bytes(content)


def intact(content: mmap.mmap, entry: Entry) -> bool:
    """Whether an entry's bytes have its checksum."""
    with memoryview(content) as view:
        return zlib.crc32(view[entry.offset : entry.offset + entry.nbytes]) == entry.crc


def release(content: mmap.mmap, entry: Entry) -> None:
    """Drop an entry's pages from this process's memory: they stay in the system's file cache. Nobody may hold views of them."""
    start = entry.offset // mmap.PAGESIZE * mmap.PAGESIZE
    content.madvise(mmap.MADV_DONTNEED, start, entry.offset + entry.nbytes - start)


def unpacked(content: mmap.mmap, entry: Entry) -> tuple[Tensor, ...]:
    """An entry's tensors as views of a mapped shard."""
    tensors = []
    offset = entry.offset
    for name, shape in entry.layout:
        dtype = DTYPES[name]
        count = torch.Size(shape).numel()
        tensors.append(torch.frombuffer(content, dtype=dtype, count=count, offset=offset).reshape(shape))
        offset += -(-count * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    return tuple(tensors)
