"""Checkouts with the real pipeline, the bundled base and a slice of the bundled rows, run behind a network guard."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks._slice import SMALL, Slice, make_slice, read_rows, write_rows, write_slice
from components.checkout import Checkout
from components.processes.marks import SERVICE_MARK, checkout_mark, marked

TRAIN_ROWS = 96
# A stage's second thread waits, awake, for the core of the suite's other worker.
ONE_THREAD = {section: {"threads": 1} for section in ("critique", "reference", "evaluate")}
# Secrets of a run: in the environment of the services, as the key of S3, and as the name of a prompt's file.
CANARIES = {"environment": "canary-of-the-environment-51", "s3": "canary-of-the-bucket-52", "file": "canary-of-a-file-53"}

# Every Python process of a run imports this first: it notes and refuses each connection and look-up beyond this machine.
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


@dataclass(frozen=True)
class Recipe(Slice):
    """A slice's checkout whose processes can't leave the machine."""

    def first(self) -> dict[str, Any]:
        """The summary of the checkout's first run."""
        summary: dict[str, Any] = json.loads((self.root.parent / "first.json").read_text())
        return summary

    def refused(self) -> str:
        """Hosts beyond loopback that a process tried to reach."""
        path = Path(self.environment["REFUSED_HOSTS"])
        return path.read_text() if path.is_file() else ""


def make_recipe(folder: Path, base: Path, write_data: Callable[[Path], None], settings: dict[str, dict[str, Any]]) -> Recipe:
    """A clone behind the guard; its data/ has `base` and the files of `write_data`."""
    sections = {name: {**ONE_THREAD.get(name, {}), **settings.get(name, {})} for name in {*ONE_THREAD, *settings}}
    made = make_slice(folder, base, write_data, sections)
    guard = folder / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    environment = {"PYTHONPATH": f"{guard}{os.pathsep}{made.root}", "REFUSED_HOSTS": str(folder / "refused")}
    return Recipe(made.root, {**made.environment, **environment})


def copy_of(recipe: Recipe, root: Path) -> Recipe:
    """A copy of the finished checkout without services and with an empty record, for further runs of stages."""
    services = str(recipe.root / ".mmalign" / "services")
    shutil.copytree(
        recipe.root,
        root,
        symlinks=True,
        ignore=lambda folder, names: names if folder == services or folder.startswith(f"{services}/") else [],
    )
    return Recipe(root, {**recipe.environment, "PYTHONPATH": recipe.environment["PYTHONPATH"].replace(str(recipe.root), str(root))})


def write_canary_rows(data: Path) -> None:
    """The slice, with one image whose name is a secret."""
    write_slice(data, train=TRAIN_ROWS)
    path = data / "preferences/data.jsonl"
    rows = read_rows(path)
    row = next(row for row in rows if row["image"])
    source = data / "preferences" / row["image"]
    target = source.with_name(f"{CANARIES['file']}{source.suffix}")
    shutil.copy(source, target)
    row["image"] = str(target.relative_to(data / "preferences"))
    write_rows(path, rows)


@pytest.fixture(scope="session")
def recipe(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """A checkout with a slice of the bundled rows after a successful run of the deployment `nightly`; its services are up."""
    made = make_recipe(tmp_path_factory.mktemp("recipe"), base, write_canary_rows, {**SMALL, "deployments": {"poll_cron": "0 0 29 2 *"}})
    secrets = {"SOME_API_KEY": CANARIES["environment"], "AWS_SECRET_ACCESS_KEY": CANARIES["s3"], "AWS_ACCESS_KEY_ID": "somebody"}
    made = Recipe(made.root, {**made.environment, **secrets})
    try:
        for command in (["up", "--detach"], ["deploy"]):
            completed = made.mmalign(*command)
            assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
        completed = made.mmalign("run", "--deployment", "nightly", "--accept-data", "--wait")
        assert completed.returncode == 0, completed.stdout[-4000:] + completed.stderr[-4000:]
        (made.root.parent / "first.txt").write_text(completed.stdout + completed.stderr)
        shutil.copy(made.root / "reports/summary.json", made.root.parent / "first.json")
        yield made
    finally:
        made.mmalign("down")
    assert marked(SERVICE_MARK, checkout_mark(Checkout(made.root))) == []
