"""A recorder that remembers the artifacts that a stage hands to it."""

from __future__ import annotations

from pathlib import Path

from components.engine.recorder import NullRecorder


class Recording(NullRecorder):
    """Collects artifacts in order."""

    def __init__(self) -> None:
        self.artifacts: list[Path] = []

    def artifact(self, path: Path, folder: str | None = None) -> None:
        assert folder is None
        self.artifacts.append(path)
