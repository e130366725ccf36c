"""What may come with a checkpoint, and what is refused before a weight of it is read.

- Weights are safetensors, everything else is JSON or text that a processor, tokenizer or template consists of. Pickles and code stay behind.
- A configuration that names code of its own (`auto_map`) is refused: nothing here ever runs it.
- A folder that a download left unfinished is refused with the name of what is missing.
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

CONFIG, INDEX, WEIGHTS, CARD = "config.json", "model.safetensors.index.json", "model.safetensors", "README.md"
WANTED = frozenset(PROCESSOR_FILES) | {CONFIG, INDEX, "generation_config.json", "LICENSE", "LICENSE.md", "LICENSE.txt", CARD}
LFS_POINTER = b"version https://git-lfs"
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".tmp")


def chosen(names: Iterable[str]) -> list[str]:
    """Of a repository's files those that are taken: safetensors and the known texts of its top folder."""
    return sorted(name for name in names if "/" not in name and (name in WANTED or name.endswith(".safetensors")))


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuse a model that brings code, or is of a family that is not supported. Raises UserError."""
    if "auto_map" in config:
        raise UserError(
            f"{where} names code of its own (auto_map), which is never run here: take the checkpoint in transformers' own format, "
            "often published with -hf at the end of its name"
        )
    family = config.get("model_type")
    if family not in FAMILY_NAMES:
        raise UserError(
            f"{where} is of type '{family}', which is not supported; the families are {', '.join(FAMILY_NAMES)}: take a checkpoint of one of them"
        )


def check_folder(folder: Path, where: str) -> None:
    """Refuse a folder that is unfinished, damaged, carries code, or is of no supported family. Raises UserError naming the file."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{where} holds no {CONFIG}: it is no checkpoint in transformers' format")
    for path in sorted(folder.glob("*.json")):
        found = _json(path, where)
        if path.name == CONFIG:
            check_config(found, f"{where}/{CONFIG}")
        elif isinstance(found, dict) and "auto_map" in found:
            raise UserError(f"{where}/{path.name} names code of its own (auto_map), which is never run here")
    unfinished = sorted(path.name for path in folder.iterdir() if path.name.endswith(UNFINISHED))
    if unfinished:
        raise UserError(f"{where} is half-downloaded: it holds {unfinished[0]}; finish the download first")
    weights = weight_files(folder, where)
    for name in weights:
        check_safetensors(folder / name, where)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{where} holds no tokenizer.json: the checkpoint is incomplete; fetch it again")


def weight_files(folder: Path, where: str) -> list[str]:
    """Names of the weights' files; with an index, all that it lists must be there. Raises UserError."""
    if (folder / INDEX).is_file():
        index = _json(folder / INDEX, where)
        names = sorted(set(index.get("weight_map", {}).values())) if isinstance(index, dict) else []
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise UserError(f"{where}/{INDEX} lists no safetensors: the checkpoint is damaged; fetch it again")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{where} is half-downloaded: {len(missing)} of {len(names)} weight files are missing, {missing[0]} first")
        return names
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{where} holds no {WEIGHTS}: only safetensors are read; pickled weights (.bin, .pt) are not, convert them first")
    return [WEIGHTS]


def check_safetensors(path: Path, where: str) -> None:
    """Compare a file's length with what its header promises: a torn download is shorter. Raises UserError."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise UserError(f"{where}/{path.name} is a pointer of git-lfs, not the weights: run `git lfs pull` there")
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
    """Write the processor files that the pipeline depends on and an older checkpoint lacks, from what it has under older names.

    `chat_template.jinja` comes from chat_template.json or tokenizer_config.json, `processor_config.json` from preprocessor_config.json.
    Returns the names of what was written.
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


def licence(folder: Path) -> str | None:
    """The licence that a model's card states in its front matter, or None."""
    import yaml

    path = folder / CARD
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return None
    try:
        front = yaml.safe_load(text[3:].partition("\n---")[0])
    except yaml.YAMLError:
        return None
    found = front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) else None


def _json(path: Path, where: str) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"{where}/{path.name} is not valid JSON: the download was torn; fetch it again") from error
