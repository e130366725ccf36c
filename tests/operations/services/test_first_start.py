"""A first start of the services that fails, on a full disk or for another reason: runs go on without services."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.checkout import Checkout
from components.errors import StageFault
from components.files import write_json
from components.operations.services import up
from components.operations.services.import_sqlite import IMPORTED
from components.operations.services.state import addresses_file, client_environment, create_secrets, read_addresses
from components.processes.secrets import state_folder
from tests.settings import copy_settings


@pytest.fixture(name="checkout")
def fixture_checkout(tmp_path: Path) -> Checkout:
    copy_settings(tmp_path)
    return Checkout(tmp_path)


def start(checkout: Checkout) -> None:
    up.bring_up(checkout, checkout.settings().services, lambda _: None)


def test_failed_first_start_leaves_no_services(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        assert read_addresses(checkout) is not None
        raise StageFault("initdb failed")

    monkeypatch.setattr(up, "import_existing_record", fail)
    with pytest.raises(StageFault, match="initdb failed"):
        start(checkout)
    assert read_addresses(checkout) is None
    assert client_environment(checkout) == {}


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), StageFault("initdb failed")])
def test_full_disk_is_named(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(up, "import_existing_record", fail)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 10**6))
    with pytest.raises(StageFault, match=r"the disk of .*services has 5 MB free: make room") as error:
        start(checkout)
    assert str(state_folder(checkout)) in str(error.value)


@pytest.mark.parametrize(("rows", "remains"), [({}, False), ({"runs": 3}, True)])
def test_imported_record_stays_with_services(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, rows: dict[str, int], remains: bool
) -> None:
    def fail(*_: object) -> None:
        raise StageFault("the service mlflow did not start")

    def import_record(*_: object) -> dict[str, int]:
        write_json(state_folder(checkout) / IMPORTED, rows)
        return rows

    monkeypatch.setattr(up, "import_existing_record", import_record)
    monkeypatch.setattr(up.supervision, "start", fail)
    with pytest.raises(StageFault):
        start(checkout)
    assert addresses_file(checkout).is_file() == remains
    assert (state_folder(checkout) / IMPORTED).is_file() == remains


def test_later_failed_start_keeps_services(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StageFault("the service mlflow did not start")

    monkeypatch.setattr(up.supervision, "start", fail)
    create_secrets(checkout)
    write_json(state_folder(checkout) / IMPORTED, {})
    before = up.assign_addresses(checkout, checkout.settings().services)
    with pytest.raises(StageFault):
        start(checkout)
    assert read_addresses(checkout) == before
