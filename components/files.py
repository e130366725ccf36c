"""Atomic writes of files, and digests of files and folders.

- `write_atomic` writes beside the target, syncs and renames. A kill at any point leaves the old file or the new one.
- `is_writable` asks before a write that can be left out: commands that only show something work in a checkout that takes no writes.
- Digests are sha256 over bytes. A folder's digest covers relative names and contents, but neither times nor modes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LONGEST_NAME = 255  # bytes, of a file in a folder


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` by temp file, fsync and rename. It creates missing parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def is_writable(path: Path) -> bool:
    """Whether this user may write to a file or a folder, or create it."""
    existing = next(existing for existing in (path, *path.parents) if existing.exists())
    return os.access(existing, os.W_OK)


def version_of(path: Path) -> tuple[int, int, int] | None:
    """What tells two versions of a file apart where clocks may have been set: every atomic write makes another file. None where it is missing."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys. Raises ValueError for NaN and infinity: use null."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def is_file_name(name: object) -> bool:
    """Whether a stranger's value is the name of a file that a folder may hold: no path, no NUL, no name that no disk takes."""
    if not isinstance(name, str) or name in {"", ".", ".."} or not name.isprintable() or Path(name).name != name:
        return False
    return len(name.encode()) <= LONGEST_NAME


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ValueError for a text that is no JSON, or that is nested too deeply."""
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error


def digest_bytes(*parts: bytes | str) -> str:
    """sha256 over length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode(errors="surrogateescape") if isinstance(part, str) else part  # a name of a file may be no UTF-8
        state.update(len(raw).to_bytes(8, "big"))
        state.update(raw)
    return state.hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_folder(folder: Path, names: Iterable[str] | None = None) -> str:
    """sha256 over the sorted relative names and file digests of `folder`, or of `names` in it."""
    chosen = sorted(names) if names is not None else sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return digest_bytes(*(part for name in chosen for part in (name, digest_file(folder / name))))
