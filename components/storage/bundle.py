"""Makes what lies in data/ the version that the repository ships: for maintainers of the repository only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.storage.data_version import DATA_FILE, data_stage
from components.storage.repository import open_repository

LIMIT_BYTES = 12_000_000


def bundle(root: Path) -> str:
    """Write data/ into the remote `bundled` (emptied first), pin data.dvc to it, and give the version. UserError above 12 MB.

    The pin also says `push: false`, so that no push, not even one that names data.dvc, can add files to the repository afterwards.
    """
    root = root.resolve()
    size = sum(path.stat().st_size for path in (root / "data").rglob("*") if path.is_file())
    if size > LIMIT_BYTES:
        raise UserError(f"data/ has {size / 1e6:.1f} MB: a bundled version may have {LIMIT_BYTES / 1e6:.0f}")
    with open_repository(root) as repository:
        if not (root / DATA_FILE).exists():
            repository.add([str(root / "data")])
        _dump(repository, remote=None, can_push=True)
        shutil.rmtree(Path(repository.config["remote"]["bundled"]["url"]) / "files", ignore_errors=True)
        repository.push(targets=[str(root / DATA_FILE)], remote="bundled")
        return _dump(repository, remote="bundled", can_push=False)


def _dump(repository: Any, *, remote: str | None, can_push: bool) -> str:
    with repository.lock:
        stage = data_stage(repository)
        stage.outs[0].remote = remote
        stage.outs[0].can_push = can_push
        stage.save()
        stage.commit()
        stage.dump()
        return str(stage.outs[0].hash_info.value)
