"""infra/compose.yaml by the rules that it must keep, and by Docker Compose itself where it is installed; no engine is needed for that."""

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
ONCE = "settle"  # runs to its end


def test_every_service_of_mmalign_up_is_there_and_runs_the_same_program() -> None:
    assert set(SERVICES) == {*NAMES, ONCE}
    for name in set(NAMES) - {"postgres"}:
        assert SERVICES[name]["command"] == ["python", "-m", "components.operations.services.programs", name, "/srv/mmalign"]
    assert SERVICES[ONCE]["command"] == ["python", "-m", "components.operations.services.bootstrap", "/srv/mmalign"]


def test_no_password_has_a_default_and_a_missing_one_is_a_sentence() -> None:
    found = {name: form for name, form in VARIABLE.findall(TEXT) if "PASSWORD" in name}
    assert set(found) == {"MMALIGN_POSTGRES_PASSWORD", *PASSWORDS.values()}
    assert all(re.fullmatch(r":\?set .{10,}", form) for form in found.values()), found
    assert not re.search(r"(?i)password:\s+[^$\s]", TEXT)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MMALIGN_NOTICES"):
        assert SERVICES["worker"]["environment"][name] is None, "handed on, never written here"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_can_be_given_by_digest(name: str) -> None:
    (variable, default), *more = VARIABLE.findall(SERVICES[name]["image"])
    assert not more
    assert variable.endswith("_IMAGE")
    assert re.fullmatch(r":-[\w./-]+:\d+\.\d+(\.\d+)?(-[\w.]+)?", default)
    for line in (ROOT / "infra/Dockerfile").read_text().splitlines():
        if line.startswith("FROM"):
            assert re.fullmatch(r"FROM [\w./-]+:\d+\.\d+\.\d+-[\w.-]+", line)


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_is_root_or_may_become_it(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] not in {"0", "root", "0:0"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "/var/run/docker.sock" not in str(service)


def test_only_the_two_pages_are_published_and_only_on_the_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"postgres": [f"127.0.0.1:{port}:{port}" for port in (PORTS["prefect"], PORTS["mlflow"])]}
    assert all(service.get("network_mode", "service:postgres") == "service:postgres" for service in SERVICES.values())
    assert "listen_addresses=127.0.0.1" in SERVICES["postgres"]["command"]


def test_what_runs_on_has_a_health_check_a_restart_and_rotated_logs_and_starts_after_what_it_needs() -> None:
    for name, service in SERVICES.items():
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}
        if name == ONCE:
            continue
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"
    assert SERVICES["worker"]["depends_on"] == {"prefect": {"condition": "service_healthy"}, "mlflow": {"condition": "service_healthy"}}
    assert SERVICES["prefect"]["depends_on"][ONCE]["condition"] == "service_completed_successfully"


def test_what_must_stay_lies_in_named_volumes_or_in_the_checkout() -> None:
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


def test_docker_compose_takes_it_and_asks_for_what_is_missing() -> None:
    command = [*compose(), "-f", str(FILE), "config", "-q"]
    given = dict.fromkeys(["MMALIGN_POSTGRES_PASSWORD", *PASSWORDS.values()], "a-long-password")
    given |= {"MMALIGN_UID": "1000", "MMALIGN_CHECKOUT": "/srv/mmalign", "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in given.keys() - {"PATH"}:
        less = {key: value for key, value in given.items() if key != name}
        done = subprocess.run(command, env=less, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert name in done.stderr
