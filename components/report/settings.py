"""Settings that differ from committed ones.

- `committed` is params.yaml of the run's commit; `first` is the file of its first commit, with the settings that the checkout began with.
  A shallow clone lacks its first commits, so the page omits that column there.
- The page shows the present values of params.yaml, and names a stage that ran with another value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from components.checkout import Checkout
from components.config.overrides import flatten
from components.report.record import Record, reached
from components.report.wording import plain
from components.stages import OPS_SECTIONS
from components.storage.git import ask_git

PARAMS = "params.yaml"
SHA = re.compile(r"[0-9a-f]{7,64}")
ABSENT = "absent"


@dataclass(frozen=True)
class Setting:
    """One setting in each version of the file."""

    key: str
    now: str
    committed: str | None
    first: str | None


@dataclass(frozen=True)
class Settings:
    """Settings that differ from either version, and settings of which a stage used another value (stage, key, its value, now)."""

    rows: list[Setting]
    committed: str | None
    first: str | None
    outdated: list[tuple[str, str, str, str]]


def read_settings(record: Record) -> Settings | None:
    """Settings that differ; None without a params.yaml."""
    path = record.checkout.root / PARAMS
    now = _flat(path.read_text(encoding="utf-8") if path.is_file() else None)
    if now is None:
        return None
    committed_sha, committed = _committed(record)
    first_sha, first = _first(record.checkout)
    if first_sha == committed_sha:
        first_sha, first = None, None
    versions = [version for version in (committed, first) if version is not None]
    keys = sorted({key for values in (now, *versions) for key in values if any(_differs(now, version, key) for version in versions)})
    rows = [Setting(key, _value(now, key) or ABSENT, _value(committed, key), _value(first, key)) for key in keys]
    return Settings(rows, committed_sha and committed_sha[:10], first_sha and first_sha[:10], _outdated(record, now))


def _outdated(record: Record, now: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    return [
        (stage, key, plain(value), _value(now, key) or ABSENT)
        for stage in reached(record)
        for key, value in sorted(record.lock_params(stage).items())
        if key not in now or not _same(now[key], value)
    ]


def _same(one: Any, other: Any) -> bool:
    """Equal as settings: YAML 1.1 reads 1e-4 as text, but DVC reads YAML 1.2, where it is a number."""
    if one == other:
        return True
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return False


def _committed(record: Record) -> tuple[str | None, dict[str, Any] | None]:
    """The settings of the run's commit; of the checked-out commit where git lacks the run's."""
    for sha in (record.summary.get("git_sha"), (ask_git(record.checkout.root, "rev-parse", "HEAD") or "").strip()):
        if isinstance(sha, str) and SHA.fullmatch(sha):
            values = _flat(ask_git(record.checkout.root, "show", f"{sha}:{PARAMS}"))
            if values is not None:
                return sha, values
    return None, None


def _first(checkout: Checkout) -> tuple[str | None, dict[str, Any] | None]:
    if (ask_git(checkout.root, "rev-parse", "--is-shallow-repository") or "").strip() != "false":
        return None, None
    added = (ask_git(checkout.root, "log", "--diff-filter=A", "--format=%H", "--", PARAMS) or "").split()
    values = _flat(ask_git(checkout.root, "show", f"{added[-1]}:{PARAMS}")) if added else None
    return (None, None) if values is None else (added[-1], values)


def _flat(text: str | None) -> dict[str, Any] | None:
    """Settings that change results by dotted key (early files have the sections of ops.yaml too); None for a text that is no settings file."""
    if text is None:
        return None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return flatten({key: value for key, value in values.items() if key not in OPS_SECTIONS}) if isinstance(values, dict) else None


def _differs(now: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    return (key in now) != (key in other) or now.get(key) != other.get(key)


def _value(values: Mapping[str, Any] | None, key: str) -> str | None:
    if values is None:
        return None
    return plain(values[key]) if key in values else ABSENT
