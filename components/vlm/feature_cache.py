"""Keeps the frozen tower's output on disk, so that it runs once for each medium."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.config import Settings
from components.preferences.record import Query
from components.vlm.processing import Preprocessor


def attach_features(preprocessor: Preprocessor, base: Path, queries: Sequence[Query], settings: Settings, root: Path) -> None:
    """Fill the cache of the checkout `root` for the media of `queries`, and let `preprocessor` give roots with features from now on."""
