"""Outcomes of blocks that were validated before, by content: a block whose rows, media, settings and code are the same is not validated anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

from components.files import digest_bytes
from components.preferences.ranking import Listed
from components.validation.blocks import Block, Outcome, read_outcome, write_outcome
from components.validation.media_state import media_state
from components.validation.rows import RowChecks, Split

RETAINED_DAYS = 30.0  # since an outcome was last of use


class Remembered:
    """The outcomes in a folder. `checks` are part of their names."""

    def __init__(self, folder: Path, checks: RowChecks) -> None:
        self._folder, self._media = folder, checks.folder
        self._digest = checks.digest()

    def get(self, block: Block, split: Split, listed: Listed) -> Outcome | None:
        """The outcome of a block, unless a medium has changed since."""
        path = self._path(block, split, listed)
        outcome = read_outcome(path) if path.is_file() else None
        if outcome is None or any(media_state(self._media, name) != state for name, _, state in outcome.media):
            return None
        os.utime(path)
        return outcome

    def put(self, block: Block, split: Split, listed: Listed, outcome: Outcome) -> None:
        """Remember an outcome."""
        write_outcome(self._path(block, split, listed), outcome)

    def retire(self) -> None:
        """Remove what was of no use for `RETAINED_DAYS`."""
        before = time.time() - RETAINED_DAYS * 86400
        for path in self._folder.glob("*.arrow"):
            if path.stat().st_mtime < before:
                path.unlink(missing_ok=True)

    def _path(self, block: Block, split: Split, listed: Listed) -> Path:
        return self._folder / f"{digest_bytes(self._digest, block.digest, split, listed)}.arrow"
