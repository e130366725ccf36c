"""Finds the objects of DVC's cache that are needed at any age, by their hash, with `.dir` for folders.

- objects that files of the checkout or its clones name, or any of their commits, on any branch, tag or stash;
- objects of any registered model version, by its tags and by the DVC files of its run;
- objects that records name which wait for MLflow.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from components.checkout import Checkout
from components.errors import StageFault, UserError
from components.storage.git import run_git
from components.tracking.recorder import PENDING
from components.tracking.store import state_folder, tracking_uri

HASH = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")
FILES = (":(top,glob)**/dvc.lock", ":(top,glob)**/*.dvc")  # of the whole repository: the checkout may be a folder of it, or was moved


def named_in(text: str) -> set[str]:
    """Every hash in a text. Some hashes in a DVC file may be of uncached dependencies; they do no harm."""
    return set(HASH.findall(text))


def in_worktree(checkout: Path) -> set[str]:
    """The hashes in a checkout's DVC files now."""
    files = [path for pattern in ("dvc.lock", "*.dvc") for path in checkout.glob(pattern) if path.is_file()]
    listed = _git(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *FILES) if _has_git(checkout) else ""
    files += [path for name in listed.split("\0") if name and (path := checkout / name).is_file()]
    return {value for path in set(files) for value in named_in(path.read_text(encoding="utf-8", errors="replace"))}


def in_commits(checkout: Path) -> set[str]:
    """The hashes in any commit or in the index; none outside a git repository. Raises StageFault where git fails."""
    if not _has_git(checkout):
        return set()
    raw = _git(checkout, "log", "--all", "--reflog", "-m", "--format=", "--raw", "--no-abbrev", "--no-renames", "--", *FILES)
    blobs = {line.split()[3] for line in raw.splitlines() if line.startswith(":")}
    blobs |= {line.split()[1] for line in _git(checkout, "ls-files", "--stage", "--", *FILES).splitlines()}
    wanted = sorted(blob for blob in blobs if set(blob) != {"0"})  # all zeros: a removed file
    return named_in(_git(checkout, "cat-file", "--batch", text="\n".join(wanted) + "\n")) if wanted else set()


def in_registry(checkout: Checkout) -> set[str]:
    """The hashes of all registered versions. Raises StageFault where the registry can't be read."""
    from components.registry.lineage import write_files
    from components.registry.registry import Registry
    from components.registry.versions import NAMES

    uri = tracking_uri(checkout)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return set()
    registry = Registry(checkout)
    hashes: set[str] = set()
    for version in (version for name in NAMES for version in registry.versions(name)):
        hashes |= named_in(" ".join(version.tags.values()))
        with tempfile.TemporaryDirectory() as folder:
            try:
                names = write_files(checkout, version, Path(folder))
            except UserError:  # without its run or the run's files, only the version's tags are left
                continue
            hashes |= {value for name in names if name.endswith((".lock", ".dvc")) for value in named_in((Path(folder) / name).read_text())}
    return hashes


def in_waiting_records(checkouts: Iterable[Path]) -> set[str]:
    """The hashes in records that wait for MLflow."""
    files = [file for folder in checkouts for file in state_folder(Checkout(folder)).glob(f"{PENDING}*.jsonl")]
    return {value for file in files for value in named_in(file.read_text(encoding="utf-8", errors="replace"))}


def tracked(checkout: Checkout) -> set[Path]:
    """The checkout's files that git tracks."""
    if not _has_git(checkout.root):
        return set()
    return {checkout.root / name for name in _git(checkout.root, "ls-files", "-z").split("\0") if name}


def _has_git(checkout: Path) -> bool:
    """Whether the checkout is a git repository or lies in one. A repository that git refuses to read counts: nothing is removed then."""
    return any((folder / ".git").exists() for folder in (checkout.resolve(), *checkout.resolve().parents))


def _git(checkout: Path, *arguments: str, text: str | None = None) -> str:
    try:
        return run_git(checkout, *arguments, text=text)
    except (OSError, subprocess.SubprocessError) as error:
        message = " ".join(str(getattr(error, "stderr", None) or error).split())[:300]
        raise StageFault(f"git failed in {checkout}, so the files of its commits are unknown: {message}") from error
