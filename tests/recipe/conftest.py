"""Checkouts with the real pipeline, the bundled base and a slice of the bundled rows, run behind a network guard."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks._slice import SMALL, Slice, make_slice, write_slice

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


@dataclass(frozen=True)
class Recipe(Slice):
    """A slice's checkout whose processes can't leave the machine."""

    def refused(self) -> str:
        """Hosts beyond loopback that a process asked for."""
        path = Path(self.environment["REFUSED_HOSTS"])
        return path.read_text() if path.is_file() else ""


def make_recipe(folder: Path, base: Path, write_data: Callable[[Path], None], settings: dict[str, dict[str, Any]]) -> Recipe:
    """A clone as a person has it, behind the guard; its data/ holds `base` and what `write_data` puts there."""
    made = make_slice(folder, base, write_data, settings)
    guard = folder / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    environment = {"PYTHONPATH": f"{guard}{os.pathsep}{made.root}", "REFUSED_HOSTS": str(folder / "refused")}
    return Recipe(made.root, {**made.environment, **environment})


def copy_of(recipe: Recipe, root: Path) -> Recipe:
    """A copy of the finished checkout, to run stages in again."""
    shutil.copytree(recipe.root, root, symlinks=True)
    return Recipe(root, {**recipe.environment, "PYTHONPATH": recipe.environment["PYTHONPATH"].replace(str(recipe.root), str(root))})


@pytest.fixture(scope="session")
def recipe(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A checkout with a slice of the bundled rows in which `mmalign run` has ended well."""
    made = make_recipe(tmp_path_factory.mktemp("recipe"), base, write_slice, SMALL)
    done = made.mmalign("run", "--accept-data")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (made.root.parent / "first.txt").write_text(done.stdout + done.stderr)
    return made
