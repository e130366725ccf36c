"""How long the rows and media of validation take at most on a small machine, from the sizes of the files: for the deadline of the stage."""

from __future__ import annotations

import os
from pathlib import Path

ROW_BYTES_A_SECOND = 0.5e6  # of rows of 1 kB with four answers, one process, nothing remembered
MEDIUM_SECONDS, MEDIA_BYTES_A_SECOND = 0.01, 50e6  # a small picture; photos of 3 megapixels and 1.5 MB take 20 to 40 ms
ROW_FILES = (".jsonl", ".json")


def validation_seconds(folder: Path) -> float:
    """Seconds for the rows and media of a folder."""
    rows = media = files = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                size = os.stat(os.path.join(parent, name)).st_size  # noqa: PTH116, PTH118 -- a tenth of the time, for 100,000 files
            except OSError:
                continue
            if name.endswith(ROW_FILES):
                rows += size
            else:
                media, files = media + size, files + 1
    return rows / ROW_BYTES_A_SECOND + files * MEDIUM_SECONDS + media / MEDIA_BYTES_A_SECOND
