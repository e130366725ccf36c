"""Runs mmalign where the machine lacks something: in a namespace of mounts of its own, as another user, under a limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT, clean_environment

# Run in the namespace, with the checkout's folder as $0.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
SMALL_SHARED_MEMORY = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
FEW_FILES = "ulimit -n {number}"
STRANGER = 45678  # a number without a name, as containers give it
# Another user who may read all, since tests lie in a folder of root's, and may write nothing.
AS_STRANGER = (
    *("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"),
)


def mmalign_where(folder: Path, setup: str, *arguments: str, stranger: bool = False) -> subprocess.CompletedProcess[str]:
    """Run mmalign in `folder` after `setup`, a command of the shell. Skips the test where this user may not set that up."""
    python = [*(AS_STRANGER if stranger else ()), sys.executable, "-m", "components.cli.main"]
    environment = {name: value for name, value in clean_environment().items() if name not in {"USER", "LOGNAME"}}
    slots = Path(environment["MMALIGN_SLOTS"])
    slots.mkdir(exist_ok=True)
    slots.chmod(0o1777)
    require(["unshare", "--mount", "sh", "-c", setup, str(folder)])
    if stranger:
        require([*AS_STRANGER, "true"])
    command = ["unshare", "--mount", "sh", "-c", f'{setup} && cd "$0" && exec "$@"', str(folder), *python, *arguments]
    return subprocess.run(command, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=300)


def require(command: list[str]) -> None:
    """Skip the test where this user may not run `command`."""
    try:
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    if tried.returncode != 0:
        pytest.skip(f"this user may not do this: {tried.stderr.strip()}")
