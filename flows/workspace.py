"""The folder in which a deployment's run works: the deployed checkout, or a clone made for that run.

A clone lies in the state folder under the run's id, so that a restarted run continues in the same clone, with its checkpoints. All clones
use the checkout's DVC cache and registry.

Prefect starts a flow from the folder that `python -m flows.workspace` prints (a pull step of prefect.yaml), so that a clone runs its own code.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from components.checkout import Checkout
from components.errors import UserError
from components.files import read_json, write_json
from components.operations.environment import enter_checkout
from components.operations.services.prefect_rest import ask
from components.processes.marks import FLOW_RUN
from components.processes.secrets import state_folder
from components.storage.git import run_git
from flows.parameters import RunParameters

CLONES = "clones"
NOTE = "clone.json"  # in a complete clone: its repository and ref, and the deployed checkout


@dataclass(frozen=True)
class Workspace:
    """The checkout in which a run works. `commit` is set for clones."""

    checkout: Checkout
    commit: str | None = None


def clones_folder(checkout: Checkout) -> Path:
    """The folder of the clones of a checkout's deployments."""
    return state_folder(checkout) / CLONES


def open_workspace(checkout: Checkout, run: RunParameters, run_id: str) -> Workspace:
    """The workspace of the run `run_id`. UserError where git can't fetch the repository or the ref."""
    if run.source == "checkout":
        if run.ref or run.repository:
            name = "ref" if run.ref else "repository"
            raise UserError(f"{name} belongs to source 'git', but this run's source is 'checkout': set source to 'git' or drop {name}")
        return Workspace(checkout)
    return _clone(checkout, run, clones_folder(checkout) / run_id)


def deployed_checkout(workspace: Checkout) -> Checkout:
    """The checkout whose deployment works in `workspace`."""
    note = workspace.root / ".git" / NOTE
    return Checkout(Path(read_json(note)["deployed"])) if note.is_file() else workspace


def checked_out(checkout: Checkout) -> str:
    """The branch of a checkout, or its commit where no branch is checked out."""
    branch = _ask_git(checkout.root, "symbolic-ref", "--quiet", "--short", "HEAD")
    return branch or _git(checkout.root, "rev-parse", "HEAD")


def fetched_file(checkout: Checkout, run: RunParameters, name: str) -> str | None:
    """The text of a file at the ref that a run with source `git` would clone; None without such a file. UserError as `open_workspace`."""
    repository, ref = run.repository or str(checkout.root), run.ref or checked_out(checkout)
    mirror = clones_folder(checkout) / "mirror"
    if not (mirror / "HEAD").is_file():
        mirror.parent.mkdir(parents=True, exist_ok=True)
        _git(mirror.parent, "init", "--quiet", "--bare", str(mirror))
    _git(mirror, "fetch", "--quiet", "--depth=1", repository, ref)
    shown = _ask_git(mirror, "show", f"FETCH_HEAD:{name}")
    return shown or None


def _clone(checkout: Checkout, run: RunParameters, folder: Path) -> Workspace:
    repository, ref = run.repository or str(checkout.root), run.ref or checked_out(checkout)
    if not (folder / ".git" / NOTE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _git(folder, "init", "--quiet")
        _git(folder, "fetch", "--quiet", repository, ref)
        _git(folder, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
        origin = run.repository or _ask_git(checkout.root, "remote", "get-url", "origin") or str(checkout.root)
        if _ask_git(folder, "remote") == "":
            _git(folder, "remote", "add", "origin", origin)
        _configure_dvc(checkout, folder)
        write_json(
            folder / ".git" / NOTE, {"repository": repository, "ref": ref, "deployed": str(checkout.root)}
        )  # last: without it the clone is made again
    return Workspace(Checkout(folder), _git(folder, "rev-parse", "HEAD"))


def _configure_dvc(checkout: Checkout, folder: Path) -> None:
    """Write the person's DVC settings, with the keys of remotes, and the checkout's cache."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read(checkout.dvc / "config.local", encoding="utf-8")
    if not config.has_section("cache"):
        config.add_section("cache")
    if not config.has_option("cache", "dir"):
        config.set("cache", "dir", str(checkout.dvc / "cache"))
    path = folder / ".dvc" / "config.local"
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as stream:
        config.write(stream)


def _git(folder: Path, *arguments: str) -> str:
    try:
        return run_git(folder, *arguments)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"git {arguments[0]} took longer than {error.timeout:.0f} s: check the repository of the run") from error
    except subprocess.CalledProcessError as error:
        why = " ".join(error.stderr.split())[:300]
        raise UserError(f"git {arguments[0]} failed ({why}): check repository and ref of the run") from error


def _ask_git(folder: Path, *arguments: str) -> str:
    """As `_git`; empty where git fails."""
    try:
        return run_git(folder, *arguments)
    except subprocess.CalledProcessError:
        return ""


def print_folder() -> None:
    """Print the folder of the flow run of this process. Where it can't be made the flow starts in the checkout, and meets the same error."""
    checkout = enter_checkout()
    folder = checkout.root
    try:
        run_id = os.environ[FLOW_RUN]
        parameters = _parameters(checkout, run_id)
        if parameters.recovers:
            run_id = parameters.recovers
            parameters = _parameters(checkout, run_id)
        folder = open_workspace(checkout, parameters, parameters.goes_on_from or run_id).checkout.root
    except Exception as error:  # noqa: BLE001 -- as above: only the flow has a page for the sentence
        print(f"no workspace could be made: {error}", file=sys.stderr)
    print(folder)


def _parameters(checkout: Checkout, run_id: str) -> RunParameters:
    return RunParameters.model_validate(ask(checkout, f"flow_runs/{run_id}")["parameters"].get("run") or {})


if __name__ == "__main__":
    print_folder()
