from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.checkout import Checkout
from components.errors import UserError
from components.storage.data_version import data_state, sync_data
from tests.checkout import git

DVC = str(Path(sys.executable).parent / "dvc")
ROWS = Path("data/preferences/data.jsonl")


def sync(folder: Path, *, accept: bool = False) -> tuple[str, str]:
    lines: list[str] = []
    version = sync_data(Checkout(folder), accept=accept, log=lines.append)
    return version, "\n".join(lines)


def out(folder: Path) -> dict[str, str]:
    return dict(yaml.safe_load((folder / "data.dvc").read_text())["outs"][0])


def bundled(folder: Path) -> set[str]:
    return {path.name for path in (folder / "infra/bundled-data").rglob("*") if path.is_file()}


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DVC, *arguments], cwd=folder, check=False, capture_output=True, text=True)


def clone(folder: Path, to: Path) -> Path:
    git(folder, "clone", "-q", str(folder), str(to))
    return to


def test_fresh_clone_fetches_bundled_data(checkout: Path, tmp_path: Path) -> None:
    fresh = clone(checkout, tmp_path / "fresh")
    version, output = sync(fresh)
    assert version == out(checkout)["md5"]
    assert "fetching 9 files" in output
    assert (fresh / ROWS).read_text() == (checkout / ROWS).read_text()


def test_unchanged_data_log_nothing(checkout: Path) -> None:
    before = (checkout / "data.dvc").read_text()
    assert sync(checkout) == (out(checkout)["md5"], "")
    assert (checkout / "data.dvc").read_text() == before


def test_missing_files_alone_are_fetched(checkout: Path) -> None:
    (checkout / ROWS).unlink()
    version, output = sync(checkout)
    assert version == out(checkout)["md5"]
    assert "fetching 1 file " in output
    assert (checkout / ROWS).read_text() == "1\n2\n"


def test_media_are_logged_by_folder_only(checkout: Path) -> None:
    for name in ("who-is-on-it.png", "and-who-on-this.png"):
        (checkout / "data/preferences/short").mkdir(exist_ok=True)
        (checkout / "data/preferences/short" / name).write_text(name)
    _, output = sync(checkout)
    assert "2 files of data/ new: data/preferences/short/..." in output
    assert "who" not in output


def test_changed_files_are_committed_and_pin_is_removed(checkout: Path) -> None:
    before = out(checkout)
    assert (before["remote"], before["push"]) == ("bundled", False)
    (checkout / ROWS).write_text("1\nchanged\n")
    (checkout / "data/preferences/own.jsonl").write_text("new\n")
    version, output = sync(checkout)
    assert "1 file of data/ changed: data/preferences/data.jsonl" in output
    assert "1 file of data/ new: data/preferences/own.jsonl" in output
    assert version == out(checkout)["md5"] != before["md5"]
    assert out(checkout).keys().isdisjoint({"remote", "push"})
    assert (checkout / ROWS).read_text() == "1\nchanged\n"
    assert not data_state(Checkout(checkout)).differs


def test_push_command_is_named_only_with_bucket(checkout: Path) -> None:
    (checkout / ROWS).write_text("1\n")
    assert "dvc remote modify s3 url" in sync(checkout)[1]
    dvc(checkout, "remote", "modify", "s3", "url", "s3://somebodys-bucket/data")
    (checkout / ROWS).write_text("2\n")
    output = sync(checkout)[1]
    assert "dvc push -r s3 data.dvc" in output
    assert "remote modify" not in output


def test_removal_beside_change_needs_acceptance(checkout: Path) -> None:
    (checkout / ROWS).write_text("1\n")
    (checkout / "data/preferences/heldout.jsonl").unlink()
    before = (checkout / "data.dvc").read_text()
    with pytest.raises(UserError, match=r"1 file of data/ were removed \(data/preferences/heldout.jsonl\).*--accept-data"):
        sync(checkout)
    assert (checkout / "data.dvc").read_text() == before
    assert (checkout / ROWS).read_text() == "1\n"
    output = sync(checkout, accept=True)[1]
    assert "1 file of data/ removed: data/preferences/heldout.jsonl" in output
    assert not (checkout / "data/preferences/heldout.jsonl").exists()
    assert not data_state(Checkout(checkout)).differs


