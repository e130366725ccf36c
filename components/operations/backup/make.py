"""Making a backup, also while services and runs are at work.

Databases come first and artifacts after them, so that no run of a dump lacks an artifact that it had. The manifest comes last: what a kill
leaves is no backup.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.errors import UserError
from components.files import digest_file, write_json
from components.operations.backup import contents, databases
from components.operations.backup.manifest import MANIFEST, Manifest, installed_versions, write_manifest
from components.operations.services import postgres, temporary_postgres
from components.operations.services.programs import ARTIFACTS_BUCKET, artifacts
from components.operations.services.state import read_addresses
from components.processes.secrets import read_secrets, state_folder
from components.tracking.provenance import git_state
from components.tracking.store import tracking_uri

Log = Callable[[str], None]
SPARE_BYTES = 200_000_000


@dataclass(frozen=True)
class Backup:
    """One that was made."""

    folder: Path
    manifest: Manifest
    bytes: int


def make_backup(root: Path, folder: Path, *, with_cache: bool, say: Log) -> Backup:
    """Back the checkout up into `folder`, which must be new or empty; with the objects of DVC's cache that its lock names, where asked.

    Raises UserError where the folder can't be used, StageFault where a database can't be dumped.
    """
    folder = folder.resolve()
    _check_folder(root, folder)
    before = os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        return _fill(root, folder, with_cache=with_cache, say=say)
    finally:
        os.umask(before)


def dated(folder: Path) -> Path:
    """The place of a new backup among those in `folder`, named by the time (UTC)."""
    return folder / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def remove_old(folder: Path, keep: int, say: Log) -> None:
    """Remove the whole backups in `folder` that are named by a time, but the newest `keep`."""
    whole = sorted(path.parent for path in folder.glob(f"[0-9]*-[0-9]*/{MANIFEST}"))
    for old in whole[:-keep]:
        (old / MANIFEST).unlink()  # what a kill leaves of it is no backup any more
        shutil.rmtree(old)
        say(f"removed the backup {old}")


def _fill(root: Path, folder: Path, *, with_cache: bool, say: Log) -> Backup:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    addresses = read_addresses(root)
    versions = installed_versions()
    files: dict[str, str] = {}
    if addresses is None:
        if not tracking_uri(root).startswith("sqlite:"):
            say("runs are recorded on the server that MLFLOW_TRACKING_URI names, which this does not back up")
        if (root / "mlflow.db").is_file():
            (folder / "databases").mkdir()
            databases.copy_sqlite(root / "mlflow.db", folder / "databases/mlflow.db")
            files["databases/mlflow.db"] = digest_file(folder / "databases/mlflow.db")
            say("mlflow.db is copied")
    else:
        files |= _dump_services(root, folder, versions, say)
    for name in contents.settings_files(root):
        copy = contents.copy_lock if name.endswith((".lock", ".dvc")) else contents.copy_hashed
        files[f"checkout/{name}"] = copy(root / name, folder / "checkout" / name)
    bucket = os.environ.get(ARTIFACTS_BUCKET) if addresses is not None else None
    if bucket:
        keys = contents.bucket_keys(bucket, artifacts(root).removeprefix(f"s3://{bucket}/"))
        write_json(folder / "artifacts.json", keys)
        files["artifacts.json"] = digest_file(folder / "artifacts.json")
        say(f"{len(keys):,} artifacts stay in the bucket {bucket}; their list is kept")
    else:
        files |= _copy_all(folder, "artifacts", {name: root / "mlruns" / name for name in contents.artifact_files(root)}, say)
    if with_cache:
        files |= _copy_all(folder, "cache", contents.cache_objects(root), say)
    manifest = Manifest(
        kind="sqlite" if addresses is None else "services",
        made=made,
        root=str(root.resolve()),
        git_sha=git_state(root).sha,
        versions=versions,
        bucket=bucket,
        external_database=addresses is not None and addresses.external_database,
        files=files,
    )
    write_manifest(folder, manifest)
    return Backup(folder, manifest, sum((folder / name).stat().st_size for name in files))


def _dump_services(root: Path, folder: Path, versions: dict[str, str], say: Log) -> dict[str, str]:
    """The three databases, addresses and passwords. The database is started where it does not run."""
    addresses, secrets = read_addresses(root), read_secrets(root)
    assert addresses is not None, "the caller has looked"
    files: dict[str, str] = {}
    (folder / "databases").mkdir()
    with ExitStack() as stack:
        if not postgres.answers(addresses, secrets):
            say("the services are down: starting the database for a moment")
            stack.enter_context(temporary_postgres.database(root, state_folder(root), addresses, secrets))
        versions["postgresql"] = databases.server_version(addresses, secrets)
        for database in postgres.DATABASES:
            name = databases.dump_name(database)
            databases.dump(root, addresses, secrets, database, folder / name)
            files[name] = digest_file(folder / name)
    say(f"the databases {', '.join(postgres.DATABASES)} are dumped")
    for name in contents.STATE_FILES:
        if (state_folder(root) / name).is_file():
            files[f"state/{name}"] = contents.copy_hashed(state_folder(root) / name, folder / "state" / name)
    return files


def _copy_all(folder: Path, part: str, sources: dict[str, Path], say: Log) -> dict[str, str]:
    size = sum(path.stat().st_size for path in sources.values() if path.is_file())
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free, and {part} take {size / 1e9:.1f} GB: name a folder on a larger disk")
    files = {}
    for name, path in sources.items():
        try:
            files[f"{part}/{name}"] = contents.copy_hashed(path, folder / part / name)
        except FileNotFoundError:
            continue  # deleted since it was listed
    say(f"{len(files):,} files of {part} are copied ({size / 1e6:,.0f} MB)")
    return files


def _check_folder(root: Path, folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name a new folder, so that no backup is mixed with another")
    inside = folder.is_relative_to(root.resolve())
    if inside and subprocess.run(["git", "check-ignore", "-q", str(folder)], cwd=root, capture_output=True, check=False).returncode == 1:
        raise UserError(f"{folder} lies in the checkout, where git would take the passwords of a backup: name a folder outside")
