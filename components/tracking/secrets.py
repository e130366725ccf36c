"""Takes secrets out of what goes into the record: tags, parameters, texts, and every artifact that is a text."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.processes.redaction import Redactor

HEAD_BYTES = 8192  # without a zero byte in them a file is a text


@contextmanager
def without_secrets(cleaner: Redactor, operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The operation as the record may have it. An artifact with a secret is a cleaned copy, for the length of the block."""
    kind = operation["op"]
    if kind in {"tags", "params"}:
        operation = {**operation, "values": cleaner.clean_all(operation["values"])}
    elif kind == "text":
        operation = {**operation, "text": cleaner.clean(operation["text"])}
    elif kind == "artifact" and (changed := _changed(cleaner, Path(operation["path"]))):
        with tempfile.TemporaryDirectory(prefix="mmalign-artifact-") as folder:
            yield {**operation, "path": str(_copy(Path(operation["path"]), Path(folder), changed))}
        return
    yield operation


def _changed(cleaner: Redactor, path: Path) -> dict[Path, bytes]:
    """The texts in a file or folder that have secrets, without them."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {file: text for file in files if (text := _cleaned_text(cleaner, file)) is not None}


def _copy(path: Path, folder: Path, changed: dict[Path, bytes]) -> Path:
    copy = folder / path.name
    if path.is_dir():
        shutil.copytree(path, copy)
    for file, text in changed.items():
        (copy / file.relative_to(path) if path.is_dir() else copy).write_bytes(text)
    return copy


def _cleaned_text(cleaner: Redactor, file: Path) -> bytes | None:
    """The file's bytes without secrets; None where it has none, or is no text."""
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
        if b"\0" in head:
            return None
        text = (head + stream.read()).decode("utf-8", "surrogateescape")
    clean = cleaner.clean(text)
    return None if clean == text else clean.encode("utf-8", "surrogateescape")
