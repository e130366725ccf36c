"""lmms-eval in an environment of its own, in the checkout's state: it can't share ours, since it needs other versions of antlr4 and protobuf."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from components.checkout import Checkout
from components.errors import InfrastructureFault, UserError

VERSION = "0.7.3"
REQUIREMENTS = (
    f"lmms-eval=={VERSION}",
    "decord",  # its models of the LLaVA family import it, and it does not name it
    "filelock<3.20",  # it reads a module that later versions do not have
)
STAMP = ".requirements"


def environment_of(checkout: Checkout) -> Path:
    """The folder of the environment."""
    return checkout.bench / "lmms-eval"


def is_ready(checkout: Checkout) -> bool:
    """Whether the environment has what this version of the code asks for."""
    stamp = environment_of(checkout) / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8").split("\n") == list(REQUIREMENTS)


def set_up(checkout: Checkout, log: Callable[[str], None]) -> bool:
    """Make the environment, some 6 GB; whether anything was to do. Raises UserError without uv, InfrastructureFault where uv fails."""
    if is_ready(checkout):
        return False
    uv = shutil.which("uv")
    if uv is None:
        raise UserError("bench setup needs uv, which is not on PATH: run `make install`, or install uv yourself")
    folder = environment_of(checkout)
    log(f"bench setup: installing lmms-eval {VERSION} into {folder} (some 6 GB)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *REQUIREMENTS])
    (folder / STAMP).write_text("\n".join(REQUIREMENTS), encoding="utf-8")
    return True


def _run(command: list[str]) -> None:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        last = (completed.stderr.strip().splitlines() or ["no message"])[-1]
        raise InfrastructureFault(f"bench setup: `{' '.join(command[:3])}` failed ({last}): check the network, then run it again")
