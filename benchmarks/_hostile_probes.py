"""Probes as files, and how each becomes files of a stranger: checkpoints, archives, and files that a command is given.

A folder of probes holds JSON Lines: `rows*.jsonl` (the form of benchmarks._poisons), `checkpoints*.jsonl`, `archives*.jsonl`, `commands*.jsonl`.
Each object has a `name`, a `kind`, the `expect`ed end (`refused`, `used`, `any` of both) and a part of the `reason` that is given, with
alternatives behind `|`. `{outside}` and `{ran}` stand for two folders that no probe may read, write or reach.

- A checkpoint has `changes` to a good one, lists of an operation, a file and values: text, hex, repeat (text, times, hex before), sparse (hex
  before, size), set (dotted key, value), replace (old, new), remove, folder, link (target), pipe, cut (bytes), append (hex), tensor (part of
  the name; nan, inf, drop, rename, narrow), hub_cache. With `fetch`, fetching it is refused too; `by` names those of verify, open and fetch
  that must refuse it, where not all do.
- An archive has `members`: a `name` and a text, `repeat` (zeros), link, hardlink or pipe; `archive` is tar or zip.
- A command has its arguments, and `files` by name: a text, [text, times], or `hex` for bytes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "probes"
ROWS = "rows*.jsonl"
FORMS = {"checkpoints": "changes", "archives": "members", "commands": "command"}  # with the field that each needs
EXPECTED = ("refused", "used", "any", "silent")
KINDS = (
    *("config", "code", "weights", "index", "tokenizer", "processor", "template", "links", "good"),
    *("archive", "text", "setting", "ground truth", "pairs", "dvc"),
)


@dataclass(frozen=True)
class Probe:
    """One probe; `form` is checkpoints, archives or commands, `values` are its own fields."""

    form: str
    name: str
    kind: str
    expect: str
    reason: str
    values: Mapping[str, Any]

    def says(self, text: str) -> bool:
        """Whether a command's words hold the reason."""
        return any(part in text for part in self.reason.split("|"))


@dataclass(frozen=True)
class Places:
    """The folders of a measurement: probes, and those that nothing may touch."""

    work: Path

    @property
    def outside(self) -> Path:
        """Holds a secret, and nothing else."""
        return self.work / "outside"

    @property
    def ran(self) -> Path:
        """Gets a file from every code that runs."""
        return self.work / "ran"

    def filled(self, value: Any) -> Any:
        """The value with these folders in place of their names."""
        return json.loads(
            json.dumps(value).replace("{outside}", json.dumps(str(self.outside))[1:-1]).replace("{ran}", json.dumps(str(self.ran))[1:-1])
        )


def read_probes(folder: Path, places: Places) -> list[Probe]:
    """The probes of a folder, but for rows."""
    return list(_probes(folder, places))


def check(folder: Path) -> None:
    """Raises ValueError, which names file and line, for a folder of probes that can't be tried as its author means."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ValueError(f"{folder} holds no probes: write {', '.join(f'{form}*.jsonl' for form in ('rows', *FORMS))} into it")
    for file in files:
        form = next((form for form in ("rows", *FORMS) if file.name.startswith(form)), None)
        if form is None:
            raise ValueError(f"{file} is of no form: begin its name with {', '.join(('rows', *FORMS))}")
        names: set[str] = set()
        for number, line in enumerate(file.read_text("utf-8").split("\n"), start=1):
            fault = _fault(form, line, names) if line.strip() else None
            if fault is not None:
                raise ValueError(f"{file}:{number} {fault}")


def _fault(form: str, line: str, names: set[str]) -> str | None:
    """What is wrong with a probe; notes its name."""
    try:
        values = json.loads(line)
    except ValueError as error:
        return f"is no JSON ({error})"
    needed = (
        ("name", "field", "reason") if form == "rows" else ("name", "kind", "files", "command") if form == "commands" else ("name", "kind")
    )
    missing = [name for name in (*needed, FORMS.get(form, "name")) if not isinstance(values, dict) or name not in values]
    if missing:
        return f"lacks {', '.join(dict.fromkeys(missing))}"
    if "/" in values["name"] or values["name"] in names:
        return f"has the name {values['name']}: give each probe one of its own, without a slash"
    names.add(values["name"])
    if form == "rows":
        return None if values.keys() & {"row", "line", "hex", "twice"} else "lacks what to write: row, line, hex or twice"
    if values["kind"] not in KINDS:
        return f"has the kind {values['kind']}: kinds are {', '.join(KINDS)}"
    if values.get("expect", "refused") not in EXPECTED:
        return f"expects {values['expect']}: that is one of {', '.join(EXPECTED)}"
    unknown = [str(change[:1]) for change in values.get("changes", ()) if not change or change[0] not in {*_OPERATIONS, "hub_cache"}]
    return f"has the change {unknown[0]}: changes are {', '.join((*_OPERATIONS, 'hub_cache'))}" if unknown else None


def _probes(folder: Path, places: Places) -> Iterator[Probe]:
    for form in FORMS:
        for file in sorted(folder.glob(f"{form}*.jsonl")):
            for line in filter(str.strip, file.read_text("utf-8").split("\n")):
                values = places.filled(json.loads(line))
                yield Probe(form, values["name"], values["kind"], values.get("expect", "refused"), values.get("reason", ""), values)


def write_checkpoint(probe: Probe, base: Path, folder: Path) -> Path:
    """A copy of `base` with the probe's changes; the folder to open."""
    folder.mkdir(parents=True)
    for path in base.iterdir():
        if path.suffix == ".safetensors":
            os.link(path, folder / path.name)
        elif path.is_file():
            shutil.copyfile(path, folder / path.name)
    for name, *values in probe.values["changes"]:
        if name == "hub_cache":
            return _as_hub_cache(folder)
        _OPERATIONS[name](folder / values[0], *values[1:])
    return folder


