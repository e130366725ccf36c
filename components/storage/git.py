"""Runs git: for unattended runs, where it must never wait for an answer nor run a program that an address names, and to ask it something that it
may not know."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SECONDS = 600.0
PROTOCOLS = "file:https:ssh"  # neither git's own nor http, which nobody authenticates, nor ext, which runs a command
ASK_SECONDS = 60.0
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


def ask_git(folder: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> str | None:
    """The output of a git command in `folder`; None where it ends with another code than these, takes too long, or there is no git."""
    try:
        completed = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout if completed.returncode in codes else None
