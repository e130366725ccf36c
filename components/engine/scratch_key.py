"""The key of a training's scratch folder: everything that its checkpoints depend on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.closures import code_digest
from components.files import digest_bytes, digest_file
from components.stages import StageName


def training_key(root: Path, stage: StageName, *, settings: Iterable[str], inputs: Iterable[Path]) -> str:
    """Digest of the stage's code, settings (as JSON), and input files and folders relative to `root`; 16 hex digits."""
    parts = [code_digest(stage), *settings]
    for path in inputs:
        files = (
            sorted(p for p in (root / path).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
            if (root / path).is_dir()
            else [root / path]
        )
        parts += [part for file in files for part in (file.relative_to(root).as_posix(), digest_file(file))]
    return digest_bytes(*parts)[:16]
