"""How fast a model is run and how much of the work is padding: tokens a second, share of padding, peak memory, MFU.

One `Meter` a process. `summarise` joins those of all ranks; a lone meter's `summary` is the same for one.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass

BYTES_PER_GB = 1e9

# Dense bf16 operations a second by part of the device's name, the longer names first (NVIDIA's data sheets).
PEAK_OPERATIONS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass
class Meter:
    """Counts what one process has run; `operations` as components/engine/operations.py counts them."""

    tokens: int = 0
    slots: int = 0
    seconds: float = 0.0
    operations: float = 0.0

    def add(self, tokens: int, slots: int, seconds: float, operations: float) -> None:
        """Count `slots` positions of the batch, `tokens` of which held a token, that took `seconds` and so many operations."""
        if not 0 <= tokens <= slots:
            raise ValueError(f"{tokens} tokens do not fit into {slots} slots")
        self.tokens += tokens
        self.slots += slots
        self.seconds += seconds
        self.operations += operations

    def summary(self) -> dict[str, float | None]:
        """Figures of this process alone: see `summarise`."""
        return summarise([self], [peak_memory_gb()])


def summarise(meters: Sequence[Meter], peaks_gb: Sequence[float]) -> dict[str, float | None]:
    """Figures of processes that ran side by side, one device each: None where nothing was measured or a peak rate is not known.

    tokens_per_second over all of them, padding_share of the slots, peak_memory_gb of the fullest process, and mfu: the model's operations
    over what the devices could do in bf16 in that time. On CPU there is no mfu: its peak depends on the machine, and is not guessed.
    """
    tokens, slots = sum(meter.tokens for meter in meters), sum(meter.slots for meter in meters)
    seconds = max(meter.seconds for meter in meters)
    peak = peak_operations()
    operations = sum(meter.operations for meter in meters)
    return {
        "tokens_per_second": tokens / seconds if tokens and seconds else None,
        "padding_share": 1 - tokens / slots if slots else None,
        "peak_memory_gb": max(peaks_gb),
        "mfu": operations / (seconds * peak * len(meters)) if tokens and seconds and peak else None,
    }


def peak_memory_gb() -> float:
    """The most memory that this process has held, in GB: allocated on the GPU, resident where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / BYTES_PER_GB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / BYTES_PER_GB


def peak_operations() -> float | None:
    """Dense bf16 operations a second of this process's GPU; None on CPU and for a GPU that is not in the table."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_OPERATIONS.items() if part in name), None)
