"""Which objects of DVC's cache something needs, whatever their age: the names of their content, `.dir` for folders.

- what the files of the checkout and of its clones name, and what any commit of theirs names, on any branch, tag or stash;
- what any registered version of a model was made of, by its tags and the DVC files that its run keeps;
- what records name that still wait for MLflow.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from components.errors import StageFault, UserError
from components.tracking.recorder import PENDING
from components.tracking.store import state_folder, tracking_uri

HASH = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")
FILES = ("dvc.lock", "*.dvc", "*/dvc.lock")
GIT_SECONDS = 300


def named_in(text: str) -> set[str]:
    """Every hash in a text. In a DVC file some may be of dependencies that no cache holds: naming too much harms nothing."""
    return set(HASH.findall(text))


def in_worktree(checkout: Path) -> set[str]:
    """What the DVC files that lie in a checkout name now."""
    files = [path for pattern in ("dvc.lock", "*.dvc") for path in checkout.glob(pattern) if path.is_file()]
    listed = _git(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *FILES) if _has_git(checkout) else ""
    files += [path for name in listed.split("\0") if name and (path := checkout / name).is_file()]
    return {value for path in set(files) for value in named_in(path.read_text(encoding="utf-8", errors="replace"))}


def in_commits(checkout: Path) -> set[str]:
    """What any commit or the index names. Raises StageFault where git can't tell; nothing outside git."""
    if not _has_git(checkout):
        return set()
    raw = _git(checkout, "log", "--all", "--reflog", "-m", "--format=", "--raw", "--no-abbrev", "--no-renames", "--", *FILES)
    blobs = {line.split()[3] for line in raw.splitlines() if line.startswith(":")}
    blobs |= {line.split()[1] for line in _git(checkout, "ls-files", "--stage", "--", *FILES).splitlines()}
    wanted = sorted(blob for blob in blobs if set(blob) != {"0"})  # all zeros: a file was removed
    return named_in(_git(checkout, "cat-file", "--batch", told="\n".join(wanted) + "\n")) if wanted else set()


def in_registry(root: Path) -> set[str]:
    """What any registered version needs. Raises StageFault where the registry can't be asked."""
    from components.registry.lineage import write_files
    from components.registry.registry import Registry
    from components.registry.versions import NAMES

    uri = tracking_uri(root)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return set()
    registry = Registry(root)
    found: set[str] = set()
    for version in (version for name in NAMES for version in registry.versions(name)):
        found |= named_in(" ".join(version.tags.values()))
        with tempfile.TemporaryDirectory() as folder:
            try:
                names = write_files(root, version, Path(folder))
            except UserError:  # its run is gone or keeps no files: the tags, written with the version, are all there is
                continue
            found |= {value for name in names if name.endswith((".lock", ".dvc")) for value in named_in((Path(folder) / name).read_text())}
    return found


def in_waiting_records(checkouts: Iterable[Path]) -> set[str]:
    """What records name that could not be written to MLflow yet."""
    files = [file for checkout in checkouts for file in state_folder(checkout).glob(f"{PENDING}*.jsonl")]
    return {value for file in files for value in named_in(file.read_text(encoding="utf-8", errors="replace"))}


def tracked(root: Path) -> set[Path]:
    """Files of the checkout that git knows."""
    if not _has_git(root):
        return set()
    return {root / name for name in _git(root, "ls-files", "-z").split("\0") if name}


def _has_git(checkout: Path) -> bool:
    return (checkout / ".git").exists()


def _git(checkout: Path, *arguments: str, told: str | None = None) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=checkout, input=told, capture_output=True, text=True, errors="replace", timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())[:300]
        raise StageFault(f"git can't tell which files the commits of {checkout} name: {said}") from error
    return done.stdout
