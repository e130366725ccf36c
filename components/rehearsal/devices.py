"""The device of a plan: the visible one, or a named one."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from components.config.settings import Settings
from components.errors import UserError
from components.rehearsal.memory import Device

# The maker's memory in units of 2**30; a process can use it but for the driver's share.
DEVICES = {
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
    """A device with its memory in bytes. `seen` says whether it is in this machine."""

    name: str
    kind: Device
    memory: int
    seen: bool


def named_device(name: str) -> Machine:
    """A device by name. Raises UserError, with all names, for an unknown one."""
    gigabytes = DEVICES.get(name.lower())
    if gigabytes is None:
        raise UserError(f"--device {name}: unknown device; the devices are cpu, {', '.join(DEVICES)}")
    return Machine(name.lower(), "gpu", int(gigabytes * 2**30 * (1 - DRIVER_SHARE)), seen=False)


def gpu() -> Machine | None:
    """The first GPU that nvidia-smi lists, or None."""
    try:
        lines = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    if not lines:
        return None
    name, _, megabytes = lines[0].rpartition(",")
    return Machine(name.strip(), "gpu", int(float(megabytes) * 2**20 * (1 - DRIVER_SHARE)), seen=True)


def processor() -> Machine:
    """This machine's processor, with its free memory."""
    from components.processes.host import available_memory

    free, _ = available_memory()
    return Machine(f"cpu, {os.cpu_count()} cores", "cpu", free, seen=True)


def this_machine() -> Machine:
    """The GPU that is visible, or the processor."""
    return gpu() or processor()


def planned_machine(settings: Settings, name: str | None) -> Machine | None:
    """The device of a plan: the named one, the visible GPU, or the processor. None where the settings need a GPU and none is visible."""
    if name == "cpu":
        return processor()
    if name is not None:
        return named_device(name)
    visible = gpu()
    if visible is None and settings.model.attention == "sdpa":
        return processor()
    return visible  # flex attention is compiled for a GPU: a plan with it is for a machine that has one
