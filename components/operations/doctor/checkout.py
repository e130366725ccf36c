"""Checks of the checkout: git, settings, data and DVC."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.errors import UserError
from components.operations.doctor.findings import Finding, ok, problem, some, warning
from components.storage.data_version import DATA_FILE, UNSET_BUCKET, DataState, data_state
from components.storage.git import ask_git
from components.storage.repository import open_repository
from components.tracking.provenance import APART, git_state, read_yaml

PULL = "the next mmalign run fetches it; or now: dvc pull data.dvc"


def git(checkout: Checkout) -> Finding:
    """The checkout is a git repository with a commit, an author for new commits, and no uncommitted changes."""
    if ask_git(checkout.root, "--version") is None:
        return problem("git is not on PATH", "install git with your system's package manager")
    if ask_git(checkout.root, "rev-parse", "--git-dir") is None:
        if checkout.root.stat().st_uid != os.getuid():
            return problem(
                "git does not trust the checkout, since it belongs to another user",
                f"git config --global --add safe.directory {checkout.root.resolve()}",
            )
        return problem("git can't open the checkout as a repository", "run in a clone; or git init, git add -A and git commit here")
    state = git_state(checkout)
    if state.sha is None:
        return problem("the repository has no commit, so no run can name its code", "git add -A && git commit")
    commit = f"commit {state.sha[:12]}"
    missing = [key for key in ("user.name", "user.email") if not ask_git(checkout.root, "config", key)]
    if missing:
        return warning(
            f"{commit}; {' and '.join(missing)} not set, so git can't commit new data versions and settings",
            "; ".join(f'git config {key} "…"' for key in missing),
        )
    if state.dirty:
        changed = [line[3:] for line in (ask_git(checkout.root, "status", "--porcelain", "--", ".", *APART) or "").splitlines()]
        return warning(
            f"{commit} with {_count(len(changed), 'changed file')} ({some(changed)}): MLflow marks runs dirty and keeps the diff",
            "commit your changes, so that git alone can reproduce a run",
        )
    return ok(f"{commit}, nothing changed")


def settings(checkout: Checkout) -> Finding:
    """params.yaml and ops.yaml hold every setting with a valid value."""
    try:
        checkout.settings()
    except UserError as error:
        mistake = str(error).replace(f"{checkout.root}/", "")
        return problem(mistake, "correct that file, or restore the committed ones: git checkout params.yaml ops.yaml")
    return ok("params.yaml and ops.yaml are valid")


def data(checkout: Checkout) -> Finding:
    """data/ agrees with data.dvc, or a run can make them agree."""
    try:
        state = data_state(checkout)
    except UserError as error:
        return problem(str(error), "restore data.dvc: git checkout data.dvc; or put rows into data/preferences")
    return _data_finding(state)


def dvc(checkout: Checkout) -> Finding:
    """DVC is configured, an edit of data can't change its cache, and its remotes on this machine exist."""
    if not checkout.dvc.is_dir():
        return problem("the folder .dvc is missing", "git checkout .dvc")
    with open_repository(checkout) as repository:
        config: Mapping[str, Any] = repository.config
        links = list(config.get("cache", {}).get("type") or ["reflink", "copy"])
        remotes = {name: str(remote.get("url", "")) for name, remote in config.get("remote", {}).items()}
    pinned = (read_yaml(checkout.root / DATA_FILE).get("outs") or [{}])[0].get("remote")
    lost = [name for name, url in remotes.items() if "://" not in url and not Path(url).is_dir()]
    if pinned in lost:
        return problem(f"the remote '{pinned}', which data.dvc names, is missing at {remotes[pinned]}", "restore it with git, or mount it")
    if pinned is not None and pinned not in remotes:
        return problem(f"data.dvc names the remote '{pinned}', which .dvc/config lacks", "git checkout .dvc/config")
    setup = f"links: {', '.join(links)}; remotes: {', '.join(_remote(name, url) for name, url in remotes.items()) or 'none'}"
    linked = [kind for kind in links if kind in {"hardlink", "symlink"}]
    if linked:
        return warning(
            f"{setup}; with {linked[0]}s, an edit of a file in data/ can change the version in the cache too",
            "dvc config cache.type reflink,copy",
        )
    if lost:
        return warning(f"{setup}; {some(lost)} can't be reached", f"mount {remotes[lost[0]]}, or: dvc remote remove {lost[0]}")
    return ok(setup)


def _data_finding(state: DataState) -> Finding:
    changed = state.changed + state.added
    if state.version is None:
        return warning(f"data/ has no version yet ({_count(state.present, 'file')})", "mmalign run commits it as the first one")
    version = f"version {state.version[:12]}"
    if state.missing and changed:
        return problem(
            f"{_count(len(state.missing), 'file')} of {version} removed ({some(state.missing)}) while {len(changed)} are changed or new",
            "put them back, or make this the new version: mmalign run --accept-data",
        )
    if state.removed:
        return problem(
            f"{_count(len(state.missing), 'file')} of {version} removed ({some(state.missing)})",
            "make this the new version: mmalign run --accept-data; or put them back: dvc checkout data.dvc",
        )
    if state.missing:
        return warning(f"{_count(len(state.missing), 'file')} of {version} missing ({some(state.missing)})", PULL)
    if changed:
        return warning(
            f"{_count(len(changed), 'file')} changed or new since {version} ({some(changed)})", "mmalign run commits them as a new version"
        )
    if not state.cached:
        return warning(f"DVC's cache lacks files of {version}", "mmalign run caches them; or: dvc commit data.dvc")
    return ok(f"{version}, {_count(state.present, 'file')}")


def _remote(name: str, url: str) -> str:
    if UNSET_BUCKET in url:
        return f"{name} (no bucket set yet: dvc remote modify {name} url s3://BUCKET/PREFIX)"
    return f"{name} (not checked here)" if "://" in url else name


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' if number != 1 else ''}"
