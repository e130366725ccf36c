"""The order of a run: which stage is looked at when, what is skipped, and when to stop. Knows nothing of Prefect.

- A stage is started when all stages that it reads from have ended. Its task judges whether it is stale, so that one whose inputs came out the
  same is skipped.
- Stages that don't depend on each other run side by side where the slots allow.
- After a failure nothing new is started; what runs already may finish, since its result counts.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from components.errors import UserError
from components.report.summary import StageRecord
from components.stages import STAGE_NAMES, StageName
from components.storage.plan import Step
from flows.slots import Slots
from flows.stages import StageOutcome

ORDER: tuple[StageName, ...] = STAGE_NAMES  # a topological order of dvc.yaml


class Future(Protocol):
    """What both concurrent.futures and Prefect hand back for work under way."""

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Call `fn` when the work has ended."""

    def result(self) -> StageOutcome:
        """What came of it; raises what it raised."""


Start = Callable[[StageName], Future]


class Pipeline:
    """Runs stages through `start` in the order of the graph; `records` says at any time what became of each.

    `steps` is the plan before the first stage, `changed` is called when a stage has ended.
    """

    def __init__(
        self,
        *,
        parents: Mapping[str, set[str]],
        steps: Mapping[str, Step],
        start: Start,
        slots: Slots,
        changed: Callable[[], None],
        cancel: threading.Event,
        only: tuple[StageName, ...] = (),
    ) -> None:
        self._parents = parents
        self._steps = steps
        self._start = start
        self._slots = slots
        self._changed = changed
        self._cancel = cancel
        self._only = only
        self.records: dict[str, StageRecord] = {name: StageRecord() for name in ORDER}
        self.failure: StageOutcome | None = None
        self.cancelled = False

    def run(self) -> None:
        """Run until nothing is left to start, something failed, or a stage was cancelled."""
        waiting = [name for name in ORDER if name in self._parents]
        running: dict[StageName, Future] = {}
        finished: queue.SimpleQueue[StageName] = queue.SimpleQueue()
        self._check_only()
        while True:
            self.cancelled = self.cancelled or self._cancel.is_set()
            if self.failure is None and not self.cancelled:
                self._start_ready(waiting, running, finished)
            if not running:
                return
            ended = finished.get()
            self._slots.give_back(ended)
            self._note(running.pop(ended).result())
            self._changed()

    def _start_ready(self, waiting: list[StageName], running: dict[StageName, Future], finished: queue.SimpleQueue[StageName]) -> None:
        for name in list(waiting):
            if any(parent in waiting or parent in running for parent in self._parents[name]):
                continue
            if not self._only or name in self._only:
                if not self._slots.take(name):
                    continue
                future = self._start(name)
                running[name] = future
                future.add_done_callback(_putting(name, finished))
            elif self._steps[name].action == "skip":
                self.records[name] = StageRecord("skipped")
            waiting.remove(name)

    def _note(self, outcome: StageOutcome) -> None:
        if outcome.end == "skipped":
            self.records[outcome.stage] = StageRecord("skipped")
        elif outcome.end == "ok":
            self.records[outcome.stage] = StageRecord("ran", outcome.seconds) if outcome.ran else StageRecord("restored")
        else:
            self.records[outcome.stage] = StageRecord("failed", outcome.seconds)
            self.cancelled = self.cancelled or outcome.end == "cancelled"
            self.failure = self.failure or outcome

    def _check_only(self) -> None:
        """With --only, a stage must not run on inputs that a stage outside it has yet to make anew."""
        steps = self._steps
        for name in self._only:
            stale = [
                parent for parent in ORDER if parent in self._parents[name] and parent not in self._only and steps[parent].action != "skip"
            ]
            if stale and steps[name].action != "skip":
                raise UserError(
                    f"--only {name}: {name} reads what {stale[0]} makes, which is stale ({steps[stale[0]].reason}); add {stale[0]} to --only"
                )


def _putting(name: StageName, finished: queue.SimpleQueue[StageName]) -> Callable[[Any], None]:
    """A callback that notes that `name` has ended."""

    def put(_: Any) -> None:
        finished.put(name)

    return put
