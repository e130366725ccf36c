"""A checkout on a file system that takes no writes: commands that only show something work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT, clean_environment

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"'


def read_only(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run mmalign where the checkout is mounted without the right to write."""
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(folder), sys.executable, "-m", "components.cli.main", *arguments]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "status"])
def test_read_only_checkout_shows_stale_stages(checkout: Path, command: str) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not make a namespace for mounts")
    completed = read_only(checkout, command)
    assert completed.returncode == 0, completed.stderr
    assert "has no record in dvc.lock" in completed.stdout
    assert "Read-only" not in completed.stdout + completed.stderr
