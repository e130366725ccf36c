"""The configuration of supervisor, as supervisor itself reads it, for folders of any name."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.config.ops import ServicesSettings
from components.errors import StageFault
from components.operations.services import supervision, up
from components.operations.services.state import Addresses, create_secrets
from tests.settings import copy_settings

NAMES = ["with space", "100%mine", "a ;b #c", "%(here)s", "quo\"te's", "$HOME", "über", "-x"]


@pytest.mark.parametrize("name", NAMES)
def test_folder_of_any_name_reaches_services(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisor.options import ServerOptions

    root = tmp_path / name
    root.mkdir()
    copy_settings(root)
    checkout = Checkout(root)
    secrets, settings = create_secrets(checkout), checkout.settings().services
    supervision.log_folder(checkout).mkdir()
    path = tmp_path / "supervisord.conf"
    path.write_text(supervision.configuration(Addresses("127.0.0.1", 1, 2, 3), secrets, settings))
    for variable, value in supervision.paths(checkout).items():
        monkeypatch.setenv(variable, value)

    options = ServerOptions()
    options.realize(["-c", str(path)], doc="")

    assert options.directory == str(root)
    assert options.logfile == str(root / ".mmalign/services/logs/supervisord.log")
    programs = {group.name: group.process_configs[0] for group in options.process_group_configs}
    for service in ("postgres", "prefect", "mlflow", "worker", "sentinel"):
        command = [sys.executable, "-m", "components.operations.services.programs", service, str(root)]
        assert shlex.split(programs[service].command) == command
        assert programs[service].stdout_logfile == str(root / f".mmalign/services/logs/{service}.log")


def test_supervisor_that_ends_names_a_log_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_settings(tmp_path)
    checkout = Checkout(tmp_path)
    create_secrets(checkout)
    text = supervision.configuration

    def broken(addresses: Addresses, secrets: object, settings: ServicesSettings) -> str:
        return text(addresses, secrets, settings).replace("nodaemon=true", "nodaemon=perhaps")  # type: ignore[arg-type]

    monkeypatch.setattr(supervision, "configuration", broken)
    monkeypatch.setattr(up, "import_existing_record", lambda *_: {})
    with pytest.raises(StageFault, match="did not start: read its log") as error:
        up.bring_up(checkout, checkout.settings().services, lambda _: None)
    log = Path(str(error.value).partition("its log ")[2])
    assert "perhaps" in log.read_text()
