"""Keeps the frozen tower's output on disk, so that it runs once for each medium.

- Filled in a pass of its own before training or inference, by all ranks of a process group together; all of them then know the same entries.
- Every medium runs through the tower alone, so that an entry's bits do not depend on what else was computed: a fresh clone and a checkout
  that got a few new rows end with the same features.
- Where `features.max_gb` is too small, as many media as fit are kept and the others run live, with the same bits.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import Timeout
from torch import distributed
from tqdm import tqdm

from components.config.settings import Settings
from components.families.adapters import Medium
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.features.embedding import tower_alone
from components.features.keys import context_digest, whole_weights
from components.features.source import KeptFeatures, source_of
from components.features.store import Entry, FeatureStore, ShardWriter, unpacked
from components.files import digest_bytes
from components.preferences.record import Query

if TYPE_CHECKING:
    from components.config.features import FeatureSettings

KEPT_AS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHECKED_AT_ONCE_BYTES = 500_000_000  # entries up to this size are checked before a run; those of larger sets when they are first read
DISK_SHARE = 0.9  # of what is free, that may be filled
AHEAD = 2  # media that are prepared while one is computed
ROUND = 32  # media that a rank computes before it meets the others: none waits longer than a process group allows
LOCK_SECONDS = 10.0  # of waiting for another process before the other ranks are told that it goes on


@dataclass(frozen=True)
class FeatureReport:
    """What attaching features took and found. For a stage's record, not its metrics: it differs between equal runs."""

    media: int = 0  # different media of the queries
    hits: int = 0
    made: int = 0
    live: int = 0  # media that found no room and run through the tower each time
    damaged: int = 0  # entries that were forgotten, most of them made again
    evicted_shards: int = 0
    seconds: float = 0.0
    gigabytes: float = 0.0  # of what this run uses
    bytes_a_medium: float = 0.0

    def record(self) -> dict[str, float]:
        """Numbers by name."""
        return {f"features_{name}": float(value) for name, value in vars(self).items()}


def attach_features(preprocessor: Preprocessor, base: Path, queries: Sequence[Query], settings: Settings, root: Path) -> FeatureReport:
    """Fill the cache of the checkout `root` for the media of `queries`, and let `preprocessor` give roots with features from now on.

    Called by every rank of a process group, or by a process alone. Off, in a printed line, where `features.cache` is or the tower learns.
    """
    preprocessor.features = None
    reason = _why_off(settings)
    if reason is not None:
        _say(f"features: not kept on disk: {reason}")
        return FeatureReport()
    started = time.monotonic()
    chosen = {preprocessor.medium_key(query): query for query in reversed(queries) if query.media is not None}
    if not chosen:
        return FeatureReport()
    filling = _Filling(preprocessor, base, dict(reversed(chosen.items())), settings, root)
    with filling.store:
        preprocessor.features, report = filling.run()
    report = replace(report, seconds=time.monotonic() - started)
    if report.made or report.damaged:
        _say(f"features: {report.made} made in {report.seconds:.1f} s, {report.hits} were there")
    return report


