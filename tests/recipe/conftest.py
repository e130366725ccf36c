"""Checkouts with the real pipeline, the bundled base and a slice of the bundled rows, run behind a network guard."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checkout import ROOT, clean_environment, git

# Imported by every Python process of a run before anything else: a connection or a look-up that would leave the machine is noted and refused.
GUARD = """
import os, socket, sys

def refuse_beyond_loopback(host):
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()) or str(host).startswith("127."):
        return
    with open(os.environ["REFUSED_HOSTS"], "a") as log:
        log.write(f"{host} {sys.argv}\\n")
    raise OSError(f"the test's network guard refuses {host}")

def guarded(function, host_of):
    def call(*arguments, **named):
        refuse_beyond_loopback(host_of(*arguments, **named))
        return function(*arguments, **named)
    return call

def peer(connection, address):
    return address[0] if isinstance(address, tuple) else None

socket.socket.connect = guarded(socket.socket.connect, peer)
socket.socket.connect_ex = guarded(socket.socket.connect_ex, peer)
socket.getaddrinfo = guarded(socket.getaddrinfo, lambda host, *rest, **named: host)
"""
Rows = list[dict[str, Any]]
SMALL: dict[str, dict[str, Any]] = {
    "reward": {"epochs": 2},
    "alignment": {"epochs": 1},
    "training": {"checkpoint_steps": 2},
    "evaluate": {"bootstrap_samples": 200, "max_new_tokens": 48, "samples": 6},
    "critique": {"max_new_tokens": 48},
}


def read_rows(path: Path) -> Rows:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class Recipe:
    """A checkout of the real pipeline and the environment that its commands run in."""

    root: Path
    environment: dict[str, str]

    def mmalign(self, *arguments: str, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; its output is in the result."""
        command = [sys.executable, "-m", "components.cli.main", *arguments]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False)

    def dvc(self, *arguments: str) -> str:
        """Run dvc as a person in the activated environment would; returns its output."""
        done = subprocess.run(["dvc", *arguments], cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def summary(self) -> dict[str, Any]:
        """reports/summary.json."""
        found: dict[str, Any] = json.loads((self.root / "reports/summary.json").read_text())
        return found

    def refused(self) -> str:
        """Hosts beyond loopback that a process asked for."""
        path = Path(self.environment["REFUSED_HOSTS"])
        return path.read_text() if path.is_file() else ""

    def locked_outs(self) -> dict[str, str]:
        """The hash of each out in dvc.lock, but for what differs from run to run."""
        lock = yaml.safe_load((self.root / "dvc.lock").read_text())
        outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
        return {out["path"]: out["md5"] for out in outs if not out["path"].endswith(("run.json", "validate-docs"))}


def make_recipe(folder: Path, base: Path, write_data: Callable[[Path], None], settings: dict[str, dict[str, Any]]) -> Recipe:
    """A clone as a person has it; its data/ holds `base` and what `write_data` puts there."""
    root, guard = folder / "checkout", folder / "guard"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    if (ROOT / ".mmalign/torch_extensions").is_dir():
        shutil.copytree(ROOT / ".mmalign/torch_extensions", root / ".mmalign/torch_extensions")
    values = yaml.safe_load((root / "params.yaml").read_text())
    for section, keys in settings.items():
        values[section].update(keys)
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    shutil.copytree(base, root / "data/base")
    write_data(root / "data")
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    environment = {**clean_environment(), "PYTHONPATH": f"{guard}{os.pathsep}{root}", "REFUSED_HOSTS": str(folder / "refused")}
    environment.pop("TORCH_EXTENSIONS_DIR", None)
    return Recipe(root, environment)


def copy_of(recipe: Recipe, root: Path) -> Recipe:
    """A copy of the finished checkout, to run stages in again."""
    shutil.copytree(recipe.root, root, symlinks=True)
    return Recipe(root, {**recipe.environment, "PYTHONPATH": recipe.environment["PYTHONPATH"].replace(str(recipe.root), str(root))})


def write_slice(data: Path, *, train: int, heldout: int) -> None:
    """Every n-th bundled row, so that all kinds are there, with its media and facts."""
    kept: set[str] = set()
    for name, count in (("data", train), ("heldout", heldout)):
        rows = read_rows(ROOT / f"data/preferences/{name}.jsonl")
        rows = rows[:: max(1, len(rows) // count)][:count]
        write_rows(data / f"preferences/{name}.jsonl", rows)
        copy_media(data, rows)
        kept |= {row["id"] for row in rows}
    write_rows(data / "truth/truth.jsonl", [fact for fact in read_rows(ROOT / "data/truth/truth.jsonl") if fact["id"] in kept])


def copy_media(data: Path, rows: Rows) -> None:
    """The images and folders of frames that rows name."""
    for medium in {row["image"] or row["video"] for row in rows} - {""}:
        source, target = ROOT / "data/preferences" / medium, data / "preferences" / medium
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


@pytest.fixture(scope="session")
def recipe(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A checkout with a slice of the bundled rows in which `mmalign run` has ended well."""
    made = make_recipe(tmp_path_factory.mktemp("recipe"), base, lambda folder: write_slice(folder, train=160, heldout=100), SMALL)
    done = made.mmalign("run", "--accept-data")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (made.root.parent / "first.txt").write_text(done.stdout + done.stderr)
    return made
