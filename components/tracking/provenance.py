"""What ties a run to what it was made from: git, DVC, the environment and the settings.

Everything is read from files and from git; a checkout without git or without DVC's files gives what there is.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from components.checkout import Checkout
from components.closures import CODE_STAGE
from components.config.overrides import flatten
from components.files import digest_file
from components.storage.git import ask_git

DIFF_LIMIT_BYTES = 5_000_000  # a longer diff is cut: its place is a commit
RUN_FILES = ("params.yaml", "ops.yaml", "data.dvc", "dvc.yaml", "dvc.lock")
PACKAGES = ("torch", "transformers", "deepspeed")  # whose versions change results
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a lock file takes the one in Python a tenth of a second
CODE = {".css", ".j2", ".py", ".sh"}  # of files that git does not know, the record has these whole, and of others their names
LOCK = "dvc.lock"
# Recorded whole with every run, and no change of the code, settings or data that results come from: they make no tree dirty.
APART = (f":(exclude){LOCK}", ":(exclude)ops.yaml")


@dataclass(frozen=True)
class GitState:
    """The commit that is checked out (None outside git), and whether files differ from it."""

    sha: str | None
    dirty: bool


def git_state(checkout: Checkout) -> GitState:
    """Commit and dirty flag of the checkout."""
    sha = ask_git(checkout.root, "rev-parse", "HEAD")
    if sha is None:
        return GitState(None, dirty=False)
    changed = (ask_git(checkout.root, "status", "--porcelain", "--", ".", *APART) or "").strip()
    return GitState(sha.strip(), bool(changed))


def git_diff(checkout: Checkout) -> str:
    """All differences from the commit, code that git does not know yet included; empty for a clean tree."""
    pieces = [ask_git(checkout.root, "diff", "HEAD", "--", ".", *APART) or ""]
    code = [name for name in untracked(checkout) if Path(name).suffix in CODE]
    pieces += [ask_git(checkout.root, "diff", "--no-index", "--", "/dev/null", name, codes=(0, 1)) or "" for name in code]
    diff = "".join(pieces)
    return diff if len(diff) <= DIFF_LIMIT_BYTES else diff[:DIFF_LIMIT_BYTES] + "\n[cut]\n"


def untracked(checkout: Checkout) -> list[str]:
    """Files that git neither knows nor ignores. What they hold, keys and notes among it, is nobody's business but for code."""
    return [name for name in (ask_git(checkout.root, "ls-files", "-z", "--others", "--exclude-standard") or "").split("\0") if name]


def environment_tags(checkout: Checkout) -> dict[str, str]:
    """The lock's hash, the interpreter, the machine's kind and the versions that change results."""
    tags = {"env.python": platform.python_version(), "env.platform": platform.platform()}
    if checkout.requirements.is_file():
        tags["env.lock_sha256"] = digest_file(checkout.requirements)
    for package in PACKAGES:
        try:
            tags[f"env.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return tags


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; empty when there is no such file."""
    if not path.is_file():
        return {}
    return yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER) or {}  # noqa: S506 -- a safe loader


def data_version(checkout: Checkout) -> str | None:
    """DVC's hash of the data as committed last."""
    outs = read_yaml(checkout.data_version).get("outs") or [{}]
    digest = outs[0].get("md5")
    return None if digest is None else str(digest)


def lock_hashes(checkout: Checkout, stage: str) -> dict[str, str]:
    """Path to DVC's hash of every dep and out of `stage` as dvc.lock has them."""
    entry = read_yaml(checkout.root / LOCK).get("stages", {}).get(stage, {})
    return {item["path"]: item["md5"] for kind in ("deps", "outs") for item in entry.get(kind, []) if "md5" in item}


def known_hashes(checkout: Checkout, stage: str) -> dict[str, str]:
    """DVC's hashes of what a running `stage` reads: the data and other stages' outs. Its own entry is written after it."""
    outs = {
        item["path"]: item["md5"]
        for name, entry in read_yaml(checkout.root / LOCK).get("stages", {}).items()
        if name not in {stage, CODE_STAGE}
        for item in entry.get("outs", [])
        if "md5" in item
    }
    hashes = {path: outs[path] for path in stage_paths(checkout, stage, "deps") if path in outs}
    version = data_version(checkout)
    return hashes if version is None else {"data": version, **hashes}


def stage_paths(checkout: Checkout, stage: str, kind: str) -> list[str]:
    """Paths of a stage's `deps` or `outs` (metrics among the outs) in dvc.yaml, with `${base}` and its like filled in."""
    definition = read_yaml(checkout.graph).get("stages", {}).get(stage, {})
    items = [*definition.get(kind, []), *(definition.get("metrics", []) if kind == "outs" else [])]
    paths = [next(iter(item)) if isinstance(item, dict) else str(item) for item in items]
    model = read_yaml(checkout.params).get("model", {})
    return [re.sub(r"\$\{(?:model\.)?(\w+)\}", lambda match: str(model.get(match[1], match[0])), path) for path in paths]


def stage_params(checkout: Checkout, stage: str) -> dict[str, str]:
    """The settings that a stage depends on by dvc.yaml, flat (`alignment.beta` to "0.1"); its own section when none is named."""
    values = read_yaml(checkout.params)
    named = read_yaml(checkout.graph).get("stages", {}).get(stage, {}).get("params", [])
    keys = _param_keys(named)
    own = {"align": "alignment"}.get(stage, stage)
    flat = flatten({key: _lookup(values, key) for key in keys or [own]})
    return {key: str(value) for key, value in flat.items()}


def _param_keys(named: list[Any]) -> list[str]:
    keys: list[str] = []
    for item in named:
        if isinstance(item, str):
            keys.append(item)
        else:  # {params.yaml: [key, ...]}, DVC's long form
            keys += [str(key) for listed in item.values() for key in listed or []]
    return keys


def _lookup(values: dict[str, Any], dotted: str) -> Any:
    value: Any = values
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
