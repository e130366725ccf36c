"""Caches the frozen vision tower's output on disk, so that the tower runs once for each medium.

- All ranks of a process group fill the cache together in a pass before training or inference. All then have the same entries. The process
  that starts them computes none.
- The tower reads each medium alone, so that an entry's bits do not depend on other media: a fresh clone and a checkout that got a few new rows
  end with the same features.
- If `features.max_gb` is too small, the cache takes the media that fit. The others run live, with the same bits.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout
from torch import distributed
from tqdm import tqdm

from components.checkout import Checkout
from components.config.features import FeatureSettings
from components.config.settings import Settings
from components.families.adapters import Medium
from components.families.loading import load_model
from components.families.opening import whole_weights
from components.families.processing import Preprocessor
from components.features.embedding import run_vision_tower
from components.features.entries import Entries
from components.features.keys import context_digest
from components.features.source import CachedFeatures, source_of
from components.features.store import FeatureStore, ShardWriter, intact
from components.preferences.record import Query
from components.processes import heartbeat

CACHE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHECKED_AT_ONCE_BYTES = 500_000_000  # up to this size, a run checks all entries first; in larger sets, each when it reads it first
DISK_SHARE = 0.9  # share of the free disk that a fill may take
AHEAD = 2  # media prepared ahead of the computed one
ROUND = 32  # media that a rank computes between two barriers: none waits longer than a process group allows
LOCK_SECONDS = 10.0  # of waiting for another process's lock before the next collective


@dataclass(frozen=True)
class FeatureReport:
    """Counts, seconds and bytes of a fill. It belongs to a stage's record, not its metrics, since it differs between equal runs."""

    media: int = 0  # different media of the queries
    hits: int = 0
    made: int = 0
    live: int = 0  # media beyond the limit, for which the tower runs in every pass
    damaged: int = 0  # entries that the store forgot; the fill recomputes those that it needs
    evicted_shards: int = 0
    seconds: float = 0.0
    gigabytes: float = 0.0  # of this run's entries
    bytes_a_medium: float = 0.0

    def record(self) -> dict[str, float]:
        """Numbers by name."""
        return {f"features_{name}": float(value) for name, value in vars(self).items()}


def attach_features(
    preprocessor: Preprocessor, base: Path, queries: Sequence[Query], settings: Settings, checkout: Checkout, *, ranks: int = 1
) -> FeatureReport:
    """Fill the cache of `checkout` for the media of `queries`, and attach it to `preprocessor`, whose roots then have features.

    A single process or every rank of a process group calls it. A process that plans for several `ranks` leaves the fill to them, and attaches
    what is cached. If `features.cache` is false or the tower is trained, it only prints the reason.
    """
    preprocessor.features = None
    reason = _why_off(settings)
    if reason is not None:
        _log(f"features: no cache: {reason}")
        return FeatureReport()
    started = time.monotonic()
    positions: dict[str, int] = {}  # of the first query of each medium
    for number, query in enumerate(queries):
        for key in preprocessor.medium_keys(query):
            positions.setdefault(key, number)
    if not positions:
        return FeatureReport()
    with heartbeat.attentive():
        filling = _Filling(preprocessor, base, (queries, positions), settings, checkout)
        filling.fills = ranks == 1 or _grouped()
        with filling.store:
            preprocessor.features, report = filling.run()
    report = replace(report, seconds=time.monotonic() - started)
    if report.made or report.damaged:
        _log(f"features: {report.made} computed in {report.seconds:.1f} s, {report.hits} cached before")
    return report


