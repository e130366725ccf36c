"""Which files of a checkpoint folder may be opened, and how its JSON is read. A checkpoint is a stranger's: nothing in it is believed.

- Files are regular ones. A pipe would be waited for, a device read for ever.
- A link stays in the folder, or leads to a file that its content names: into `blobs` of the hub's cache, of which the folder is a snapshot, or
  to an object of DVC's cache. Other links would show any file of this machine to whoever gets the trained model.
- Texts have bounds in bytes and in depth, and config.json bounds on its numbers: what they describe is allocated when a model is built.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.files import read_json
from components.preferences.faults import shorten
from components.processes.fault_kinds import fault_kind

TEXT_BYTES = 2**27  # of a JSON file or template; a large tokenizer has 35 MB
TEMPLATE_BYTES = 2**20
LARGEST = 2**31  # of any number in a configuration
SUBFOLDER = "additional_chat_templates"  # the one that transformers reads
DVC_OBJECT = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
POSITIVE = {"rope_theta"}  # a number above 0 where it is set
# The most that a configuration may say, by the name of the field at any depth.
MOST = {
    **dict.fromkeys(("num_hidden_layers", "depth"), 2**10),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "patch_size", "head_dim"), 2**12),
    **dict.fromkeys(("spatial_merge_size", "temporal_patch_size", "num_channels", "in_channels", "in_chans"), 2**8),
    **dict.fromkeys(("hidden_size", "embed_dim", "intermediate_size", "image_size"), 2**18),
    **dict.fromkeys(("height", "width"), 2**13),  # of what a picture is scaled to
    **dict.fromkeys(("image_seq_length", "vocab_size"), 2**24),
}
REFETCH = "fetch it again"
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}


@contextmanager
def sentences(folder: Path, what: str) -> Iterator[None]:
    """Turn what a library raises about a checkpoint's files into a UserError. Faults of the machine, its memory and its network pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a library reads a stranger's file, and may fail at it in any way
        if fault_kind(error) == "infrastructure" or (isinstance(error, OSError) and error.errno in OUT_OF_FILES):
            raise
        raise UserError(
            f"transformers can't open {what} in {folder} ({first_line(error)}), so the checkpoint is damaged: {REFETCH}"
        ) from error


def require_regular(folder: Path, where: str) -> None:
    """Raises UserError for an entry of a checkpoint folder that is no regular file in it."""
    root = folder.resolve()
    snapshot = root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--")
    allowed = [root, root.parent.parent / "blobs"] if snapshot else [root]
    for path in _entries(folder):
        name = f"{where}/{ascii(path.relative_to(folder).as_posix())[1:-1]}"
        try:
            target = path.resolve(strict=True) if path.is_symlink() else path
            mode = target.stat().st_mode
        except (OSError, RuntimeError) as error:  # a link in a circle raises either
            raise UserError(f"{name} is a link to a file that does not exist: {REFETCH}") from error
        inside = any(target.is_relative_to(root) for root in allowed) or DVC_OBJECT.search(target.as_posix())
        if path.is_symlink() and not inside:
            raise UserError(f"{name} is a link that leads out of its folder: put the file itself there, or remove the link")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{name} is no regular file but a pipe, socket or device: don't trust this checkpoint")
        if path.suffix == ".jinja" and target.stat().st_size > TEMPLATE_BYTES:
            raise UserError(f"{name} has more than {TEMPLATE_BYTES:,} bytes, which is no chat template: {REFETCH}")


def check_size(path: Path, where: str) -> None:
    """Raises UserError for a text that is too large to be one of a checkpoint."""
    size = path.stat().st_size
    if size > TEXT_BYTES:
        raise UserError(f"{where}/{path.name} has {size:,} bytes, more than a text of a checkpoint may have ({TEXT_BYTES:,}): {REFETCH}")


def read_object(path: Path, where: str) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint. Raises UserError for all else."""
    check_size(path, where)
    try:
        content = read_json(path)
    except ValueError as error:
        deep = isinstance(error.__cause__, RecursionError)
        fault = "is nested too deeply to be a file of a checkpoint" if deep else "is not valid JSON, so the download is torn"
        raise UserError(f"{where}/{path.name} {fault}: {REFETCH}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}/{path.name} holds {type(content).__name__}, not a JSON object, so the checkpoint is damaged: {REFETCH}")
    return content


def check_numbers(content: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a number in a configuration that no model has. `where` names its file."""
    for name, value in _numbers(content, ""):
        last = re.sub(r"\.\d+$", "", name).rpartition(".")[2]
        most = MOST.get(last)
        if not isinstance(value, int | float) or not abs(value) <= LARGEST:  # NaN is not either
            raise UserError(f"{where} sets {name} to {shorten(value)}, which no model can have: {REFETCH}")
        if most is not None and not (isinstance(value, int) and 1 <= value <= most):
            raise UserError(f"{where} sets {name} to {shorten(value)}, and a model has 1 to {most:,}: {REFETCH}")
        if last in POSITIVE and value <= 0:
            raise UserError(f"{where} sets {name} to {shorten(value)}, and a model has a number above 0: {REFETCH}")


def first_line(error: BaseException) -> str:
    """An error of a library in a safe form, for a sentence."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {shorten(line, 160)}" if line else type(error).__name__


def _entries(folder: Path) -> Iterator[Path]:
    for base in (folder, folder / SUBFOLDER):
        if base.is_dir() and not (base != folder and base.is_symlink()):
            with os.scandir(base) as entries:
                yield from sorted(Path(entry.path) for entry in entries)
        elif base != folder and base.is_symlink():
            yield base


def _numbers(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All numbers in nested values with their dotted names; of the fields in MOST and POSITIVE all values but null."""
    last = re.sub(r"\.\d+$", "", name).rpartition(".")[2]
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _numbers(inner, f"{name}.{index}")
    elif (isinstance(value, int | float) and not isinstance(value, bool)) or (last in MOST.keys() | POSITIVE and value is not None):
        yield name, value