class _Filling:
    """One pass over the media of a run."""

    def __init__(self, preprocessor: Preprocessor, base: Path, queries: dict[str, Query], settings: Settings, root: Path) -> None:
        self.media_root, self.base, self.queries, self.settings, self.root = preprocessor.media_root, base, queries, settings, root
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        self.kept_as = KEPT_AS[settings.features.dtype]
        self.threads = settings.training.threads
        self.limit = int(settings.features.max_gb * 1e9)
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if _grouped() else (0, 1)
        if self.rank != 0:
            _meet()  # a damaged index is made again by rank 0 alone
        self.store = FeatureStore(root)
        if self.rank == 0:
            _meet()

    def run(self) -> tuple[KeptFeatures, FeatureReport]:
        """Look up, make what is missing, and map what is there."""
        context = _shared(lambda: context_digest(self.base, self.settings, self.device))
        keys = {medium: digest_bytes(medium, context) for medium in self.queries}
        self._acquire()
        try:
            known, damaged, evicted = _shared(lambda: self._known(keys))
            missing = [medium for medium, key in keys.items() if key not in known]
            if missing:
                evicted += self._fill(missing, keys, known)
            found: dict[str, Entry] = _shared(lambda: self.store.find(keys.values())) if missing else known
            shards = sorted({entry.shard for entry in found.values()})
            maps = {shard: self.store.map(shard) for shard in shards}
            if self.rank == 0:
                self.store.touch(shards)
            _meet()  # nobody evicts what a rank has not mapped yet
        finally:
            self._release()
        source = KeptFeatures({medium: found.get(key) for medium, key in keys.items()}, maps, self.kept_as, self.threads, self.root)
        used = sum(entry.nbytes for entry in found.values())
        return source, FeatureReport(
            media=len(keys),
            hits=len(known),
            made=len(found) - len(known),
            live=len(keys) - len(found),
            damaged=damaged,
            evicted_shards=evicted,
            gigabytes=used / 1e9,
            bytes_a_medium=used / max(1, len(found)),
        )

    def _known(self, keys: Mapping[str, str]) -> tuple[dict[str, Entry], int, int]:
        """Entries that are there and whole, how many were not whole, and how many shards went because the limit was lowered."""
        lost = self.store.sweep()
        for shard, count in lost.items():
            print(f"features: {shard} is torn: its {count} media are made again where they are needed", flush=True)
        known = self.store.find(keys.values())
        bad: list[str] = []
        if sum(entry.nbytes for entry in known.values()) <= CHECKED_AT_ONCE_BYTES:
            maps = {shard: self.store.map(shard) for shard in {entry.shard for entry in known.values()}}
            bad = [key for key, entry in known.items() if unpacked(maps[entry.shard], entry) is None]
            if bad:
                print(f"features: {len(bad)} entries are damaged and are made again", flush=True)
                self.store.forget(bad)
        known = {key: entry for key, entry in known.items() if key not in bad}
        evicted = self.store.evict(0, self.limit, {entry.shard for entry in known.values()})
        return known, sum(lost.values()) + len(bad), len(evicted)

    def _fill(self, missing: list[str], keys: Mapping[str, str], known: Mapping[str, Entry]) -> int:
        """Make the missing entries, as many as fit; returns how many shards were evicted for them."""
        with whole_weights():
            dtype = torch.bfloat16 if self.settings.training.precision == "bf16" else torch.float32
            model = load_model(self.base, attention=self.settings.model.attention, dtype=dtype).to(self.device)
        # Its memory of preprocessed media stays empty: what is prepared here is used once.
        reader = Preprocessor(self.base, self.media_root, self.settings.model, FeatureSettings(pixels_max_gb=0))

        def first_size() -> int:
            (medium,) = self._prepared(reader, missing[:1])
            return sum(level.nbytes for level in tower_alone(model, medium, self.kept_as, self.threads))

        size = _shared(first_size)
        room, evicted = _shared(lambda: self._make_room(size, len(missing), known))
        share, most = missing[self.rank :: self.world], len(missing[0 :: self.world])
        budget = room // self.world
        prepared = self._prepared(reader, share if budget else [])
        writer = ShardWriter(self.store)
        try:
            with tqdm(total=len(missing), desc="tower features", unit="medium", mininterval=1, disable=self.rank != 0) as bar:
                for start in range(0, most, ROUND):
                    for medium in islice(prepared, ROUND):
                        output = tower_alone(model, medium, self.kept_as, self.threads)
                        if writer.written + sum(level.nbytes for level in output) > budget:
                            prepared.close()
                            break
                        writer.write(keys[medium.key], output, source_of(medium))
                    _meet()
                    bar.update(min(ROUND * self.world, len(missing) - start * self.world))
        finally:
            writer.close()  # what was computed counts, whatever ended the pass
        _meet()
        return int(evicted)

    def _prepared(self, reader: Preprocessor, media: Sequence[str]) -> Generator[Medium, None, None]:
        """Media ready for the tower; beside a GPU, the next one is prepared while one is computed."""

        def prepare(key: str) -> Medium:
            return next(medium for medium in reader.policy_root(self.queries[key]).media if medium.key == key)

        if self.device.type == "cpu":
            yield from map(prepare, media)
            return
        with ThreadPoolExecutor(1) as pool:  # one thread: tokenizers can't be shared
            ahead: deque[Future[Medium]] = deque()
            for key in media:
                ahead.append(pool.submit(prepare, key))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _make_room(self, size: int, count: int, known: Mapping[str, Entry]) -> tuple[int, int]:
        """Bytes that new entries may take, and how many shards were evicted for them. Says what is needed and what does not fit."""
        kept = {entry.shard for entry in known.values()}
        need, there = size * count, self.store.bytes_of(kept)
        evicted = self.store.evict(need, self.limit, kept)
        room = max(0, min(self.limit - self.store.nbytes, int(shutil.disk_usage(self.store.folder).free * DISK_SHARE)))
        text = (
            f"features: {count} media at {size / 1e6:.3g} MB need {need / 1e9:.2g} GB beside {there / 1e9:.2g} GB "
            f"of features.max_gb {self.settings.features.max_gb:g}"
        )
        if need > room:
            fitting = room // self.world // size * self.world
            text += (
                f": about {fitting} fit, the other {count - fitting} run through the tower each time (raise features.max_gb, or free disk)"
            )
        if evicted:
            text += f"; {len(evicted)} shards that were used least recently went"
        print(text, flush=True)
        return room, len(evicted)

    def _acquire(self) -> None:
        """Take the store for this process and the ranks of its group. No collective waits longer than the others' patience."""
        waited = False
        while True:
            if _shared(self._try_lock):
                return
            if not waited:
                _say("features: waiting for another process that fills the cache")
            waited = True

    def _try_lock(self) -> bool:
        try:
            self.store.lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            return False
        return True

    def _release(self) -> None:
        if self.rank == 0:
            self.store.lock.release()


def _why_off(settings: Settings) -> str | None:
    if not settings.features.cache:
        return "features.cache is false"
    if settings.training.parts.tower > 0:
        return f"the tower is trained (training.parts.tower {settings.training.parts.tower:g})"
    return None


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _shared(compute: Any) -> Any:
    """What `compute` gives on rank 0, on all ranks."""
    if not _grouped():
        return compute()
    found = [compute() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(found, src=0)
    return found[0]


def _meet() -> None:
    if _grouped():
        distributed.barrier()


def _say(text: str) -> None:
    if not _grouped() or distributed.get_rank() == 0:
        print(text, flush=True)