class _Filling:
    """One pass over the media of a run."""

    def __init__(
        self, preprocessor: Preprocessor, base: Path, media: tuple[Sequence[Query], dict[str, int]], settings: Settings, checkout: Checkout
    ) -> None:
        self.media_root, self.base, self.settings, self.checkout = preprocessor.media_root, base, settings, checkout
        self.queries, self.positions = media
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        self.cache_dtype = CACHE_DTYPES[settings.features.dtype]
        self.threads = settings.training.threads
        self.limit = int(settings.features.max_gb * 1e9)
        self.fills = True
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if _grouped() else (0, 1)
        if self.rank != 0:
            _meet()  # only rank 0 rebuilds a damaged index
        self.store = FeatureStore(checkout)
        if self.rank == 0:
            _meet()

    def run(self) -> tuple[CachedFeatures, FeatureReport]:
        """Look up the entries, compute missing ones, and map their shards."""
        context = _shared(lambda: context_digest(self.base, self.settings, self.device))
        media = list(self.positions)
        self._acquire()
        try:
            valid, damaged, evicted = _shared(lambda: self._valid_entries(media, context))
            missing = [media[position] for position in np.flatnonzero(~valid.cached).tolist()] if self.fills else []
            if missing:
                evicted += self._fill(missing, valid)
            entries: Entries = _shared(lambda: Entries.find(media, context, self.store)) if missing else valid
            maps = {shard: self.store.map(shard) for shard in entries.shards}
            if self.rank == 0:
                self.store.touch(entries.shards)
            _meet()  # no process evicts a shard before all ranks have mapped it
        finally:
            self._release()
        source = CachedFeatures(entries, maps, self.cache_dtype, self.threads, self.checkout)
        used, hits, cached = entries.nbytes, int(valid.cached.sum()), int(entries.cached.sum())
        return source, FeatureReport(
            media=len(media),
            hits=hits,
            made=cached - hits,
            live=len(media) - cached,
            damaged=damaged,
            evicted_shards=evicted,
            gigabytes=used / 1e9,
            bytes_a_medium=used / max(1, cached),
        )

    def _valid_entries(self, media: Sequence[str], context: str) -> tuple[Entries, int, int]:
        """The valid entries, the number of damaged ones, and the number of shards evicted because of a lower limit."""
        lost = self.store.sweep()
        for shard, count in lost.items():
            print(f"features: {shard} is torn: a later run recomputes its {count} media", flush=True)
        valid = Entries.find(media, context, self.store)
        bad: list[int] = []
        if valid.nbytes <= CHECKED_AT_ONCE_BYTES:
            maps = {shard: self.store.map(shard) for shard in valid.shards}
            bad = [position for position, entry in valid.all(media) if not intact(maps[entry.shard], entry)]
            if bad:
                print(f"features: {len(bad)} entries are damaged: the run recomputes them", flush=True)
                self.store.forget([valid.key(media[position]) for position in bad])
                valid.drop(bad)
        evicted = self.store.evict(0, self.limit, valid.shards)
        return valid, sum(lost.values()) + len(bad), len(evicted)

    def _fill(self, missing: list[str], valid: Entries) -> int:
        """Compute the missing entries that fit; return the number of shards evicted for them."""
        with whole_weights(), heartbeat.work("opening the vision tower"):
            dtype = torch.bfloat16 if self.settings.training.precision == "bf16" else torch.float32
            model = load_model(self.base, attention=self.settings.model.attention, dtype=dtype).to(self.device)
        # Without a cache of preprocessed media: the fill uses each once.
        reader = Preprocessor(self.base, self.media_root, self.settings.model, FeatureSettings(pixels_max_gb=0))

        def first_size() -> int:
            (medium,) = self._prepared(reader, missing[:1])
            return sum(level.nbytes for level in run_vision_tower(model, medium, self.cache_dtype, self.threads))

        size = _shared(first_size)
        room, evicted = _shared(lambda: self._make_room(size, len(missing), valid))
        share, most = missing[self.rank :: self.world], len(missing[0 :: self.world])
        budget = room // self.world
        prepared = self._prepared(reader, share if budget else [])
        writer = ShardWriter(self.store)
        try:
            with tqdm(total=len(missing), desc="tower features", unit="medium", mininterval=1, disable=self.rank != 0) as bar:
                for start in range(0, most, ROUND):
                    for medium in islice(prepared, ROUND):
                        heartbeat.beat()
                        output = run_vision_tower(model, medium, self.cache_dtype, self.threads)
                        if writer.written + sum(level.nbytes for level in output) > budget:
                            prepared.close()
                            break
                        writer.write(valid.key(medium.key), output, source_of(medium))
                    _meet()
                    bar.update(min(ROUND * self.world, len(missing) - start * self.world))
        finally:
            writer.close()  # computed entries count even if the pass fails
        _meet()
        return int(evicted)

    def _prepared(self, reader: Preprocessor, media: Sequence[str]) -> Generator[Medium, None, None]:
        """Media ready for the vision tower; with a GPU, a thread prepares the next ones meanwhile."""

        def prepare(key: str) -> Medium:
            return next(medium for medium in reader.policy_root(self.queries[self.positions[key]]).media if medium.key == key)

        if self.device.type == "cpu":
            yield from map(prepare, media)
            return
        with ThreadPoolExecutor(1) as pool:  # one thread: threads can't share a tokenizer
            ahead: deque[Future[Medium]] = deque()
            for key in media:
                ahead.append(pool.submit(prepare, key))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _make_room(self, size: int, count: int, valid: Entries) -> tuple[int, int]:
        """The bytes for new entries, and the number of shards evicted for them. Prints the need and the number of media that do not fit."""
        need, used_bytes = size * count, self.store.bytes_of(valid.shards)
        evicted = self.store.evict(need, self.limit, valid.shards)
        room = max(0, min(self.limit - self.store.nbytes, int(shutil.disk_usage(self.store.folder).free * DISK_SHARE)))
        text = (
            f"features: {count} media at {size / 1e6:.3g} MB need {need / 1e9:.2g} GB beside {used_bytes / 1e9:.2g} GB "
            f"of features.max_gb {self.settings.features.max_gb:g}"
        )
        if need > room:
            fitting = room // self.world // size * self.world
            text += (
                f": about {fitting} fit, and the vision tower runs the other {count - fitting} in every pass "
                "(raise features.max_gb, or free disk)"
            )
        if evicted:
            text += f"; evicted the {len(evicted)} least recently used shards"
        print(text, flush=True)
        return room, len(evicted)

    def _acquire(self) -> None:
        """Lock the store for this process and the ranks of its group. Repeats short tries, so that no collective reaches its timeout."""
        waited = False
        while True:
            heartbeat.beat()
            if _shared(self._try_lock):
                return
            if not waited:
                _log("features: waiting for another process, which fills the cache")
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
        return f"the vision tower is trained (training.parts.tower {settings.training.parts.tower:g})"
    return None


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _shared(compute: Any) -> Any:
    """Rank 0's result of `compute`, on all ranks."""
    if not _grouped():
        return compute()
    values = [None]
    if distributed.get_rank() == 0:
        with heartbeat.work("the feature cache"):
            values = [compute()]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def _meet() -> None:
    if _grouped():
        distributed.barrier()


def _log(text: str) -> None:
    if not _grouped() or distributed.get_rank() == 0:
        print(text, flush=True)
