"""Selects the files of a checkpoint to fetch, and refuses unusable checkpoints before any weight is read.

- Weights are safetensors; the other files are JSON or text of a processor, tokenizer or template. A fetch skips pickles and code.
- A configuration that brings its own code (`auto_map`) is refused: mmalign never runs it.
- An unfinished download is refused; the message names the missing file.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from components.errors import UserError
from components.families.digests import FAMILY_NAMES, PROCESSOR_FILES
from components.families.regular import REFETCH, check_numbers, first_line, read_object, require_regular
from components.files import is_file_name, read_json
from components.preferences.faults import shorten

CONFIG, INDEX, WEIGHTS, README = "config.json", "model.safetensors.index.json", "model.safetensors", "README.md"
WANTED = frozenset(PROCESSOR_FILES) | {CONFIG, INDEX, "generation_config.json", "LICENSE", "LICENSE.md", "LICENSE.txt", README}
BULKY = frozenset({"tokenizer.json", "vocab.json", INDEX})  # JSON of megabytes
NUMBERED = frozenset({CONFIG, "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"})
HEADER_BYTES = 100_000_000  # safetensors' own bound
LFS_POINTER = b"version https://git-lfs"
UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".tmp")


def chosen(names: Iterable[str]) -> list[str]:
    """The files to fetch from a repository: safetensors and processor texts in its top folder."""
    return sorted(name for name in names if "/" not in name and (name in WANTED or name.endswith(".safetensors")))


def check_code(content: Any, where: str) -> None:
    """Raises UserError for a file that names code of the checkpoint, at any depth."""
    if isinstance(content, dict) and "auto_map" in content:
        raise UserError(
            f"{where} names code of its own (auto_map), which mmalign never runs: choose the checkpoint in transformers' own format, "
            "often published with -hf at the end of its name"
        )
    for inner in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        check_code(inner, where)


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a model with its own code, with numbers that no model has, or of an unsupported family."""
    check_code(config, where)
    check_numbers(config, where)
    family = config.get("model_type")
    if family not in FAMILY_NAMES:
        raise UserError(
            f"{where} is of type '{family}', which is not supported: choose a checkpoint of one of the families {', '.join(FAMILY_NAMES)}"
        )


def check_folder(folder: Path, where: str) -> None:
    """Raises UserError, which names the file, for a checkpoint that is unfinished, damaged, has its own code, or of an unsupported family."""
    if folder.is_dir():
        require_regular(folder, where)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{where} holds no {CONFIG}: it is no checkpoint in transformers' format")
    for path in sorted(folder.glob("*.json")):
        content = read_object(path, where)
        check_code(content, f"{where}/{path.name}")
        if path.name == CONFIG:
            check_config(content, f"{where}/{CONFIG}")
        elif path.name in NUMBERED:
            check_numbers(content, f"{where}/{path.name}")
    unfinished = sorted(path.name for path in folder.iterdir() if path.name.endswith(UNFINISHED))
    if unfinished:
        raise UserError(f"{where} is half-downloaded, since it holds {unfinished[0]}: finish the download first")
    check_weights(folder, where)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{where} holds no tokenizer.json, so the checkpoint is incomplete: fetch it again")


def weight_files(folder: Path, where: str) -> list[str]:
    """The names of the weight files. Raises UserError if one that the index lists is missing."""
    if (folder / INDEX).is_file():
        names = sorted({str(name) for name in _weight_map(folder, where).values()})
        if not names or not all(name.endswith(".safetensors") and is_file_name(name) for name in names):
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


def check_weights(folder: Path, where: str) -> dict[str, int]:
    """The weights' numbers by tensor. Raises UserError for files that are torn, or do not hold the tensors that the index lists."""
    sizes: dict[str, int] = {}
    for name in weight_files(folder, where):
        sizes |= check_safetensors(folder / name, where)
    if not sizes:
        raise UserError(f"{where} has weight files without a tensor, so the checkpoint is damaged: {REFETCH}")
    missing = sorted(set(_weight_map(folder, where)) - set(sizes)) if (folder / INDEX).is_file() else []
    if missing:
        raise UserError(f"{where}/{INDEX} lists {len(missing)} tensors that no weight file holds, {shorten(missing[0])} first: {REFETCH}")
    return sizes


def check_safetensors(path: Path, where: str) -> dict[str, int]:
    """The numbers in each tensor of a file. Raises UserError for a file that is torn, or whose header is not one of safetensors."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise UserError(f"{where}/{path.name} is a pointer of git-lfs, not the weights: run `git lfs pull` in that folder")
        stream.seek(0)
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        try:
            header = json.loads(stream.read(length)) if length <= min(size - 8, HEADER_BYTES) else None
        except (ValueError, RecursionError):
            header = None
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]  # type: ignore[union-attr]
        expected = 8 + length + max(ends, default=0)
    except (AttributeError, TypeError, LookupError) as error:
        raise UserError(f"{where}/{path.name} is torn or no safetensors file: fetch it again") from error
    if size != expected:
        raise UserError(f"{where}/{path.name} has {size:,} bytes where its header promises {expected:,}: fetch it again")
    try:
        with safe_open(path, "np") as opened:
            return {name: math.prod(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 -- not a mapping
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where}/{path.name} is no safetensors file ({first_line(error)}): {REFETCH}") from error


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
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none is a ValueError
        return None
    license_name = front.get("license") if isinstance(front, dict) else None
    return license_name if isinstance(license_name, str) else None


def _weight_map(folder: Path, where: str) -> dict[str, Any]:
    weight_map = read_object(folder / INDEX, where).get("weight_map")
    return weight_map if isinstance(weight_map, dict) else {}