def test_accepted_removals_on_fresh_clone_still_fetch(checkout: Path, tmp_path: Path) -> None:
    fresh = clone(checkout, tmp_path / "fresh")
    sync(fresh, accept=True)
    assert out(fresh) == out(checkout)
    assert (fresh / ROWS).exists()


def test_files_missing_everywhere_are_refused(checkout: Path) -> None:
    (checkout / ROWS).write_text("mine\n")
    sync(checkout)
    shutil.rmtree(checkout / ".dvc/cache/files")
    (checkout / ROWS).unlink()
    with pytest.raises(UserError, match=r"neither in DVC's cache nor in a remote"):
        sync(checkout)


def test_lost_cache_is_refilled_from_data(checkout: Path) -> None:
    (checkout / ROWS).write_text("mine\n")
    version, _ = sync(checkout)
    shutil.rmtree(checkout / ".dvc/cache/files")
    assert sync(checkout)[0] == version
    (checkout / ROWS).unlink()
    assert dvc(checkout, "checkout", "data.dvc").returncode == 0
    assert (checkout / ROWS).read_text() == "mine\n"


def test_own_data_travel_through_second_remote(checkout: Path, tmp_path: Path) -> None:
    before = bundled(checkout)
    (checkout / ROWS).write_text("mine\n")
    sync(checkout)
    dvc(checkout, "remote", "modify", "s3", "url", str(tmp_path / "store"))
    pushed = dvc(checkout, "push", "-r", "s3", "data.dvc")
    assert pushed.returncode == 0
    git(checkout, "commit", "-qam", "mine")
    elsewhere = clone(checkout, tmp_path / "elsewhere")
    assert dvc(elsewhere, "pull", "-r", "s3", "data.dvc").returncode == 0
    assert {path.name: path.read_bytes() for path in (elsewhere / "data").rglob("*.jsonl")} == {
        path.name: path.read_bytes() for path in (checkout / "data").rglob("*.jsonl")
    }
    assert bundled(checkout) == before
    assert git(checkout, "status", "--porcelain") == ""


@pytest.mark.parametrize("arguments", [["push"], ["push", "data.dvc"]])
def test_push_without_remote_leaves_repository_unchanged(checkout: Path, arguments: list[str]) -> None:
    before = bundled(checkout)
    (checkout / ROWS).write_text("by hand\n")
    assert dvc(checkout, "add", "data").returncode == 0  # keeps the pin
    dvc(checkout, *arguments)
    assert bundled(checkout) == before


def test_corrupted_bundled_file_is_refused(checkout: Path, tmp_path: Path) -> None:
    fresh = clone(checkout, tmp_path / "fresh")
    target = max(path for path in (fresh / "infra/bundled-data/files").rglob("*") if path.is_file() and path.suffix != ".dir")
    target.write_bytes(b"x" + target.read_bytes()[1:])
    with pytest.raises(UserError, match="can't be fetched"):
        sync(fresh)


def test_data_without_ground_truth_get_folder_with_note(checkout: Path) -> None:
    shutil.rmtree(checkout / "data")
    (checkout / ROWS).parent.mkdir(parents=True)
    (checkout / ROWS).write_text("mine\n")
    output = sync(checkout, accept=True)[1]
    assert "data/truth is missing" in output
    assert sorted(path.name for path in (checkout / "data/truth").iterdir()) == ["NOTE.md"]


def test_uncommitted_data_become_first_version(checkout: Path) -> None:
    (checkout / "data.dvc").unlink()
    version, output = sync(checkout)
    assert "9 files of data/ new" in output
    assert version == out(checkout)["md5"]
