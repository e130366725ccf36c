"""Checks of the machine: cores, memory, disk, and the shared memory of ranks."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.checkout import IN_CHECKOUT, Checkout
from components.config.settings import Settings
from components.operations.doctor.findings import Finding, NotChecked, ok, problem, settings_of, warning
from components.processes.host import available_cores, available_memory
from components.storage.repository import open_repository
from components.tracking.provenance import read_yaml

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the check is about this folder
# DeepSpeed's op maps two buffers of 1 MiB and two of 32 MiB there for each rank. With less, a rank dies of SIGBUS without a message.
SHARED_BYTES_A_RANK = 2 * (1 + 32) * 2**20
LIBRARIES_BYTES = 1_000_000_000  # resident in a rank once torch, transformers and DeepSpeed are imported
FREE_BYTES = 1_000_000_000  # least free space on every file system that a run writes to


def cores(checkout: Checkout) -> Finding:
    """The machine has a core for every thread of training."""
    number, why = available_cores()
    training = settings_of(checkout).training
    wanted = training.ranks * training.threads
    usage = f"{number:g} core{'s' if number != 1 else ''}{why}; training starts {training.ranks} ranks of {training.threads}"
    if number < wanted:
        return warning(f"{usage}: they share cores and take longer", "lower training.ranks or training.threads to the number of cores")
    return ok(usage)


def memory(checkout: Checkout) -> Finding:
    """Free memory holds the ranks' libraries and the base model with gradients and optimizer state."""
    free, total = available_memory()
    usage = f"{_size(free)} of {_size(total)} free"
    settings = settings_of(checkout)
    ranks = settings.training.ranks
    # Weights and gradients a rank; two moments of AdamW, split over the ranks by ZeRO. On a GPU they lie in its own memory.
    needed = int(ranks * LIBRARIES_BYTES + _weights_bytes(checkout, settings) * (2 * ranks + 2))
    if free < needed:
        return warning(
            f"{usage}; training may take {_size(needed)} ({ranks} ranks)", "end other programs, or lower training.ranks until it fits"
        )
    return ok(usage)


def disk(checkout: Checkout) -> Finding:
    """DVC's cache, checkpoints and temporary files have room, and this user may write there."""
    try:
        settings = settings_of(checkout)
        weights, checkpoints = _weights_bytes(checkout, settings), settings.training.keep_checkpoints + 1
    except NotChecked:
        weights, checkpoints = 0, 0
    made = last_outs_bytes(checkout)
    needs = {
        # Reward model and policy, of this run and of the last one; or all outs of the last run.
        dvc_cache(checkout): max(4 * weights, made),
        checkout.artifacts: made,
        checkout.state: checkpoints * 4 * weights,  # weights, two moments, and fp32 copies of the weights
        Path(tempfile.gettempdir()): 0,
    }
    file_systems: dict[int, _FileSystem] = {}
    for path, needed in needs.items():
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        if not os.access(existing, os.W_OK):
            return problem(f"this user can't write to {existing}", f"chown -R $USER {existing}")
        volume = file_systems.setdefault(existing.stat().st_dev, _FileSystem(free_bytes(existing)))
        volume.names.append(str(path.relative_to(checkout.root)) if path.is_relative_to(checkout.root) else str(path))
        volume.needed += needed
    usage = "; ".join(f"{_size(volume.free)} free for {', '.join(volume.names)}" for volume in file_systems.values())
    cure = (
        f"free some space ({IN_CHECKOUT.scratch()} may be emptied between runs), or move DVC's cache to a larger disk: dvc cache dir PATH"
    )
    for volume in file_systems.values():
        needed = FREE_BYTES + volume.needed
        if volume.free < needed:
            return problem(f"{usage}; a run may take {_size(needed)}", cure)
    if any(volume.free < 3 * (FREE_BYTES + volume.needed) for volume in file_systems.values()):
        return warning(f"{usage}; a few more runs fill it", cure)
    return ok(usage)


def shared_memory(checkout: Checkout) -> Finding:
    """Shared memory has room for the buffers through which ranks on a CPU exchange gradients."""
    if not SHARED_MEMORY.is_dir():
        return ok(f"no {SHARED_MEMORY} on this system")
    free = free_bytes(SHARED_MEMORY)
    ranks = settings_of(checkout).training.ranks
    needed = ranks * SHARED_BYTES_A_RANK
    usage = f"{_size(free)} free in {SHARED_MEMORY}"
    if free < needed:
        return problem(
            f"{usage}; {ranks} ranks map {_size(needed)} there and die without it",
            "start the container with --shm-size=1g (Docker's default is 64 MB), or mount a larger tmpfs there",
        )
    return ok(usage)


@dataclass
class _FileSystem:
    """A file system: its free bytes, the folders on it, and the bytes that a run may add."""

    free: int
    names: list[str] = field(default_factory=list)
    needed: int = 0


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the file system of `path`."""
    return shutil.disk_usage(path).free


def dvc_cache(checkout: Checkout) -> Path:
    """The folder of DVC's cache: in the checkout, or the one that DVC's settings name."""
    if not checkout.dvc.is_dir():
        return checkout.dvc / "cache"
    with open_repository(checkout) as repository:
        return Path(repository.cache.local_cache_dir)


def last_outs_bytes(checkout: Checkout) -> int:
    """Bytes of the stages' outs of the last run, by dvc.lock."""
    stages: dict[str, Any] = read_yaml(checkout.lock).get("stages") or {}
    return sum(int(out.get("size", 0)) for stage in stages.values() for out in stage.get("outs", []))


def _weights_bytes(checkout: Checkout, settings: Settings) -> int:
    """The base model's bytes in memory, by the size of its files."""
    return sum(path.stat().st_size for path in (checkout.root / settings.model.base).glob("*.safetensors"))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
