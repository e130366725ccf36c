"""The GPUs of this machine, and the GPUs that this process may use.

A GPU's name is its UUID where the driver reports one. The UUID means the same GPU in every process and container, and CUDA_VISIBLE_DEVICES
accepts it. Numbers in CUDA_VISIBLE_DEVICES are nvidia-smi's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/gpus")
ASK_SECONDS = 60.0  # without persistence mode the driver wakes every GPU before it answers


def machine_gpus() -> list[str]:
    """The names of all GPUs of this machine or container, in the order of their numbers. Empty without a driver."""
    return _from_nvidia_smi() or _from_driver_files() or [str(number) for number, _ in enumerate(sorted(DEVICES.glob("nvidia[0-9]*")))]


def visible_gpus() -> list[str]:
    """The names of the GPUs in CUDA_VISIBLE_DEVICES; all of the machine's where it is not set.

    As CUDA does, this drops every name after a GPU that does not exist. Without a driver it returns the names unchecked.
    """
    variable = os.environ.get(VISIBLE)
    if variable is None:
        return machine_gpus()
    names = [name.strip() for name in variable.split(",") if name.strip()]
    gpus = machine_gpus() if names else []
    visible: list[str] = []
    for name in names:
        gpu = _gpu(name, gpus)
        if gpu is None:
            break
        if gpu not in visible:
            visible.append(gpu)
    return visible


def has_gpus() -> bool:
    """Whether this process may use an NVIDIA GPU, by the device files alone: cheap, and without CUDA."""
    return os.environ.get(VISIBLE) != "" and any(DEVICES.glob("nvidia[0-9]*"))


def _gpu(name: str, gpus: list[str]) -> str | None:
    """The GPU with this number, UUID or prefix of a UUID; None without exactly one match. MIG slices keep their own names."""
    if name.startswith("-"):
        return None
    if not gpus or name.startswith("MIG-"):
        return name
    if name.isdecimal():
        return gpus[int(name)] if int(name) < len(gpus) else None
    matches = [gpu for gpu in gpus if gpu.startswith(name)]
    return matches[0] if len(matches) == 1 else None


def _from_nvidia_smi() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU-[0-9a-f-]+$", answer.stdout, re.MULTILINE)


def _from_driver_files() -> list[str]:
    """The UUIDs in the driver's files, in nvidia-smi's order, which is the bus's. A sleeping GPU has no UUID there: then none counts."""
    try:
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(DRIVER.glob("*/information"))]
    except OSError:
        return []
    matches = [re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", text, re.MULTILINE) for text in texts]
    return [match[1] for match in matches if match] if all(matches) else []
