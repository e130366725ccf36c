"""Where a deployment's run works: the checkout that was deployed from, or a clone made for that run.

A clone lies in the state folder under the run's id, so that a run that is started again goes on in the same one, with its checkpoints. DVC's
cache is the checkout's own, for all clones; models and runs go into the same registry.
"""

from __future__ import annotations

import configparser
import subprocess
from dataclasses import dataclass
from pathlib import Path

from components.errors import UserError
from components.files import write_json
from components.processes.secrets import state_folder
from components.storage.git import run_git
from flows.parameters import NightParameters

CLONES = "clones"
NOTE = "clone.json"  # beside a whole clone: what it is of


@dataclass(frozen=True)
class Workplace:
    """The folder of a run. `commit` is set for clones."""

    folder: Path
    commit: str | None = None


def clones_folder(root: Path) -> Path:
    """Where the clones of a checkout's deployments lie."""
    return state_folder(root) / CLONES


def open_workplace(root: Path, run: NightParameters, run_id: str) -> Workplace:
    """The place for the run `run_id`. UserError where the repository or the ref can't be had."""
    if run.source == "checkout":
        if run.ref or run.repository:
            raise UserError(f"{'ref' if run.ref else 'repository'} belongs to source 'git', and this run's source is 'checkout'")
        return Workplace(root)
    return _clone(root, run, clones_folder(root) / run_id)


def checked_out(root: Path) -> str:
    """The branch of a checkout, or its commit where no branch is checked out."""
    branch = _ask_git(root, "symbolic-ref", "--quiet", "--short", "HEAD")
    return branch or _git(root, "rev-parse", "HEAD")


def fetched_file(root: Path, run: NightParameters, name: str) -> str | None:
    """The text of a file at the ref that a run with source `git` would clone; None where it has none. UserError as with `open_workplace`."""
    repository, ref = run.repository or str(root), run.ref or checked_out(root)
    mirror = clones_folder(root) / "mirror"
    if not (mirror / "HEAD").is_file():
        mirror.parent.mkdir(parents=True, exist_ok=True)
        _git(mirror.parent, "init", "--quiet", "--bare", str(mirror))
    _git(mirror, "fetch", "--quiet", "--depth=1", repository, ref)
    shown = _ask_git(mirror, "show", f"FETCH_HEAD:{name}")
    return shown or None


def _clone(root: Path, run: NightParameters, folder: Path) -> Workplace:
    repository, ref = run.repository or str(root), run.ref or checked_out(root)
    if not (folder / ".git" / NOTE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _git(folder, "init", "--quiet")
        _git(folder, "fetch", "--quiet", repository, ref)
        _git(folder, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
        origin = run.repository or _ask_git(root, "remote", "get-url", "origin") or str(root)
        if _ask_git(folder, "remote") == "":
            _git(folder, "remote", "add", "origin", origin)
        _configure_dvc(root, folder)
        write_json(folder / ".git" / NOTE, {"repository": repository, "ref": ref})  # last: without it the clone is made again
    return Workplace(folder, _git(folder, "rev-parse", "HEAD"))


def _configure_dvc(root: Path, folder: Path) -> None:
    """A person's own settings, keys of remotes among them, and the cache of the checkout."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read(root / ".dvc" / "config.local", encoding="utf-8")
    if not config.has_section("cache"):
        config.add_section("cache")
    if not config.has_option("cache", "dir"):
        config.set("cache", "dir", str(root / ".dvc" / "cache"))
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
    """As `_git`; nothing where git has no answer."""
    try:
        return run_git(folder, *arguments)
    except subprocess.CalledProcessError:
        return ""
