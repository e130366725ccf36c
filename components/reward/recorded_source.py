"""What a reward model was trained on, as its score head's file records it. Read without torch, which takes seconds to load."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from safetensors import safe_open

from components.config.reward import CritiqueSource
from components.errors import UserError
from components.families.digests import HEAD_FILE
from components.families.regular import sentences
from components.preferences.faults import shorten

SOURCE_KEY = "critique_source"  # of the metadata in HEAD_FILE: one key, since several have no fixed order there


def critique_source_of(folder: Path) -> CritiqueSource | None:
    """What the reward model in `folder` was trained on, from its score head's file; None where that does not record it."""
    with sentences(folder, HEAD_FILE), safe_open(folder / HEAD_FILE, framework="np") as opened:
        source = (opened.metadata() or {}).get(SOURCE_KEY)
    if source not in {None, *get_args(CritiqueSource)}:
        raise UserError(f"{folder / HEAD_FILE} names the critique source {shorten(source)}: run the reward stage again")
    return cast("CritiqueSource | None", source)
