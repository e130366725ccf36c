"""The ledger of disk: what a run still writes and where, summed by file system, against the bytes that are free there.

- What a folder holds already is subtracted: features and checkpoints stay, and DVC removes a stage's old outputs before the stage runs.
- A new model is a new object in DVC's cache, beside the old ones, until `mmalign clean` removes those.
- The checkpoints of a finished stage go before the next stage starts, so only the larger set counts.
- Sizes of models, checkpoints and features are those of the plan. Tables of texts and log-probs are bounded from above; they are small.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.checkout import Checkout
from components.rehearsal.memory import value_bytes
from components.rehearsal.plan import ORDER, TRAINING, Plan
from components.storage.space import LINKED_ABOVE_BYTES, Cache, data_growth, disk_of, dvc_cache, tree_bytes

if TYPE_CHECKING:
    from components.storage.data_version import DataState

RESERVE_BYTES = 1_000_000_000  # stays free on every file system: for logs, records and temporary files
BYTES_A_TOKEN = 4  # of written text, at most
LOG_PROB_BYTES, PAIR_BYTES = 200, 300  # of a response in a table, with its keys

Disk = Callable[[Path], tuple[int, int]]  # device number and free bytes of a folder's file system


@dataclass(frozen=True)
class Entry:
    """Bytes that a run still writes into a folder."""

    what: str
    folder: Path
    bytes: int


@dataclass(frozen=True)
class Volume:
    """A file system, with what a run still writes to it, the largest first."""

    free: int
    entries: tuple[Entry, ...]

    @property
    def needed(self) -> int:
        """Bytes of all entries."""
        return sum(entry.bytes for entry in self.entries)

    @property
    def lacking(self) -> int:
        """Bytes to free before the run; 0 where all fits."""
        return max(0, self.needed + RESERVE_BYTES - self.free)


def ledger(plan: Plan | None, checkout: Checkout, stages: Collection[str], data: DataState | None, disk: Disk = disk_of) -> list[Volume]:
    """The file systems that a run of `stages` writes to. `data` is data/ against data.dvc, None where that is unknown.

    Without a plan, as before the base model is there, the ledger holds the data alone.
    """
    cache = dvc_cache(checkout)
    fetched, cached = data_growth(checkout, data, cache)
    entries = [Entry("data to fetch", checkout.data, fetched), Entry("data in DVC's cache", cache.folder, cached)]
    if plan is not None:
        linked = disk(checkout.mlruns)[0] == disk(cache.folder)[0]
        entries += still_written(plan, checkout, stages, cache, linked=linked)
        entries += _base(plan, checkout, data, cache)
    entries = [entry for entry in entries if entry.bytes > 0]
    free: dict[int, int] = {}
    by_device: dict[int, list[Entry]] = {}
    for entry in (*entries, *(Entry("logs and records", folder, 0) for folder in (checkout.state, checkout.artifacts, cache.folder))):
        device, free_bytes = disk(entry.folder)
        free[device] = free_bytes
        by_device.setdefault(device, []).append(entry)
    return [Volume(free[device], tuple(sorted(group, key=lambda entry: -entry.bytes))) for device, group in by_device.items()]


def still_written(plan: Plan, checkout: Checkout, stages: Collection[str], cache: Cache, *, linked: bool) -> Iterator[Entry]:
    """What a run of `stages` adds to each folder; 0 or less where a folder holds as much already.

    `linked` says whether the registry lies on the file system of DVC's cache: then its packages link the large files there.
    """
    if plan.settings.features.cache and any(stage in stages for stage in ORDER):
        limit = min(plan.features_bytes, int(plan.settings.features.max_gb * 1e9))
        yield Entry("features of the vision tower", checkout.cache("features"), limit - tree_bytes(checkout.cache("features")))
    yield from _checkpoints(plan, checkout, stages)
    yield from _outs(plan, checkout, stages, cache, linked=linked)


def _base(plan: Plan, checkout: Checkout, data: DataState | None, cache: Cache) -> Iterator[Entry]:
    """The checkpoint of model.base, where it is yet to fetch and does not come with the data."""
    base = plan.settings.model.base
    folder = checkout.root / base
    if folder.exists() or (data is not None and any(name.startswith(f"{base.as_posix()}/") for name in data.missing)):
        return
    size = plan.model.total * value_bytes(plan.settings)
    yield Entry("base model to fetch", folder, size - tree_bytes(folder.with_name(f"{folder.name}.partial")))
    if cache.copies and folder.is_relative_to(checkout.data):
        yield Entry("base model in DVC's cache", cache.folder, size)


def _checkpoints(plan: Plan, checkout: Checkout, stages: Collection[str]) -> Iterator[Entry]:
    """The larger of the two trainings' sets of checkpoints."""
    entries = [
        Entry(
            f"checkpoints of {stage}",
            checkout.scratch(stage),
            plan.stages[stage].disk["checkpoints"] - tree_bytes(checkout.scratch(stage)),
        )
        for stage in TRAINING
        if stage in stages
    ]
    if entries:
        yield max(entries, key=lambda entry: entry.bytes)


def _outs(plan: Plan, checkout: Checkout, stages: Collection[str], cache: Cache, *, linked: bool) -> Iterator[Entry]:
    tables = _tables(plan, checkout)
    models = {stage: plan.stages[stage].disk["model"] for stage in TRAINING if stage in stages}
    for stage in stages:
        size = models.get(stage, 0) + tables[stage]
        yield Entry(f"outputs of {stage}", checkout.artifact(stage), size - tree_bytes(checkout.artifact(stage)))
        if cache.copies:
            yield Entry(f"outputs of {stage} in DVC's cache", cache.folder, size)
    yield Entry(
        "cached critiques and log-probs", checkout.cache(""), sum(tables[stage] for stage in ("critique", "reference") if stage in stages)
    )
    yield Entry("registered models", checkout.mlruns, sum(size for size in models.values() if not linked or size < LINKED_ABOVE_BYTES))


def _tables(plan: Plan, checkout: Checkout) -> dict[str, int]:
    """Bytes of each stage's tables, bounded from above."""
    settings, workload = plan.settings, plan.workload
    critique_tokens = 0 if settings.reward.critique_source == "none" else settings.critique.max_new_tokens
    rows = sum(path.stat().st_size for path in checkout.preferences.glob("*.jsonl"))
    return {
        "validate": rows,
        "reward": 0,
        "critique": workload.responses * (critique_tokens * BYTES_A_TOKEN or LOG_PROB_BYTES),
        "reference": workload.responses * LOG_PROB_BYTES,
        "align": workload.responses * PAIR_BYTES,
        "evaluate": 2 * workload.queries * settings.evaluate.max_new_tokens * BYTES_A_TOKEN,
    }


def as_json(volumes: list[Volume]) -> list[dict[str, Any]]:
    """The ledger for scripts, in bytes."""
    return [
        {
            "free": volume.free,
            "needed": volume.needed,
            "reserve": RESERVE_BYTES,
            "fits": volume.lacking == 0,
            "entries": [{"what": entry.what, "folder": str(entry.folder), "bytes": entry.bytes} for entry in volume.entries if entry.bytes],
        }
        for volume in volumes
    ]
