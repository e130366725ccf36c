"""The entries of a run's media in arrays: all ranks hold them for the whole run, in about a hundred bytes a medium."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from components.features.store import Entry, FeatureStore, Layout
from components.files import digest_bytes

KEY = np.dtype("S64")  # a hex digest
LOCATION = np.dtype([("shard", "i4"), ("offset", "i8"), ("nbytes", "i8"), ("crc", "u4"), ("form", "i4")])
UNCACHED = -1  # as `shard` of a medium without an entry


class Entries:
    """Entries by medium. `context` is what they depend on beside the medium."""

    def __init__(self, media: Sequence[str], context: str) -> None:
        self.context = context
        self._shards: list[str] = []
        self._forms: list[tuple[Layout, str]] = []
        keys = np.array(media, dtype=KEY)
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]
        self._locations: np.ndarray[Any, Any] = np.zeros(len(media), dtype=LOCATION)
        self._locations["shard"] = UNCACHED

    @classmethod
    def find(cls, media: Sequence[str], context: str, store: FeatureStore, chunk: int = 500) -> Entries:
        """What `store` has of `media`."""
        result = cls(media, context)
        shards: dict[str, int] = {}
        forms: dict[tuple[Layout, str], int] = {}
        for start in range(0, len(media), chunk):
            keys = [result.key(medium) for medium in media[start : start + chunk]]
            entries = store.find(keys)
            for position, key in enumerate(keys, start):
                entry = entries.get(key)
                if entry is not None:
                    shard = shards.setdefault(entry.shard, len(shards))
                    form = forms.setdefault((entry.layout, entry.source), len(forms))
                    result._locations[position] = (shard, entry.offset, entry.nbytes, entry.crc, form)
        result._shards, result._forms = list(shards), list(forms)
        return result

    def key(self, medium: str) -> str:
        """The key of a medium's entry."""
        return digest_bytes(medium, self.context)

    @property
    def cached(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each medium has an entry, in order."""
        return np.asarray(self._locations["shard"] != UNCACHED, dtype=np.bool_)

    @property
    def shards(self) -> list[str]:
        """The shards of all entries."""
        return [self._shards[number] for number in np.unique(self._locations["shard"]).tolist() if number != UNCACHED]

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return int(self._locations["nbytes"].sum())

    def position(self, medium: str) -> int | None:
        """The number of a medium among those of the run; None for another's."""
        name = medium.encode()
        at = int(np.searchsorted(self._sorted, name))
        return int(self._order[at]) if at < len(self._sorted) and self._sorted[at] == name else None

    def entry(self, position: int, medium: str) -> Entry | None:
        """The entry of the medium at `position`, if it is cached."""
        shard, offset, nbytes, crc, form = self._locations[position].tolist()
        if shard == UNCACHED:
            return None
        layout, source = self._forms[form]
        return Entry(self.key(medium), self._shards[shard], offset, nbytes, crc, layout, source)

    def all(self, media: Sequence[str]) -> Iterator[tuple[int, Entry]]:
        """The entries there are, with their positions."""
        for position in np.flatnonzero(self.cached).tolist():
            entry = self.entry(position, media[position])
            assert entry is not None
            yield position, entry

    def drop(self, positions: Sequence[int]) -> None:
        """Forget entries."""
        self._locations[list(positions)] = (UNCACHED, 0, 0, 0, 0)
