"""The copy of a checkout in which a run with overrides of settings works, so that the checkout's own files and results stay.

- It has the checkout's files as they are when the run begins, uncommitted ones too. Data and results are hard links into DVC's cache, the base
  model is a link: nothing large is copied.
- Its name is a digest of the overrides, so that the same command, or a resumed run, goes on there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Event

from components.checkout import Checkout
from components.config.overrides import changed_settings, parse_assignments
from components.errors import UserError
from components.files import write_atomic
from components.processes.guard import run_lock
from components.storage.bundled import REMOTE
from components.storage.clones import NOTE, clones_folder, complete, exclude, is_complete, link, share
from components.storage.data_version import check_removals, data_state, sync_data
from components.storage.git import run_git
from components.storage.repository import open_repository

NAME_CHARACTERS = 60
OWN = frozenset({"dvc.lock"})  # what a copy was given once, and then writes itself
BUNDLED = Path(*REMOTE.parts[:2])  # linked as a whole


def workspace_of(checkout: Checkout, overrides: Sequence[str]) -> Checkout:
    """Where a run with `overrides` works: a copy, which need not be there yet, or the checkout where its settings are so already.

    The same settings in another order have the same copy. Raises UserError for a mistake in them.
    """
    if not overrides or not changed_settings(checkout.params, overrides):
        return checkout
    values = parse_assignments(overrides)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9._=-]+", "_", ",".join(f"{key}={values[key]}" for key in sorted(values)))
    return Checkout(clones_folder(checkout) / f"set-{words[:NAME_CHARACTERS]}-{digest}")


def commit_data(
    checkout: Checkout, *, accept: bool, log: Callable[[str], None], wait_seconds: float = 0.0, cancel: Event | None = None
) -> None:
    """Commit changed data of the checkout, and fetch missing files, so that a copy can link them. Raises UserError as `sync_data` does.

    Only for that it waits for the checkout's run lock: runs with other settings may go on side by side.
    """
    state = data_state(checkout)
    check_removals(state, accept=accept)
    if state.differs or state.missing:
        with run_lock(checkout, wait_seconds, cancel, log):
            sync_data(checkout, accept=accept, log=log)


def fill_copy(checkout: Checkout, copy: Checkout, overrides: Sequence[str], log: Callable[[str], None]) -> None:
    """Give a copy the checkout's files as they are now, the overrides, and the data. The caller holds the copy's run lock.

    Raises UserError outside git.
    """
    root = checkout.absolute().root
    names = _names(root)
    if is_complete(copy.root):
        names = [name for name in names if name not in OWN]
        (copy.root / ".git" / NOTE).unlink()
    _point_git(root, copy.root)
    share(checkout, copy.root)
    exclude(copy.root, copy.mlruns, copy.root / BUNDLED)  # else they look like files that the checkout has lost
    _copy_files(root, copy.root, names)
    if (root / BUNDLED).is_dir():
        link(root / BUNDLED, copy.root / BUNDLED)
    for path, text in changed_settings(copy.params, overrides).items():
        write_atomic(path, text)
    exclude(copy.root, copy.mlruns, copy.root / BUNDLED, *_link_base(checkout, copy))
    if copy.data_version.is_file():
        with open_repository(copy) as repository:
            repository.checkout(targets=[str(copy.data_version.resolve())], force=True)
    complete(checkout, copy.root)
    log(f"this run works in {copy.root}: its outputs lie in artifacts/ there, its page is reports/report.html")


def _names(root: Path) -> list[str]:
    """The checkout's files that git tracks or would: by name, without those of the bundled remote."""
    try:
        listed = run_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise UserError(
            f"{root} is no git repository, by which --set knows the files that a run needs: run `git init && git add .`, or write the settings "
            "into their file with --save"
        ) from error
    bundled = f"{BUNDLED.as_posix()}/"
    return [name for name in listed.split("\0") if name and not name.startswith(bundled)]


def _point_git(root: Path, folder: Path) -> None:
    """Make `folder` a repository with the checkout's commit and index, which borrows its objects."""
    folder.mkdir(parents=True, exist_ok=True)
    run_git(folder, "init", "--quiet")
    try:
        commit = run_git(root, "rev-parse", "--verify", "--quiet", "HEAD")
        if run_git(root, "rev-parse", "--show-prefix"):
            return  # the checkout is a folder of a larger repository, whose paths are others
    except subprocess.CalledProcessError:
        return  # nothing was committed yet
    objects = (root / run_git(root, "rev-parse", "--git-path", "objects")).resolve()
    alternates = folder / ".git" / "objects" / "info" / "alternates"
    alternates.write_text(f"{objects}\n", encoding="utf-8")
    run_git(folder, "update-ref", "--no-deref", "HEAD", commit)
    run_git(folder, "read-tree", "HEAD")
    bundled = run_git(folder, "ls-files", "-z", "--", BUNDLED.as_posix()).split("\0")
    chosen = [name for name in bundled if name]
    if chosen:
        run_git(folder, "update-index", "-z", "--skip-worktree", "--stdin", text="\0".join(chosen))


def _copy_files(root: Path, folder: Path, names: Iterable[str]) -> None:
    """Copy files that differ in size or time, and remove those that the checkout no longer has."""
    wanted = set(names)
    for name in sorted(wanted):
        at, to = root / name, folder / name
        if at.is_symlink():
            link(at.readlink(), to)
        elif at.is_file() and not _same(at, to):
            to.parent.mkdir(parents=True, exist_ok=True)
            part = to.with_name(f"{to.name}.part")
            shutil.copy2(at, part)
            part.replace(to)
    for name in _names(folder):
        if name not in OWN and (name not in wanted or not os.path.lexists(root / name)):
            (folder / name).unlink(missing_ok=True)


def _same(at: Path, to: Path) -> bool:
    if to.is_symlink() or not to.is_file():
        return False
    one, other = at.stat(), to.stat()
    return (one.st_size, one.st_mtime_ns, one.st_mode) == (other.st_size, other.st_mtime_ns, other.st_mode)


def _link_base(checkout: Checkout, copy: Checkout) -> list[Path]:
    """Link a base model that neither git nor DVC knows, by the path that the copy's settings give; the link, or nothing."""
    base, absolute = copy.settings().model.base, checkout.absolute()
    at, to = absolute.root / base, copy.root / base
    if base.is_absolute() or at.is_relative_to(absolute.data) or not at.exists() or (to.exists() and not to.is_symlink()):
        return []
    link(at.resolve(), to)
    return [to]
