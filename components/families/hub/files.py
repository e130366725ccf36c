"""Selects the files of a checkpoint to fetch, and refuses unusable checkpoints before any weight is read.

- Weights are safetensors; the other files are JSON or text of a processor, tokenizer or template. A fetch skips pickles and code.
- A configuration that brings its own code (`auto_map`) is refused: mmalign never runs it.
- An unfinished download is refused; the message names the missing file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.families.digests import FAMILY_NAMES, PROCESSOR_FILES
from components.files import read_json

CONFIG, INDEX, WEIGHTS, README = "config.json", "model.safetensors.index.json", "model.safetensors", "README.md"
WANTED = frozenset(PROCESSOR_FILES) | {CONFIG, INDEX, "generation_config.json", "LICENSE", "LICENSE.md", "LICENSE.txt", README}
LFS_POINTER = b"version https://git-lfs"
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".tmp")


def chosen(names: Iterable[str]) -> list[str]:
    """The files to fetch from a repository: safetensors and processor texts in its top folder."""
    return sorted(name for name in names if "/" not in name and (name in WANTED or name.endswith(".safetensors")))


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a model with its own code, or of an unsupported family."""
    if "auto_map" in config:
        raise UserError(
            f"{where} names code of its own (auto_map), which mmalign never runs: choose the checkpoint in transformers' own format, "
            "often published with -hf at the end of its name"
        )
    family = config.get("model_type")
    if family not in FAMILY_NAMES:
        raise UserError(
            f"{where} is of type '{family}', which is not supported: choose a checkpoint of one of the families {', '.join(FAMILY_NAMES)}"
        )


def check_folder(folder: Path, where: str) -> None:
    """Raises UserError, which names the file, for a checkpoint that is unfinished, damaged, has its own code, or of an unsupported family."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{where} holds no {CONFIG}: it is no checkpoint in transformers' format")
    for path in sorted(folder.glob("*.json")):
        content = _json(path, where)
        if path.name == CONFIG:
            check_config(content, f"{where}/{CONFIG}")
        elif isinstance(content, dict) and "auto_map" in content:
            raise UserError(f"{where}/{path.name} names code of its own (auto_map), which mmalign never runs: choose another checkpoint")
    unfinished = sorted(path.name for path in folder.iterdir() if path.name.endswith(UNFINISHED))
    if unfinished:
        raise UserError(f"{where} is half-downloaded, since it holds {unfinished[0]}: finish the download first")
    weights = weight_files(folder, where)
    for name in weights:
        check_safetensors(folder / name, where)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{where} holds no tokenizer.json, so the checkpoint is incomplete: fetch it again")


def weight_files(folder: Path, where: str) -> list[str]:
    """The names of the weight files. Raises UserError if one that the index lists is missing."""
    if (folder / INDEX).is_file():
        index = _json(folder / INDEX, where)
        names = sorted(set(index.get("weight_map", {}).values())) if isinstance(index, dict) else []
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise UserError(f"{where}/{INDEX} lists no safetensors, so the checkpoint is damaged: fetch it again")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{where} is half-downloaded: {len(missing)} of {len(names)} weight files are missing, {missing[0]} first; fetch it again"
            )
        return names
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{where} holds no {WEIGHTS}, and pickled weights (.bin, .pt) are not supported: convert them to safetensors")
    return [WEIGHTS]


def check_safetensors(path: Path, where: str) -> None:
    """Raises UserError if a file's length is not the one in its header: a torn download is shorter."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise UserError(f"{where}/{path.name} is a pointer of git-lfs, not the weights: run `git lfs pull` in that folder")
        stream.seek(0)
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        try:
            header = json.loads(stream.read(length)) if length <= size - 8 else None
        except ValueError:
            header = None
    if header is None:
        raise UserError(f"{where}/{path.name} is torn or no safetensors file: fetch it again")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise UserError(f"{where}/{path.name} has {size:,} bytes where its header promises {expected:,}: fetch it again")


def complete(folder: Path) -> list[str]:
    """Write the processor files that an older checkpoint lacks, from its files of the older names; return the new names.

    `chat_template.jinja` comes from chat_template.json or tokenizer_config.json, `processor_config.json` from preprocessor_config.json.
    """
    written = []
    if not (folder / "chat_template.jinja").is_file():
        for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
            template = read_json(folder / name).get("chat_template") if (folder / name).is_file() else None
            if isinstance(template, str):
                (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
                written.append("chat_template.jinja")
                break
    older = folder / "preprocessor_config.json"
    if not (folder / "processor_config.json").is_file() and older.is_file():
        name = read_json(older).get("processor_class")
        if isinstance(name, str):
            (folder / "processor_config.json").write_text(json.dumps({"processor_class": name}, indent=2) + "\n", encoding="utf-8")
            written.append("processor_config.json")
    return written


def license_of(folder: Path) -> str | None:
    """The license in the front matter of a model's README, or None."""
    import yaml

    path = folder / README
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return None
    try:
        front = yaml.safe_load(text[3:].partition("\n---")[0])
    except yaml.YAMLError:
        return None
    license_name = front.get("license") if isinstance(front, dict) else None
    return license_name if isinstance(license_name, str) else None


def _json(path: Path, where: str) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"{where}/{path.name} is not valid JSON, so the download is torn: fetch it again") from error
