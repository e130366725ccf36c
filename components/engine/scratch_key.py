"""The key of a training's scratch folder: everything that its checkpoints depend on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.files import digest_bytes, digest_file


def training_key(root: Path, *, settings: Iterable[str], inputs: Iterable[Path], code: Iterable[Path]) -> str:
    """Digest of settings (as JSON), input files and folders, and code folders, all relative to `root`; 16 hex digits."""
    parts = list(settings)
    for path in [*inputs, *code]:
        files = (
            sorted(p for p in (root / path).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
            if (root / path).is_dir()
            else [root / path]
        )
        parts += [part for file in files for part in (file.relative_to(root).as_posix(), digest_file(file))]
    return digest_bytes(*parts)[:16]
