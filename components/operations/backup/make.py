"""Makes a backup, even while services and runs work.

It dumps the databases before it copies the artifacts, so that the copy holds all artifacts of the dumped runs. It writes the manifest last, so
that the folder of a killed backup counts as none.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.checkout import Checkout
from components.errors import InfrastructureFault, StageFault, UserError
from components.files import digest_file, write_json
from components.operations.backup import contents, databases
from components.operations.backup.manifest import MANIFEST, Manifest, installed_versions, write_manifest
from components.operations.services import postgres, temporary_postgres
from components.operations.services.programs import ARTIFACTS_BUCKET, artifacts
from components.operations.services.state import read_addresses
from components.processes.machine_errors import SMALL_BYTES
from components.processes.secrets import owner_only, read_secrets, state_folder
from components.storage.git import ask_git
from components.tracking.provenance import git_state
from components.tracking.store import tracking_uri

Log = Callable[[str], None]
SPARE_BYTES = 200_000_000


@dataclass(frozen=True)
class Backup:
    """A finished backup. `bytes` is the size of its files."""

    folder: Path
    manifest: Manifest
    bytes: int


def make_backup(checkout: Checkout, folder: Path, *, with_cache: bool, log: Log) -> Backup:
    """Back up the checkout into `folder`, which must be new or empty. `with_cache` adds the cached objects that dvc.lock names.

    Raises UserError for an unusable folder, StageFault where a dump fails, InfrastructureFault on a full disk, which it leaves as it was.
    """
    folder = folder.resolve()
    _check_folder(checkout, folder)
    with owner_only():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        try:
            return _fill(checkout, folder, with_cache=with_cache, log=log)
        except (OSError, sqlite3.Error, StageFault) as error:
            if (free := shutil.disk_usage(folder).free) >= SMALL_BYTES:
                raise
            for path in folder.iterdir():  # it was empty
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise InfrastructureFault(
                f"the backup could not be finished and was removed: the disk of {folder} had {free / 1e6:.0f} MB free: make room there, or name "
                "a folder on another disk"
            ) from error


def dated(folder: Path) -> Path:
    """The folder of a new backup in `folder`, named by the time (UTC)."""
    return folder / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def remove_old(folder: Path, keep: int, log: Log) -> None:
    """Remove complete backups with a time as name from `folder`, except the newest `keep`."""
    complete = sorted(path.parent for path in folder.glob(f"[0-9]*-[0-9]*/{MANIFEST}"))
    for old in complete[:-keep]:
        (old / MANIFEST).unlink()  # from here on the folder counts as no backup
        shutil.rmtree(old)
        log(f"removed the backup {old}")


def _fill(checkout: Checkout, folder: Path, *, with_cache: bool, log: Log) -> Backup:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    addresses = read_addresses(checkout)
    versions = installed_versions()
    files: dict[str, str] = {}
    if addresses is None:
        if not tracking_uri(checkout).startswith("sqlite:"):
            log("MLFLOW_TRACKING_URI names a server that records the runs: the backup does not contain its record")
        if checkout.mlflow_database.is_file():
            (folder / "databases").mkdir()
            databases.copy_sqlite(checkout.mlflow_database, folder / "databases/mlflow.db")
            files["databases/mlflow.db"] = digest_file(folder / "databases/mlflow.db")
            log("copied mlflow.db")
    else:
        files |= _dump_services(checkout, folder, versions, log)
    for name in contents.settings_files(checkout):
        copy = contents.copy_lock if name.endswith((".lock", ".dvc")) else contents.copy_hashed
        files[f"checkout/{name}"] = copy(checkout.root / name, folder / "checkout" / name)
    bucket = os.environ.get(ARTIFACTS_BUCKET) if addresses is not None else None
    if bucket:
        keys = contents.bucket_keys(bucket, artifacts(checkout).removeprefix(f"s3://{bucket}/"))
        write_json(folder / "artifacts.json", keys)
        files["artifacts.json"] = digest_file(folder / "artifacts.json")
        log(f"{len(keys):,} artifacts stay in the bucket {bucket}; the backup holds their list")
    else:
        files |= _copy_all(folder, "artifacts", {name: checkout.mlruns / name for name in contents.artifact_files(checkout)}, log)
    if with_cache:
        files |= _copy_all(folder, "cache", contents.cache_objects(checkout), log)
    manifest = Manifest(
        kind="sqlite" if addresses is None else "services",
        made=made,
        root=str(checkout.root.resolve()),
        git_sha=git_state(checkout).sha,
        versions=versions,
        bucket=bucket,
        external_database=addresses is not None and addresses.external_database,
        files=files,
    )
    write_manifest(folder, manifest)
    return Backup(folder, manifest, sum((folder / name).stat().st_size for name in files))


def _dump_services(checkout: Checkout, folder: Path, versions: dict[str, str], log: Log) -> dict[str, str]:
    """Back up the three databases, addresses and passwords. Starts the database where it does not run."""
    addresses, secrets = read_addresses(checkout), read_secrets(checkout)
    assert addresses is not None, "the caller checks this"
    files: dict[str, str] = {}
    (folder / "databases").mkdir()
    with ExitStack() as stack:
        if not postgres.answers(addresses, secrets):
            log("the services are down: starting the database for the backup")
            stack.enter_context(temporary_postgres.database(checkout, state_folder(checkout), addresses, secrets))
        versions["postgresql"] = databases.server_version(addresses, secrets)
        for database in postgres.DATABASES:
            name = databases.dump_name(database)
            databases.dump(checkout, addresses, secrets, database, folder / name)
            files[name] = digest_file(folder / name)
    log(f"dumped the databases {', '.join(postgres.DATABASES)}")
    for name in contents.STATE_FILES:
        if (state_folder(checkout) / name).is_file():
            files[f"state/{name}"] = contents.copy_hashed(state_folder(checkout) / name, folder / "state" / name)
    return files


def _copy_all(folder: Path, part: str, sources: dict[str, Path], log: Log) -> dict[str, str]:
    size = sum(path.stat().st_size for path in sources.values() if path.is_file())
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free, and {part} need {size / 1e9:.1f} GB: name a folder on a larger disk")
    files = {}
    for name, path in sources.items():
        try:
            files[f"{part}/{name}"] = contents.copy_hashed(path, folder / part / name)
        except FileNotFoundError:
            continue  # deleted meanwhile
    log(f"copied {len(files):,} files of {part} ({size / 1e6:,.0f} MB)")
    return files


def _check_folder(checkout: Checkout, folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name a new folder for the backup")
    if folder.is_relative_to(checkout.root.resolve()) and ask_git(checkout.root, "check-ignore", "-q", str(folder), codes=(1,)) is not None:
        raise UserError(f"{folder} lies in the checkout, where git would take the passwords of the backup: name a folder outside")
