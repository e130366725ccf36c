"""A checkout that was copied with its state folder neither uses nor ends the services of the original."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.config.ops import ServicesSettings
from components.files import write_json
from components.operations.services import state
from components.operations.services.state import (
    addresses_file,
    assign_addresses,
    client_environment,
    copied_from,
    create_secrets,
    read_addresses,
)
from tests.checkout import mmalign
from tests.settings import copy_settings

SETTINGS = ServicesSettings(host="127.0.0.1", allowed_hosts=[], prefect_port=0, mlflow_port=0, postgres_port=0, log_max_mb=1, log_backups=1)


@pytest.fixture(name="original")
def fixture_original(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATABASE_URL", "MMALIGN_STATE"):
        monkeypatch.delenv(name, raising=False)
    create_secrets(Checkout(checkout))
    assign_addresses(Checkout(checkout), SETTINGS)
    return checkout


def copy_of(original: Path, folder: Path) -> Path:
    shutil.copytree(original / ".mmalign", folder / ".mmalign")
    shutil.copy(original / "dvc.yaml", folder / "dvc.yaml")
    copy_settings(folder)
    return folder


def test_copied_state_gives_no_addresses(original: Path, tmp_path: Path) -> None:
    copy = Checkout(copy_of(original, tmp_path / "copy"))
    assert copied_from(copy) == original.resolve()
    assert read_addresses(copy) is None
    assert client_environment(copy) == {}
    assert read_addresses(Checkout(original)) is not None


def test_commands_of_copy_name_the_original(original: Path, tmp_path: Path) -> None:
    copy = copy_of(original, tmp_path / "copy")
    for words in (["down"], ["up", "--detach"]):
        refused = mmalign(copy, *words)
        assert refused.returncode == 2, refused.stderr
        assert str(original.resolve()) in refused.stderr
        assert f"rm -r {copy / '.mmalign/services'}" in refused.stderr
    shown = mmalign(copy, "status")
    assert "is a copy and names the services of" in " ".join(shown.stdout.split())
    shutil.rmtree(copy / ".mmalign/services")
    assert copied_from(Checkout(copy)) is None


def test_moved_checkout_keeps_its_services(original: Path, tmp_path: Path) -> None:
    before = read_addresses(Checkout(original))
    moved = tmp_path / "moved"
    original.rename(moved)
    assert read_addresses(Checkout(moved)) == before
    assert assign_addresses(Checkout(moved), SETTINGS) == before
    shutil.copytree(moved, original)
    assert copied_from(Checkout(moved)) is None
    assert copied_from(Checkout(original)) == moved.resolve()


def test_second_path_to_same_checkout_keeps_its_services(original: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.mmalign").symlink_to(original / ".mmalign")
    assert read_addresses(Checkout(tmp_path / "other")) == read_addresses(Checkout(original))


def test_state_folder_named_by_environment_is_no_copy(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMALIGN_STATE", str(original / ".mmalign"))
    assert read_addresses(Checkout(tmp_path)) is not None


def test_state_of_earlier_version_has_no_owner(original: Path) -> None:
    addresses = read_addresses(Checkout(original))
    assert addresses is not None
    (addresses_file(Checkout(original)).parent / state.OWNER).unlink()
    write_json(addresses_file(Checkout(original)), asdict(addresses))
    assert read_addresses(Checkout(original)) == addresses
