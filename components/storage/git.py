"""Runs git for unattended runs: git must never wait for an answer to a question, nor run a program that an address names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SECONDS = 600.0
PROTOCOLS = "file:https:ssh"  # neither git's own nor http, which nobody authenticates, nor ext, which runs a command
# The author of commits in a run's clone. A person's own settings, such as a signing key, play no part.
WHO = ("-c", "user.name=mmalign", "-c", "user.email=mmalign@localhost", "-c", "commit.gpgsign=false")


def run_git(folder: Path, *arguments: str, text: str | None = None) -> str:
    """The output of a git command in `folder`, which reads `text`. Raises CalledProcessError, with git's stderr, or TimeoutExpired."""
    quiet = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
        "GIT_ALLOW_PROTOCOL": os.environ.get("GIT_ALLOW_PROTOCOL", PROTOCOLS),
    }
    command = ["git", *WHO, *arguments]
    completed = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **quiet},
        **({"stdin": subprocess.DEVNULL} if text is None else {"input": text}),
        capture_output=True,
        text=True,
        errors="surrogateescape",  # names of files are bytes
        check=True,
        timeout=SECONDS,
    )
    return completed.stdout.strip()
