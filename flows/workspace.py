"""The folder in which a deployment's run works: the deployed checkout, its copy for a run with overrides, or a clone made for that run.

A clone lies in the state folder under the run's id, so that a restarted run continues in the same clone, with its checkpoints. A copy lies
there under a digest of its overrides (components/storage/copies.py).

Prefect starts a flow from the folder that `python -m flows.workspace` prints (a pull step of prefect.yaml), so that a clone runs its own code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from uuid import UUID

from components.checkout import Checkout
from components.errors import UserError
from components.operations.environment import enter_checkout
from components.processes.marks import FLOW_RUN
from components.storage.clones import clones_folder, complete, deployed_checkout, exclude, is_complete, share, work_in
from components.storage.copies import commit_data, fill_copy, workspace_of
from components.storage.git import ask_git, run_git
from flows.flow_runs import server_client
from flows.parameters import RunParameters


@dataclass(frozen=True)
class Workspace:
    """The checkout in which a run works. `commit` is set for clones, `overrides` for copies."""

    checkout: Checkout
    commit: str | None = None
    overrides: tuple[str, ...] = ()


def open_workspace(checkout: Checkout, run: RunParameters, run_id: str) -> Workspace:
    """The workspace of the run `run_id`; a copy is filled by `enter_workspace`. UserError where git can't fetch the repository or the ref."""
    if run.source == "checkout":
        if run.ref or run.repository:
            name = "ref" if run.ref else "repository"
            raise UserError(f"{name} belongs to source 'git', but this run's source is 'checkout': set source to 'git' or drop {name}")
        copy = workspace_of(checkout, run.overrides)
        return Workspace(copy, overrides=tuple(run.overrides) if copy != checkout else ())
    folder = clones_folder(checkout) / run_id
    if folder.resolve().parent != clones_folder(checkout).resolve():
        raise UserError(f"'{run_id}' is no id of a run: start a new run")
    return _clone(checkout, run, folder)


def enter_workspace(checkout: Checkout, workspace: Workspace, run: RunParameters, log: Callable[[str], None], cancel: Event) -> None:
    """Work in the workspace of a run of `checkout` from here on. The caller holds its run lock. A run that goes on finds a copy as it was.

    Raises UserError where the data or the checkout are refused.
    """
    if workspace.overrides and not (run.goes_on_from and is_complete(workspace.checkout.root)):
        wait_seconds = checkout.settings().deployments.wait_minutes * 60
        commit_data(checkout, accept=run.accept_data, log=log, wait_seconds=wait_seconds, cancel=cancel)
        fill_copy(checkout, workspace.checkout, workspace.overrides, log)
    work_in(workspace.checkout, checkout)


def checked_out(checkout: Checkout) -> str:
    """The branch of a checkout, or its commit where no branch is checked out."""
    branch = ask_git(checkout.root, "symbolic-ref", "--quiet", "--short", "HEAD")
    return (branch or "").strip() or _git(checkout.root, "rev-parse", "HEAD")


def fetched_file(checkout: Checkout, run: RunParameters, name: str) -> str | None:
    """The text of a file at the ref that a run with source `git` would clone; None without such a file. UserError as `open_workspace`."""
    repository, ref = _source(checkout, run)
    mirror = clones_folder(checkout) / "mirror"
    if not (mirror / "HEAD").is_file():
        mirror.parent.mkdir(parents=True, exist_ok=True)
        _git(mirror.parent, "init", "--quiet", "--bare", str(mirror))
    _git(mirror, "fetch", "--quiet", "--depth=1", "--end-of-options", repository, ref)
    return (ask_git(mirror, "show", f"FETCH_HEAD:{name}") or "").strip() or None


def _source(checkout: Checkout, run: RunParameters) -> tuple[str, str]:
    """Repository and ref of a run with source `git`. UserError where git takes the ref for none, or nobody has allowed the repository."""
    ref = run.ref or checked_out(checkout)
    _git(checkout.root, "check-ref-format", "--allow-onelevel", ref)
    if run.repository is None:
        return str(checkout.root), ref
    deployed = deployed_checkout(checkout)  # a clone's own settings allow nothing: whoever writes the repository writes them
    if run.repository not in {str(deployed.root), _origin(deployed), *deployed.settings().deployments.repositories}:
        raise UserError(f"repository {run.repository} is not allowed: add it to deployments.repositories in {deployed.ops}")
    return run.repository, ref


def _origin(checkout: Checkout) -> str:
    return (ask_git(checkout.root, "remote", "get-url", "origin") or "").strip()


def _clone(checkout: Checkout, run: RunParameters, folder: Path) -> Workspace:
    repository, ref = _source(checkout, run)
    if not is_complete(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _git(folder, "init", "--quiet")
        _git(folder, "fetch", "--quiet", "--end-of-options", repository, ref)
        _git(folder, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
        origin = run.repository or _origin(checkout) or str(checkout.root)
        if not ask_git(folder, "remote"):
            _git(folder, "remote", "add", "--end-of-options", "origin", origin)
        share(checkout, folder)
        exclude(folder, Checkout(folder).mlruns)
        complete(checkout, folder, repository=repository, ref=ref)
    return Workspace(Checkout(folder), _git(folder, "rev-parse", "HEAD"))


def _git(folder: Path, *arguments: str) -> str:
    try:
        return run_git(folder, *arguments)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"git {arguments[0]} took longer than {error.timeout:.0f} s: check the repository of the run") from error
    except subprocess.CalledProcessError as error:
        why = " ".join(error.stderr.split())[:300]
        raise UserError(f"git {arguments[0]} failed ({why}): check repository and ref of the run") from error


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
        if parameters.source == "git":
            folder = open_workspace(checkout, parameters, parameters.goes_on_from or run_id).checkout.root
    except Exception as error:  # noqa: BLE001 -- as above: only the flow has a page for the sentence
        print(f"no workspace could be made: {error}", file=sys.stderr)
    print(folder)


def _parameters(checkout: Checkout, run_id: str) -> RunParameters:
    with server_client(checkout) as client:
        return RunParameters.model_validate(client.read_flow_run(UUID(run_id)).parameters.get("run") or {})


if __name__ == "__main__":
    print_folder()
