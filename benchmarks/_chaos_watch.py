"""Follows a training from outside, by the files of its scratch folder: its starts, its steps and its saves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks._chaos_counts import Attempt
from components.engine.checkpoints import COMMITTED, PREFIX
from components.engine.curves import CURVES, PLAN

T = TypeVar("T")
LOOK_SECONDS = 0.02  # a step takes some tenths of a second


@dataclass
class Followed(Attempt):
    """An attempt with the times (of time.monotonic) at which it was seen to do steps."""

    steps_at: list[float] = field(default_factory=list)


class Watch:
    """Looks at the scratch folders of one stage from a thread of its own, between `start` and `stop`."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.attempts: list[Followed] = []
        self._plan: tuple[str, int, int] | None = None
        self._last = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def start(self) -> Watch:
        """Begin to look."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    @property
    def step(self) -> int:
        """The last step that the present attempt did; 0 before the first."""
        return self.attempts[-1].last_step if self.attempts else 0

    def unfinished(self) -> Path | None:
        """The checkpoint that is being written; None where none is."""
        folders = [path for path in self.scratch.glob(f"*/{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
        # An older one without its mark is being removed.
        newest = max(folders, key=lambda path: int(path.name.removeprefix(PREFIX)), default=None)
        return None if newest is None or (newest / COMMITTED).exists() else newest

    def stepped_since(self, moment: float, *, attempts: int) -> float | None:
        """When a step was first done after `moment`, counting only attempts from number `attempts` on; None where none was."""
        return next((at for attempt in self.attempts[attempts:] for at in attempt.steps_at if at > moment), None)

    def _follow(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Take in what has changed. Files that a restart or the run's end takes away meanwhile are no error."""
        try:
            self._look_for_start()
            self._look_for_steps()
        except (OSError, ValueError):
            pass

    def _look_for_start(self) -> None:
        for plan in self.scratch.glob(f"*/{PLAN}"):
            status = plan.stat()
            found = (str(plan), status.st_mtime_ns, status.st_ino)
            if found != self._plan:
                resumed_from = int(json.loads(plan.read_text(encoding="utf-8"))["resumed_from"])
                self._plan = found
                self._last = resumed_from
                self.attempts.append(Followed(resumed_from, resumed_from))

    def _look_for_steps(self) -> None:
        if not self.attempts:
            return
        for curves in self.scratch.glob(f"*/{CURVES}"):
            text = curves.read_text(encoding="utf-8")
            lines = text[: text.rfind("\n") + 1].splitlines()
            step = int(json.loads(lines[-1])["step"]) if lines else 0
            attempt = self.attempts[-1]
            # A start takes away the lines of steps that it does again before it says that it has begun.
            if step > self._last:
                attempt.last_step = max(attempt.last_step, step)
                attempt.steps_at.append(time.monotonic())
            self._last = step


def wait_until(found: Callable[[], T | None], seconds: float, every: float, what: str) -> T:
    """Wait until `found` finds something, and give that. Raises TimeoutError, with `what` was waited for, after `seconds`."""
    until = time.monotonic() + seconds
    while not (it := found()):
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(every)
    return it
