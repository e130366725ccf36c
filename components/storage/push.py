"""After a run: its data, models and run-cache to the team's remote, and its lock file to a branch of its own.

- The push works from copies of the run's DVC files, in a folder with a lock of its own that shares the checkout's cache. DVC holds a
  repository's lock for the whole of a push, and in the checkout's own the next run would wait for it, or fail.
- Nothing here ends a run: what could not be done is a sentence.
"""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from components.processes.log_lines import last_lines
from components.processes.marks import end_process
from components.processes.redaction import redactor
from components.storage.data_version import TEAM_REMOTE, UNSET_BUCKET
from components.storage.git import run_git

FOLDER = Path(".mmalign") / "push"
FILES = ("dvc.yaml", "dvc.lock", "data.dvc", "params.yaml")  # what DVC has to read to know what belongs to a run
POLL_SECONDS = 0.2
PUSH_SECONDS = 6 * 3600.0  # for a push that makes no end: the next run's push goes on where it stopped


@dataclass(frozen=True)
class Pushed:
    """How a push ended: in a sentence, whether it worked, and its log."""

    ok: bool
    sentence: str
    log: Path | None = None


def has_bucket(root: Path) -> bool:
    """Whether the remote `s3` of a checkout names a bucket of the team's."""
    url = ""
    for name in ("config", "config.local"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(root / ".dvc" / name, encoding="utf-8")
        url = parser.get(f"'remote \"{TEAM_REMOTE}\"'", "url", fallback=url)
    return bool(url) and UNSET_BUCKET not in url


def push_run(
    root: Path, workdir: Path, log: Path, *, cancel: threading.Event | None = None, seconds: float = PUSH_SECONDS
) -> Pushed | None:
    """Push what the run in `workdir` made or used, with the run-cache, from the cache of the checkout at `root`; None without a bucket.

    `log` gets what DVC says. Ends early on `cancel`, and after `seconds`. Raises nothing.
    """
    try:
        if not has_bucket(root):
            return None
        folder = root.resolve() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            place = _place(root.resolve(), workdir, folder)
            command = [sys.executable, "-m", "dvc", "push", "--run-cache", "--remote", TEAM_REMOTE]
            return _run(root, command, place, log, cancel, seconds)
    except Exception as error:  # noqa: BLE001 -- a run that has ended well stays so
        why = redactor(root).clean(" ".join(str(error).split()))[:300]
        return Pushed(False, f"nothing was pushed to remote {TEAM_REMOTE} ({type(error).__name__}: {why})")


def commit_lock(clone: Path, branch: str, *, push: bool) -> Pushed | None:
    """Commit the run's DVC files and settings, where they differ, to `branch` in a run's clone, and push it to origin where `push`.

    None where nothing differs. Raises nothing. Never use it on a person's checkout.
    """
    names = [name for name in ("dvc.lock", "data.dvc", "params.yaml") if (clone / name).is_file()]
    try:
        if not run_git(clone, "status", "--porcelain", "--", *names):
            return None
        run_git(clone, "switch", "--quiet", "--force-create", branch)
        run_git(clone, "add", "--force", "--", *names)
        run_git(clone, "commit", "--quiet", "--no-verify", "--message", f"Lock of run {branch}", "--", *names)
        if not push:
            return Pushed(True, f"dvc.lock is on branch {branch} of {clone}; deployments.push_lock is off")
        run_git(clone, "push", "--quiet", "--no-verify", "origin", f"{branch}:{branch}")
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", None) or str(error)
        why = redactor(clone).clean(" ".join(said.split()))[:300]
        what = "pushed" if push else "committed"
        return Pushed(False, f"dvc.lock could not be {what} to branch {branch} ({why}); it is kept with the run in MLflow")
    return Pushed(True, f"dvc.lock was pushed to branch {branch}")


def _place(root: Path, workdir: Path, folder: Path) -> Path:
    """A DVC repository of the run's files: always at the same path, so that DVC knows from the last time what the remote has."""
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
        if (workdir / name).is_file():
            shutil.copyfile(workdir / name, folder / name)
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    cache = _cache(root, config)
    config.remove_option("core", "remote")  # a default one could be a folder, named relative to the checkout
    for section, values in {
        "core": {"no_scm": "true", "analytics": "false", "check_update": "false"},
        "cache": {"dir": str(cache)},
    }.items():
        if not config.has_section(section):
            config.add_section(section)
        for key, value in values.items():
            config.set(section, key, value)
    path = folder / ".dvc" / "config"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)  # the checkout's config.local may hold keys
    with path.open("w", encoding="utf-8") as stream:
        config.write(stream)
    return folder


def _cache(root: Path, config: configparser.ConfigParser) -> Path:
    named = config.get("cache", "dir", fallback="")
    return (root / ".dvc" / named).resolve() if named else root / ".dvc" / "cache"


def _run(root: Path, command: Sequence[str], folder: Path, log: Path, cancel: threading.Event | None, seconds: float) -> Pushed:
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("ab") as output:
        # In this process's group: what ends the flow ends its push.
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        stopped = ""
        try:
            while process.poll() is None and not stopped:
                if cancel is not None and cancel.is_set():
                    stopped = "it was cancelled"
                elif time.monotonic() - began > seconds:
                    stopped = f"it took longer than {seconds / 3600:g} hours"
                time.sleep(POLL_SECONDS)
        finally:
            end_process(process)
    said = [redactor(root).clean(line) for line in last_lines(log, 5)]
    if process.returncode == 0 and not stopped:
        return Pushed(True, f"pushed to remote {TEAM_REMOTE} with the run-cache in {time.monotonic() - began:.0f} s: {_last(said)}", log)
    return Pushed(
        False, f"the push to remote {TEAM_REMOTE} failed ({stopped or _last(said)}); its log: {log}; the next run pushes again", log
    )


def _last(lines: Sequence[str]) -> str:
    return next((line.strip().removeprefix("ERROR: ")[:300] for line in reversed(lines) if line.strip()), "DVC said nothing")
