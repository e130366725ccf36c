"""Checks of the machine: cores, memory, disk, and the memory that ranks share."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.config.settings import Settings
from components.operations.doctor.findings import Finding, NotChecked, ok, problem, settings_of, warning
from components.processes.host import available_cores, available_memory
from components.storage.repository import open_repository
from components.tracking.provenance import read_yaml

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the place itself is looked at
# What DeepSpeed's op maps there for each rank: two buffers of 1 MiB and two of 32 MiB. With less, a rank dies of SIGBUS and gives no reason.
SHARED_BYTES_A_RANK = 2 * (1 + 32) * 2**20
LIBRARIES_BYTES = 1_000_000_000  # resident in a rank once torch, transformers and DeepSpeed are imported
FREE_BYTES = 1_000_000_000  # least free space at any place that a run writes to


def cores(root: Path) -> Finding:
    """There is a core for every thread that training starts."""
    number, why = available_cores()
    training = settings_of(root).training
    wanted = training.ranks * training.threads
    found = f"{number:g} core{'s' if number != 1 else ''}{why}; training starts {training.ranks} ranks of {training.threads}"
    if number < wanted:
        return warning(f"{found}: they share cores and take longer", "lower training.ranks or training.threads to what there is")
    return ok(found)


def memory(root: Path) -> Finding:
    """What is free holds the ranks' libraries and the base model with gradients and optimiser state."""
    free, total = available_memory()
    found = f"{_size(free)} of {_size(total)} free"
    settings = settings_of(root)
    ranks = settings.training.ranks
    # Weights and gradients a rank; two moments of AdamW, split over the ranks by ZeRO. On a GPU they lie in its own memory.
    needed = int(ranks * LIBRARIES_BYTES + _weights_bytes(root, settings) * (2 * ranks + 2))
    if free < needed:
        return warning(
            f"{found}; training may take {_size(needed)} ({ranks} ranks)", "end what else uses memory, or lower training.ranks to what fits"
        )
    return ok(found)


def disk(root: Path) -> Finding:
    """There is room, and the right to write, where DVC keeps versions, stages keep checkpoints, and libraries keep temporary files."""
    try:
        settings = settings_of(root)
        weights, checkpoints = _weights_bytes(root, settings), settings.training.keep_checkpoints + 1
    except NotChecked:
        weights, checkpoints = 0, 0
    made = last_outs_bytes(root)
    needs = {
        dvc_cache(root): max(
            4 * weights, made
        ),  # reward model and policy, of this run and of the one before; or all that the last run made
        root / "artifacts": made,
        root / ".mmalign": checkpoints * 4 * weights,  # weights, two moments, and fp32 copies of the weights
        Path(tempfile.gettempdir()): 0,
    }
    places: dict[int, _Place] = {}
    for path, needed in needs.items():
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        if not os.access(existing, os.W_OK):
            return problem(f"{existing} can't be written", f"give this user the right to write there: chown -R $USER {existing}")
        place = places.setdefault(existing.stat().st_dev, _Place(free_bytes(existing)))
        place.names.append(str(path.relative_to(root)) if path.is_relative_to(root) else str(path))
        place.needed += needed
    found = "; ".join(f"{_size(place.free)} free for {', '.join(place.names)}" for place in places.values())
    cure = "make room (.mmalign/scratch may be emptied between runs), or move DVC's versions to a larger disk with: dvc cache dir PATH"
    for place in places.values():
        needed = FREE_BYTES + place.needed
        if place.free < needed:
            return problem(f"{found}; a run may take {_size(needed)}", cure)
    if any(place.free < 3 * (FREE_BYTES + place.needed) for place in places.values()):
        return warning(f"{found}; that is soon full", cure)
    return ok(found)


def shared_memory(root: Path) -> Finding:
    """There is room for the buffers through which ranks on a CPU exchange gradients."""
    if not SHARED_MEMORY.is_dir():
        return ok(f"no {SHARED_MEMORY} on this system")
    free = free_bytes(SHARED_MEMORY)
    ranks = settings_of(root).training.ranks
    needed = ranks * SHARED_BYTES_A_RANK
    found = f"{_size(free)} free in {SHARED_MEMORY}"
    if free < needed:
        return problem(
            f"{found}; {ranks} ranks map {_size(needed)} there and die without it",
            "start the container with --shm-size=1g (Docker's default is 64 MB), or mount a larger tmpfs there",
        )
    return ok(found)


@dataclass
class _Place:
    """A file system: its free bytes, what is kept there, and what a run may add."""

    free: int
    names: list[str] = field(default_factory=list)
    needed: int = 0


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write at `path`."""
    return shutil.disk_usage(path).free


def dvc_cache(root: Path) -> Path:
    """Where DVC keeps versions: in the checkout, or where its settings say."""
    if not (root / ".dvc").is_dir():
        return root / ".dvc" / "cache"
    with open_repository(root) as repository:
        return Path(repository.cache.local_cache_dir)


def last_outs_bytes(root: Path) -> int:
    """What the stages' outs of the last run take, by dvc.lock."""
    stages: dict[str, Any] = read_yaml(root / "dvc.lock").get("stages") or {}
    return sum(int(out.get("size", 0)) for stage in stages.values() for out in stage.get("outs", []))


def _weights_bytes(root: Path, settings: Settings) -> int:
    """The base model's size in fp32, taking its files for what they hold in memory."""
    return sum(path.stat().st_size for path in (root / settings.model.base).glob("*.safetensors"))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
