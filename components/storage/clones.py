"""Folders in which runs work apart from their checkout: clones of source `git`, and copies for runs with overrides of settings.

They lie in the state folder under `clones`. A note in `.git` names the checkout, and is written last: a folder without it is made again. They
use the checkout's DVC cache, its caches by content, its compiled ops, its rates and its record; checkpoints are a folder's own.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path

from components.checkout import Checkout
from components.files import read_json, write_json
from components.processes.secrets import STATE, owner_only, state_folder

CLONES = "clones"
NOTE = "clone.json"  # in `.git`: the checkout, and for clones of source `git` repository and ref
LINK_TYPES = "reflink,hardlink,symlink,copy"  # data and results are never copied where the file system can link


def clones_folder(checkout: Checkout) -> Path:
    """The folder of the clones and copies of a checkout."""
    return state_folder(checkout) / CLONES


def is_complete(folder: Path) -> bool:
    """Whether a clone or copy was made to its end."""
    return (folder / ".git" / NOTE).is_file()


def complete(checkout: Checkout, folder: Path, **values: str) -> None:
    """Note that `folder` is a complete clone or copy of `checkout`."""
    write_json(folder / ".git" / NOTE, {**values, "deployed": str(checkout.absolute().root)})


def deployed_checkout(workspace: Checkout) -> Checkout:
    """The checkout to which a clone or copy belongs; another checkout belongs to itself."""
    note = workspace.root / ".git" / NOTE
    return Checkout(Path(read_json(note)["deployed"])) if note.is_file() else workspace


def share(checkout: Checkout, folder: Path) -> None:
    """Let the checkout in `folder` use what `checkout` has: DVC's settings with keys of remotes, cache, compiled ops, rates, record."""
    absolute, made = checkout.absolute(), Checkout(folder)
    _configure_dvc(absolute, made)
    made.state.mkdir(exist_ok=True)
    shared = [absolute.caches, absolute.torch_extensions, absolute.machine]
    if "MLFLOW_TRACKING_URI" not in os.environ:  # the record is the checkout's own
        shared.append(absolute.mlruns)
        link(absolute.mlflow_database, made.mlflow_database)
    for path in shared:
        path.mkdir(parents=True, exist_ok=True)
        link(path, folder / path.relative_to(absolute.root))


def work_in(workspace: Checkout, deployed: Checkout) -> None:
    """Make the folder, the code and the state of a run's workspace those of this process and its children."""
    os.chdir(workspace.root)
    os.environ["PYTHONPATH"] = str(workspace.root)
    if workspace.root != deployed.root:
        os.environ.setdefault(STATE, str(deployed.absolute().state))


def link(target: Path, at: Path) -> None:
    """Make `at` a link to `target`, in place of a file or another link."""
    if at.is_symlink() and at.readlink() == target:
        return
    at.parent.mkdir(parents=True, exist_ok=True)
    if at.is_symlink() or at.is_file():
        at.unlink()
    if not at.exists():
        at.symlink_to(target)


def exclude(folder: Path, *links: Path) -> None:
    """Let git overlook links in the repository `folder`, where .gitignore names a folder or nothing."""
    path = folder / ".git" / "info" / "exclude"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"/{at.relative_to(folder).as_posix()}\n" for at in links), encoding="utf-8")


def dvc_config(checkout: Checkout, *names: str) -> configparser.ConfigParser:
    """DVC's settings in these files of a checkout's .dvc, the later ones over the earlier."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read([checkout.dvc / name for name in names], encoding="utf-8")
    return config


def write_dvc_config(config: configparser.ConfigParser, path: Path) -> None:
    """Write settings that only their owner may read, since they may hold keys of remotes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with owner_only(), path.open("w", encoding="utf-8") as stream:
        config.write(stream)


def dvc_cache_folder(checkout: Checkout) -> Path:
    """The folder of DVC's cache by the checkout's settings, where a relative one counts from .dvc."""
    named = dvc_config(checkout, "config", "config.local").get("cache", "dir", fallback="cache").strip("\"'")
    return (checkout.dvc / (named or "cache")).resolve()


def _configure_dvc(checkout: Checkout, made: Checkout) -> None:
    """Write the person's DVC settings, with the keys of remotes, and the checkout's cache."""
    config = dvc_config(checkout, "config.local")
    config.read_dict({"cache": {"dir": str(dvc_cache_folder(checkout)), "type": f'"{LINK_TYPES}"'}})
    write_dvc_config(config, made.dvc / "config.local")
