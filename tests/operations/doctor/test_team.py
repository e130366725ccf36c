from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

from components.checkout import Checkout
from components.files import write_json
from components.operations.doctor import team
from components.operations.doctor.findings import NotChecked, ok
from components.operations.services.state import Addresses, addresses_file, create_secrets, free_port
from components.processes.redaction import NOTICES
from components.processes.secrets import secrets_file
from flows import checks
from tests.checkout import mmalign


@pytest.fixture(name="root")
def fixture_root(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose services are down."""
    for name in ("DATABASE_URL", "MMALIGN_STATE", NOTICES):
        monkeypatch.delenv(name, raising=False)
    create_secrets(Checkout(checkout))
    write_json(addresses_file(Checkout(checkout)), asdict(Addresses("127.0.0.1", free_port(set()), free_port(set()), free_port(set()))))
    return checkout


def test_checkout_without_services_is_ok(checkout: Path) -> None:
    for check in (team.services, team.passwords, checks.deployments):
        assert check(Checkout(checkout)) == ok(team.NO_SERVICES)


def test_stopped_services_with_record_are_problem(root: Path) -> None:
    finding = team.services(Checkout(root))
    assert finding.state == "problem"
    assert finding.cure == "mmalign up --detach"


def test_readable_passwords_are_problem_beside_other_checks(root: Path) -> None:
    assert team.passwords(Checkout(root)).state == "ok"
    secrets_file(Checkout(root)).parent.chmod(0o755)
    assert "chmod 700" in str(team.passwords(Checkout(root)).cure)
    secrets_file(Checkout(root)).parent.chmod(0o700)
    secrets_file(Checkout(root)).chmod(0o644)
    assert "chmod 600" in str(team.passwords(Checkout(root)).cure)
    with pytest.raises(NotChecked):
        team.services(Checkout(root))
    doctor = mmalign(root, "doctor", "--json")
    assert doctor.returncode == 1
    states = {check["name"]: check["state"] for check in json.loads(doctor.stdout)["checks"]}
    assert states["passwords"] == "problem"
    assert states["settings"] == "ok"
    for command in (["status"], ["down"], ["plan"]):
        refused = mmalign(root, *command)
        assert refused.returncode == 2
        assert "can be read by others" in refused.stderr
    secrets_file(Checkout(root)).unlink()
    assert "restore it from a backup" in str(team.passwords(Checkout(root)).cure)


def test_taken_port_problem_names_setting(root: Path) -> None:
    assert team.ports(Checkout(root)).state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        params = yaml.safe_load((root / "ops.yaml").read_text())
        params["services"]["mlflow_port"] = taken.getsockname()[1]
        (root / "ops.yaml").write_text(yaml.safe_dump(params))
        finding = team.ports(Checkout(root))
        assert finding.state == "problem"
        assert f"port {taken.getsockname()[1]} of mlflow is taken by process {os.getpid()}" in finding.text
        assert "services.mlflow_port" in str(finding.cure)
    assert team.ports(Checkout(root)).state == "ok"


def test_restarts_within_day_are_counted_by_service(tmp_path: Path) -> None:
    now = datetime.now()  # noqa: DTZ005 -- as supervisord writes
    lines = [
        f"{now - timedelta(days=2):%Y-%m-%d %H:%M:%S},123 WARN exited: mlflow (exit status 1; not expected)",
        f"{now:%Y-%m-%d %H:%M:%S},123 INFO spawned: 'mlflow' with pid 5",
        *[f"{now:%Y-%m-%d %H:%M:%S},123 WARN exited: worker (terminated by SIGKILL; not expected)"] * 3,
    ]
    (tmp_path / "supervisord.log").write_text("\n".join(lines))
    assert team.restarts(tmp_path / "supervisord.log") == {"worker": 3}
    assert team.restarts(tmp_path / "missing.log") == {}


def test_unreadable_notice_address_is_numbered_but_not_shown(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert NOTICES in team.notices(Checkout(root)).text
    monkeypatch.setenv(NOTICES, "json://127.0.0.1:1/hook, mailto://user:geheim123@example.org")
    assert team.notices(Checkout(root)) == ok(f"2 addresses in {NOTICES}")
    monkeypatch.setenv(NOTICES, "json://127.0.0.1:1/hook nosuchservice://user:geheim123@example.org")
    finding = team.notices(Checkout(root))
    assert finding.state == "problem"
    assert "number 2" in finding.text
    assert "geheim123" not in finding.text + str(finding.cure) + "".join(capfd.readouterr())


def test_no_deployment_is_warning_and_silent_server_is_problem(root: Path) -> None:
    assert checks.deployments(Checkout(root)).cure == "mmalign deploy"
    write_json(addresses_file(Checkout(root)).parent / "deployments.json", {"nightly": "x"})
    assert checks.deployments(Checkout(root)).state == "problem"
