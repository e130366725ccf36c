"""Stages of several checkouts on one machine with two GPUs that exist by name only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.processes.marks import RUN_MARK, STAGE_MARK, WATCHED
from tests.checkout import ROOT, checkout, checkout_template
from tests.settings import copy_settings

__all__ = ["checkout", "checkout_template"]

# Writes the GPUs that it sees, itself and in a child process. Works until the file `go` exists in its folder.
STAGE = """
import os, pathlib, subprocess, sys, time
from components.checkout import Checkout
from components.processes.faults import explain
from components.cli.run.stage import run_guarded
from components.errors import UserError

def work():
    seen = subprocess.run(["printenv", "CUDA_VISIBLE_DEVICES"], capture_output=True, text=True).stdout.strip()
    assert seen == os.environ["CUDA_VISIBLE_DEVICES"]
    if pathlib.Path("child").exists():
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        pathlib.Path("child").write_text(str(child.pid))
    pathlib.Path("gpus.tmp").write_text(seen)
    pathlib.Path("gpus.tmp").rename("gpus")
    while not pathlib.Path("go").exists():
        time.sleep(0.05)

try:
    run_guarded(sys.argv[1], Checkout(pathlib.Path.cwd()), work)
except UserError as error:
    sys.exit(explain(error))
"""


class Machine:
    """Starts stages, each in its own checkout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, stage: str = "reward", *, gpus: int = 0, visible: str = "0,1") -> Stage:
        root = self._folder / name
        root.mkdir(exist_ok=True)
        copy_settings(root)
        ask(root, stage, gpus)
        dropped = {RUN_MARK, STAGE_MARK, WATCHED}
        environment = {key: value for key, value in os.environ.items() if key not in dropped}
        environment |= {"CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": str(ROOT)}
        with (root / "out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", STAGE, stage], cwd=root, env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        self._started.append(process)
        return Stage(root, process)

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


class Stage:
    """A started stage."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self.root = root
        self.process = process

    @property
    def gpus(self) -> str | None:
        """CUDA_VISIBLE_DEVICES in the stage's work; None before the work begins."""
        path = self.root / "gpus"
        return path.read_text() if path.exists() else None

    @property
    def output(self) -> str:
        return (self.root / "out").read_text()

    def finish(self) -> None:
        (self.root / "go").touch()
        assert self.process.wait(60) == 0, self.output


def ask(root: Path, stage: str, gpus: int) -> None:
    """Set stages.STAGE.gpus in a checkout."""
    settings = root / "ops.yaml"
    text, changed = re.subn(
        rf"^(  {stage}: {{ deadline_minutes: \d+, gpus: )0 }}", rf"\g<1>{gpus} }}", settings.read_text(), flags=re.MULTILINE
    )
    assert changed == 1
    settings.write_text(text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with free slots."""
    monkeypatch.setenv("MMALIGN_SLOTS", str(tmp_path / "slots"))
    made = Machine(tmp_path)
    yield made
    made.end()
