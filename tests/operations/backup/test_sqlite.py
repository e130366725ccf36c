"""Backup and restore of a checkout that never ran `mmalign up`: mlflow.db and mlruns/."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import InfrastructureFault, UserError
from components.operations.backup.contents import bucket_keys
from components.operations.backup.make import dated, make_backup, remove_old
from components.operations.backup.manifest import MANIFEST, check_versions, numbers, read_manifest, verify
from components.operations.backup.restore import restore_backup
from components.processes.marks import checkout_mark
from tests.checkout import git, mmalign
from tests.operations.backup.conftest import run_of


def quiet(text: str) -> None:
    assert text


def backed_up(root: Path, folder: Path, *, with_cache: bool = False) -> Path:
    return make_backup(Checkout(root), folder, with_cache=with_cache, log=quiet).folder


def test_record_and_artifacts_restore_into_other_folder(checkout: Path, fresh: Path, tmp_path: Path) -> None:
    backup = mmalign(checkout, "backup", str(tmp_path / "kept"), "--json")
    assert backup.returncode == 0, backup.stderr
    assert json.loads(backup.stdout)["kind"] == "sqlite"
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "kept").rglob("*"))

    back = mmalign(fresh, "restore", str(tmp_path / "kept"))
    assert back.returncode == 0, back.stderr
    (checkout / "mlruns").rename(checkout / "elsewhere")  # no path may lead there
    assert run_of(fresh) == (0.5, "kept", checkout_mark(Checkout(fresh)))

    second = mmalign(fresh, "restore", str(tmp_path / "kept"))
    assert second.returncode == 2
    assert "holds 1 runs" in second.stderr


def test_backup_beside_writer_is_snapshot(checkout: Path, tmp_path: Path) -> None:
    writer = sqlite3.connect(checkout / "mlflow.db")
    writer.execute("update metrics set value = 0.25")  # not committed: no part of a snapshot
    folder = backed_up(checkout, tmp_path / "kept")
    writer.rollback()
    writer.close()
    with sqlite3.connect(folder / "databases/mlflow.db") as copy:
        assert copy.execute("select value from metrics where key = 'loss'").fetchone() == (0.5,)


def test_nonempty_or_untracked_backup_folder_is_refused(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "something").touch()
    with pytest.raises(UserError, match="is not empty"):
        backed_up(checkout, folder)
    assert [path.name for path in folder.iterdir()] == ["something"]
    with pytest.raises(UserError, match="where git would take the passwords"):
        backed_up(checkout, checkout / "backup")
    assert not (checkout / "backup").exists()
    assert backed_up(checkout, checkout / ".mmalign/backup").is_dir()


def test_backup_without_manifest_is_refused(checkout: Path, fresh: Path, tmp_path: Path) -> None:
    folder = backed_up(checkout, tmp_path / "kept")
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="cut short"):
        restore_backup(Checkout(fresh), folder, quiet)
    assert not (fresh / "mlflow.db").exists()


@pytest.mark.parametrize("damage", ["flipped", "missing", "linked"])
def test_damaged_file_is_named_and_nothing_is_written(checkout: Path, fresh: Path, tmp_path: Path, damage: str) -> None:
    folder = backed_up(checkout, tmp_path / "kept")
    target = next((folder / "artifacts").rglob("note.txt"))
    content = target.read_bytes()
    target.unlink()
    if damage == "flipped":
        target.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "linked":
        (tmp_path / "outside").write_bytes(content)
        target.symlink_to(tmp_path / "outside")
    before = list(fresh.rglob("*"))
    with pytest.raises(UserError, match=r"note\.txt"):
        restore_backup(Checkout(fresh), folder, quiet)
    assert set(fresh.rglob("*")) - set(before) <= {fresh / ".mmalign", fresh / ".mmalign/locks", fresh / ".mmalign/locks/run.lock"}


def test_manifest_with_outside_paths_is_refused(checkout: Path, tmp_path: Path) -> None:
    folder = backed_up(checkout, tmp_path / "kept")
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in ("checkout/../../.bashrc", "/etc/passwd"):
        (folder / MANIFEST).write_text(json.dumps({**manifest, "files": {name: "0"}}))
        with pytest.raises(UserError, match="outside"):
            read_manifest(folder)
    (folder / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_manifest(folder)


def test_edited_settings_are_not_overwritten(checkout: Path, fresh: Path, tmp_path: Path) -> None:
    (checkout / "params.yaml").write_text((checkout / "params.yaml").read_text().replace("beta: 0.1 ", "beta: 0.2 "))
    folder = backed_up(checkout, tmp_path / "kept")
    (fresh / "params.yaml").write_text((fresh / "params.yaml").read_text() + "# mine\n")
    with pytest.raises(UserError, match=r"params\.yaml differs .* commit or move it"):
        restore_backup(Checkout(fresh), folder, quiet)
    git(fresh, "checkout", "params.yaml")
    restore_backup(Checkout(fresh), folder, quiet)
    assert (fresh / "params.yaml").read_text() == (checkout / "params.yaml").read_text()


def test_artifacts_of_other_record_stop_restore(checkout: Path, fresh: Path, tmp_path: Path) -> None:
    folder = backed_up(checkout, tmp_path / "kept")
    (fresh / "mlruns").mkdir()
    (fresh / "mlruns/other.txt").touch()
    with pytest.raises(UserError, match="holds other artifacts"):
        restore_backup(Checkout(fresh), folder, quiet)
    assert not (fresh / "mlflow.db").exists()


def test_second_restore_completes_killed_one(checkout: Path, fresh: Path, tmp_path: Path) -> None:
    folder = backed_up(checkout, tmp_path / "kept")
    # A kill leaves half a copy of the artifacts and of the database.
    (fresh / "mlruns.restoring").mkdir()
    (fresh / "mlruns.restoring/half").write_text("x")
    (fresh / "mlflow.db.restoring").write_text("x")
    restore_backup(Checkout(fresh), folder, quiet)
    assert run_of(fresh)[:2] == (0.5, "kept")
    assert not list(fresh.glob("*.restoring"))


def test_tables_of_newer_or_other_major_version_are_refused(checkout: Path, tmp_path: Path) -> None:
    folder = backed_up(checkout, tmp_path / "kept")
    manifest = read_manifest(folder)
    check_versions(manifest, None)
    verify(folder, manifest, quiet)
    mlflow = manifest.versions["mlflow"]
    for version in (f"{numbers(mlflow)[0] + 1}.0.0", f"{numbers(mlflow)[0]}.999.0", "1.9"):
        manifest.versions["mlflow"] = version
        with pytest.raises(UserError, match=f"MLflow {version}"):
            check_versions(manifest, None)
    manifest.versions["mlflow"] = mlflow
    manifest.versions["postgresql"] = "18.6 (Debian 18.6-1)"
    check_versions(manifest, "19.1")
    with pytest.raises(UserError, match=r"this older server 17\.4 can't load it"):
        check_versions(manifest, "17.4")


def test_old_backups_go_but_foreign_folders_stay(checkout: Path, tmp_path: Path) -> None:
    for name in ("20200101-000000", "20200102-000000"):
        backed_up(checkout, tmp_path / name)
    (tmp_path / "20190101-000000").mkdir()
    (tmp_path / "20190101-000000/photo.jpg").touch()
    newest = backed_up(checkout, dated(tmp_path))
    remove_old(tmp_path, 2, quiet)
    left = {path.name for path in tmp_path.iterdir() if path.name[0] == "2"}
    assert left == {"20190101-000000", "20200102-000000", newest.name}


def test_backup_with_cache_restores_objects_of_lock(checkout: Path, fresh: Path, tmp_path: Path) -> None:
    import shutil

    from components.operations.backup.contents import cache_objects
    from components.storage.data_version import data_state

    folder = backed_up(checkout, tmp_path / "kept", with_cache=True)
    assert cache_objects(Checkout(checkout))
    shutil.rmtree(fresh / ".dvc/cache", ignore_errors=True)
    restore_backup(Checkout(fresh), folder, quiet)
    assert data_state(Checkout(fresh)).cached
    assert not list((fresh / ".dvc/cache").rglob("*.restoring"))


def test_bucket_artifacts_are_listed_with_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL", raising=False)
    with mock_aws():
        store = boto3.client("s3")
        store.create_bucket(Bucket="ours")
        store.put_object(Bucket="ours", Key="mlflow/1/note.txt", Body=b"kept")
        store.put_object(Bucket="ours", Key="mlflow-other/x", Body=b"not ours")
        assert bucket_keys("ours", "mlflow") == {"mlflow/1/note.txt": 4}


@pytest.mark.parametrize(
    "name",
    [
        "checkout/.git/hooks/post-checkout",
        "checkout/components/cli/main.py",
        "checkout/../evil",
        "checkout/.env",
        "state/../../evil",
        "state/logs/evil",
        "cache/../../evil",
        "cache/00/evil",
        "artifacts/../../evil",
        "artifacts//etc/evil",
        "databases/../evil.db",
        "/etc/evil",
        "elsewhere/x",
    ],
)
def test_manifest_that_names_another_place_is_refused(checkout: Path, fresh: Path, tmp_path: Path, name: str) -> None:
    folder = backed_up(checkout, tmp_path / "kept")
    values = json.loads((folder / MANIFEST).read_text())
    values["files"][name] = values["files"]["checkout/params.yaml"]
    (folder / MANIFEST).write_text(json.dumps(values))
    before = {path for path in tmp_path.rglob("*") if ".mmalign/locks" not in str(path)}
    with pytest.raises(UserError, match="no backup has a file"):
        restore_backup(Checkout(fresh), folder, quiet)
    assert {path for path in tmp_path.rglob("*") if ".mmalign/locks" not in str(path)} == before


@pytest.mark.parametrize("link", [".dvc", "mlruns.restoring"])
def test_restore_follows_no_link_out_of_the_checkout(checkout: Path, fresh: Path, tmp_path: Path, link: str) -> None:
    folder = backed_up(checkout, tmp_path / "kept")
    outside = tmp_path / "outside"
    if link == ".dvc":
        (fresh / link).rename(outside)
    else:
        outside.mkdir()
    (fresh / link).symlink_to(outside)
    before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
    with pytest.raises(UserError, match="is a link"):
        restore_backup(Checkout(fresh), folder, quiet)
    assert {path: path.stat().st_mtime_ns for path in outside.rglob("*")} == before


def test_backup_on_full_disk_is_removed_and_names_disk(checkout: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may mount nothing")
    try:
        with pytest.raises(InfrastructureFault, match=f"the disk of {disk / 'backup'} had 0 MB free: make room there"):
            make_backup(Checkout(checkout), disk / "backup", with_cache=False, log=lambda _: None)
        assert list((disk / "backup").iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        assert make_backup(Checkout(checkout), disk / "backup", with_cache=False, log=lambda _: None).bytes > 300_000
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
