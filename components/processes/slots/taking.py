"""The slots that a stage takes before it works, and how it waits for them.

A stage takes `stages.NAME.gpus` GPUs, and sees no other GPU. A stage that trains without GPUs takes the CPU's one slot. The other stages take
no slot. Only one process at a time, the gathering one, may keep some GPUs while it waits for more. So two stages that each want several GPUs
cannot deadlock, and stages that want one GPU cannot starve a stage that wants many.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.processes.marks import STAGE_MARK
from components.processes.slots.gpus import VISIBLE, has_gpus, machine_gpus, visible_gpus
from components.processes.slots.locks import Holder, Slot, slot_holder, slot_names, try_slot
from components.stages import StageName

CPU = "cpu"
GATHERING = "gathering"
TRAINING: frozenset[StageName] = frozenset({"reward", "align"})
POLL_SECONDS = 1.0
LOG_SECONDS = 300.0


@dataclass(frozen=True)
class Need:
    """The number of slots of one kind that a stage takes."""

    kind: Literal["gpu", "cpu"]
    count: int


def need_of(stage: StageName, settings: Settings) -> Need | None:
    """The slots that `stage` takes; None for a stage that takes none."""
    gpus = settings.stages[stage].gpus
    if gpus:
        return Need("gpu", gpus)
    return Need("cpu", 1) if stage in TRAINING else None


def too_many(stage: StageName, wanted: int, available: int) -> UserError:
    """The error of a stage that asks for more GPUs than are available."""
    return UserError(f"stages.{stage}.gpus is {wanted}, but there are {available} GPUs: lower it, or use another machine")


@contextmanager
def slots_taken(stage: StageName, settings: Settings, checkout: Checkout, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the slots of `stage`, and make exactly its GPUs visible to this process and its children. Waits without a limit.

    Call it before anything touches CUDA. Raises UserError where the machine has fewer GPUs than the stage asks for.
    """
    need = need_of(stage, settings)
    candidates = [CPU] if need is None or need.kind == "cpu" else visible_gpus()
    if need is not None and need.count > len(candidates):
        raise too_many(stage, need.count, len(candidates))
    if (need is None or need.kind == "cpu") and has_gpus():
        log(f"{stage} computes on the CPU: stages.{stage}.gpus is 0, so it leaves this machine's GPUs to others")
    names = {slot_name(gpu): gpu for gpu in candidates} if need is not None and need.kind == "gpu" else {CPU: ""}
    slots = [] if need is None else _take(stage, list(names), need.count, checkout, log)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(names[slot.name] for slot in slots)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
        for slot in slots:
            slot.release()


def slot_name(gpu: str) -> str:
    """The slot of a GPU: `gpu-<uuid>`, or `gpu-<number>` where the driver reports no UUID."""
    return f"gpu-{gpu.removeprefix('GPU-')}"


def machine_slots() -> dict[str, Holder | None]:
    """Every slot of this machine with its holder: one a GPU, the CPU's, and locked slots of GPUs that this process can't see."""
    holders = {name: slot_holder(name) for name in [*(slot_name(gpu) for gpu in machine_gpus() or visible_gpus()), CPU]}
    return holders | locked_slots()


def locked_slots() -> dict[str, Holder]:
    """The slots of this machine that a process holds."""
    holders = {name: slot_holder(name) for name in slot_names() if name != GATHERING}
    return {name: holder for name, holder in holders.items() if holder is not None}


def is_waiting(checkout: Checkout, stage: str, mark: str) -> bool:
    """Whether the attempt at `stage` with this mark still waits for its slots."""
    try:
        return _waiting_file(checkout, stage).read_text(encoding="utf-8") == mark
    except FileNotFoundError:
        return False


def _waiting_file(checkout: Checkout, stage: str) -> Path:
    return checkout.attempts / f"{stage}.waiting"


def _take(stage: StageName, names: list[str], count: int, checkout: Checkout, log: Callable[[str], None]) -> list[Slot]:
    holder = Holder.here(checkout, stage)
    slots: list[Slot] = []
    gathering: Slot | None = None
    waiting = _waiting_file(checkout, stage)
    logged = -LOG_SECONDS
    try:
        while True:
            slots += _free([name for name in names if name not in {slot.name for slot in slots}], count - len(slots), holder)
            if len(slots) == count:
                return slots
            if count > 1 and gathering is None:
                gathering = try_slot(GATHERING, holder)
            if gathering is None:
                _release(slots)
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                log(_sentence(stage, names, count, {slot.name for slot in slots}))
                waiting.parent.mkdir(parents=True, exist_ok=True)
                waiting.write_text(os.environ.get(STAGE_MARK, ""), encoding="utf-8")
            time.sleep(POLL_SECONDS)
    except BaseException:
        _release(slots)
        raise
    finally:
        waiting.unlink(missing_ok=True)
        if gathering is not None:
            gathering.release()


def _free(names: list[str], count: int, holder: Holder) -> list[Slot]:
    """Take the free slots of `names`, at most `count`."""
    taken: list[Slot] = []
    for name in names:
        if len(taken) == count:
            break
        slot = try_slot(name, holder)
        if slot is not None:
            taken.append(slot)
    return taken


def _release(slots: list[Slot]) -> None:
    while slots:
        slots.pop().release()


def _sentence(stage: StageName, names: list[str], count: int, own: set[str]) -> str:
    holders = {name: slot_holder(name) for name in names if name not in own}
    by = "; ".join(f"{name} is held by {holder}" for name, holder in holders.items() if holder is not None)
    what = "the CPU's slot" if names == [CPU] else f"{count} of this machine's {len(names)} GPUs"
    return f"{stage} waits for {what}: {by or 'the holder is just ending'}"
