"""Profiles: files of profiles/, each a set of settings for one checkpoint and one machine. Their opening comments name both."""

from __future__ import annotations

import re
from pathlib import Path

PROFILES = Path("profiles")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # a checkpoint on the hub: owner/name


def names(folder: Path) -> list[str]:
    """The profiles that there are, the demo first."""
    return sorted((path.stem for path in folder.glob("*.yaml")), key=lambda name: (name != "demo", name))


def header(path: Path) -> dict[str, str]:
    """The opening comment of a profile: its title, and the checkpoint and machine that it is for."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    fields = {"title": lines[0] if lines else ""}
    for line in lines:
        key, separator, value = line.partition(": ")
        if separator and key in {"checkpoint", "machine"}:
            fields[key] = value
    return fields


def checkpoint_of(folder: Path, base: Path) -> str | None:
    """The hub's id of the checkpoint that a profile with this `model.base` is for; None where no profile names one.

    params.yaml holds no id: the profile stays its one source, however params.yaml came to name that base.
    """
    for name in names(folder):
        path = folder / f"{name}.yaml"
        checkpoint = header(path).get("checkpoint", "")
        if HUB_ID.fullmatch(checkpoint) and _base(path) == base:
            return checkpoint
    return None


def _base(path: Path) -> Path | None:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return None  # `configure` reports it, when somebody chooses that profile
    base = (values.get("model") or {}).get("base") if isinstance(values, dict) else None
    return Path(base) if isinstance(base, str) else None
