"""Restores a backup into a checkout whose services were never up, or whose state was lost.

- It checks checksums, versions and the target before it writes anything.
- It builds the services' state beside the state folder, and renames it as the last step. A kill before that leaves a checkout without
  services. The same command then starts again, and keeps files that already equal the backup.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from components.checkout import Checkout
from components.errors import UserError
from components.files import digest_file, read_json, write_atomic, write_json
from components.operations.backup import contents, databases
from components.operations.backup.manifest import Manifest, check_versions, read_manifest, verify
from components.operations.services import postgres, supervision, temporary_postgres
from components.operations.services.import_sqlite import IMPORTED
from components.operations.services.programs import ARTIFACTS_BUCKET, artifacts
from components.operations.services.state import Addresses, addresses_file, free_port
from components.processes.guard import run_lock
from components.processes.secrets import Secrets, owner_only, state_folder
from components.storage.git import ask_git

Log = Callable[[str], None]
STAGED_ARTIFACTS = "mlruns.restoring"
MARKER = "restoring.json"  # in the future state folder: the identity of the backup


def restore_backup(checkout: Checkout, folder: Path, log: Log) -> Manifest:
    """Restore the backup in `folder`. Raises UserError for an unfit backup or target, before it writes anything."""
    folder = folder.resolve()
    manifest = read_manifest(folder)
    with run_lock(checkout):
        _check_target(checkout, folder, manifest)
        check_versions(manifest, None)
        verify(folder, manifest, log)
        if manifest.kind == "services":
            _end_leftovers(checkout, log)
            staged = _stage_services(checkout, folder, manifest, log)
        _restore_files(checkout, folder, manifest, log)
        if manifest.kind == "services":
            (staged / MARKER).unlink()
            shutil.rmtree(state_folder(checkout), ignore_errors=True)  # empty but for logs
            staged.rename(state_folder(checkout))
        elif "databases/mlflow.db" in manifest.files:
            _put_sqlite(checkout, folder, manifest)
    return manifest


def _check_target(checkout: Checkout, folder: Path, manifest: Manifest) -> None:
    state = state_folder(checkout)
    entries = [path.name for path in state.iterdir() if path.name != "logs"] if state.is_dir() else []
    if entries:
        raise UserError(
            f"{state} holds services already ({', '.join(sorted(entries)[:3])}): end them with `mmalign down`, then move it away"
        )
    if manifest.kind == "sqlite":
        recorded = databases.sqlite_runs(checkout.mlflow_database)
        if recorded and not _same(checkout.mlflow_database, manifest.files.get("databases/mlflow.db")):
            raise UserError(f"{checkout.root / 'mlflow.db'} holds {recorded} runs: move it and mlruns/ away")
    elif manifest.external_database and "DATABASE_URL" not in os.environ:
        raise UserError("the backup's databases were on an external server: set DATABASE_URL to a server for them")
    elif not manifest.external_database and "DATABASE_URL" in os.environ:
        raise UserError("the backup's databases were those of `mmalign up`, but DATABASE_URL is set: unset it")
    if manifest.bucket != (os.environ.get(ARTIFACTS_BUCKET) if manifest.kind == "services" else None):
        where = (
            f"lie in the bucket {manifest.bucket}: set {ARTIFACTS_BUCKET} to it"
            if manifest.bucket
            else f"are files: unset {ARTIFACTS_BUCKET}"
        )
        raise UserError(f"the backup's artifacts {where}")
    _check_artifacts(checkout, folder, manifest)
    _check_settings(checkout, manifest)


def _check_settings(checkout: Checkout, manifest: Manifest) -> None:
    """No folder to write to is a link, and no file is an edit that would be lost."""
    root = checkout.root.resolve()
    for path in [*(checkout.root / name for name, _ in manifest.below("checkout")), checkout.root / STAGED_ARTIFACTS / "any"]:
        if path.parent.resolve() != root / path.parent.relative_to(checkout.root):
            raise UserError(f"{path.parent} is a link: restore into a checkout that has this folder itself")
    for name, sha256 in manifest.below("checkout"):
        if (checkout.root / name).exists() and not _same(checkout.root / name, sha256) and _is_an_edit(checkout, name):
            raise UserError(f"{name} differs from the backup and from git's last commit: commit or move it, and restore again")


def _check_artifacts(checkout: Checkout, folder: Path, manifest: Manifest) -> None:
    """Existing artifacts must equal the backup's. The bucket of the backup must hold its artifacts."""
    if manifest.bucket:
        wanted = read_json(folder / "artifacts.json")
        sizes = contents.bucket_keys(manifest.bucket, artifacts(checkout).removeprefix(f"s3://{manifest.bucket}/"))
        lost = [key for key, size in wanted.items() if sizes.get(key) != size]
        if lost:
            raise UserError(
                f"the bucket {manifest.bucket} lacks {len(lost)} artifacts of the backup, such as {lost[0]}: restore them there first"
            )
        return
    if not contents.artifact_files(checkout):
        return
    for name, sha256 in manifest.below("artifacts"):
        if not _same(checkout.mlruns / name, sha256):
            raise UserError(
                f"{checkout.root / 'mlruns'} holds other artifacts than the backup ({name} differs or is missing): move it away"
            )


