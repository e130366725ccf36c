"""Pushes a run's data, models and run-cache to the team's remote, and its lock file to a branch.

- The push works on copies of the run's DVC files, in a folder that shares the checkout's cache. DVC locks a repository for the whole push;
  in the checkout itself the next run would wait for that lock, or fail.
- No failure here ends a run: `Pushed.sentence` reports it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from components.checkout import Checkout
from components.processes.log_lines import last_lines
from components.processes.marks import end_process
from components.processes.redaction import redactor
from components.storage.clones import dvc_cache_folder, dvc_config, write_dvc_config
from components.storage.data_version import TEAM_REMOTE, UNSET_BUCKET
from components.storage.git import run_git

FILES = ("dvc.yaml", "dvc.lock", "data.dvc", "params.yaml")  # the files by which DVC knows what belongs to a run
POLL_SECONDS = 0.2
PUSH_SECONDS = 6 * 3600.0  # limit of one push; the next run's push continues from there


@dataclass(frozen=True)
class Pushed:
    """The result of a push: whether it succeeded, a sentence for people, and its log."""

    ok: bool
    sentence: str
    log: Path | None = None


def has_bucket(checkout: Checkout) -> bool:
    """Whether the remote `s3` of a checkout names the team's bucket."""
    url = dvc_config(checkout, "config", "config.local").get(f"'remote \"{TEAM_REMOTE}\"'", "url", fallback="")
    return bool(url) and UNSET_BUCKET not in url


def push_run(
    checkout: Checkout, workdir: Path, log: Path, *, cancel: threading.Event | None = None, seconds: float = PUSH_SECONDS
) -> Pushed | None:
    """Push the inputs and outputs of the run in `workdir`, and the run-cache, from the cache of `checkout`.

    DVC writes into the file `log`. The push stops on `cancel`, and after `seconds`. Returns None without a bucket. Raises nothing.
    """
    try:
        if not has_bucket(checkout):
            return None
        folder = checkout.absolute().push
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            repository = _copy_repository(checkout.absolute(), workdir, folder)
            command = [sys.executable, "-m", "dvc", "push", "--run-cache", "--remote", TEAM_REMOTE]
            return _run(checkout, command, repository, log, cancel, seconds)
    except Exception as error:  # noqa: BLE001 -- no failed push may fail a run
        why = redactor(checkout).clean(" ".join(str(error).split()))[:300]
        return Pushed(False, f"mmalign pushed nothing to remote {TEAM_REMOTE} ({type(error).__name__}: {why})")


def commit_lock(clone: Path, branch: str, *, push: bool) -> Pushed | None:
    """Commit changed DVC files and settings to `branch` in a run's clone, and with `push` push the branch to origin.

    Returns None where nothing changed. Raises nothing. Never call it on a person's checkout.
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
        reply = getattr(error, "stderr", None) or str(error)
        why = redactor(Checkout(clone)).clean(" ".join(reply.split()))[:300]
        what = "pushed" if push else "committed"
        return Pushed(False, f"dvc.lock could not be {what} to branch {branch} ({why}); MLflow keeps it with the run")
    return Pushed(True, f"dvc.lock was pushed to branch {branch}")


def _copy_repository(checkout: Checkout, workdir: Path, folder: Path) -> Path:
    """A DVC repository with copies of the run's files. Its path never changes, so DVC remembers what the remote holds."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
        if (workdir / name).is_file():
            shutil.copyfile(workdir / name, folder / name)
    config = dvc_config(checkout, "config", "config.local")
    config.remove_option("core", "remote")  # a default remote could be a folder, named relative to the checkout
    core = {"no_scm": "true", "analytics": "false", "check_update": "false"}
    config.read_dict({"core": core, "cache": {"dir": str(dvc_cache_folder(checkout))}})
    write_dvc_config(config, folder / ".dvc" / "config")
    return folder


def _run(checkout: Checkout, command: Sequence[str], folder: Path, log: Path, cancel: threading.Event | None, seconds: float) -> Pushed:
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("ab") as output:
        # In this process's group: a signal that ends the flow ends its push.
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
    lines = [redactor(checkout).clean(line) for line in last_lines(log, 5)]
    if process.returncode == 0 and not stopped:
        return Pushed(True, f"pushed to remote {TEAM_REMOTE} with the run-cache in {time.monotonic() - began:.0f} s: {_last(lines)}", log)
    return Pushed(
        False, f"the push to remote {TEAM_REMOTE} failed ({stopped or _last(lines)}); its log: {log}; the next run pushes again", log
    )


def _last(lines: Sequence[str]) -> str:
    return next((line.strip().removeprefix("ERROR: ")[:300] for line in reversed(lines) if line.strip()), "DVC printed nothing")
