"""infra/compose.yaml against its rules, and against Docker Compose where it is installed. No engine is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from components.operations.services.bootstrap import PASSWORDS, PORTS
from components.operations.services.programs import NAMES
from tests.checkout import ROOT

FILE = ROOT / "infra/compose.yaml"
TEXT = FILE.read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")
ONCE = "bootstrap"  # runs to its end


def test_compose_has_every_service_with_same_program() -> None:
    assert set(SERVICES) == {*NAMES, ONCE}
    for name in set(NAMES) - {"postgres"}:
        assert SERVICES[name]["command"] == ["python", "-m", "components.operations.services.programs", name, "/srv/mmalign"]
    assert SERVICES[ONCE]["command"] == ["python", "-m", "components.operations.services.bootstrap", "/srv/mmalign"]


def test_missing_password_is_one_sentence() -> None:
    variables = {name: form for name, form in VARIABLE.findall(TEXT) if "PASSWORD" in name}
    assert set(variables) == {"MMALIGN_POSTGRES_PASSWORD", *PASSWORDS.values()}
    assert all(re.fullmatch(r":\?set .{10,}", form) for form in variables.values()), variables
    assert not re.search(r"(?i)password:\s+[^$\s]", TEXT)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MMALIGN_NOTICES"):
        assert SERVICES["worker"]["environment"][name] is None, "handed on, never written here"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_accept_digests(name: str) -> None:
    (variable, default), *more = VARIABLE.findall(SERVICES[name]["image"])
    assert not more
    assert variable.endswith("_IMAGE")
    assert re.fullmatch(r":-[\w./-]+:\d+\.\d+(\.\d+)?(-[\w.]+)?", default)
    for line in (ROOT / "infra/Dockerfile").read_text().splitlines():
        if line.startswith("FROM"):
            assert re.fullmatch(r"FROM [\w./-]+:\d+\.\d+\.\d+-[\w.-]+@sha256:[0-9a-f]{64}", line)
        if "pip install" in line and "requirements.txt" not in line:
            assert re.search(r" uv==\d+\.\d+\.\d+ ", line)


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_become_root(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] not in {"0", "root", "0:0"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "/var/run/docker.sock" not in str(service)


def test_only_two_pages_are_published_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"postgres": [f"127.0.0.1:{port}:{port}" for port in (PORTS["prefect"], PORTS["mlflow"])]}
    assert all(service.get("network_mode", "service:postgres") == "service:postgres" for service in SERVICES.values())
    assert "listen_addresses=127.0.0.1" in SERVICES["postgres"]["command"]


def test_services_have_health_restart_logs_and_order() -> None:
    for name, service in SERVICES.items():
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}
        if name == ONCE:
            continue
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"
    assert SERVICES["worker"]["depends_on"] == {"prefect": {"condition": "service_healthy"}, "mlflow": {"condition": "service_healthy"}}
    assert SERVICES["prefect"]["depends_on"][ONCE]["condition"] == "service_completed_successfully"


def test_state_lies_in_volumes_or_checkout() -> None:
    assert set(STACK["volumes"]) == {"database", "state"}
    mounts = {mount.rsplit(":", 1)[1]: mount for service in SERVICES.values() for mount in service["volumes"]}
    assert mounts.keys() == {"/var/lib/postgresql", "/srv/mmalign", "/var/lib/mmalign"}
    assert "MMALIGN_STATE=/var/lib/mmalign" in (ROOT / "infra/Dockerfile").read_text()


def compose() -> list[str]:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    pytest.skip("Docker Compose is not installed")


def test_docker_compose_accepts_file_and_names_missing_values() -> None:
    command = [*compose(), "-f", str(FILE), "config", "-q"]
    values = dict.fromkeys(["MMALIGN_POSTGRES_PASSWORD", *PASSWORDS.values()], "a-long-password")
    values |= {"MMALIGN_UID": "1000", "MMALIGN_CHECKOUT": "/srv/mmalign", "PATH": os.environ["PATH"]}
    completed = subprocess.run(command, env=values, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    for name in values.keys() - {"PATH"}:
        less = {key: value for key, value in values.items() if key != name}
        completed = subprocess.run(command, env=less, capture_output=True, text=True, check=False)
        assert completed.returncode != 0
        assert name in completed.stderr
