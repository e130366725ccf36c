"""git as the pipeline runs it when nobody watches: no question may wait for an answer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SECONDS = 600.0
# Whose commits in a clone of a run are; a person's own settings, a signing key among them, are not asked for.
WHO = ("-c", "user.name=mmalign", "-c", "user.email=mmalign@localhost", "-c", "commit.gpgsign=false")


def run_git(folder: Path, *arguments: str) -> str:
    """What a git command in `folder` prints. CalledProcessError, with what it said, where it fails; TimeoutExpired where it hangs."""
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")}
    command = ["git", *WHO, *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **quiet},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    return done.stdout.strip()
