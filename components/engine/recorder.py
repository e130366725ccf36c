"""Where a stage records what it does while it runs. `components.tracking` writes it to MLflow; the engine knows this protocol alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

Point = tuple[str, float, int]  # name, value, step


class Recorder(Protocol):
    """One run's record. No method raises where the store is away: a lost record stops no stage."""

    def params(self, values: Mapping[str, str]) -> None:
        """Set parameters."""
        ...

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        ...

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log last values."""
        ...

    def points(self, points: Iterable[Point]) -> None:
        """Log points of curves, each once."""
        ...

    def text(self, file: str, text: str) -> None:
        """Add `text` as the artifact `file`."""
        ...

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Add a file, or a folder under its own name, as an artifact, in `folder` where one is named."""
        ...


class NullRecorder:
    """Records nothing: for a stage that runs outside of any run."""

    def params(self, values: Mapping[str, str]) -> None:
        """Drop parameters."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Drop tags."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Drop last values."""

    def points(self, points: Iterable[Point]) -> None:
        """Drop points."""

    def text(self, file: str, text: str) -> None:
        """Drop a text."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Drop an artifact."""
