"""What a stage takes of the machine before it works, and how it waits for that.

A stage takes as many cards as `stages.NAME.gpus` asks for, and sees no other. A stage that trains without cards takes the one slot of the
CPU. The rest take nothing. Nobody waits while holding some cards but one process at a time, the one that gathers: so two stages that want
several each can't wait for each other for ever, and one that wants many is not passed over by those that want few.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.config.settings import Settings
from components.errors import UserError
from components.processes.marks import STAGE_MARK
from components.processes.slots.cards import VISIBLE, has_cards, machine_cards, visible_cards
from components.processes.slots.locks import Holder, Slot, slot_holder, slot_names, try_slot
from components.stages import StageName

CPU = "cpu"
GATHERING = "gathering"
TRAINING: frozenset[StageName] = frozenset({"reward", "align"})
POLL_SECONDS = 1.0
SAY_SECONDS = 300.0


@dataclass(frozen=True)
class Need:
    """What a stage takes of a machine: so many slots of a kind."""

    kind: Literal["gpu", "cpu"]
    count: int


def need_of(stage: StageName, settings: Settings) -> Need | None:
    """What `stage` takes; None for a stage that takes nothing."""
    gpus = settings.stages[stage].gpus
    if gpus:
        return Need("gpu", gpus)
    return Need("cpu", 1) if stage in TRAINING else None


def too_many(stage: StageName, wanted: int, there: int) -> UserError:
    """The mistake of a stage that asks for more cards than there are."""
    return UserError(f"stages.{stage}.gpus is {wanted}, but there are {there} GPUs: lower it, or use another machine")


@contextmanager
def slots_taken(stage: StageName, settings: Settings, root: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold what `stage` takes, and show this process and what it starts exactly its cards; waits for them as long as it takes.

    For before CUDA is first touched. Raises UserError where the machine has fewer cards than asked for.
    """
    need = need_of(stage, settings)
    candidates = [CPU] if need is None or need.kind == "cpu" else visible_cards()
    if need is not None and need.count > len(candidates):
        raise too_many(stage, need.count, len(candidates))
    if (need is None or need.kind == "cpu") and has_cards():
        say(f"{stage} computes on the CPU: stages.{stage}.gpus is 0, so this machine's GPUs are left to others")
    names = {slot_name(card): card for card in candidates} if need is not None and need.kind == "gpu" else {CPU: ""}
    held = [] if need is None else _take(stage, list(names), need.count, root, say)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(names[slot.name] for slot in held)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
        for slot in held:
            slot.release()


def slot_name(card: str) -> str:
    """The slot of a card: `gpu-<uuid>`, or `gpu-<number>` where the driver gives no UUID."""
    return f"gpu-{card.removeprefix('GPU-')}"


def machine_slots() -> dict[str, Holder | None]:
    """Every slot of this machine and who holds it: one a card, and the CPU's; held ones too of cards that this process can't see."""
    found = {name: slot_holder(name) for name in [*(slot_name(card) for card in machine_cards() or visible_cards()), CPU]}
    return found | held_slots()


def held_slots() -> dict[str, Holder]:
    """The slots of this machine that somebody holds."""
    found = {name: slot_holder(name) for name in slot_names() if name != GATHERING}
    return {name: holder for name, holder in found.items() if holder is not None}


def is_waiting(root: Path, stage: str, mark: str) -> bool:
    """Whether the attempt at `stage` that carries `mark` still waits for its slots."""
    try:
        return _waiting_file(root, stage).read_text(encoding="utf-8") == mark
    except FileNotFoundError:
        return False


def _waiting_file(root: Path, stage: str) -> Path:
    return root / ".mmalign" / "attempts" / f"{stage}.waiting"


def _take(stage: StageName, names: list[str], count: int, root: Path, say: Callable[[str], None]) -> list[Slot]:
    holder = Holder.here(root, stage)
    held: list[Slot] = []
    gathering: Slot | None = None
    waiting = _waiting_file(root, stage)
    said = -SAY_SECONDS
    try:
        while True:
            held += _free([name for name in names if name not in {slot.name for slot in held}], count - len(held), holder)
            if len(held) == count:
                return held
            if count > 1 and gathering is None:
                gathering = try_slot(GATHERING, holder)
            if gathering is None:
                _release(held)
            if time.monotonic() - said >= SAY_SECONDS:
                said = time.monotonic()
                say(_sentence(stage, names, count, {slot.name for slot in held}))
                waiting.parent.mkdir(parents=True, exist_ok=True)
                waiting.write_text(os.environ.get(STAGE_MARK, ""), encoding="utf-8")
            time.sleep(POLL_SECONDS)
    except BaseException:
        _release(held)
        raise
    finally:
        waiting.unlink(missing_ok=True)
        if gathering is not None:
            gathering.release()


def _free(names: list[str], count: int, holder: Holder) -> list[Slot]:
    """As many free slots of `names` as there are, `count` at most."""
    taken: list[Slot] = []
    for name in names:
        if len(taken) == count:
            break
        slot = try_slot(name, holder)
        if slot is not None:
            taken.append(slot)
    return taken


def _release(held: list[Slot]) -> None:
    while held:
        held.pop().release()


def _sentence(stage: StageName, names: list[str], count: int, held: set[str]) -> str:
    holders = {name: slot_holder(name) for name in names if name not in held}
    by = "; ".join(f"{name} is held by {holder}" for name, holder in holders.items() if holder is not None)
    what = "the CPU's slot" if names == [CPU] else f"{count} of this machine's {len(names)} GPUs"
    return f"{stage} waits for {what}: {by or 'what held it is just ending'}"
