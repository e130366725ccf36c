"""`mmalign-model.json`: the files, digests and source of a fetched checkpoint, to verify it at any time.

Equal checkpoints have equal manifests: without times and without paths of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.files import digest_file, read_json, write_json
from components.preferences.faults import shorten

MANIFEST = "mmalign-model.json"


def write_manifest(folder: Path, digests: Mapping[str, str], *, source: str, revision: str | None, license_name: str | None) -> None:
    """Write the manifest of a whole folder; `digests` is sha256 by file name."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": digests[name]} for name in sorted(digests)}
    write_json(folder / MANIFEST, {"source": source, "revision": revision, "licence": license_name, "files": files})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None if the folder has none. Raises UserError for a damaged manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = read_json(path)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: remove {folder} and fetch the model again") from error
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or not isinstance(listed, dict) or not isinstance(manifest.get("source"), str):
        raise UserError(f"{path} lists no files: remove {folder} and fetch the model again")
    for name, entry in listed.items():
        plain = name not in {"", ".", ".."} and Path(name).name == name and "\0" not in name
        if not (plain and isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)):
            raise UserError(f"{path} lists {shorten(name)} without size and sha256, or outside its folder: fetch the model again")
    return manifest


def verify(folder: Path, where: str) -> int:
    """Compare every file with the manifest; return their number. Raises UserError, which names the first file that is missing or differs."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{where} holds no {MANIFEST}: fetch the model with `mmalign model fetch`")
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{where}: {name} is missing, and {MANIFEST} lists it: remove the folder and fetch the model again")
        if path.stat().st_size != expected["bytes"] or digest_file(path) != expected["sha256"]:
            raise UserError(
                f"{where}: {name} has changed since the fetch (its sha256 differs): remove the folder and fetch the model again"
            )
    return len(manifest["files"])
