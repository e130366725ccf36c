"""A look from outside at the processes of stages of a small checkout: /proc alone, and nothing that the code under test has recorded."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

INTERVAL_SECONDS = 0.05


@dataclass
class Seen:
    """A stage's process, from its first to its last sample, in seconds since the epoch."""

    stage: str
    began: float
    ended: float


class StageSampler:
    """Samples /proc within a `with` block, for stages that work in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._by_pid: dict[str, Seen] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def seen(self) -> list[Seen]:
        """The processes, in order of their start."""
        return sorted(self._by_pid.values(), key=lambda seen: seen.began)

    def _sample(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            now = time.time()
            for process in Path("/proc").glob("[0-9]*"):
                stage = self._stage_of(process)
                if stage is not None:
                    self._by_pid.setdefault(process.name, Seen(stage, now, now)).ended = now

    def _stage_of(self, process: Path) -> str | None:
        """The stage that a process runs in the folder; None for other processes and for zombies, which have no words."""
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[1:2] != [b"stage.py"] or (process / "cwd").readlink() != self._folder:
                return None
        except OSError:
            return None
        return words[2].decode()
