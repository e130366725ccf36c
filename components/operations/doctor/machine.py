"""Checks of the machine: cores, memory, and folders to write to."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from components.checkout import Checkout
from components.config.settings import Settings
from components.operations.doctor.findings import Finding, ok, problem, settings_of, warning
from components.processes.host import available_cores, available_memory
from components.rehearsal.sizes import size
from components.storage.space import dvc_cache, existing_folder

LIBRARIES_BYTES = 1_000_000_000  # resident in a rank once torch, transformers and DeepSpeed are imported
TEMPORARY_BYTES = 1_000_000_000  # of packages and uploads, at most a few files at a time


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
    usage = f"{size(free)} of {size(total)} free"
    settings = settings_of(checkout)
    ranks = settings.training.ranks
    # Weights and gradients a rank; two moments of AdamW, split over the ranks by ZeRO. On a GPU they lie in its own memory.
    needed = int(ranks * LIBRARIES_BYTES + _weights_bytes(checkout, settings) * (2 * ranks + 2))
    if free < needed:
        return warning(
            f"{usage}; training may take {size(needed)} ({ranks} ranks)", "end other programs, or lower training.ranks until it fits"
        )
    return ok(usage)


def writable(checkout: Checkout) -> Finding:
    """This user may write to DVC's cache, the stages' outputs, the state and temporary files, and temporary files have room."""
    temporary = Path(tempfile.gettempdir())
    for path in (dvc_cache(checkout).folder, checkout.artifacts, checkout.state, temporary):
        existing = existing_folder(path)
        if not os.access(existing, os.W_OK):
            if os.statvfs(existing).f_flag & os.ST_RDONLY:
                return problem(
                    f"{existing} lies on a file system without the right to write", "mount it with that right, or work in another clone"
                )
            return problem(f"this user can't write to {existing}", f"chown -R $USER {existing}, or work in a clone of your own")
    free = free_bytes(temporary)
    if free < TEMPORARY_BYTES:
        return problem(f"{size(free)} free for temporary files in {temporary}", "free some space there, or set TMPDIR to another folder")
    return ok(f"this user may write where a run does; {size(free)} free for temporary files in {temporary}")


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the file system of `path`."""
    return shutil.disk_usage(path).free


def _weights_bytes(checkout: Checkout, settings: Settings) -> int:
    """The base model's bytes in memory, by the size of its files."""
    return sum(path.stat().st_size for path in (checkout.root / settings.model.base).glob("*.safetensors"))
