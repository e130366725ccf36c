"""When a checkpoint is begun, and when it counts: once every rank has written its files, which training does not wait for."""

from __future__ import annotations

import copy
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.engine import checkpoints
from components.engine.checkpoint_files import CheckpointFiles
from components.engine.checkpoints import PREFIX
from components.processes import heartbeat

if TYPE_CHECKING:
    from components.config.training import TrainingSettings
    from components.engine.backends import Backend
    from components.engine.curves import CurveFile
    from components.engine.task import EpochContext


@dataclass(frozen=True)
class _Begun:
    """A checkpoint of the first `steps` steps, whose files are being written."""

    folder: Path
    steps: int
    extra: dict[str, Any]


class Checkpointer:
    """The checkpoints of a training in `context.scratch`. All ranks call every method equally often."""

    def __init__(self, training: TrainingSettings, context: EpochContext, backend: Backend) -> None:
        self._training, self._context, self._backend = training, context, backend
        self._files = CheckpointFiles()
        self._begun: _Begun | None = None
        self._last = time.monotonic()

    def signals(self, steps: int) -> list[float]:
        """What the ranks add up before they take the last of the first `steps` steps: [is one due, ranks that still write the one before].

        Whether one is due by time is what rank 0's clock says.
        """
        training = self._training
        if training.checkpoint_steps is not None:
            due = steps % training.checkpoint_steps == 0
        else:
            due = time.monotonic() - self._last >= (training.checkpoint_seconds or 0)
        return [float(due and self._context.rank == 0), float(self._files.unfinished)]

    def after_step(self, steps: int, signals: list[float], curves: CurveFile | None, *, last: bool) -> None:
        """Commit a checkpoint that all ranks have written, and begin one that is due. `curves` is rank 0's.

        One that is due while the one before is still being written waits for it. Behind the last step both are done before this returns.
        """
        due, unfinished = signals
        if self._begun and (not unfinished or due or last):
            self._commit(curves)
        if due or last:
            self._begin(steps, curves)
        if last and self._begun:
            self._commit(curves)

    def _begin(self, steps: int, curves: CurveFile | None) -> None:
        """Hand the state of training to `_files`. Where nothing is left to write behind training, the checkpoint is committed at once."""
        folder = self._context.scratch / f"{PREFIX}{steps}"
        heartbeat.enter(folder.name)
        if self._context.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._context.barrier()
        self._files.begin(folder)
        with heartbeat.work(f"writing {folder.name}"):
            self._backend.save(folder, self._files)
        self._begun, self._last = _Begun(folder, steps, copy.deepcopy(self._context.extra)), time.monotonic()
        if not any(self._context.gather(self._files.unfinished)):
            self._commit(curves)

    def _commit(self, curves: CurveFile | None) -> None:
        """Write the mark, when every rank has written its files."""
        assert self._begun
        begun, self._begun = self._begun, None
        heartbeat.enter(f"the mark of {begun.folder.name}")
        with heartbeat.work(f"writing {begun.folder.name}"):
            own = self._files.take()
        written = {name: file for files in self._context.gather(own) for name, file in files.items()}
        if curves:
            with heartbeat.work(f"committing {begun.folder.name}"):
                curves.sync()
                checkpoints.commit(begun.folder, begun.steps, self._context.world, begun.extra, written)
                checkpoints.rotate(self._context.scratch, self._training.keep_checkpoints)
