"""Checks of the machine: cores, memory, folders to write to, and the shared memory of ranks."""

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

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the check is about this folder
# DeepSpeed's op maps two buffers of 1 MiB and two of 32 MiB there for each rank. With less, a rank dies of SIGBUS without a message.
SHARED_BYTES_A_RANK = 2 * (1 + 32) * 2**20
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
            return problem(f"this user can't write to {existing}", f"chown -R $USER {existing}")
    free = free_bytes(temporary)
    if free < TEMPORARY_BYTES:
        return problem(f"{size(free)} free for temporary files in {temporary}", "free some space there, or set TMPDIR to another folder")
    return ok(f"this user may write where a run does; {size(free)} free for temporary files in {temporary}")


def shared_memory(checkout: Checkout) -> Finding:
    """Shared memory has room for the buffers through which ranks on a CPU exchange gradients."""
    if not SHARED_MEMORY.is_dir():
        return ok(f"no {SHARED_MEMORY} on this system")
    free = free_bytes(SHARED_MEMORY)
    ranks = settings_of(checkout).training.ranks
    needed = ranks * SHARED_BYTES_A_RANK
    usage = f"{size(free)} free in {SHARED_MEMORY}"
    if free < needed:
        return problem(
            f"{usage}; {ranks} ranks map {size(needed)} there and die without it",
            "start the container with --shm-size=1g (Docker's default is 64 MB), or mount a larger tmpfs there",
        )
    return ok(usage)


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the file system of `path`."""
    return shutil.disk_usage(path).free


def _weights_bytes(checkout: Checkout, settings: Settings) -> int:
    """The base model's bytes in memory, by the size of its files."""
    return sum(path.stat().st_size for path in (checkout.root / settings.model.base).glob("*.safetensors"))
