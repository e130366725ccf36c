"""Devices that a plan is compared with: the one that is visible, or one that is named."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from components.config.settings import Settings
from components.errors import UserError
from components.rehearsal.memory import Device

# Memory that a process can use: what the maker prints, in units of 2**30, less what the driver keeps.
KNOWN_DEVICES = {
    "rtx-4090": 24,
    "l4": 24,
    "a10": 24,
    "rtx-5090": 32,
    "a100-40gb": 40,
    "l40s": 48,
    "a6000": 48,
    "a100-80gb": 80,
    "h100": 80,
    "h800": 80,
    "h200": 141,
    "b200": 180,
    "mi300x": 192,
}
DRIVER_SHARE = 0.02


@dataclass(frozen=True)
class Machine:
    """A device with its memory in bytes. `seen` says whether it is the one in this machine."""

    name: str
    kind: Device
    memory: int
    seen: bool


def known(name: str) -> Machine:
    """A device by name. Raises UserError with the names that there are."""
    gigabytes = KNOWN_DEVICES.get(name.lower())
    if gigabytes is None:
        raise UserError(f"--device {name}: no such device is known; they are cpu, {', '.join(KNOWN_DEVICES)}")
    return Machine(name.lower(), "gpu", int(gigabytes * 2**30 * (1 - DRIVER_SHARE)), seen=False)


def gpu() -> Machine | None:
    """The first GPU that nvidia-smi lists, or None."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    if not found:
        return None
    name, _, megabytes = found[0].rpartition(",")
    return Machine(name.strip(), "gpu", int(float(megabytes) * 2**20 * (1 - DRIVER_SHARE)), seen=True)


def processor() -> Machine:
    """This machine's processor, with the memory that is free."""
    from components.processes.host import available_memory

    free, _ = available_memory()
    return Machine(f"cpu, {os.cpu_count()} cores", "cpu", free, seen=True)


def planned_machine(settings: Settings, name: str | None) -> Machine | None:
    """The device that a plan is for: the named one, the visible GPU, or the processor. None where settings for a GPU meet none."""
    if name == "cpu":
        return processor()
    if name is not None:
        return known(name)
    found = gpu()
    if found is None and settings.model.attention == "sdpa":
        return processor()
    return found  # flex attention is compiled for a GPU: a plan with it is for another machine than one without
