"""Puts a folder into a test checkout's DVC cache and dvc.lock, as a finished stage does."""

from __future__ import annotations

from pathlib import Path

import yaml


def keep_in_dvc(root: Path, stage: str, path: Path) -> str:
    """Cache `path` as the out of `stage`; returns its hash."""
    from dvc.fs import LocalFileSystem
    from dvc.repo import Repo
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.transfer import transfer

    repository = Repo(str(root)) if (root / ".dvc").is_dir() else Repo.init(str(root))
    staging, _, built = build(repository.cache.local, str(root / path), LocalFileSystem(), "md5")
    transfer(staging, repository.cache.local, {built.hash_info}, shallow=False)
    repository.close()
    value = str(built.hash_info.value)
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"].setdefault(stage, {"cmd": f"mmalign stage {stage}", "outs": []})["outs"].append({"path": str(path), "md5": value})
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    return value