def write_archive(probe: Probe, path: Path) -> Path:
    """The archive of a probe."""
    members = probe.values["members"]
    if probe.values["archive"] == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in members:
                info = zipfile.ZipInfo(member["name"])
                info.compress_type = zipfile.ZIP_DEFLATED
                if "link" in member:
                    info.external_attr = 0o120777 << 16
                archive.writestr(info, member.get("link") or _content(member))
        return path
    with tarfile.open(path, "w:gz") as packed:
        for member in members:
            entry = tarfile.TarInfo(member["name"])
            content = b""
            if "link" in member or "hardlink" in member:
                entry.type = tarfile.SYMTYPE if "link" in member else tarfile.LNKTYPE
                entry.linkname = member.get("link") or member["hardlink"]
            elif "pipe" in member:
                entry.type = tarfile.FIFOTYPE
            else:
                content = _content(member)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return path


def write_files(probe: Probe, folder: Path) -> None:
    """The files of a command."""
    for name, content in probe.values["files"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else content[0] * content[1], encoding="utf-8")
    for name, content in probe.values.get("hex", {}).items():
        (folder / name).write_bytes(bytes.fromhex(content))


def _content(member: Mapping[str, Any]) -> bytes:
    return bytes(member["repeat"]) if "repeat" in member else str(member["text"]).encode()


def _as_hub_cache(folder: Path) -> Path:
    """The files as huggingface_hub stores them: blobs, and links to them in a snapshot."""
    root = folder.with_name(f"{folder.name}-cache") / "models--somebody--model"
    snapshot = root / "snapshots" / ("0" * 40)
    (root / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(root / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def _bytes(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)  # the base's file may be a hard link
    path.write_bytes(content)


def _sparse(path: Path, head: str, size: int) -> None:
    _bytes(path, bytes.fromhex(head))
    os.truncate(path, size)


def _set(path: Path, key: str, value: Any) -> None:
    content = json.loads(path.read_text("utf-8"))
    *owners, last = key.split(".")
    owner = content
    for name in owners:
        owner = owner.setdefault(name, {})
    owner[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    if old not in text:
        raise ValueError(f"{path.name} does not hold {old}")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _tensor(folder_file: Path, change: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = folder_file.with_name("model.safetensors")
    tensors = load_file(path)
    name = next(key for key in sorted(tensors) if folder_file.name in key)
    if change in {"nan", "inf"}:
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[-1] = float(change)
    elif change == "narrow":
        tensors[name] = tensors[name][:, :-1].contiguous()
    else:
        value = tensors.pop(name)
        if change == "rename":
            tensors["nobody.weight"] = value
    path.unlink()
    save_file({key: torch.clone(value) for key, value in tensors.items()}, path, metadata={"format": "pt"})


_OPERATIONS: dict[str, Callable[..., object]] = {
    "text": lambda path, text: _bytes(path, text.encode()),
    "hex": lambda path, content: _bytes(path, bytes.fromhex(content)),
    "repeat": lambda path, text, times, head="": _bytes(path, bytes.fromhex(head) + text.encode() * times),
    "sparse": _sparse,
    "set": _set,
    "replace": _replace,
    "remove": lambda path: path.unlink(),
    "folder": _folder,
    "link": _link,
    "pipe": _pipe,
    "cut": lambda path, count: _bytes(path, path.read_bytes()[:-count]),
    "append": lambda path, content: _bytes(path, path.read_bytes() + bytes.fromhex(content)),
    "tensor": _tensor,
}
