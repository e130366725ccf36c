"""Follows a training's starts, steps and saves by the files in its scratch folder."""

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
POLL_SECONDS = 0.02  # a step takes some tenths of a second


@dataclass
class Followed(Attempt):
    """An attempt with the times (of time.monotonic) of its observed steps."""

    steps_at: list[float] = field(default_factory=list)


class Watch:
    """Polls the scratch folders of one stage in its own thread, from `start` to `stop`."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.attempts: list[Followed] = []
        self._plan: tuple[str, int, int] | None = None
        self._last = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def start(self) -> Watch:
        """Start polling."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop polling."""
        self._stopped.set()
        self._thread.join()

    @property
    def step(self) -> int:
        """The last step of the present attempt; 0 before the first."""
        return self.attempts[-1].last_step if self.attempts else 0

    def unfinished(self) -> Path | None:
        """The checkpoint that a rank is writing now, or None."""
        folders = [path for path in self.scratch.glob(f"*/{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
        # A rank is removing any older checkpoint without a mark.
        newest = max(folders, key=lambda path: int(path.name.removeprefix(PREFIX)), default=None)
        return None if newest is None or (newest / COMMITTED).exists() else newest

    def stepped_since(self, moment: float, *, attempts: int) -> float | None:
        """The time of the first step after `moment`, counting only attempts from number `attempts` on; None if there is none."""
        return next((at for attempt in self.attempts[attempts:] for at in attempt.steps_at if at > moment), None)

    def _follow(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self.poll()

    def poll(self) -> None:
        """Read the changes once. A restart or the run's end may remove files meanwhile, which is no error."""
        try:
            self._read_start()
            self._read_steps()
        except (OSError, ValueError):
            pass

    def _read_start(self) -> None:
        for plan in self.scratch.glob(f"*/{PLAN}"):
            status = plan.stat()
            plan_state = (str(plan), status.st_mtime_ns, status.st_ino)
            if plan_state != self._plan:
                resumed_from = int(json.loads(plan.read_text(encoding="utf-8"))["resumed_from"])
                self._plan = plan_state
                self._last = resumed_from
                self.attempts.append(Followed(resumed_from, resumed_from))

    def _read_steps(self) -> None:
        if not self.attempts:
            return
        for curves in self.scratch.glob(f"*/{CURVES}"):
            text = curves.read_text(encoding="utf-8")
            lines = text[: text.rfind("\n") + 1].splitlines()
            step = int(json.loads(lines[-1])["step"]) if lines else 0
            attempt = self.attempts[-1]
            # A start removes the lines of the steps that it repeats before it writes its plan.
            if step > self._last:
                attempt.last_step = max(attempt.last_step, step)
                attempt.steps_at.append(time.monotonic())
            self._last = step


def wait_until(check: Callable[[], T | None], seconds: float, every: float, what: str) -> T:
    """Poll `check` until it returns a true value, and return it. Raises TimeoutError, which names `what`, after `seconds`."""
    until = time.monotonic() + seconds
    while not (it := check()):
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(every)
    return it
