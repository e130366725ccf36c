"""The GPUs of this machine, and those of them that this process may use.

A card's name is its UUID wherever the driver gives it: that means the same card in every process and container, whatever the order of the
numbers, and CUDA_VISIBLE_DEVICES takes it. Numbers that a person names there are nvidia-smi's.
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
ASK_SECONDS = 60.0  # without persistence mode the driver wakes every card before it answers


def machine_cards() -> list[str]:
    """The names of all cards that this machine (or container) has, in the order of their numbers. Empty without a driver."""
    return _asked() or _listed() or [str(number) for number, _ in enumerate(sorted(DEVICES.glob("nvidia[0-9]*")))]


def visible_cards() -> list[str]:
    """The names of the cards that CUDA_VISIBLE_DEVICES leaves to this process; all of the machine's where it says nothing.

    What comes after a card that does not exist is left out, as CUDA does. On a machine without a driver its names are taken as they stand.
    """
    told = os.environ.get(VISIBLE)
    if told is None:
        return machine_cards()
    named = [name.strip() for name in told.split(",") if name.strip()]
    cards = machine_cards() if named else []
    found: list[str] = []
    for name in named:
        card = _card(name, cards)
        if card is None:
            break
        if card not in found:
            found.append(card)
    return found


def has_cards() -> bool:
    """Whether this process would find a card if it looked, as cheaply as that can be said."""
    return os.environ.get(VISIBLE) != "" and any(DEVICES.glob("nvidia[0-9]*"))


def _card(name: str, cards: list[str]) -> str | None:
    """A card by its number, its UUID or the beginning of that; None where there is none. Parts of a card (MIG) keep their own names."""
    if name.startswith("-"):
        return None
    if not cards or name.startswith("MIG-"):
        return name
    if name.isdecimal():
        return cards[int(name)] if int(name) < len(cards) else None
    matching = [card for card in cards if card.startswith(name)]
    return matching[0] if len(matching) == 1 else None


def _asked() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU-[0-9a-f-]+$", answer.stdout, re.MULTILINE)


def _listed() -> list[str]:
    """What the driver's own files say, in the order of the bus, which is that of nvidia-smi. Question marks stand there for cards asleep."""
    try:
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(DRIVER.glob("*/information"))]
    except OSError:
        return []
    found = [re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", text, re.MULTILINE) for text in texts]
    return [match[1] for match in found if match] if all(found) else []
