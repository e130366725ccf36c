"""Helpers for the cleaning of a small checkout with real git and DVC. Tests pass a later time, since files can't be made older."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from components.checkout import Checkout
from components.config.ops import CleanSettings
from components.operations.cleaning.findings import DAY, Findings
from components.operations.cleaning.folders import clones_folder
from tests.checkout import clean_environment

SETTINGS = CleanSettings(scratch_days=7, logs_days=30, clones_days=3, cache_days=30)


def later(days: float) -> float:
    return time.time() + days * DAY


def repro(checkout: Path, *arguments: str) -> None:
    completed = subprocess.run(
        ["dvc", "repro", *arguments], cwd=checkout, check=False, capture_output=True, text=True, env=clean_environment()
    )
    assert completed.returncode == 0, completed.stderr


def setting(checkout: Path, value: int) -> None:
    """Change a setting of validate, and so its output."""
    path = checkout / "params.yaml"
    text = path.read_text()
    old = next(line for line in text.splitlines() if line.strip().startswith("min_responses"))
    path.write_text(text.replace(old, f"  min_responses: {value}"))
    (checkout / "data/preferences/data.jsonl").write_text(f"{value}\n")
    subprocess.run(["dvc", "add", "data"], cwd=checkout, check=True, capture_output=True, env=clean_environment())


def outs(checkout: Path, stage: str) -> set[str]:
    return {out["md5"] for out in yaml.safe_load((checkout / "dvc.lock").read_text())["stages"][stage]["outs"]}


def data(checkout: Path) -> str:
    return str(yaml.safe_load((checkout / "data.dvc").read_text())["outs"][0]["md5"])


def cached(checkout: Path) -> set[str]:
    folder = checkout / ".dvc/cache/files/md5"
    return {path.parent.name + path.name for path in folder.glob("??/*")}


def kinds(findings: Findings) -> list[str]:
    return sorted({item.kind for item in findings.removable})


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(scope="session", name="two_template")
def fixture_two_template(checkout_template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str], set[str]]:
    folder = tmp_path_factory.mktemp("two") / "checkout"
    shutil.copytree(checkout_template, folder, symlinks=True)
    made = []
    for value in (13, 14):
        setting(folder, value)
        repro(folder, "validate")
        made.append({*outs(folder, "validate"), data(folder)})
    return folder, made[0] - made[1], made[1]


@pytest.fixture(name="two")
def fixture_two(two_template: tuple[Path, set[str], set[str]], checkout: Path) -> tuple[Path, set[str], set[str]]:
    """A checkout with two versions of data and outputs, and the hashes of both. Its files name only the second."""
    template, first, second = two_template
    shutil.rmtree(checkout)
    shutil.copytree(template, checkout, symlinks=True)
    os.chdir(checkout)  # the folder was replaced
    return checkout, first, second


def clone(checkout: Path, name: str) -> Path:
    folder = clones_folder(Checkout(checkout)) / name
    subprocess.run(["git", "clone", "--quiet", str(checkout), str(folder)], check=True)
    return folder