def _end_leftovers(checkout: Checkout, log: Log) -> None:
    if supervision.processes(checkout):  # the state folder is empty, so only a killed restore can have left them
        log("ending the processes of a killed restore")
        supervision.stop(checkout, None)


def _stage_services(checkout: Checkout, folder: Path, manifest: Manifest, log: Log) -> Path:
    """Build the new state folder beside the final path, and return it."""
    staged = state_folder(checkout).with_name("services.restoring")
    # An earlier try may have filled databases of an external server. They stay, since each is filled in one transaction.
    resumed = (staged / MARKER).is_file() and read_json(staged / MARKER) == manifest.identity
    shutil.rmtree(staged, ignore_errors=True)
    with owner_only():
        staged.mkdir(parents=True)
        write_json(staged / MARKER, manifest.identity)
        for name, _ in manifest.below("state"):
            write_atomic(staged / name, (folder / "state" / name).read_bytes())
        if not (staged / IMPORTED).is_file():
            write_json(staged / IMPORTED, {})  # the restored record counts: no later start may import mlflow.db over it
    addresses, secrets = Addresses(**read_json(staged / addresses_file(checkout).name)), Secrets(**read_json(staged / "secrets.json"))
    if not addresses.external_database:
        addresses = replace(addresses, postgres_port=free_port(set()))
    with temporary_postgres.database(checkout, staged, addresses, secrets):
        check_versions(manifest, databases.server_version(addresses, secrets))
        postgres.make_databases(addresses, secrets)
        for database in postgres.DATABASES:
            if databases.is_empty(addresses, secrets, database):
                databases.load(checkout, addresses, secrets, database, folder / databases.dump_name(database))
            elif not resumed:
                raise UserError(
                    f"the database {database} of DATABASE_URL is not empty: set DATABASE_URL to a server without this checkout's databases"
                )
        log(f"filled the databases {', '.join(postgres.DATABASES)}")
        databases.move_record(addresses, secrets, Path(manifest.root), checkout.root.resolve())
    return staged


def _restore_files(checkout: Checkout, folder: Path, manifest: Manifest, log: Log) -> None:
    for name, sha256 in manifest.below("checkout"):
        if not _same(checkout.root / name, sha256):
            write_atomic(checkout.root / name, (folder / "checkout" / name).read_bytes())
    files = dict(manifest.below("artifacts"))
    if files and not contents.artifact_files(checkout):
        staged = checkout.root / STAGED_ARTIFACTS
        shutil.rmtree(staged, ignore_errors=True)
        for name in files:
            contents.copy_hashed(folder / "artifacts" / name, staged / name)
        shutil.rmtree(checkout.mlruns, ignore_errors=True)
        staged.rename(checkout.mlruns)
        log(f"restored {len(files):,} artifacts")
    objects = dict(manifest.below("cache"))
    if objects:
        cache = contents.cache_folder(checkout)
        # The list of a folder comes after its files, since an existing object counts as complete.
        for name in sorted(objects, key=lambda name: name.endswith(".dir")):
            if not _same(cache / name, objects[name]):
                part = cache / f"{name}.restoring"
                contents.copy_hashed(folder / "cache" / name, part)
                part.chmod(0o444)
                part.replace(cache / name)
        log(f"restored {len(objects):,} objects of DVC's cache")


def _put_sqlite(checkout: Checkout, folder: Path, manifest: Manifest) -> None:
    part = checkout.root / "mlflow.db.restoring"
    part.unlink(missing_ok=True)
    contents.copy_hashed(folder / "databases/mlflow.db", part)
    databases.move_sqlite_record(part, Path(manifest.root), checkout.root.resolve())
    for journal in ("mlflow.db-wal", "mlflow.db-shm"):
        (checkout.root / journal).unlink(missing_ok=True)  # of the replaced database
    part.replace(checkout.mlflow_database)


def _same(path: Path, sha256: str | None) -> bool:
    return path.is_file() and digest_file(path) == sha256


def _is_an_edit(checkout: Checkout, name: str) -> bool:
    """Whether git can't restore the file's content. This includes dvc.lock, which runs write."""
    return ask_git(checkout.root, "status", "--porcelain", "--ignored", "--", name) != ""


def described(manifest: Manifest) -> dict[str, object]:
    """The manifest for scripts: the number of files instead of their list."""
    return {**{key: value for key, value in asdict(manifest).items() if key != "files"}, "files": len(manifest.files)}
