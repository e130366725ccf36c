"""The files of a backup: settings, files of the services, artifacts, and objects of DVC's cache."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.checkout import Checkout
from components.storage.data_version import DATA_FILE
from components.storage.repository import open_repository

# The checkout's files that decide its next run. git has the code.
SETTINGS = ("params.yaml", "ops.yaml", DATA_FILE, "dvc.lock", "mlflow/registry.yaml", ".dvc/config", ".dvc/config.local")
# In the state folder: addresses, passwords, the mark of the imported record, ids of deployments, and the monitor's state.
STATE_FILES = ("services.json", "secrets.json", "carried.json", "deployments.json", "sentinel.json")
READ_TRIES = 20  # for a file that a run is writing
BLOCK_BYTES = 1 << 20


def copy_hashed(source: Path, target: Path) -> str:
    """Copy a file and return the sha256 of the copied bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    state = hashlib.sha256()
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(BLOCK_BYTES):
            state.update(block)
            new.write(block)
        new.flush()
        os.fsync(new.fileno())
    return state.hexdigest()


def copy_lock(source: Path, target: Path) -> str:
    """Copy one of DVC's YAML files. DVC does not write it atomically, so this retries until the copy is valid YAML."""
    for _ in range(READ_TRIES):
        digest = copy_hashed(source, target)
        try:
            if isinstance(yaml.safe_load(target.read_text(encoding="utf-8")), dict):
                return digest
        except (yaml.YAMLError, UnicodeDecodeError):
            pass  # half written: try again
        time.sleep(0.1)
    return digest  # after all tries, whatever the file holds


def settings_files(checkout: Checkout) -> Iterator[str]:
    """The checkout's settings files, and the records that wait for the store, with their artifacts."""
    yield from (name for name in SETTINGS if (checkout.root / name).is_file())
    waiting = sorted(checkout.tracking.glob("pending-*"))
    for path in waiting:
        files = [path] if path.is_file() else sorted(inner for inner in path.rglob("*") if inner.is_file())
        yield from (inner.relative_to(checkout.root).as_posix() for inner in files)


def artifact_files(checkout: Checkout) -> list[str]:
    """The files below mlruns/, relative to it."""
    folder = checkout.mlruns
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def bucket_keys(bucket: str, prefix: str) -> dict[str, int]:
    """The size in bytes of every object of MLflow in the bucket, by key."""
    pages = bucket_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return {entry["Key"]: int(entry["Size"]) for page in pages for entry in page.get("Contents", [])}


def bucket_client() -> Any:
    """The S3 client for MLflow's bucket."""
    import boto3

    return boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None)


def cache_objects(checkout: Checkout) -> dict[str, Path]:
    """Relative name to path of the cached objects that data.dvc and dvc.lock name. With them a run can skip and restore stages."""
    from components.storage.objects import cached_files

    cache = cache_folder(checkout)
    objects: dict[str, Path] = {}
    for value in sorted(_named_hashes(checkout)):
        files = cached_files(checkout, value)
        if files is None:
            continue  # a remote has it, or a run makes it again
        for path in (_object(cache, value), *files.values()):
            if path.is_file():
                objects[path.relative_to(cache).as_posix()] = path
    return objects


def cache_folder(checkout: Checkout) -> Path:
    """The folder of DVC's objects, by their hash."""
    with open_repository(checkout) as repository:
        return Path(repository.cache.local.path)


def _object(cache: Path, value: str) -> Path:
    return cache / value[:2] / value[2:]


def _named_hashes(checkout: Checkout) -> set[str]:
    """The hashes of data and of the stages' outs."""
    outs: list[Any] = []
    if (checkout.root / DATA_FILE).is_file():
        outs += yaml.safe_load((checkout.root / DATA_FILE).read_text(encoding="utf-8")).get("outs", [])
    if checkout.lock.is_file():
        stages = yaml.safe_load(checkout.lock.read_text(encoding="utf-8")).get("stages", {})
        outs += [out for stage in stages.values() for out in stage.get("outs", [])]
    return {str(out["md5"]) for out in outs if "md5" in out}
