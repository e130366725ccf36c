"""Makes data/ the version that the repository ships. Only maintainers of the repository need it."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.checkout import Checkout
from components.errors import UserError
from components.storage.data_version import DATA_FILE, commit_as_it_is
from components.storage.repository import open_repository

LIMIT_BYTES = 12_000_000


def bundle(checkout: Checkout) -> str:
    """Empty the remote `bundled`, write data/ into it, pin data.dvc to it, and return the version. Raises UserError above 12 MB.

    The pin sets `push: false`, so that no later push can add files to the repository, even one that names data.dvc.
    """
    checkout = checkout.absolute()
    size = sum(path.stat().st_size for path in checkout.data.rglob("*") if path.is_file())
    if size > LIMIT_BYTES:
        raise UserError(f"data/ has {size / 1e6:.1f} MB, and a bundled version may have {LIMIT_BYTES / 1e6:.0f}: remove rows or media")
    with open_repository(checkout) as repository:
        if not (checkout.root / DATA_FILE).exists():
            repository.add([str(checkout.data)])
        commit_as_it_is(repository, remote=None, can_push=True)
        shutil.rmtree(Path(repository.config["remote"]["bundled"]["url"]) / "files", ignore_errors=True)
        repository.push(targets=[str(checkout.root / DATA_FILE)], remote="bundled")
        return commit_as_it_is(repository, remote="bundled", can_push=False)
