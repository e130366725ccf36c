"""Checkouts with the real pipeline, the bundled base and a slice of the bundled rows, small enough for many runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.config.overrides import write_settings
from components.config.settings import load_settings
from components.stages import STAGE_NAMES, command
from tests.checkout import ROOT, clean_environment, git

Rows = list[dict[str, Any]]
Sections = Mapping[str, Mapping[str, Any]]
TRAIN_ROWS, HELDOUT_ROWS = 160, 100
SMALL: dict[str, dict[str, Any]] = {
    "reward": {"epochs": 2},
    "alignment": {"epochs": 1},
    "training": {"checkpoint_every": "2 steps"},
    "evaluate": {"max_new_tokens": 48, "samples": 6},
    "critique": {"max_new_tokens": 48},
}
# Outs with ids and times, which differ from run to run and on which no stage depends.
CHANGING_OUTS = ("run.json", "validate-docs")


@dataclass(frozen=True)
class Slice:
    """A checkout of the real pipeline and the environment that its commands run in."""

    root: Path
    environment: dict[str, str]

    def mmalign(self, *arguments: str, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
        """Run the mmalign command to its end and capture its output."""
        words = [*command("cli"), *arguments]
        return subprocess.run(words, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False)

    def dvc(self, *arguments: str) -> str:
        """Run dvc as a user in the activated environment does; return its output."""
        completed = subprocess.run(["dvc", *arguments], cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def summary(self) -> dict[str, Any]:
        """reports/summary.json."""
        content: dict[str, Any] = json.loads((self.root / "reports/summary.json").read_text())
        return content

    def locked_outs(self) -> dict[str, str]:
        """The hash of each stage's outs in dvc.lock, without the outs that differ from run to run."""
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())
        outs = [out for name in STAGE_NAMES for out in lock["stages"][name]["outs"]]
        return {out["path"]: out["md5"] for out in outs if not out["path"].endswith(CHANGING_OUTS)}


def make_slice(folder: Path, base: Path, write_data: Callable[[Path], None], settings: Sections) -> Slice:
    """A clone in `folder`/checkout, as a user has it. Its data/ holds `base` and the files of `write_data`."""
    root = folder / "checkout"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    if (ROOT / ".mmalign/torch_extensions").is_dir():
        shutil.copytree(ROOT / ".mmalign/torch_extensions", root / ".mmalign/torch_extensions")
    values = load_settings(root / "params.yaml").model_dump(mode="json", by_alias=True)
    for section, keys in settings.items():
        values[section].update(keys)
    write_settings(root / "params.yaml", values)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    shutil.copytree(base, root / "data/base")
    write_data(root / "data")
    environment = {**clean_environment(), "PYTHONPATH": str(root)}
    environment.pop("TORCH_EXTENSIONS_DIR", None)
    return Slice(root, environment)


def write_slice(data: Path, *, train: int = TRAIN_ROWS, heldout: int = HELDOUT_ROWS) -> None:
    """Write every n-th bundled row, so that all kinds occur, with its media and ground truth."""
    ids: set[str] = set()
    for name, count in (("data", train), ("heldout", heldout)):
        rows = read_rows(ROOT / f"data/preferences/{name}.jsonl")
        rows = rows[:: max(1, len(rows) // count)][:count]
        write_rows(data / f"preferences/{name}.jsonl", rows)
        copy_media(data, rows)
        ids |= {row["id"] for row in rows}
    write_rows(data / "truth/truth.jsonl", [label for label in read_rows(ROOT / "data/truth/truth.jsonl") if label["id"] in ids])


def copy_media(data: Path, rows: Rows) -> None:
    """Copy the images and folders of frames that `rows` name."""
    for medium in {row["image"] or row["video"] for row in rows} - {""}:
        source, target = ROOT / "data/preferences" / medium, data / "preferences" / medium
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


def read_rows(path: Path) -> Rows:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
